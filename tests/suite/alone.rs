//! The supervisor is gone for good: `upgrade --no-supervisor` supervises until it is done.

use crate::cli::says;
use crate::rig;
use handoff_tests::bins::{Build, Programs};
use handoff_tests::client::Client;
use handoff_tests::load::{Load, Plan};
use handoff_tests::rig::{Finished, PATIENCE, Rig, Setup, alive, finish, stop};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::PathBuf;

const FLAG: &[&str] = &["--no-supervisor", "--format", "json"];

fn upgrade(rig: &Rig, more: &[&str]) -> Finished {
    rig.ctl("upgrade", &[FLAG, more].concat())
}

/// Who serves, by the claim files alone.
fn owner(rig: &Rig) -> u32 {
    let json = rig.status().expect_code(3).json();
    assert_eq!(json["state"], "serving", "{json}");
    u32::try_from(json["server"]["pid"].as_u64().expect("a pid")).expect("a pid")
}

/// Arguments, declared environment and standard output of a process.
fn birth(pid: u32) -> (Vec<u8>, Vec<u8>, PathBuf) {
    let read = |what: &str| std::fs::read(format!("/proc/{pid}/{what}")).expect("a process of ours");
    let declared = read("environ")
        .split_inclusive(|b| *b == 0)
        .filter(|var| !var.starts_with(b"HANDOFF_") && !var.starts_with(b"LISTEN_"))
        .flatten()
        .copied()
        .collect();
    (read("cmdline"), declared, std::fs::read_link(format!("/proc/{pid}/fd/1")).expect("a process of ours"))
}

#[test]
fn without_a_supervisor_the_flag_upgrades_and_nobody_is_left_but_the_server() {
    let mut rig = rig();
    let load = Load::start(rig.addr, Plan { idle: 5, subscribers: 1, ..Plan::everything() });
    rig.kill_supervisor();
    let without = rig.upgrade(&[]);
    says(without.expect_code(3), &["no supervisor", "--no-supervisor"]);
    let mut server = owner(&rig);
    for _ in 0..2 {
        let born = birth(server);
        let json = upgrade(&rig, &[]).expect_code(0).json();
        assert_eq!(json["outcome"], "committed", "{json}");
        assert_eq!(json["old"]["pid"], server, "{json}");
        assert_eq!(json["connections"]["lost"], 0, "{json}");
        assert!(!alive(server), "the old one has left when it returns");
        server = owner(&rig);
        assert_eq!(json["new"]["pid"], server, "{json}");
        assert_eq!(birth(server), born, "the same arguments, environment and streams");
        assert_eq!(rig.instances().len(), 1);
        assert!(load.wait_for(20, PATIENCE), "the new one serves on alone\n{}", rig.log());
    }
    rig.run();
    rig.wait_until_settled();
    assert_eq!(rig.server_pid(), server, "adopted, not started again");
    rig.upgrade_commits();
    load.finish().assert_clean();
    assert_eq!(rig.stop(), Some(0), "{}", rig.log());
}

#[test]
fn a_bad_successor_leaves_the_old_server_alone_again() {
    let mut rig = rig();
    let load = Load::start(rig.addr, Plan { busy: 2, idle: 2, ..Plan::default() });
    let server = rig.server_pid();
    rig.kill_supervisor();
    for (mode, code) in [("crashes-in-warm", 14), ("crashes-in-open", 10), ("other-digest", 10)] {
        let bad = rig.programs().bad(mode);
        upgrade(&rig, &["--binary", bad.to_str().expect("a path of ours")]).expect_code(code);
        assert!(rig.reached(mode), "{mode}");
        assert_eq!((owner(&rig), rig.instances().len()), (server, 1), "{mode}");
    }
    rig.run();
    rig.wait_until_settled();
    assert_eq!(rig.server_pid(), server);
    load.finish().assert_clean();
}

#[test]
fn with_a_supervisor_the_flag_is_13() {
    let rig = rig();
    let done = upgrade(&rig, &[]);
    assert_eq!(done.expect_code(13).json()["outcome"], "preflight_failed");
    says(&done, &["in use", &rig.supervisor_pid().to_string(), "leave --no-supervisor out"]);
    rig.upgrade_commits();
}

#[test]
fn where_nobody_serves_it_is_14_and_nothing_is_started() {
    let rig = Setup::new(Programs::of(Build::Plain)).idle();
    says(upgrade(&rig, &[]).expect_code(14), &["no supervisor ever ran", "--run-dir"]);
    let mut rig = crate::rig();
    let server = rig.server_pid();
    rig.kill_supervisor();
    kill(Pid::from_raw(i32::try_from(server).expect("a pid")), Signal::SIGKILL).expect("a process of ours");
    says(upgrade(&rig, &[]).expect_code(14), &["no server that serves", "handoffctl run"]);
    assert!(rig.instances().is_empty());
}

fn instrumented() -> Rig {
    Setup::new(Programs::of(Build::Crash)).start()
}

/// A restarted supervisor ends who stays silent, since it can start another. A guest has nobody to leave the
/// service to.
#[test]
fn a_server_that_does_not_answer_is_not_ended() {
    let mut rig = instrumented();
    let server = rig.server_pid();
    rig.kill_supervisor();
    stop(server);
    let done = finish(rig.ctl_command("upgrade", FLAG).env("HANDOFF_TIME_SCALE", "5"));
    says(done.expect_code(14), &["no server that serves"]);
    assert!(alive(server), "{done:?}");
    kill(Pid::from_raw(i32::try_from(server).expect("a pid")), Signal::SIGCONT).expect("a process of ours");
    rig.wait_until_served();
    upgrade(&rig, &[]).expect_code(0);
}

/// No supervisor, and a journal that shows a handoff open: the claims and the servers know better.
fn status_tells_the_end(rig: &Rig, point: &str) {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let json = rig.status().expect_code(3).json();
        // the one that lost may not have left yet
        if json["handoff"].is_null() && json["state"] == "serving" {
            let reason = json["reason"].as_str().expect("it says how it knows");
            assert!(reason.contains("the journal does not know the end"), "{point}: {json}");
            assert_eq!(json["server"]["pid"], json["claim"]["pid"], "{point}: {json}");
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{point}: {json}");
    }
}

#[test]
fn a_guest_that_dies_in_the_middle_is_a_supervisor_that_dies() {
    let mut rig = instrumented();
    let load = Load::start(rig.addr, Plan { busy: 2, idle: 2, ..Plan::default() });
    rig.kill_supervisor();
    for point in [
        "S.send.PrepareHandoff.after",
        "S.send.SealRequest.after",
        "S.send.Begin.after",
        "S.send.Commit.after",
    ] {
        let done = finish(rig.ctl_command("upgrade", FLAG).env("HANDOFF_CRASH", format!("{point}/kill9")));
        assert_eq!(done.code, None, "{point} was not reached: {done:?}");
        assert!(load.wait_for(20, PATIENCE), "{point}: nothing is answered any more\n{}", rig.log());
        status_tells_the_end(&rig, point);
        upgrade(&rig, &[]).expect_code(0);
    }
    load.finish().assert_clean();
    let mut client = Client::connect(rig.addr.into()).expect("connects");
    client.ask("PING").expect("is answered");
}
