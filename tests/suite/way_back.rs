//! The way back when the supervisor dies over it: two tries in all, whoever makes them. Each supervisor that was started
//! again had granted two anew, and had asked the server anew whether it is well.

use crate::probation::{asked_meanwhile, outcomes};
use handoff_tests::bins::{Build, Programs};
use handoff_tests::crashes::{Crashes, Order, Point};
use handoff_tests::rig::{PATIENCE, Rig, Setup};
use serde_json::Value;
use std::time::Instant;

/// A supervised server, and a build of it that says that it is ill once it serves.
struct Ill {
    crashes: Crashes,
    rig: Rig,
    other: String,
}

impl Ill {
    fn new() -> Self {
        let (crashes, programs) = (Crashes::new(), Programs::of(Build::Crash));
        let setup = Setup::new(programs).program(&programs.exclusive_server);
        let setup = crashes.env().iter().fold(setup, |setup, (key, value)| setup.supervisor_env(key, value));
        let other = programs.named(&programs.exclusive_server, "exclusive-ill");
        let other = other.to_str().expect("a path of ours").to_owned();
        Self { crashes, rig: setup.start(), other }
    }

    fn always(&self, fault: &str) {
        std::fs::write(self.rig.marks.join(fault), "always").expect("a file of ours");
    }

    /// Upgrades to it; the supervisor dies over the way back, as it is armed.
    fn upgrade(&self) {
        let to = ["--binary", &self.other, "--wait-probation", "--probation", "120s"];
        self.rig.upgrade(&to).expect_code(12);
    }

    /// The next supervisor comes, and nobody dies any more.
    fn goes_on(&mut self) {
        assert!(!self.crashes.disarm(), "it died where it was to");
        self.rig.kill_supervisor();
        self.rig.run();
    }

    fn ends(&self, outcome: &str, words: &[&str]) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.rig.status().json();
            let reason = status["last"]["reason"].as_str().unwrap_or_default();
            if status["last"]["outcome"] == outcome && words.iter().all(|word| reason.contains(word)) {
                assert!(status["probation"].is_null(), "{status}");
                return status;
            }
            assert!(Instant::now() < deadline, "{words:?}: {status}\n{}", self.rig.log());
        }
    }
}

fn turned_down(hit: u32) -> Point {
    Point { name: "S.persist.turned_down.after".into(), hit }
}

/// It never lets go: one try by each of two supervisors, and it is ended.
#[test]
fn a_way_back_that_was_aborted_once_is_tried_once_more_by_the_next_supervisor() {
    let mut it = Ill::new();
    let first = it.rig.status().json()["server"]["executable"].clone();
    it.always("exclusive-ill.fail-seal");
    it.crashes.arm(&turned_down(2), "kill9", Order::HeardLast);
    let (status, seen) = asked_meanwhile(it.rig.addr, || {
        it.upgrade();
        it.goes_on();
        it.ends("rolled_back", &["feels ill", "aborted twice"])
    });
    assert_eq!(status["server"]["executable"], first, "{status}");
    assert_eq!(outcomes(&it.rig), ["rolled_back", "aborted", "aborted", "committed"], "{}", it.rig.log());
    assert!(seen.answers > 20);
    it.rig.wait_until_settled();
    it.rig.upgrade_commits();
}

/// To end it was decided, and not done.
#[test]
fn a_way_back_that_was_aborted_twice_is_gone_from_disk_by_the_next_supervisor() {
    let mut it = Ill::new();
    let first = it.rig.status().json()["server"]["executable"].clone();
    it.always("exclusive-ill.fail-seal");
    it.crashes.arm(&turned_down(3), "kill9", Order::HeardLast);
    it.upgrade();
    it.goes_on();
    let status = it.ends("rolled_back", &["feels ill", "aborted twice"]);
    assert_eq!(status["server"]["executable"], first, "{status}");
    assert_eq!(outcomes(&it.rig)[1..], ["aborted", "aborted", "committed"], "{}", it.rig.log());
}

/// The build before does not come up: nobody is without an answer, and the ill server serves on.
#[test]
fn a_build_that_did_not_come_up_once_is_tried_once_more_by_the_next_supervisor() {
    let mut it = Ill::new();
    it.always("exclusive-server.fail-warm");
    it.crashes.arm(&turned_down(2), "kill9", Order::HeardLast);
    let (status, seen) = asked_meanwhile(it.rig.addr, || {
        it.upgrade();
        it.goes_on();
        it.ends("committed", &["feels ill", "serves on", "tried twice"])
    });
    assert_eq!(status["server"]["executable"], it.other, "{status}");
    let failed = "preflight_failed";
    assert_eq!(outcomes(&it.rig), ["committed", failed, failed, "committed"], "{}", it.rig.log());
    assert_eq!(seen.failed, 0);
}

/// A way back that kills each supervisor is not gone for ever: a try that was cut short is a try.
#[test]
fn two_supervisors_that_die_over_the_way_back_are_two_tries() {
    let mut it = Ill::new();
    // the first one is the upgrade's
    let seal = |hit| Point { name: "S.send.SealRequest.before".into(), hit };
    it.crashes.arm_each(&[(&seal(2), "kill9"), (&seal(1), "kill9")], Order::HeardLast);
    let (status, seen) = asked_meanwhile(it.rig.addr, || {
        it.upgrade();
        it.rig.kill_supervisor();
        it.rig.launch_supervisor();
        it.rig.wait_supervisor();
        assert!(!it.crashes.disarm(), "both died where they were to");
        it.rig.run();
        it.ends("committed", &["feels ill", "serves on", "tried twice"])
    });
    assert_eq!(status["server"]["executable"], it.other, "{status}");
    assert_eq!(outcomes(&it.rig), ["committed", "aborted", "aborted", "committed"], "{}", it.rig.log());
    assert_eq!(seen.failed, 0);
}
