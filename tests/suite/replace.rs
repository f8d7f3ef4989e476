//! `upgrade --supervisor`: the supervisor becomes another program, and nobody but its operators can tell.

use crate::cli::says;
use crate::rig;
use handoff_tests::client::Client;
use handoff_tests::load::{Load, Plan};
use handoff_tests::rig::{Finished, Footprint, PATIENCE, Rig, cgroup_of, finish, wait_gone};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Another build of handoffctl, as far as anybody can tell by its path.
fn other(rig: &Rig) -> PathBuf {
    rig.programs().named(&rig.programs().handoffctl, "handoffctl-2")
}

fn replace(rig: &Rig, program: &Path) -> Finished {
    let program = program.to_str().expect("a path of ours");
    rig.ctl("upgrade", &["--supervisor", "--format", "json", "--binary", program])
}

/// Waits for the word that is written right before the n-th exec.
fn wait_for_replacement(rig: &Rig, n: usize) {
    let deadline = Instant::now() + PATIENCE;
    let announced = || {
        let log = std::fs::read_to_string(rig.log_path()).expect("a log of ours");
        log.matches("replacing this supervisor").count()
    };
    while announced() < n {
        assert!(Instant::now() < deadline, "it is not replaced\n{}", rig.log());
        std::thread::yield_now();
    }
}

#[test]
fn a_supervisor_replaces_itself_without_a_failed_request() {
    let mut rig = rig();
    let (server, supervisor) = (rig.server_pid(), rig.supervisor_pid());
    let load = Load::start(rig.addr, Plan { idle: 5, subscribers: 1, ..Plan::everything() });
    let group = cgroup_of(supervisor);
    let other = other(&rig);
    let mut before = None;
    for program in [&other, &rig.programs().handoffctl, &other] {
        let done = replace(&rig, program);
        let json = done.expect_code(0).json();
        assert_eq!(json["outcome"], "replaced", "{json}");
        assert_eq!(json["pid"], supervisor, "{json}");
        assert_eq!(json["new"]["executable"], program.display().to_string(), "{json}");
        assert_ne!(json["old"]["executable"], json["new"]["executable"], "{json}");
        let generation = |which: &str| json[which]["generation"].as_u64().expect("a number");
        assert!(generation("new") > generation("old"), "{json}");
        assert!(json["took_ms"].is_f64() && json["check_ms"].is_f64(), "{json}");
        assert!(load.wait_for(20, PATIENCE), "nothing is answered any more\n{}", rig.log());
        let status = rig.status().expect_code(0).json();
        assert_eq!(status["supervisor"]["pid"], supervisor, "{status}");
        assert_eq!(status["server"]["pid"], server, "adopted, not started again: {status}");
        assert_eq!(cgroup_of(supervisor), group);
        match &before {
            // clients come and go at the server, not at the supervisor
            None => before = Some(Footprint { server_fds: usize::MAX, ..rig.settled_footprint() }),
            Some(before) => rig.assert_no_growth(before),
        }
    }
    rig.upgrade_commits();
    load.finish().assert_clean();
    // signals were held back over the exec: they are heeded again
    assert_eq!(rig.stop(), Some(0), "{}", rig.log());
    assert!(rig.instances().is_empty(), "nothing is left behind");
}

/// The server is a child of the process, whatever program that executes: somebody has to reap it.
#[test]
fn a_server_that_dies_after_a_replacement_is_reaped_and_started_again() {
    let rig = rig();
    let server = rig.server_pid();
    replace(&rig, &other(&rig)).expect_code(0);
    let zombie = Path::new("/proc").join(server.to_string());
    assert!(zombie.exists());
    kill(Pid::from_raw(i32::try_from(server).expect("a pid")), Signal::SIGKILL).expect("a process of ours");
    wait_gone(server);
    rig.wait_until_served();
    rig.wait_until_settled();
    assert_ne!(rig.server_pid(), server);
    assert!(!zombie.exists(), "it is reaped");
    rig.upgrade_commits();
}

