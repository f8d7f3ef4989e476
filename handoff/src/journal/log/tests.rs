use super::*;
use crate::ids::{Epoch, HandoffId, InstanceId};
use crate::journal::{MemoryStorage, OpenHandoff};
use crate::outcome::{Ended, Outcome};

fn handoff(n: u128) -> Vec<Record> {
    let id = HandoffId(n);
    vec![
        Record::Intent {
            handoff: id,
            incumbent: InstanceId(n),
            successor: InstanceId(n + 1),
            epoch: Epoch(5),
        },
        Record::SealRequested { handoff: id },
        Record::Resolving { handoff: id, reason: "no Ready from the successor within 2 s".into() },
        Record::Ended {
            handoff: id,
            outcome: Outcome::Aborted,
            reason: Some("late".into()),
            epoch: Epoch(6),
        },
        Record::Report { handoff: id, json: format!("{{\"n\":{n}}}") },
    ]
}

fn some_of_each() -> Vec<Record> {
    let mut records = vec![
        Record::Generation { generation: 3 },
        Record::ColdStart { instance: InstanceId(1), reason: "first start".into() },
        Record::Serving { instance: InstanceId(1), epoch: Epoch(5) },
    ];
    records.extend(handoff(7));
    records.push(Record::Stopped);
    records
}

fn written(records: &[Record]) -> (Vec<u8>, Vec<u64>) {
    let mut journal = Journal::open(MemoryStorage::default()).unwrap();
    let mut ends = vec![journal.end];
    for record in records {
        journal.append(record).unwrap();
        ends.push(journal.end);
    }
    (journal.storage.bytes, ends)
}

fn stored(bytes: &[u8]) -> MemoryStorage {
    MemoryStorage { bytes: bytes.to_vec(), room: None }
}

#[test]
fn what_was_written_is_read() {
    let (bytes, ends) = written(&some_of_each());
    let replayed = replay(&bytes).unwrap();
    assert_eq!(replayed.records, some_of_each());
    assert_eq!((replayed.end, replayed.torn, replayed.unknown), (*ends.last().unwrap(), None, 0));
}

#[test]
fn a_tail_may_be_torn_at_every_length() {
    let (bytes, ends) = written(&some_of_each());
    for length in 0..bytes.len() {
        let replayed = replay(&bytes[..length]).unwrap();
        let whole = ends.iter().filter(|end| **end <= length as u64).count();
        assert_eq!(replayed.records, some_of_each()[..whole.saturating_sub(1)], "cut at {length}");
        let end = ends[..whole].last().copied().unwrap_or(0);
        assert_eq!(replayed.end, end);
        assert_eq!(
            replayed.torn.map(|t| (t.offset, t.bytes)),
            (end < length as u64).then(|| (end, length as u64 - end))
        );

        // and it goes on where it was cut
        let mut journal = Journal::open(stored(&bytes[..length])).unwrap();
        journal.append(&Record::Stopped).unwrap();
        assert_eq!(replay(&journal.storage.bytes).unwrap().records.last(), Some(&Record::Stopped));
    }
}

#[test]
fn a_tail_of_zeros_or_garbage_is_torn_too() {
    let (bytes, ends) = written(&some_of_each());
    for garbage in [vec![0; 4096], vec![0xff; 77], b"half a record".to_vec()] {
        let replayed = replay(&[bytes.clone(), garbage].concat()).unwrap();
        assert_eq!(replayed.torn.map(|t| t.offset), ends.last().copied());
        assert_eq!(replayed.records, some_of_each());
    }
    let more_than_a_record = [bytes, vec![0; 1 << 17]].concat();
    assert!(matches!(replay(&more_than_a_record), Err(JournalError::Corrupt { .. })));
}

#[test]
fn a_flipped_byte_in_the_middle_is_corruption_with_its_offset() {
    let (bytes, ends) = written(&some_of_each());
    let last = ends[ends.len() - 2];
    for at in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x10;
        let begin = ends.iter().rev().find(|end| **end <= at as u64).copied();
        match (begin, replay(&bytes)) {
            (None, Err(JournalError::Foreign | JournalError::Newer { .. })) => {}
            (None, Err(JournalError::Corrupt { offset: 0, .. })) => {}
            (Some(begin), Err(JournalError::Corrupt { offset, .. })) if begin < last => {
                assert_eq!(offset, begin)
            }
            (Some(begin), Ok(replayed)) if begin == last => {
                assert_eq!(replayed.torn.map(|t| t.offset), Some(last), "the last record may be torn");
            }
            (begin, other) => panic!("byte {at} of the record at {begin:?}: {other:?}"),
        }
    }
}

