//! Versions that differ: this build with the next one and with one from the future, in all 27 ways to be supervisor,
//! incumbent and successor.
//!
//! There is one wire version so far. Builds with crash points can be told to speak as a later one would (see
//! [`handoff::wire::dialect`]): the next version has a field and a message more, one from the future says what nobody
//! knows wherever there is a place for it.

use handoff_tests::bins::{Build, Programs};
use handoff_tests::load::{Load, Plan};
use handoff_tests::rig::{PATIENCE, Rig, Setup, UNHURRIED};
use std::collections::BTreeSet;

/// Every pair of neighbours once: who hands over to whom.
const CHAIN: [u8; 10] = [1, 1, 2, 2, 3, 3, 1, 3, 2, 1];

/// One rig: a supervisor that speaks `supervisor`, and whoever is written into the file.
struct Speakers {
    rig: Rig,
    supervisor: char,
    // its directory lives as long
    said: tempfile::TempDir,
}

impl Speakers {
    fn start(supervisor: char, server: char) -> Speakers {
        let said =
            tempfile::Builder::new().prefix("handoff-speak-").tempdir().expect("a temporary directory");
        let speak = said.path().join("speak");
        let text = format!("{supervisor}-{server}-{server}");
        std::fs::write(&speak, text).expect("a file of ours");
        let setup = Setup::new(Programs::of(Build::Crash));
        let rig = setup.supervisor_env("HANDOFF_SPEAK", &format!("@{}", speak.display())).start();
        Speakers { rig, supervisor, said }
    }

    /// From here on a new server speaks like that.
    fn next(&self, server: char) {
        let text = format!("{}-{server}-{server}", self.supervisor);
        std::fs::write(self.said.path().join("speak"), text).expect("a file of ours");
    }

    /// What a process heard of later versions: the field, the message, types that it skipped.
    fn heard(&self, pid: u32) -> BTreeSet<&'static str> {
        let log = std::fs::read_to_string(self.rig.log_path()).expect("a log of ours");
        let me = format!("pid={pid} ");
        let mine = log.lines().filter(|line| line.contains("heard of a later version") && line.contains(&me));
        let words = ["field=true", "note=true", "skipped=true"];
        mine.flat_map(|line| words.into_iter().filter(|word| line.contains(word))).collect()
    }
}

/// What somebody who speaks `me` has to hear from these.
fn hears(me: u8, from: &[u8]) -> BTreeSet<&'static str> {
    let mut heard = BTreeSet::new();
    for other in from {
        if me > 1 && *other > 1 {
            heard.extend(["field=true", "note=true"]);
        }
        if *other == 3 || *other == 2 && me == 1 {
            heard.insert("skipped=true");
        }
    }
    heard
}

/// Nine upgrades under load with one supervisor: every server hands over to every other one.
fn nine_upgrades(supervisor: u8) {
    let word = |version: u8| char::from(b'0' + version);
    let speakers = Speakers::start(word(supervisor), word(CHAIN[0]));
    let rig = &speakers.rig;
    let plan = Plan {
        busy: 2,
        library: 1,
        fresh: 1,
        idle: 2,
        subscribers: 1,
        half: 2,
        unread: 1,
        ..Plan::default()
    };
    let mut load = Load::start(rig.addr, plan);
    let mut first = vec![(rig.server_pid(), CHAIN[0])];
    for pair in CHAIN.windows(2) {
        let triple = format!("v{supervisor}-{}-{}", pair[0], pair[1]);
        speakers.next(word(pair[1]));
        load.hold_back();
        let done = rig.upgrade(UNHURRIED);
        load.let_go();
        assert_eq!(done.code, Some(0), "{triple}: {}{}\n{}", done.stdout, done.stderr, rig.log());
        let report = done.json();
        assert_eq!(report["connections"]["lost"], 0, "{triple}: {report}");
        assert!(load.wait_for(30, PATIENCE), "{triple}: nothing is answered any more\n{}", rig.log());
        first.push((rig.server_pid(), pair[1]));
    }
    load.finish().assert_clean();
    // that they spoke differently at all
    let all: Vec<u8> = first.iter().map(|(_, version)| *version).collect();
    assert_eq!(speakers.heard(rig.supervisor_pid()), hears(supervisor, &all), "{}", rig.log());
    for (n, (pid, version)) in first.iter().enumerate() {
        // the supervisor, and on the transfer channel whoever came before and after
        let mut others = vec![supervisor];
        let own = hears(*version, &others);
        others.extend(n.checked_sub(1).into_iter().chain([n + 1]).filter_map(|n| all.get(n)));
        let (heard, at_most) = (speakers.heard(*pid), hears(*version, &others));
        assert!(own.is_subset(&heard) && heard.is_subset(&at_most), "server {n}, {version}: {heard:?}");
    }
}

#[test]
fn a_supervisor_of_this_version_hands_over_between_all_of_them() {
    nine_upgrades(1);
}

#[test]
fn a_supervisor_of_the_next_version_hands_over_between_all_of_them() {
    nine_upgrades(2);
}

#[test]
fn a_supervisor_from_the_future_hands_over_between_all_of_them() {
    nine_upgrades(3);
}

/// The control: what nobody knows and nobody may skip ends the upgrade, and clients notice nothing of it.
fn insists(supervisor: char, server: char, successor: char) {
    let speakers = Speakers::start(supervisor, server);
    let rig = &speakers.rig;
    let mut load = Load::start(rig.addr, Plan { busy: 2, idle: 2, half: 1, ..Plan::default() });
    load.hold_back();
    let old = rig.server_pid();
    speakers.next(successor);
    let done = rig.upgrade(UNHURRIED);
    load.let_go();
    assert!(matches!(done.code, Some(10 | 14)), "{done:?}\n{}", rig.log());
    let report = done.json();
    let reason = report["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("does not know"), "{report}");
    assert!(load.wait_for(30, PATIENCE), "nothing is answered any more\n{}", rig.log());
    assert_eq!(rig.server_pid(), old);
    rig.wait_until_settled();
    load.finish().assert_clean();
}

#[test]
fn a_successor_that_insists_on_what_nobody_knows_is_refused() {
    insists('1', '1', 'x');
}

#[test]
fn a_supervisor_that_insists_on_what_nobody_knows_is_refused_by_the_incumbent() {
    insists('x', '1', '1');
}
