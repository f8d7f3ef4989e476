use crate::Golden;
use crate::samples::{later_records, records};
use handoff::journal::{Journal, MemoryStorage, Record, replay};

fn written(records: &[Record]) -> Vec<u8> {
    let mut journal = Journal::open(MemoryStorage::default()).expect("memory can be opened");
    for record in records {
        journal.append(record).expect("memory has room");
    }
    journal.into_storage().bytes
}

#[test]
fn journals() {
    let mut golden = Golden::of("journal");
    golden.check("empty", &written(&[]));
    for (name, record) in records().into_iter().chain(later_records()) {
        let bytes = golden.check(&name, &written(std::slice::from_ref(&record)));
        assert_eq!(replay(&bytes).expect("golden journals are whole").records, [record]);
    }
    let all: Vec<Record> = records().into_iter().map(|(_, record)| record).collect();
    let bytes = golden.check("all", &written(&all));
    assert_eq!(replay(&bytes).expect("golden journals are whole").records, all);
    golden.finish();
}
