//! What the reader makes of files that the appender wrote, and of damaged ones.

use super::reader::Tail;
use super::*;
use crate::operation::Operation;
use crate::operation::tests::{Owned, any_operation};
use crate::store::Store;
use proptest::prelude::*;
use std::collections::BTreeMap;
use tempfile::TempDir;

const STAMP: Stamp = Stamp { epoch: 3, instance: 9 };

fn load(dir: &Path) -> Result<Reader> {
    let mut reader = Reader::start(dir)?;
    while reader.catch_up()? {}
    Ok(reader)
}

fn open(dir: &Path) -> (Appender, Store, u64) {
    let mut reader = load(dir).unwrap();
    reader.finish().unwrap();
    Appender::open(reader).unwrap()
}

fn append_all(log: &mut Appender, from: u64, operations: &[Operation<'_>], stamp: Stamp) -> u64 {
    let (mut bytes, mut sum, mut sequence) = (Vec::new(), 0u64, from);
    for operation in operations {
        sequence += 1;
        sum = sum.wrapping_add(super::append(&mut bytes, stamp, sequence, |out| operation.encode(out)));
    }
    log.append(&bytes, sum, sequence).unwrap();
    log.sync().unwrap();
    sequence
}

fn set<'a>(key: &'a [u8], value: &'a [u8]) -> Operation<'a> {
    Operation::Set { key, value, expires: None }
}

fn content(store: &Store) -> BTreeMap<Vec<u8>, Vec<u8>> {
    store.entries().map(|(k, e)| (k.to_vec(), e.value.clone())).collect()
}

/// Three records of one epoch.
fn sample() -> (TempDir, Appender, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _, _) = open(dir.path());
    append_all(&mut log, 0, &[set(b"a", b"1"), set(b"b", b"2"), set(b"c", b"3")], STAMP);
    let path = segment(dir.path(), 1);
    (dir, log, path)
}

#[test]
fn the_digest_that_was_kept_is_the_digest_that_is_read() {
    let (dir, log, _) = sample();
    let mut reader = load(dir.path()).unwrap();
    assert_eq!(reader.finish().unwrap(), log.digest());
    assert_eq!((reader.sequence, reader.epoch), (3, STAMP.epoch));
    assert_eq!(log.verify().unwrap(), log.digest());
}

#[test]
fn a_tail_torn_at_any_byte_is_cut() {
    let (_dir, _, path) = sample();
    let whole = std::fs::read(&path).unwrap();
    let last = whole.len() - whole.len() / 3;
    for cut in 0..whole.len() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()));
        let path = segment(dir.path(), 1);
        std::fs::write(&path, &whole[..cut]).unwrap();
        let records = (cut / (whole.len() / 3)) as u64;

        let reader = load(dir.path()).unwrap();
        assert_eq!((reader.sequence, reader.store.len() as u64), (records, records), "cut at {cut}");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), cut as u64, "a reader cuts nothing");

        let (mut log, _, sequence) = open(dir.path());
        assert_eq!(sequence, records);
        append_all(&mut log, sequence, &[set(b"after", b"")], STAMP);
        let reader = load(dir.path()).unwrap();
        assert_eq!(reader.sequence, records + 1);
    }
    assert!(last < whole.len());
}

#[test]
fn any_flipped_byte_changes_the_digest_or_is_refused() {
    let (dir, log, path) = sample();
    let whole = std::fs::read(&path).unwrap();
    for at in 0..whole.len() {
        // in front of a follower that has it all in memory
        let mut follower = load(dir.path()).unwrap();
        let mut bad = whole.clone();
        bad[at] ^= 0x10;
        std::fs::write(&path, &bad).unwrap();
        let seen = follower.finish();
        assert!(seen.is_err(), "a follower, byte {at}: {seen:?}");
        // and of one that comes later
        let late = load(dir.path()).and_then(|mut reader| reader.finish());
        assert!(late.as_ref().map_or(true, |digest| *digest != log.digest()), "byte {at}: {late:?}");
        // a flip in front of good records is a hole, with its offset
        let third = whole.len() / 3;
        if at < 2 * third {
            let Err(Error::Hole { offset, .. }) = late else { panic!("byte {at}: {late:?}") };
            assert_eq!(offset, (at / third * third) as u64);
        }
        std::fs::write(&path, &whole).unwrap();
    }
    assert_eq!(load(dir.path()).unwrap().finish().unwrap(), log.digest());
}

#[test]
fn bytes_behind_a_sealed_log_change_the_digest() {
    let (dir, log, path) = sample();
    let mut whole = std::fs::read(&path).unwrap();
    whole.push(7);
    std::fs::write(&path, whole).unwrap();
    assert_ne!(load(dir.path()).unwrap().finish().unwrap(), log.digest());
    assert_ne!(log.verify().unwrap(), log.digest());
}

