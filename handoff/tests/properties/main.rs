//! What holds for any input. The same functions are fuzzed (`handoff/fuzz`); here they run over the corpus, over what
//! is one change away from it, and over random bytes: by a seed, so that each failure comes again.
//!
//! `HANDOFF_SEED=<n>` begins elsewhere, `HANDOFF_ROUNDS=<n>` goes on for longer.

mod claim;
#[cfg(feature = "system")]
mod control;
mod journal;
mod machine;
mod proposal;
mod source;
mod wild;
mod wire;

#[path = "../tables/incumbent.rs"]
mod incumbent;
#[path = "../tables/successor.rs"]
mod successor;
#[path = "../tables/supervisor.rs"]
mod supervisor;
#[path = "../tables/table.rs"]
mod table;
#[path = "../tables/words.rs"]
mod words;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use table::Table;

/// Random bytes: splitmix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, count: usize) -> usize {
        (self.next() % count.max(1) as u64) as usize
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| self.next() as u8).collect()
    }

    /// One change: a bit, a byte, an end, a hole, something in between.
    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len().max(1));
        match self.below(6) {
            0 | 1 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
            2 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'"'][self.below(6)],
            3 => bytes.truncate(at),
            4 if !bytes.is_empty() => drop(bytes.remove(at)),
            _ => {
                let more = self.bytes(9);
                bytes.splice(at..at, more);
            }
        }
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} {text:?}: a number is needed")))
}

/// Everything in these folders, which have to be there.
fn samples(folders: &[&str]) -> Vec<Vec<u8>> {
    let mut samples = Vec::new();
    for folder in folders {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(folder);
        let files = std::fs::read_dir(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut files: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
        files.sort();
        samples.extend(
            files
                .iter()
                .map(|file| std::fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))),
        );
    }
    assert!(!samples.is_empty(), "{folders:?} are empty");
    samples
}

fn holds(check: fn(&[u8]), samples: &[Vec<u8>], rounds: u64) {
    let one = |data: &[u8]| {
        let held = catch_unwind(AssertUnwindSafe(|| check(data)));
        assert!(held.is_ok(), "does not hold for b\"{}\"", data.escape_ascii());
    };
    samples.iter().for_each(|sample| one(sample));
    let mut dice = Dice(number("HANDOFF_SEED").unwrap_or(1));
    for _ in 0..number("HANDOFF_ROUNDS").unwrap_or(rounds) {
        let mut data = match dice.below(4) {
            0 => dice.bytes(300),
            1 => {
                let (first, second) = (dice.below(samples.len()), dice.below(samples.len()));
                [&samples[first][..], &samples[second][..]].concat()
            }
            _ => samples[dice.below(samples.len())].clone(),
        };
        for _ in 0..dice.below(4) {
            dice.change(&mut data);
        }
        one(&data);
    }
}

#[test]
fn a_stream_is_read_one_way() {
    holds(wire::check, &samples(&["testdata/wire/v1", "fuzz/corpus/wire"]), 3000);
}

#[test]
fn a_journal_is_read_one_way() {
    holds(journal::check, &samples(&["testdata/journal/v1", "fuzz/corpus/journal"]), 2000);
}

#[test]
fn a_proposal_is_read_one_way() {
    holds(proposal::check, &samples(&["testdata/claim/v1", "fuzz/corpus/proposal"]), 3000);
}

#[test]
fn names_and_descriptions_are_read_one_way() {
    holds(claim::check, &samples(&["testdata/claim/v1", "fuzz/corpus/claim"]), 3000);
}

#[test]
fn machines_keep_their_rules_whatever_they_are_told() {
    let mut dice = Dice(number("HANDOFF_SEED").unwrap_or(1));
    let walks = machine::beginnings()
        .into_iter()
        .flat_map(|beginning| [0, 1, 2].map(|_| [&beginning[..], &dice.bytes(60)[..]].concat()));
    let samples: Vec<Vec<u8>> = walks.chain(samples(&["fuzz/corpus/machine"])).collect();
    holds(machine::check, &samples, 2000);
}

#[cfg(feature = "system")]
#[test]
fn a_line_on_the_operator_socket_is_a_request_or_an_error() {
    holds(control::check, &samples(&["fuzz/corpus/control"]), 5000);
}
