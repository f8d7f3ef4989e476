//! A journal: what can be read can be gone on with, whatever wrote it and wherever it ends.

use crate::source::Source;
use handoff::ids::HandoffId;
use handoff::journal::{Journal, JournalState, MemoryStorage, Record, replay};

/// What stands before the first record, and before each payload.
const HEADER: usize = 16;

/// The file as it is.
pub(crate) fn check(data: &[u8]) {
    reads(data);
    // the checksums right, the rest as it is: what a fuzzer would not come by
    let mut source = Source::new(data);
    let mut file = written(&[]);
    while !source.is_empty() {
        let length = usize::from(source.byte()) | usize::from(source.byte() & 3) << 8;
        let payload = source.take(length);
        file.extend_from_slice(&framed(payload));
    }
    reads(&file);
}

fn reads(data: &[u8]) {
    let storage = MemoryStorage { bytes: data.to_vec(), room: None };
    let Ok(replayed) = replay(data) else {
        assert!(Journal::open(storage).is_err(), "opened, but not replayed");
        return;
    };
    let end = usize::try_from(replayed.end).expect("of this file");
    assert!(end <= data.len());
    if let Some(torn) = &replayed.torn {
        assert_eq!((torn.offset, torn.offset + torn.bytes), (replayed.end, data.len() as u64));
    }
    // what is torn is what was not whole: without it the rest is the same
    let whole = replay(&data[..end]).expect("the whole part of it");
    assert_eq!((&whole.records, whole.torn.is_none()), (&replayed.records, true));

    let mut journal = Journal::open(storage).expect("it was replayed");
    assert_eq!(journal.state(), &JournalState::fold(&replayed.records));
    let more = Record::SealRequested { handoff: HandoffId(7) };
    journal.append(&more).expect("memory has room");
    let state = journal.state().clone();
    let again = replay(&journal.into_storage().bytes).expect("what was written");
    assert_eq!(again.torn, None);
    assert_eq!(again.records.last(), Some(&more));
    assert!(again.records.starts_with(&replayed.records));
    assert_eq!(JournalState::fold(&again.records), state);

    // compacted, it says the same
    let compacted = JournalState::fold(&state.records());
    assert_eq!(compacted, state, "compacted from {:?}", replayed.records);
    // written again it is read as it was, but for texts that were too long
    let once = replay(&written(&replayed.records)).expect("what was written").records;
    assert_eq!(once.len(), replayed.records.len());
    assert_eq!(replay(&written(&once)).expect("what was written").records, once);
}

fn written(records: &[Record]) -> Vec<u8> {
    let mut journal = Journal::open(MemoryStorage::default()).expect("memory can be opened");
    for record in records {
        journal.append(record).expect("memory has room");
    }
    let bytes = journal.into_storage().bytes;
    assert!(bytes.len() >= HEADER);
    bytes
}

/// A payload with its length and checksums, as the format says.
fn framed(payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}
