//! Somebody else writes to the data between the seal and `Begin`: the supervisor is stopped there, so that there is time.
//!
//! The digest covers content. A successor that finds other bytes than those that were sealed is turned away, and the
//! incumbent, whose memory has every acknowledged write, goes on: exit 10. It compares names and lengths, not content,
//! before it does. With its memory it is the only one left who can serve what was acknowledged; to leave the data to a
//! cold start would serve the flipped byte, or cut it off as a torn tail. Other lengths mean another writer: then it
//! gives its tenure up (exit 11).

use handoff_tests::bins::{Build, Programs};
use handoff_tests::client::Client;
use handoff_tests::rig::{Finished, Rig, Setup};
use nix::sys::signal::Signal;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

const KEYS: usize = 200;

/// A server with data, a handoff that was stopped before `Begin`, what `meddle` did meanwhile, and how it ended.
struct Meddled {
    rig: Rig,
    server: u32,
    done: Finished,
    client: Client,
}

fn meddled(meddle: impl FnOnce(&Rig)) -> Meddled {
    let setup =
        Setup::new(Programs::of(Build::Crash)).supervisor_env("HANDOFF_CRASH", "S.send.Begin.before/stop");
    let rig = setup.start();
    let mut client = Client::connect(rig.addr.into()).expect("connects");
    for n in 0..KEYS {
        client.ask(&format!("SET key:{n} value-{n}")).expect("is acknowledged");
    }
    let server = rig.server_pid();
    let done = std::thread::scope(|scope| {
        let upgrade = scope.spawn(|| rig.upgrade(&["--freeze-budget", "30s"]));
        rig.wait_supervisor_stopped();
        meddle(&rig);
        rig.signal_supervisor(Signal::SIGCONT);
        upgrade.join().expect("no panic")
    });
    Meddled { rig, server, done, client }
}

impl Meddled {
    #[track_caller]
    fn ended(&self, code: i32, outcome: &str) {
        assert_eq!(self.done.code, Some(code), "{:?}\n{}", self.done, self.rig.log());
        assert_eq!(self.done.json()["outcome"], outcome, "{:?}", self.done);
    }

    /// The connection that was there all the time is still there.
    #[track_caller]
    fn nobody_noticed(&mut self) {
        let answer = self.client.ask("GET key:0").map(|reply| reply.text());
        assert_eq!(answer, Ok(Some("value-0".to_owned())), "{}", self.rig.log());
    }

    #[track_caller]
    fn serves_everything(&self) {
        let mut client = Client::connect(self.rig.addr.into()).expect("connects");
        for n in 0..KEYS {
            let found = client.ask(&format!("GET key:{n}")).expect("an answer").text();
            assert_eq!(found, Some(format!("value-{n}")), "key:{n}\n{}", self.rig.log());
        }
        client.ask("SET later yes").expect("writes go on");
    }
}

/// The segments that something is in, in order.
fn segments(rig: &Rig) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(&rig.data_dir).expect("the data").flatten();
    let number = |path: &PathBuf| path.file_name()?.to_str()?.strip_prefix("log.")?.parse::<u64>().ok();
    let mut found: Vec<_> =
        entries.filter_map(|entry| Some((number(&entry.path())?, entry.path()))).collect();
    found.retain(|(_, path)| path.metadata().is_ok_and(|m| m.len() > 0));
    found.sort();
    assert!(!found.is_empty(), "no log in {}", rig.data_dir.display());
    found.into_iter().map(|(_, path)| path).collect()
}

/// One bit of the log.
#[derive(Debug)]
struct Bit {
    path: PathBuf,
    at: u64,
}

impl Bit {
    fn in_the_first_record(rig: &Rig) -> Bit {
        Bit { path: segments(rig).remove(0), at: 0 }
    }

    fn in_the_middle(rig: &Rig) -> Bit {
        let path = segments(rig).remove(0);
        let at = path.metadata().expect("the log").len() / 2;
        Bit { path, at }
    }

    fn at_the_end(rig: &Rig) -> Bit {
        let path = segments(rig).pop().expect("one at least");
        let at = path.metadata().expect("the log").len() - 1;
        Bit { path, at }
    }

    fn flip(&self) {
        let file = File::options().read(true).write(true).open(&self.path).expect("the log");
        let mut byte = [0];
        file.read_exact_at(&mut byte, self.at).expect("a byte");
        file.write_all_at(&[byte[0] ^ 1], self.at).expect("a byte");
    }
}

/// Flipped between seal and `Begin`: the old server goes on. While the disk is damaged no successor gets far, and none
/// does harm; when it was repaired, an upgrade commits.
fn turned_away_until_repaired(bit: impl FnOnce(&Rig) -> Bit) {
    let mut flipped = None;
    let mut meddled = meddled(|rig| flipped.insert(bit(rig)).flip());
    let flipped = flipped.expect("it was flipped");
    meddled.ended(10, "aborted");
    // in the report, or, where the incumbent was faster than the word of the successor, in the log
    let log = std::fs::read_to_string(meddled.rig.log_path()).expect("the log");
    assert!(
        log.contains("changed on disk") || log.contains("digest differs"),
        "what differs is named:\n{log}"
    );
    assert_eq!(meddled.rig.server_pid(), meddled.server, "the old server goes on");
    assert_eq!(meddled.rig.instances().len(), 1, "the successor's tree is gone");
    meddled.nobody_noticed();
    meddled.serves_everything();

    let again = meddled.rig.upgrade(&[]);
    again.expect_code(14);
    let name = flipped.path.file_name().and_then(|name| name.to_str()).expect("a name of ours");
    assert!(again.json()["reason"].as_str().is_some_and(|reason| reason.contains(name)), "{again:?}");
    assert_eq!(meddled.rig.server_pid(), meddled.server, "the old server goes on");

    flipped.flip();
    meddled.rig.upgrade_commits();
    meddled.nobody_noticed();
    meddled.serves_everything();
}

#[test]
fn one_bit_flipped_in_the_first_record() {
    turned_away_until_repaired(Bit::in_the_first_record);
}

#[test]
fn one_bit_flipped_in_the_middle() {
    turned_away_until_repaired(Bit::in_the_middle);
}

/// The last record is where a torn tail would be: to cut it off would lose an acknowledged write.
#[test]
fn one_bit_flipped_in_the_last_record() {
    turned_away_until_repaired(Bit::at_the_end);
}

/// Control: it is the byte that aborts, not the stop.
#[test]
fn nothing_touched_commits() {
    let mut meddled = meddled(|_| {});
    meddled.ended(0, "committed");
    meddled.nobody_noticed();
    assert_ne!(meddled.rig.server_pid(), meddled.server);
    meddled.serves_everything();
}

/// Control: it is the content that counts, not the time of the last write.
#[test]
fn a_byte_flipped_there_and_back_commits() {
    let meddled = meddled(|rig| {
        let bit = Bit::in_the_middle(rig);
        bit.flip();
        bit.flip();
    });
    meddled.ended(0, "committed");
    meddled.serves_everything();
}

/// Somebody else appends: both turn away from that, and a start from disk finds all that was acknowledged.
#[test]
fn bytes_appended_by_somebody_else_need_a_cold_start() {
    let meddled = meddled(|rig| {
        let path = segments(rig).pop().expect("one at least");
        let file = File::options().write(true).open(&path).expect("the log");
        let length = file.metadata().expect("the log").len();
        file.write_all_at(b"not ours", length).expect("bytes");
    });
    meddled.ended(11, "cold_started");
    assert_ne!(meddled.rig.server_pid(), meddled.server);
    meddled.serves_everything();
}
