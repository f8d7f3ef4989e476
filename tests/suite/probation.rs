//! The time after a commit in which the new server has to prove itself, and the way back to the build before.

use crate::builds::Installed;
use crate::cli::says;
use handoff_tests::bins::{Build, Programs};
use handoff_tests::client::Client;
use handoff_tests::load::{Load, Plan};
use handoff_tests::rig::{Finished, PATIENCE, Rig, Setup, finish, stop, wait_gone};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

const LONG: [&str; 2] = ["--probation", "120s"];

/// Upgrades to another build with a long probation; what `--wait-probation` ends with, when `then` has struck.
fn struck(it: &Installed, then: impl FnOnce(u32)) -> Finished {
    it.install("build 2");
    let old = it.rig.server_pid();
    let mut command =
        it.rig.ctl_command("upgrade", &["--format", "json", "--wait-probation", LONG[0], LONG[1]]);
    std::thread::scope(|scope| {
        let upgrade = scope.spawn(|| finish(command.stdin(Stdio::null())));
        wait_until(&it.rig, "it serves", |status| {
            status["probation"].is_string() && status["server"]["pid"].as_u64() != Some(old.into())
        });
        assert!(it.serving("build 2"));
        then(it.rig.server_pid());
        upgrade.join().expect("no panic")
    })
}

fn wait_until(rig: &Rig, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = rig.status().json();
        if is(&status) {
            return status;
        }
        assert!(Instant::now() < deadline, "{what}: {status}\n{}", rig.log());
    }
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), signal).expect("a process of ours");
}

/// What everybody can see afterwards, who asked and who did not.
fn is_rolled_back(it: &Installed, done: &Finished, word: &str) {
    done.expect_code(15);
    let report = done.json();
    assert_eq!(report["outcome"], "rolled_back", "{report}");
    assert!(report["reason"].as_str().is_some_and(|reason| reason.contains(word)), "{report}");
    it.rig.wait_until_settled();
    assert!(it.serving("build 1"), "{}", it.rig.log());
    let status = it.rig.status().expect_code(0).json();
    assert_eq!(status["last"]["outcome"], "rolled_back", "{status}");
    assert!(status["probation"].is_null(), "{status}");
    let history = it.rig.ctl("history", &["--format", "json"]);
    let outcomes: Vec<Value> = history
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("json")["outcome"].clone())
        .collect();
    assert_eq!(outcomes, ["rolled_back", "committed"], "{history:?}");
}

#[test]
fn a_new_server_that_dies_is_replaced_by_the_build_before() {
    let it = Installed::new();
    let load = Load::start(it.rig.addr, Plan { busy: 2, fresh: 1, ..Plan::default() });
    let done = struck(&it, |pid| {
        assert!(load.wait_for(50, PATIENCE), "the new server answers");
        // the file of the build before is gone: its copy is started
        signal(pid, Signal::SIGKILL);
    });
    is_rolled_back(&it, &done, "died on probation");
    assert!(load.wait_for(50, PATIENCE), "nothing is answered any more\n{}", it.rig.log());
    it.rig.upgrade_commits();
    let tally = load.finish();
    tally.assert_nothing_lost();
    assert_eq!(tally.refused, 0, "the listener outlives the server: {tally}");
}

#[test]
fn a_new_server_that_hangs_is_ended_and_replaced_by_the_build_before() {
    let it = Installed::new();
    let mut client = Client::connect(it.rig.addr.into()).expect("connects");
    client.ask("SET kept yes").expect("is acknowledged");
    let done = struck(&it, stop);
    is_rolled_back(&it, &done, "no progress");
    let mut client = Client::connect(it.rig.addr.into()).expect("connects");
    assert_eq!(client.ask("GET kept").expect("an answer").text().as_deref(), Some("yes"));
}

/// The control of both: after its probation, or without one, it is its own build that comes back.
#[test]
fn who_has_stood_its_probation_is_not_taken_back() {
    let it = Installed::new();
    it.install("build 2");
    let done = it.rig.upgrade(&["--probation", "1ms", "--wait-probation"]);
    assert_eq!(done.expect_code(0).json()["outcome"], "committed");
    assert!(it.rig.status().json()["probation"].is_null());
    it.kill_server();
    it.rig.wait_until_served();
    it.rig.wait_until_settled();
    assert!(it.serving("build 2"), "{}", it.rig.log());
}

