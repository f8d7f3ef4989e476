//! The log of demo-server, read by somebody who is not demo-server: who wrote what under which epoch.

use std::collections::BTreeMap;
use std::path::Path;

/// The stamp of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The tenure.
    pub epoch: u64,
    /// The instance that wrote it.
    pub instance: u128,
    /// Its number.
    pub sequence: u64,
}

const PREFIX: usize = 8;

/// Reads the stamps of all records in a data directory; what is torn at the end is left out.
///
/// # Panics
/// When the directory cannot be read.
#[must_use]
pub fn stamps(data_dir: &Path) -> Vec<Stamp> {
    let entries = std::fs::read_dir(data_dir).unwrap_or_else(|e| panic!("{}: {e}", data_dir.display()));
    let mut segments: Vec<(u64, std::path::PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix("log.")?.parse().ok()?;
            Some((number, entry.path()))
        })
        .collect();
    segments.sort_unstable();
    let mut stamps = Vec::new();
    for (_, path) in segments {
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut rest = bytes.as_slice();
        while let Some((stamp, length)) = stamp(rest) {
            stamps.push(stamp);
            rest = &rest[length..];
        }
    }
    stamps
}

fn stamp(bytes: &[u8]) -> Option<(Stamp, usize)> {
    let u64_at = |at: usize| bytes.get(at..at + 8)?.first_chunk().map(|b| u64::from_le_bytes(*b));
    let length = PREFIX + u32::from_le_bytes(*bytes.first_chunk()?) as usize;
    let instance = bytes.get(PREFIX + 8..PREFIX + 24)?.first_chunk().map(|b| u128::from_le_bytes(*b))?;
    let stamp = Stamp { epoch: u64_at(PREFIX)?, instance, sequence: u64_at(PREFIX + 24)? };
    (bytes.len() >= length).then_some((stamp, length))
}

/// What contradicts *one writer at every instant*: an epoch that decreases, one with two writers, a number that is
/// missing or came twice.
#[must_use]
pub fn contradictions(stamps: &[Stamp]) -> Vec<String> {
    let mut found = Vec::new();
    let mut writers: BTreeMap<u64, u128> = BTreeMap::new();
    for (before, stamp) in stamps.iter().zip(stamps.iter().skip(1)) {
        if stamp.epoch < before.epoch {
            found.push(format!("epoch {} after {}: {stamp:?}", stamp.epoch, before.epoch));
        }
        if stamp.sequence != before.sequence + 1 {
            found.push(format!("number {} after {}: {stamp:?}", stamp.sequence, before.sequence));
        }
    }
    for stamp in stamps {
        let writer = *writers.entry(stamp.epoch).or_insert(stamp.instance);
        if writer != stamp.instance {
            found.push(format!("epoch {} has the writers {writer:x} and {:x}", stamp.epoch, stamp.instance));
        }
    }
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(epoch: u64, instance: u128, sequence: u64) -> Stamp {
        Stamp { epoch, instance, sequence }
    }

    #[test]
    fn a_second_writer_a_hole_and_an_old_epoch_are_seen() {
        let good = [stamp(1, 7, 1), stamp(1, 7, 2), stamp(3, 8, 3), stamp(4, 7, 4)];
        assert_eq!(contradictions(&good), Vec::<String>::new());
        for planted in [
            [stamp(1, 7, 1), stamp(1, 8, 2)],
            [stamp(1, 7, 1), stamp(1, 7, 3)],
            [stamp(1, 7, 1), stamp(1, 7, 1)],
            [stamp(2, 7, 1), stamp(1, 8, 2)],
        ] {
            assert_eq!(contradictions(&planted).len(), 1, "{planted:?}");
        }
    }

    #[test]
    fn records_are_found_in_all_segments_and_a_torn_one_is_left_out() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let record = |epoch: u64, sequence: u64| {
            let mut bytes = 35_u32.to_le_bytes().to_vec();
            bytes.extend([0; 4]);
            bytes.extend(epoch.to_le_bytes());
            bytes.extend(9_u128.to_le_bytes());
            bytes.extend(sequence.to_le_bytes());
            bytes.extend(*b"SET");
            bytes
        };
        std::fs::write(dir.path().join("log.2"), record(1, 1)).expect("a file of ours");
        std::fs::write(dir.path().join("log.10"), [&record(2, 2)[..], &record(2, 3)[..40]].concat())
            .expect("a file of ours");
        assert_eq!(stamps(dir.path()), [stamp(1, 9, 1), stamp(2, 9, 2)]);
    }
}