#[test]
fn later_versions_and_foreign_files_are_refused_by_name() {
    let mut newer = format::header();
    newer[8] = 2;
    let checksum = crc32c::crc32c(&newer[..12]);
    newer[12..].copy_from_slice(&checksum.to_le_bytes());
    let error = replay(&newer).unwrap_err().to_string();
    assert!(error.starts_with("journal format 2: this build reads up to 1"), "{error}");
    assert!(matches!(replay(b"#!/bin/sh\necho hello"), Err(JournalError::Foreign)));
    assert!(matches!(replay(b"#!"), Err(JournalError::Foreign)));
}

#[test]
fn records_of_a_later_build_are_passed_over() {
    let (bytes, ends) = written(&some_of_each());
    let at = ends[1] as usize;
    // the type number of the second record, with its checksums made right again
    let mut later = bytes.clone();
    later[at + 12] = 200;
    let end = ends[2] as usize;
    let checksum = crc32c::crc32c(&later[at + 12..end]).to_le_bytes();
    later[at + 4..at + 8].copy_from_slice(&checksum);
    let prefix = crc32c::crc32c(&later[at..at + 8]).to_le_bytes();
    later[at + 8..at + 12].copy_from_slice(&prefix);
    let replayed = replay(&later).unwrap();
    assert_eq!((replayed.unknown, replayed.records.len()), (1, some_of_each().len() - 1));
}

#[test]
fn a_full_disk_costs_the_record_and_nothing_else() {
    let mut journal = Journal::open(MemoryStorage::default()).unwrap();
    journal.append(&Record::Generation { generation: 1 }).unwrap();
    for spare in 0..30 {
        journal.storage.room = Some(journal.storage.bytes.len() + spare);
        let before = journal.state().clone();
        let report = Record::Report { handoff: HandoffId(1), json: "x".repeat(100) };
        assert!(matches!(journal.append(&report), Err(JournalError::Storage(_))));
        assert_eq!(journal.state(), &before);
        journal.storage.room = None;
        journal.append(&Record::Generation { generation: spare as u64 }).unwrap();
    }
    assert_eq!(replay(&journal.storage.bytes).unwrap().records.len(), 31);
}

#[test]
fn what_cannot_be_taken_back_ends_the_journal() {
    #[derive(Debug)]
    struct Stuck(MemoryStorage);
    impl Storage for Stuck {
        fn load(&mut self) -> io::Result<Vec<u8>> {
            self.0.load()
        }
        fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.0.append(bytes)
        }
        fn truncate(&mut self, _: u64) -> io::Result<()> {
            Err(io::Error::other("stuck"))
        }
        fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.0.replace(bytes)
        }
    }
    let mut journal = Journal::open(Stuck(MemoryStorage::default())).unwrap();
    journal.storage.0.room = Some(20);
    assert!(matches!(journal.append(&Record::Stopped), Err(JournalError::Storage(_))));
    journal.storage.0.room = None;
    let error = journal.append(&Record::Stopped).unwrap_err().to_string();
    assert!(error.contains("stuck") && error.contains("restart the supervisor"), "{error}");
}

#[test]
fn reasons_are_cut_and_reports_are_not() {
    let mut journal = Journal::open(MemoryStorage::default()).unwrap();
    journal.append(&Record::Resolving { handoff: HandoffId(1), reason: "ü".repeat(100_000) }).unwrap();
    let report = |size| Record::Report { handoff: HandoffId(1), json: "x".repeat(size) };
    journal.append(&report(60_000)).unwrap();
    assert!(matches!(journal.append(&report(70_000)), Err(JournalError::TooLong { record: "report", .. })));
    let records = replay(&journal.storage.bytes).unwrap().records;
    assert!(matches!(&records[0], Record::Resolving { reason, .. } if reason.len() == 4096));
    assert_eq!(records[1..], [report(60_000)]);
}