#[test]
fn an_upgrade_within_the_probation_ends_it() {
    let it = Installed::new();
    it.install("build 2");
    it.rig.upgrade(&LONG).expect_code(0);
    it.install("build 3");
    it.rig.upgrade(&["--probation", "0s"]).expect_code(0);
    assert!(it.rig.status().json()["probation"].is_null());
    it.kill_server();
    it.rig.wait_until_served();
    it.rig.wait_until_settled();
    assert!(it.serving("build 3"), "{}", it.rig.log());
}

#[test]
fn a_supervisor_that_is_restarted_goes_on_with_the_probation() {
    for server_dies_too in [false, true] {
        let mut it = Installed::new();
        it.install("build 2");
        it.rig.upgrade(&LONG).expect_code(0);
        it.wait_until_kept();
        it.rig.wait_until_settled();
        let server = it.rig.server_pid();
        it.rig.kill_supervisor();
        if server_dies_too {
            signal(server, Signal::SIGKILL);
            wait_gone(server);
        }
        it.rig.run();
        if !server_dies_too {
            assert!(it.rig.status().json()["probation"].is_string(), "{:?}", it.rig.status());
            signal(server, Signal::SIGKILL);
            wait_until(&it.rig, "rolled back", |status| status["last"]["outcome"] == "rolled_back");
        }
        it.rig.wait_until_settled();
        let status = it.rig.status().json();
        assert_eq!(status["last"]["outcome"], "rolled_back", "{status}\n{}", it.rig.log());
        assert!(it.serving("build 1"), "{}", it.rig.log());
    }
}

/// An ordinary handoff in the other direction: nobody notices, and the file of the build before is not needed.
#[test]
fn rollback_by_hand_goes_unnoticed() {
    let it = Installed::new();
    let mut load = Load::start(it.rig.addr, Plan { busy: 2, fresh: 1, idle: 5, half: 2, ..Plan::default() });
    // once beyond a probation, once within it
    for (probation, serves) in [("0s", "build 1"), ("120s", "build 1")] {
        it.install("build 2");
        it.rig.upgrade(&["--probation", probation]).expect_code(0);
        assert!(it.serving("build 2"));
        load.hold_back();
        let done = it.rig.ctl("rollback", &["--format", "json"]);
        load.let_go();
        let report = done.expect_code(0).json();
        assert_eq!(report["outcome"], "rolled_back", "{report}");
        assert!(report["freeze_ms"].is_f64(), "a handoff: {report}");
        assert_eq!(report["connections"]["lost"], 0, "{report}");
        it.rig.wait_until_settled();
        assert!(it.serving(serves), "{}", it.rig.log());
        assert_eq!(it.rig.status().json()["last"]["outcome"], "rolled_back");
    }
    // again and again: forth and back between the two
    for serves in ["build 2", "build 1"] {
        load.hold_back();
        let done = it.rig.ctl("rollback", &["--format", "json"]);
        load.let_go();
        assert_eq!(done.expect_code(0).json()["outcome"], "rolled_back", "{done:?}");
        it.rig.wait_until_settled();
        assert!(it.serving(serves), "{}", it.rig.log());
    }
    load.finish().assert_clean();
}

#[test]
fn nothing_to_go_back_to_is_14() {
    let it = Installed::new();
    let before = it.rig.server_pid();
    let refused = |words: &[&str]| {
        let done = it.rig.ctl("rollback", &["--format", "json"]);
        let report = done.expect_code(14).json();
        assert_eq!(report["outcome"], "preflight_failed", "{report}");
        let reason = report["reason"].as_str().unwrap_or_default();
        assert!(words.iter().all(|word| reason.contains(word)), "{reason}");
        says(&done, words);
    };
    refused(&["nothing to go back to"]);
    // the same build again is no other build
    it.rig.upgrade_commits();
    refused(&["nothing to go back to"]);
    it.upgrade("build 2");
    it.rig.wait_until_settled();
    std::fs::remove_dir_all(it.builds()).expect("a directory of ours");
    refused(&["not kept any more", "--binary"]);
    assert_ne!(it.rig.server_pid(), before);
    it.rig.upgrade_commits();
}