#[test]
fn an_older_epoch_and_a_missing_number_are_refused() {
    for (stamp, from, word) in
        [(Stamp { epoch: 2, instance: 1 }, 3, "no longer the owner"), (STAMP, 4, "follows operation 3")]
    {
        let (dir, mut log, _) = sample();
        append_all(&mut log, from, &[set(b"d", b"4")], stamp);
        let error = load(dir.path()).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("at offset"), "{error}");
    }
}

#[test]
fn a_follower_reads_on_over_segments_and_generations() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _, _) = open(dir.path());
    let mut follower = load(dir.path()).unwrap();
    let value = vec![b'v'; (SEGMENT / 4) as usize];
    let (mut sequence, mut names) = (0, Vec::new());
    for n in 0..12u8 {
        if log.is_full() {
            log.rotate().unwrap();
        }
        names.push(vec![b'k', n % 5]);
        sequence = append_all(&mut log, sequence, &[set(&names[usize::from(n)], &value)], STAMP);
        while follower.catch_up().unwrap() {}
        assert_eq!(follower.sequence, sequence);
    }
    assert!(segment(dir.path(), 3).exists());
    assert_eq!(follower.finish().unwrap(), log.digest());

    log.rotate().unwrap();
    Compaction::start(&log).install(&mut log).unwrap();
    sequence = append_all(&mut log, sequence, &[set(b"new", b"1")], STAMP);
    assert_eq!(log.digest().shards.len(), 3);
    while follower.catch_up().unwrap() {}
    assert_eq!(follower.sequence, sequence);
    assert_eq!(follower.finish().unwrap(), log.digest());
    let late = load(dir.path()).unwrap();
    assert_eq!(content(&late.store), content(&follower.store));
    assert_eq!(content(&late.store).len(), 6);
    assert!(!segment(dir.path(), 1).exists() && snapshot(dir.path(), 2).exists());

    // a second one, given up half way, leaves nothing
    log.rotate().unwrap();
    drop(Compaction::start(&log));
    assert!(!snapshot(dir.path(), 3).exists());
    let (log, _, again) = open(dir.path());
    assert_eq!(again, sequence);
    assert_eq!(load(dir.path()).unwrap().finish().unwrap(), log.digest());
}

/// A successor that warmed under redis-benchmark read the first half of a record that the incumbent was writing. When it
/// looked for a hole, the record was whole and others followed it: it took them for the proof of a hole, and refused a
/// log in which nothing was wrong.
#[test]
fn a_record_that_is_finished_meanwhile_is_no_hole() {
    let (dir, mut log, path) = sample();
    append_all(&mut log, 3, &[set(b"d", b"4"), set(b"e", b"5")], STAMP);
    let whole = std::fs::read(&path).unwrap();
    let half = whole.len() * 3 / 5 - 4;
    std::fs::write(&path, &whole[..half]).unwrap();
    let reader = load(dir.path()).unwrap();
    assert_eq!(reader.sequence, 2, "the third record is not whole");
    let last = reader.files.last().unwrap();
    let tail = || last.tail(last.digest.bytes, reader.sequence).unwrap();
    assert_eq!(tail(), Tail::Torn);
    // the writer goes on
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(tail(), Tail::Whole);
    // the control: the same record damaged, and good ones after it
    let mut damaged = whole.clone();
    damaged[half - 1] ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    assert_eq!(tail(), Tail::Hole);
}

#[test]
fn a_damaged_snapshot_is_refused() {
    let (dir, mut log, _) = sample();
    log.rotate().unwrap();
    Compaction::start(&log).install(&mut log).unwrap();
    let path = snapshot(dir.path(), 2);
    let whole = std::fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut bad = whole.clone();
        bad[at] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        assert!(load(dir.path()).is_err(), "byte {at}");
        std::fs::write(&path, &whole[..at]).unwrap();
        assert!(load(dir.path()).is_err(), "cut at {at}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_replay_makes_the_same_store(batches in prop::collection::vec(prop::collection::vec(any_operation(), 1..6), 0..8), compact in 0usize..9) {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, mut store, mut sequence) = open(dir.path());
        for (n, batch) in batches.iter().enumerate() {
            let operations: Vec<_> = batch.iter().map(Owned::borrow).collect();
            operations.iter().for_each(|op| drop(store.apply(op)));
            sequence = append_all(&mut log, sequence, &operations, STAMP);
            if n == compact {
                log.rotate().unwrap();
                Compaction::start(&log).install(&mut log).unwrap();
            }
        }
        let mut reader = load(dir.path()).unwrap();
        prop_assert_eq!(content(&reader.store), content(&store));
        prop_assert_eq!(reader.finish().unwrap(), log.digest());
        prop_assert_eq!(reader.sequence, sequence);
    }
}
