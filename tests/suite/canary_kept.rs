//! A probation goes on with its canary whoever supervises it. It went on without: a supervisor that was started again in a
//! probation, or replaced itself, took the server back only if that died, hung or complained itself.

use crate::builds::Installed;
use crate::canary::{LONG, PATIENT, plan};
use handoff_tests::bins::{Build, Programs};
use handoff_tests::client::Client;
use handoff_tests::crashes::{Crashes, Order, Point};
use handoff_tests::load::Load;
use handoff_tests::rig::{Finished, PATIENCE, Rig, Setup, ended_by};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Instant;

const WELL: [&str; 2] = ["--canary", r"GET canary\r\n=>$4\r\nwell"];

fn tell(rig: &Rig, how: &str) {
    let mut client = Client::connect(rig.addr.into()).expect("connects");
    client.ask(&format!("SET canary {how}")).expect("is acknowledged");
}

fn answered_well(rig: &Rig) -> usize {
    let log = std::fs::read_to_string(rig.log_path()).expect("a log of ours");
    log.matches("the canary was answered well").count()
}

/// Waits until it was tried once more, and answered well.
fn is_tried_again(rig: &Rig) {
    let notify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).expect("inotify");
    notify.add_watch(&rig.log_path(), AddWatchFlags::IN_MODIFY).expect("a file of ours");
    let (before, deadline) = (answered_well(rig), Instant::now() + PATIENCE);
    while answered_well(rig) == before {
        assert!(ended_by(&notify, deadline), "it is not tried any more\n{}", rig.log());
        let _ = notify.read_events();
    }
}

/// What is kept of canaries in the run directory.
fn kept(rig: &Rig) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(&rig.run_dir).expect("a directory of ours").flatten();
    let ours = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with("canary.");
    entries.filter(ours).map(|entry| entry.path()).collect()
}

/// On probation, as before; then it answers otherwise, and the build before serves.
fn goes_on_and_goes_back(rig: &Rig, words: &[&str]) {
    let status = rig.status().json();
    assert!(status["probation"].is_string(), "{status}\n{}", rig.log());
    is_tried_again(rig);
    assert!(rig.status().json()["probation"].is_string(), "good answers change nothing\n{}", rig.log());
    tell(rig, "ill");
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        let status = rig.status().json();
        if status["last"]["outcome"] == "rolled_back" {
            break status;
        }
        assert!(Instant::now() < deadline, "not taken back: {status}\n{}", rig.log());
    };
    let reason = status["last"]["reason"].as_str().unwrap_or_default();
    assert!(words.iter().all(|word| reason.contains(word)), "{status}");
    rig.wait_until_settled();
    assert!(kept(rig).is_empty(), "what is over is not kept");
}

#[track_caller]
fn committed(done: &Finished) -> Value {
    let report = done.expect_code(0).json();
    assert_eq!(report["outcome"], "committed", "{report}");
    // of the machine there may be others
    assert!(report["canary_ms"].is_f64() && !report["warnings"].to_string().contains("canary"), "{report}");
    report
}