#[test]
fn a_program_that_cannot_take_over_is_14_and_the_old_one_goes_on() {
    let rig = rig();
    let load = Load::start(rig.addr, Plan { busy: 2, ..Plan::default() });
    let before = rig.status().json()["supervisor"].clone();
    let script = rig.dir().join("script");
    std::fs::write(&script, "#!/bin/sh\nexit 0\n").expect("a file of ours");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    let demo = &rig.programs().demo_server;
    for (program, words) in [
        (Path::new("/nonexistent/handoffctl"), ["/nonexistent/handoffctl", "No such file"]),
        (Path::new("/bin/true"), ["/bin/true", "cannot be read"]),
        (Path::new("/bin/echo"), ["/bin/echo", "is it a handoffctl"]),
        (Path::new("/usr/bin/yes"), ["/usr/bin/yes", "more than"]),
        (&script, ["script", "is it a handoffctl"]),
        (demo, ["demo-server", "did not answer"]),
        (&rig.programs().bad("exits-at-once"), ["exited with code 3", "did not answer"]),
        (&rig.programs().bad("hangs-before-hello"), ["no answer within", "is it a handoffctl"]),
    ] {
        let done = replace(&rig, program);
        assert_eq!(done.expect_code(14).json()["outcome"], "refused", "{done:?}");
        says(&done, &words);
        assert_eq!(rig.status().json()["supervisor"], before, "the same as before {done:?}");
    }
    // what the old one opened long ago the new one could not open any more
    let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(&rig.run_dir, mode(0o770)).expect("ours");
    says(replace(&rig, &other(&rig)).expect_code(14), &["chmod 700", "cannot take over"]);
    std::fs::set_permissions(&rig.run_dir, mode(0o700)).expect("ours");
    assert_eq!(rig.status().json()["supervisor"], before, "the same as before");
    assert!(load.wait_for(20, PATIENCE), "nothing is answered any more\n{}", rig.log());
    load.finish().assert_clean();
    replace(&rig, &other(&rig)).expect_code(0);
    rig.upgrade_commits();
}

/// A SIGTERM right before the exec was lost: the old program's handler had noted it, and the old program was gone. One
/// that the new program found ended it in the middle of taking over: "nothing is left behind", and a server was.
#[test]
fn a_signal_to_stop_around_the_exec_is_obeyed() {
    for _ in 0..10 {
        let mut rig = rig();
        let other = other(&rig);
        let mut command =
            rig.ctl_command("upgrade", &["--supervisor", "--binary", other.to_str().expect("ours")]);
        let done = std::thread::scope(|scope| {
            let asked = scope.spawn(move || finish(&mut command));
            wait_for_replacement(&rig, 1);
            rig.signal_supervisor(Signal::SIGTERM);
            assert_eq!(rig.wait_supervisor(), Some(0), "{}", rig.log());
            asked.join().expect("no panic")
        });
        // the old one stops and refuses, or the new one stops and has answered, or has not
        assert!([0, 12, 14].contains(&done.code.unwrap_or(-1)), "{done:?}");
        assert!(rig.instances().is_empty(), "nothing is left behind\n{}", rig.log());
    }
}

/// Around the exec it is a supervisor that dies like any other: whoever is started next adopts.
#[test]
fn a_supervisor_that_is_killed_while_it_replaces_itself_is_adopted_from() {
    let mut rig = rig();
    let server = rig.server_pid();
    let load = Load::start(rig.addr, Plan { idle: 5, ..Plan::everything() });
    let other = other(&rig);
    for n in 1..=5 {
        let binary = other.to_str().expect("a path of ours");
        let mut command = rig.ctl_command("upgrade", &["--supervisor", "--binary", binary]);
        let done = std::thread::scope(|scope| {
            let asked = scope.spawn(move || finish(&mut command));
            wait_for_replacement(&rig, n);
            rig.kill_supervisor();
            asked.join().expect("no panic")
        });
        // it may have been quicker than the signal
        assert!([0, 12].contains(&done.code.unwrap_or(-1)), "{done:?}");
        assert!(load.wait_for(20, PATIENCE), "nothing is answered any more\n{}", rig.log());
        rig.run();
        assert_eq!(rig.server_pid(), server, "adopted, not started again");
    }
    rig.upgrade_commits();
    load.finish().assert_clean();
}

/// What it was called with means nothing to the new version: after the exec that would be its end.
#[test]
fn arguments_that_the_new_program_does_not_understand_are_refused() {
    let rig = rig();
    let ask = |words: &[&str]| {
        finish(std::process::Command::new(&rig.programs().handoffctl).arg("self-check").arg("--").args(words))
    };
    for words in [&["run", "--no-such-option"][..], &["status", "--run-dir", "/x"]] {
        let json = ask(words).expect_code(14).json();
        assert_eq!(json["takes_over"], false, "{json}");
    }
}

#[test]
fn while_a_handoff_is_open_it_is_13() {
    let rig = rig();
    let hangs = rig.programs().bad("hangs-in-warm");
    let mut command =
        rig.ctl_command("upgrade", &["--format", "json", "--binary", hangs.to_str().expect("ours")]);
    std::thread::scope(|scope| {
        let upgrade = scope.spawn(move || finish(&mut command));
        rig.wait_for_mark("hangs-in-warm");
        let done = replace(&rig, &other(&rig));
        assert_eq!(done.expect_code(13).json()["outcome"], "busy");
        says(&done, &["handoff", "handoffctl abort"]);
        rig.ctl("abort", &[]).expect_code(0);
        upgrade.join().expect("no panic").expect_code(14);
    });
    replace(&rig, &other(&rig)).expect_code(0);
    Client::connect(rig.addr.into()).and_then(|mut c| c.ask("PING")).expect("is answered");
}