#[test]
fn a_format_that_the_old_build_does_not_read_needs_one_way() {
    let it = Installed::new();
    let server = it.rig.server_pid();
    let newer = it.rig.programs().bad("newer-state-format");
    let to = ["--binary", newer.to_str().expect("a path of ours")];
    let refused = it.rig.upgrade(&to);
    let reason = refused.expect_code(14).json()["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("no way back") && reason.contains("--one-way"), "{reason}");
    assert!(!it.rig.reached("newer-state-format"), "the old server was not touched");
    // it gets as far as any other, and fails at what is really wrong with it
    let done = it.rig.upgrade(&[&to[..], &["--one-way", "--probation", "120s"]].concat());
    done.expect_code(10);
    assert!(it.rig.reached("newer-state-format"), "{done:?}");
    assert!(it.rig.status().json()["probation"].is_null());
    assert_eq!(it.rig.server_pid(), server);
}

/// The server says so itself: by its check, by a vote, by a check that never ends. Nobody is without an answer.
fn hands_back(overlap: bool) {
    let programs = Programs::of(Build::Plain);
    for (name, word) in [("ill", "feels ill"), ("votes", "voted down"), ("stuck", "no progress")] {
        let (rig, other) = with(programs, overlap, name);
        let first = rig.status().json()["server"]["executable"].clone();
        let (ended, seen) = asked_meanwhile(rig.addr, || {
            let to = ["--binary", other.to_str().expect("a path of ours"), "--wait-probation"];
            rig.upgrade(&[&to[..], &LONG].concat())
        });
        assert_eq!(ended.code, Some(15), "{name}: {ended:?}\n{}", rig.log());
        let report = ended.json();
        assert_eq!(report["outcome"], "rolled_back", "{name}: {report}");
        assert!(report["reason"].as_str().is_some_and(|r| r.contains(word)), "{name}: {report}");
        rig.wait_until_settled();
        assert_eq!(rig.status().json()["server"]["executable"], first, "{name}");
        assert!(seen.answers > 20);
        // who hands back leaves nobody without an answer; who is ended takes its connections along
        if name != "stuck" {
            assert_eq!(seen.failed, 0, "{name}");
        }
        rig.upgrade_commits();
    }
}

/// A supervised toy server, and the program that is like it and has something wrong with it.
fn with(programs: &'static Programs, overlap: bool, name: &str) -> (Rig, PathBuf) {
    let (program, kind) = match overlap {
        true => (&programs.overlap_server, "overlap"),
        false => (&programs.exclusive_server, "exclusive"),
    };
    let setup = Setup::new(programs).program(program);
    let rig = if overlap { setup.stateless().start() } else { setup.start() };
    (rig, programs.named(program, &format!("{kind}-{name}")))
}

/// What clients saw.
pub(crate) struct Seen {
    pub(crate) answers: u64,
    pub(crate) failed: u64,
}

/// One client asks on one connection, another one on a new one each time, while something happens.
pub(crate) fn asked_meanwhile<T>(addr: SocketAddrV4, happens: impl FnOnce() -> T) -> (T, Seen) {
    let (done, answers, failed) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let ended = std::thread::scope(|scope| {
        for fresh in [false, true] {
            let (done, answers, failed) = (&done, &answers, &failed);
            scope.spawn(move || {
                let connect = || {
                    let mut client = Client::connect(addr.into())?;
                    client.set_patience(PATIENCE)?;
                    Ok::<_, handoff_tests::client::Fault>(client)
                };
                let mut client = connect().expect("connects");
                while !done.load(Ordering::Relaxed) {
                    if fresh {
                        client = connect().expect("connects");
                    }
                    match client.ask("PING") {
                        Ok(_) => answers.fetch_add(1, Ordering::Relaxed),
                        Err(_) => {
                            client = connect().expect("connects");
                            failed.fetch_add(1, Ordering::Relaxed)
                        }
                    };
                }
            });
        }
        let _ends = Ends(&done);
        happens()
    });
    (ended, Seen { answers: answers.into_inner(), failed: failed.into_inner() })
}

/// Lets the clients end, also when what happens is a panic.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_new_server_that_is_not_well_hands_back() {
    hands_back(true);
}