#[test]
fn the_state_knows_what_is_open() {
    let open = |records: &[Record]| JournalState::fold(records).open;
    let records = handoff(7);
    assert_eq!(open(&records[..0]), None);
    let mut expected = OpenHandoff {
        handoff: HandoffId(7),
        incumbent: InstanceId(7),
        successor: InstanceId(8),
        epoch: Epoch(5),
        sealed: false,
        resolving: None,
        probation_ms: 0,
    };
    assert_eq!(open(&records[..1]), Some(expected.clone()));
    expected.sealed = true;
    assert_eq!(open(&records[..2]), Some(expected.clone()));
    expected.resolving = Some("no Ready from the successor within 2 s".into());
    assert_eq!(open(&records[..3]), Some(expected));
    let ended = JournalState::fold(&records);
    assert_eq!((ended.open, ended.reports.len()), (None, 1));
    let last = Ended {
        handoff: HandoffId(7),
        outcome: Outcome::Aborted,
        reason: Some("late".into()),
        epoch: Epoch(6),
    };
    assert_eq!(ended.last_ended, Some(last));

    let mut state = JournalState::fold(&some_of_each());
    assert!(state.stopped && state.containers.is_empty());
    state.apply(&Record::Generation { generation: 4 });
    assert!(state.stopped, "a supervisor that only began has started nothing");
    state.apply(&Record::ColdStart { instance: InstanceId(9), reason: String::new() });
    assert!(!state.stopped);
}

#[test]
fn compacting_keeps_the_state_and_bounds_the_size() {
    let mut journal = Journal::open_with_limit(MemoryStorage::default(), 100_000).unwrap();
    let mut longest = 0;
    for n in 0..2000 {
        for record in handoff(n) {
            journal.append(&record).unwrap();
            longest = longest.max(journal.storage.bytes.len());
        }
    }
    assert!(longest < 120_000, "{longest}");
    assert_eq!(journal.state().reports.len(), 128);
    for tail in [&some_of_each()[..], &handoff(9)[..3], &handoff(9)[..1], &some_of_each()[..2]] {
        for record in tail {
            journal.append(record).unwrap();
        }
        let mut compacted = Journal::open_with_limit(journal.storage.clone(), 0).unwrap();
        assert_eq!(compacted.state(), journal.state());
        let again = Journal::open_with_limit(compacted.storage.clone(), u64::MAX).unwrap();
        assert_eq!(again.state(), journal.state());
        compacted.append(&Record::Stopped).unwrap();
    }
}

/// A probation begins with the commit it was agreed on for, and is known until it has ended.
#[test]
fn the_state_knows_who_is_on_probation() {
    let committed = |handoff: u128, terms: bool| {
        let (incumbent, successor, epoch) = (InstanceId(handoff), InstanceId(handoff + 1), Epoch(5));
        let handoff = HandoffId(handoff);
        let mut records = vec![Record::Intent { handoff, incumbent, successor, epoch }];
        records.extend(terms.then_some(Record::Terms { handoff, probation_ms: 10_000 }));
        let (outcome, reason) = (Outcome::Committed, None);
        records.push(Record::Ended { handoff, outcome, reason, epoch: epoch.next() });
        records
    };
    let fold = |parts: &[Vec<Record>]| JournalState::fold(&parts.concat());
    let compacted = |state: &JournalState| JournalState::fold(&state.records());
    assert_eq!(fold(&[committed(7, false)]).trial, None);
    let state = fold(&[committed(7, true)]);
    let trial = state.trial.clone().expect("on probation");
    assert_eq!((trial.handoff, trial.previous, trial.serving), (HandoffId(7), InstanceId(7), InstanceId(8)));
    assert_eq!(compacted(&state), state);
    assert_eq!(
        fold(&[committed(7, true), vec![Record::ProbationOver { handoff: HandoffId(7) }]]).trial,
        None
    );

    // two ways back in all, whoever supervises: not each time two anew
    let turned = |failed| Record::TurnedDown { handoff: HandoffId(7), reason: "ill".into(), failed };
    let state = fold(&[committed(7, true), vec![turned(0), turned(1)]]);
    let down = state.trial.clone().and_then(|trial| trial.turned_down);
    assert_eq!(down, Some(("ill".to_owned(), 1)));
    assert_eq!(compacted(&state), state);
    assert_eq!(fold(&[committed(9, true), vec![turned(1)]]).trial.expect("another").turned_down, None);

    // the record of the rollback stands before the end of the handoff that did it
    let back = Record::RolledBack { handoff: HandoffId(8), reason: "ill".into(), epoch: Epoch(7) };
    let mut way_back = committed(8, false);
    way_back.insert(1, back);
    let state = fold(&[committed(7, true), way_back]);
    let last = state.last_ended.clone().expect("an end");
    assert_eq!(
        (last.outcome, last.handoff, last.reason.as_deref()),
        (Outcome::RolledBack, HandoffId(8), Some("ill"))
    );
    assert_eq!((state.trial.clone(), state.open.clone()), (None, None));
    assert_eq!(compacted(&state), state);
}
