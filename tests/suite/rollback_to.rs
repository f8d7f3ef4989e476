//! `rollback --to`: any build that is kept, by the name it is shown by. What does not fit is told, and nobody is touched.

use crate::builds::{Installed, install};
use crate::cli::says;
use crate::probation::asked_meanwhile;
use handoff::supervisor::protocol::Reply;
use handoff::supervisor::report::{StatusReport, SupervisorReport};
use handoff_tests::bins::{Build, Programs};
use handoff_tests::load::{Load, Plan};
use handoff_tests::rig::{Finished, PATIENCE, Rig, Setup, UNHURRIED};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;

fn rollback(rig: &Rig, to: &str) -> Finished {
    rig.ctl("rollback", &[&["--format", "json", "--to", to], UNHURRIED].concat())
}

#[track_caller]
fn goes(rig: &Rig, to: &str) {
    let done = rollback(rig, to);
    assert_eq!(done.code, Some(0), "{done:?}\n{}", rig.log());
    let report = done.json();
    assert_eq!((&report["outcome"], &report["connections"]["lost"]), (&"rolled_back".into(), &0.into()));
    rig.wait_until_settled();
}

#[track_caller]
fn refused(rig: &Rig, to: &str, words: &[&str]) {
    let server = rig.server_pid();
    let done = rollback(rig, to);
    let report = done.expect_code(14).json();
    assert_eq!(report["outcome"], "preflight_failed", "{report}");
    let reason = report["reason"].as_str().unwrap_or_default();
    assert!(words.iter().all(|word| reason.contains(word)), "{words:?}: {reason}");
    says(&done, words);
    assert_eq!(rig.server_pid(), server, "it was not touched");
}

/// The epoch, the instance and the build of who serves.
fn tenure(rig: &Rig) -> [String; 3] {
    let status = rig.status().json();
    let server = |what: &str| status["server"][what].as_str().expect("somebody serves").to_owned();
    [status["epoch"].as_u64().expect("somebody serves").to_string(), server("instance"), server("build")]
}

#[test]
fn any_kept_build_is_gone_to_by_its_name_and_nobody_notices() {
    let it = Installed::new();
    let rig = &it.rig;
    let load = Load::start(rig.addr, Plan { busy: 2, fresh: 1, idle: 5, ..Plan::default() });
    let mut tenures = vec![tenure(rig)];
    // a build that does not name itself is called by size and second: these were once made within one second
    for mark in ["build 2.", "build 3.."] {
        it.upgrade(mark);
        rig.wait_until_settled();
        tenures.push(tenure(rig));
    }
    let [first, second, third] = tenures.try_into().expect("three builds");
    // by epoch over another build, by instance, and by build to the newest again
    goes(rig, &first[0]);
    assert!(it.serving("build 1"), "{}", rig.log());
    goes(rig, &second[1]);
    assert!(it.serving("build 2."), "{}", rig.log());
    goes(rig, &third[2]);
    assert!(it.serving("build 3.."), "{}", rig.log());

    for name in &third {
        refused(rig, name, &["is the build that serves"]);
    }
    refused(rig, "999", &["no build is called", "999", "history", &format!("epoch {}", tenure(rig)[0])]);
    refused(rig, "demo-server of yesterday", &["no build is called", "give an epoch"]);
    // all of them were installed there
    let path = it.server();
    let path = path.to_str().expect("a path of ours");
    refused(rig, path, &["several builds are called", "give one of the epochs"]);
    std::fs::remove_dir_all(it.builds()).expect("a directory of ours");
    refused(rig, &first[0], &["not kept any more", "--binary"]);
    assert!(load.wait_for(50, PATIENCE), "nothing is answered any more\n{}", rig.log());
    load.finish().assert_clean();
}

/// By the path, where the builds lie at different ones; and to one that does not read what is on disk by now.
#[test]
fn a_build_that_does_not_read_what_is_on_disk_is_refused() {
    let (programs, bin) = (Programs::of(Build::Plain), tempfile::tempdir().expect("a temporary directory"));
    let installed = |name: &str| {
        let path = bin.path().join(name);
        install(&programs.exclusive_server, &path, name);
        path.to_str().expect("a path of ours").to_owned()
    };
    let (first, other) = (installed("exclusive-server"), installed("exclusive-other"));
    let newer = installed("exclusive-newer");
    let rig = Setup::new(programs).program(&first).start();
    let ((), seen) = asked_meanwhile(rig.addr, || {
        let upgrade = |more: &[&str]| {
            let done = rig.upgrade(&[more, UNHURRIED].concat());
            assert_eq!(done.code, Some(0), "{done:?}\n{}", rig.log());
            rig.wait_until_settled();
        };
        let [epoch, ..] = tenure(&rig);
        upgrade(&["--binary", &other]);
        goes(&rig, &first);
        assert_eq!(rig.status().json()["server"]["executable"], first);
        upgrade(&["--binary", &newer, "--one-way"]);
        for to in [&first, &other, &epoch] {
            refused(&rig, to, &["state format 2 is on disk", "reads only [1"]);
        }
    });
    assert_eq!(seen.failed, 0);
}

/// An older supervisor reads over what it does not know, and would go to the build before.
#[test]
fn a_supervisor_that_does_not_know_it_is_14() {
    let rig = Setup::new(Programs::of(Build::Plain)).idle();
    let socket = UnixListener::bind(rig.run_dir.join("control.sock")).expect("a socket of ours");
    let supervisor = SupervisorReport { version: "0.0.9".to_owned(), ..SupervisorReport::default() };
    let status = Box::new(StatusReport { supervisor: Some(supervisor), ..StatusReport::default() });
    let answer = serde_json::to_string(&Reply::Status { status }).expect("json");
    let (asked, done) = std::thread::scope(|scope| {
        let ctl = scope.spawn(|| rollback(&rig, "7"));
        let (stream, _) = socket.accept().expect("a client");
        let mut asked = String::new();
        BufReader::new(&stream).read_line(&mut asked).expect("a line");
        (&stream).write_all(format!("{answer}\n").as_bytes()).expect("written");
        drop(stream);
        (asked, ctl.join().expect("no panic"))
    });
    assert!(asked.contains("status"), "{asked}");
    done.expect_code(14);
    says(&done, &["0.0.9", "--to", "--supervisor"]);
}