/// The same with a freeze: its connections are handed over there and back.
#[test]
fn a_new_server_that_is_not_well_hands_back_under_the_exclusive_strategy() {
    hands_back(false);
}

pub(crate) fn outcomes(rig: &Rig) -> Vec<Value> {
    let history = rig.ctl("history", &["--format", "json"]);
    let of = |line| serde_json::from_str::<Value>(line).expect("json")["outcome"].clone();
    history.stdout.lines().map(of).collect()
}

/// The way back is tried once more when it was aborted. It was not: one bad moment, and the ill server stayed for good.
#[test]
fn a_way_back_that_is_aborted_once_is_gone_the_second_time() {
    let (rig, other) = with(Programs::of(Build::Plain), false, "ill");
    std::fs::write(rig.marks.join("exclusive-ill.fail-seal"), "once").expect("a file of ours");
    let (ended, seen) = asked_meanwhile(rig.addr, || {
        let to = ["--binary", other.to_str().expect("a path of ours"), "--wait-probation"];
        rig.upgrade(&[&to[..], &LONG].concat())
    });
    assert_eq!(ended.code, Some(15), "{ended:?}\n{}", rig.log());
    assert!(ended.json()["freeze_ms"].is_f64(), "a handoff: {ended:?}");
    assert_eq!(outcomes(&rig), ["rolled_back", "aborted", "committed"], "{}", rig.log());
    assert_eq!(rig.status().json()["last"]["outcome"], "rolled_back");
    assert_eq!(seen.failed, 0);
}

/// It never lets go: after the second time it is ended, and the build before is started from disk.
#[test]
fn a_server_that_does_not_let_go_is_ended_after_the_second_way_back() {
    let (rig, other) = with(Programs::of(Build::Plain), false, "ill");
    std::fs::write(rig.marks.join("exclusive-ill.fail-seal"), "always").expect("a file of ours");
    let first = rig.status().json()["server"]["executable"].clone();
    let to = ["--binary", other.to_str().expect("a path of ours"), "--wait-probation"];
    let ended = rig.upgrade(&[&to[..], &LONG].concat());
    assert_eq!(ended.code, Some(15), "{ended:?}\n{}", rig.log());
    let reason = ended.json()["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("feels ill") && reason.contains("aborted twice"), "{reason}");
    assert_eq!(outcomes(&rig), ["rolled_back", "aborted", "aborted", "committed"], "{}", rig.log());
    let status = rig.status().json();
    assert_eq!(
        (&status["last"]["outcome"], &status["server"]["executable"]),
        (&"rolled_back".into(), &first)
    );
    rig.wait_until_served();
    rig.upgrade_commits();
}

/// The build before does not come up: whoever serves, ill as it is, is better than nobody.
#[test]
fn an_ill_server_serves_on_where_the_build_before_does_not_come_up() {
    let (rig, other) = with(Programs::of(Build::Plain), false, "ill");
    std::fs::write(rig.marks.join("exclusive-server.fail-warm"), "always").expect("a file of ours");
    let (ended, seen) = asked_meanwhile(rig.addr, || {
        let to = ["--binary", other.to_str().expect("a path of ours"), "--wait-probation"];
        rig.upgrade(&[&to[..], &LONG].concat())
    });
    let report = ended.expect_code(0).json();
    let reason = report["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("feels ill") && reason.contains("tried twice"), "{report}");
    let failed = "preflight_failed";
    assert_eq!(outcomes(&rig), ["committed", failed, failed, "committed"], "{}", rig.log());
    let status = rig.status().expect_code(0).json();
    assert_eq!(status["server"]["executable"], other.display().to_string(), "{status}");
    assert!(status["probation"].is_null(), "{status}");
    assert_eq!(seen.failed, 0);
}