#[test]
fn a_supervisor_that_is_restarted_goes_on_with_the_canary() {
    let mut it = Installed::new();
    let load = Load::start(it.rig.addr, plan());
    tell(&it.rig, "well");
    it.install("build 2");
    committed(&it.rig.upgrade(&[&WELL[..], &PATIENT, &LONG].concat()));
    let files = kept(&it.rig);
    assert_eq!(files.len(), 1, "{files:?}");
    let mode = std::fs::metadata(&files[0]).expect("a file of ours").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it may hold a password");
    it.wait_until_kept();
    for _ in 0..2 {
        it.rig.kill_supervisor();
        it.rig.run();
    }
    goes_on_and_goes_back(&it.rig, &["the canary failed on probation", r#"got "$3\r\nill"#]);
    assert!(it.serving("build 1"), "{}", it.rig.log());
    assert!(load.wait_for(50, PATIENCE), "nothing is answered any more\n{}", it.rig.log());
    it.rig.upgrade_commits();
    load.finish().assert_clean();
}

/// By a program, and over the exec of another handoffctl.
#[test]
fn a_supervisor_that_replaces_itself_goes_on_with_the_canary() {
    let it = Installed::new();
    let load = Load::start(it.rig.addr, plan());
    tell(&it.rig, "well");
    it.install("build 2");
    let program = it.rig.dir().join("canary");
    let text = r#"printf 'GET canary\r\n'; read -r a; read -r a; case $a in well*) exit 0;; esac; exit 3"#;
    std::fs::write(&program, format!("#!/bin/sh\n{text}\n")).expect("a file of ours");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("a file of ours");
    let canary = ["--canary-program", program.to_str().expect("a path of ours")];
    committed(&it.rig.upgrade(&[&canary[..], &PATIENT, &LONG].concat()));
    it.wait_until_kept();
    it.rig.wait_until_settled();
    it.rig.ctl("upgrade", &["--supervisor"]).expect_code(0);
    goes_on_and_goes_back(&it.rig, &["the canary failed on probation", "exited with code 3"]);
    assert!(it.serving("build 1"), "{}", it.rig.log());
    assert!(load.wait_for(50, PATIENCE), "nothing is answered any more\n{}", it.rig.log());
    load.finish().assert_clean();
}

fn with_crashes() -> (Crashes, Rig) {
    let crashes = Crashes::new();
    let setup = Setup::new(Programs::of(Build::Crash));
    let setup = crashes.env().iter().fold(setup, |setup, (key, value)| setup.supervisor_env(key, value));
    (crashes, setup.start())
}

fn other(rig: &Rig) -> String {
    let other = rig.programs().named(&rig.programs().demo_server, "demo-server-2");
    other.to_str().expect("a path of ours").to_owned()
}

/// The commit was not written down when it died: the handoff is found open, its server on probation since.
#[test]
fn a_supervisor_that_dies_at_the_commit_leaves_the_canary_to_the_next() {
    let (crashes, mut rig) = with_crashes();
    let load = Load::start(rig.addr, plan());
    tell(&rig, "well");
    let first = rig.status().json()["server"]["executable"].clone();
    let point = Point { name: "S.persist.ended.before".into(), hit: 1 };
    crashes.arm(&point, "kill9", Order::HeardLast);
    let other = other(&rig);
    rig.upgrade(&[&["--binary", &other], &WELL[..], &PATIENT, &LONG].concat()).expect_code(12);
    assert!(crashes.strike().is_some(), "it died there");
    let _ = crashes.disarm();
    rig.kill_supervisor();
    rig.run();
    goes_on_and_goes_back(&rig, &["the canary failed on probation"]);
    assert_eq!(rig.status().json()["server"]["executable"], first);
    load.finish().assert_clean();
}

/// A rollback by hand that came to nothing took the canary along: the next try of it failed for want of one, and a healthy
/// server was taken back.
#[test]
fn a_rollback_by_hand_that_is_aborted_leaves_the_canary() {
    let (crashes, rig) = with_crashes();
    let load = Load::start(rig.addr, plan());
    tell(&rig, "well");
    let other = other(&rig);
    committed(&rig.upgrade(&[&["--binary", &other], &WELL[..], &PATIENT, &LONG].concat()));
    rig.wait_until_settled();
    let server = rig.server_pid();
    let point = Point { name: "N.send.Warmed.before".into(), hit: 1 };
    crashes.arm(&point, "kill9", Order::HeardLast);
    rig.ctl("rollback", &[]).expect_code(14);
    assert!(crashes.strike().is_some(), "it died there");
    let _ = crashes.disarm();
    assert_eq!(rig.server_pid(), server);
    goes_on_and_goes_back(&rig, &["the canary failed on probation", r#"got "$3\r\nill"#]);
    load.finish().assert_clean();
}
