//! What holds for any input. The fuzzer asks the same (`handoff/fuzz`), for longer.

use crate::log::{Reader, Stamp, append, read};
use crate::operation::Operation;
use crate::protocol::Parser;
use crate::store::Store;
use std::path::Path;

type Commands = Vec<Vec<Vec<u8>>>;

/// What a client sends is read one way, however it arrives.
pub(crate) fn resp(data: &[u8]) {
    let whole = commands(std::iter::once(data.len()), data);
    assert_eq!(commands(1..=data.len(), data), whole, "byte by byte");
    let odd = (1..=data.len()).filter(|at| at % 7 < 2).chain([data.len()]);
    assert_eq!(commands(odd, data), whole, "in pieces");
}

/// The commands in a client's bytes, of which there are so many each time; and what broke the protocol.
fn commands(arrived: impl IntoIterator<Item = usize>, data: &[u8]) -> (Commands, Option<String>) {
    let (mut parser, mut start, mut found) = (Parser::default(), 0, Vec::new());
    for end in arrived {
        loop {
            let input = &data[start..end];
            match parser.parse(input) {
                Ok(None) => break,
                Ok(Some(used)) => {
                    assert!(used > 0 && used <= input.len(), "{used} bytes of {}", input.len());
                    found.push(parser.args(input).from(0).map(<[u8]>::to_vec).collect());
                    start += used;
                }
                Err(violation) => return (found, Some(violation.to_string())),
            }
        }
    }
    (found, None)
}

/// What is on disk is loaded or refused; loaded twice it is the same.
pub(crate) fn log(data: &[u8]) {
    let whole = read(data).is_ok_and(|record| {
        let mut again = Vec::new();
        let operation = |out: &mut Vec<u8>| out.extend_from_slice(record.operation);
        let share = append(&mut again, record.stamp, record.sequence, operation);
        assert_eq!((&again[..], share), (&data[..record.length], record.share));
        true
    });
    if let Some(operation) = Operation::decode(data) {
        let mut again = Vec::new();
        operation.encode(&mut again);
        assert_eq!(Operation::decode(&again), Some(operation.clone()));
        let mut store = Store::default();
        let prior = store.apply(&operation);
        store.undo(&operation, prior);
        assert_eq!(store.len(), 0, "undone");
    }
    // the checksums right, the rest as it is: what a fuzzer would not come by
    let (mut records, mut rest, mut sequence) = (Vec::new(), data, 0);
    while let Some((length, after)) = rest.split_first() {
        let (operation, after) = after.split_at(usize::from(*length).min(after.len()));
        (rest, sequence) = (after, sequence + 1);
        append(&mut records, Stamp { epoch: 1, instance: 2 }, sequence, |out| {
            out.extend_from_slice(operation)
        });
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join("manifest"), manifest()).expect("written");
    loads(dir.path(), &records);
    let torn = [&records[..], data].concat();
    loads(dir.path(), &torn);
    if !whole {
        loads(dir.path(), data);
    }
}

fn loads(dir: &Path, segment: &[u8]) {
    std::fs::write(dir.join("log.1"), segment).expect("written");
    let once = load(dir);
    assert_eq!(load(dir), once, "loaded twice");
    let there = std::fs::read(dir.join("log.1")).expect("it is there");
    assert_eq!(there, segment, "a reader changes nothing");
}

fn load(dir: &Path) -> Result<(u64, usize, handoff::sdk::Digest), String> {
    let mut reader = Reader::start(dir).map_err(|e| e.to_string())?;
    for step in 0.. {
        assert!(step < 10_000, "it comes to no end");
        if !reader.catch_up().map_err(|e| e.to_string())? {
            break;
        }
    }
    let digest = reader.finish().map_err(|e| e.to_string())?;
    Ok((reader.sequence, reader.store.len(), digest))
}

/// One segment, nothing else.
fn manifest() -> String {
    let body = "demo-server data\nformat 1\ngeneration 1\nfirst 1\n";
    format!("{body}crc32c {:08x}\n", crc32c::crc32c(body.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes that mean something to the reader, in an order that may not.
    fn words(all: &'static [&'static [u8]]) -> impl Strategy<Value = Vec<u8>> {
        let word = prop_oneof![
            4 => prop::sample::select(all).prop_map(<[u8]>::to_vec),
            1 => prop::collection::vec(any::<u8>(), 0..6),
        ];
        prop::collection::vec(word, 0..20).prop_map(|words| words.concat())
    }

    const RESP: [&[u8]; 14] = [
        b"*2\r\n",
        b"$3\r\n",
        b"GET",
        b"\r\n",
        b"$1\r\n",
        b"k",
        b"*0\r\n",
        b"*-1\r\n",
        b"$-1\r\n",
        b"PING\r\n",
        b"\"a b\\x41\"",
        b"'",
        b"$67108865\r\n",
        b"*99999999999\r\n",
    ];
    /// Set, append, expire, delete, clear, and lengths.
    const LOG: [&[u8]; 9] = [
        b"\x10\x01\0\0\0\0\0\0\0\0\x01\0\0\0kv",
        b"\x07\x03\x01\0\0\0kv",
        b"\x0a\x04\x09\0\0\0\0\0\0\0k",
        b"\x06\x05\x01\0\0\0k",
        b"\x01\x06",
        b"\x08\0\0\0\0\0\0\0",
        b"\x28\0\0\0",
        b"\xff\xff\xff\xff",
        b"\x01",
    ];

    #[test]
    fn the_corpus() {
        for (folder, check) in [("resp", resp as fn(&[u8])), ("log", log)] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../handoff/fuzz/corpus").join(folder);
            let files = std::fs::read_dir(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let all: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
            assert!(!all.is_empty(), "{}", path.display());
            all.iter().for_each(|path| check(&std::fs::read(path).expect("a file")));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn commands_are_read_one_way(data in words(&RESP)) {
            resp(&data);
        }

        #[test]
        fn files_are_loaded_or_refused(data in words(&LOG)) {
            log(&data);
        }
    }
}
