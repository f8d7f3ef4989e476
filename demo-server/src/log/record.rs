//! One record of the log: an operation, and who wrote it when.
//!
//! ```text
//! length u32   bytes after the checksum
//! crc32c u32   of sequence number and operation, then length, epoch and instance
//! epoch u64    the tenure that wrote it      } the stamp: not content,
//! instance 16  the process that wrote it     } but what fences a stale writer shows in
//! sequence u64 one more than the record before
//! operation    see operation.rs
//! ```
//! All numbers are little endian.

use crate::protocol::MAX_COMMAND;

const PREFIX: usize = 8;
const STAMP: usize = 24;
const HEAD: usize = PREFIX + STAMP + 8;

/// The longest record; a longer length is damage.
pub(crate) const MAX_RECORD: usize = MAX_COMMAND + 4096;

/// Whose tenure a record is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) epoch: u64,
    pub(crate) instance: u128,
}

/// A record that was read and whose checksum holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) stamp: Stamp,
    pub(crate) sequence: u64,
    pub(crate) operation: &'a [u8],
    /// Its share of the checksum of a file, see [`share`].
    pub(crate) share: u64,
    /// How many bytes it takes.
    pub(crate) length: usize,
}

/// Why no record could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// The bytes end before the record does.
    Incomplete,
    /// A length that no record has.
    Length,
    /// The checksum is another.
    Checksum,
}

/// Appends a record to `out`; `operation` writes the operation's bytes. Gives the record's [`share`].
pub(crate) fn append(
    out: &mut Vec<u8>,
    stamp: Stamp,
    sequence: u64,
    operation: impl FnOnce(&mut Vec<u8>),
) -> u64 {
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX]);
    out.extend_from_slice(&stamp.epoch.to_le_bytes());
    out.extend_from_slice(&stamp.instance.to_le_bytes());
    out.extend_from_slice(&sequence.to_le_bytes());
    operation(out);
    let record = &mut out[start..];
    let length = u32::try_from(record.len() - PREFIX).expect("commands are limited to 64 MiB").to_le_bytes();
    let content = crc32c::crc32c(&record[PREFIX + STAMP..]);
    let crc = checksum(content, length, &record[PREFIX..PREFIX + STAMP]);
    record[..4].copy_from_slice(&length);
    record[4..PREFIX].copy_from_slice(&crc.to_le_bytes());
    share(sequence, content)
}

/// Reads the record at the start of `bytes`.
pub(crate) fn read(bytes: &[u8]) -> Result<Record<'_>, Damage> {
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or(Damage::Incomplete)?;
    let after = u32::from_le_bytes(*length) as usize;
    if !(HEAD - PREFIX..=MAX_RECORD).contains(&after) {
        return Err(Damage::Length);
    }
    let (crc, rest) = rest.split_first_chunk::<4>().ok_or(Damage::Incomplete)?;
    let (stamp, content) = rest.get(..after).ok_or(Damage::Incomplete)?.split_at(STAMP);
    let content_crc = crc32c::crc32c(content);
    if checksum(content_crc, *length, stamp) != u32::from_le_bytes(*crc) {
        return Err(Damage::Checksum);
    }
    let (sequence, operation) = content.split_first_chunk().ok_or(Damage::Length)?;
    let (epoch, instance) = stamp.split_first_chunk().ok_or(Damage::Length)?;
    let instance = instance.first_chunk().ok_or(Damage::Length)?;
    let sequence = u64::from_le_bytes(*sequence);
    Ok(Record {
        stamp: Stamp { epoch: u64::from_le_bytes(*epoch), instance: u128::from_le_bytes(*instance) },
        sequence,
        operation,
        share: share(sequence, content_crc),
        length: PREFIX + after,
    })
}

/// How many bytes the record at the start of `bytes` takes, if its length can be true.
pub(super) fn needed(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
    (HEAD - PREFIX..=MAX_RECORD).contains(&length).then_some(PREFIX + length)
}

/// The sequence number that would be there if a record began here.
pub(super) fn sequence(bytes: &[u8]) -> Option<u64> {
    bytes.get(PREFIX + STAMP..)?.first_chunk().map(|n| u64::from_le_bytes(*n))
}

/// A record's share of its file's checksum, which is the sum of all shares: made of the content alone, without the
/// stamp. As a sum it grows with each record in constant time, whoever batches them how. The mix (splitmix64) is a
/// bijection, so one changed record always changes the sum.
fn share(sequence: u64, content: u32) -> u64 {
    let mut x = (sequence << 32) ^ u64::from(content);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn checksum(content: u32, length: [u8; 4], stamp: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(content, &length), stamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMPED: Stamp = Stamp { epoch: 7, instance: 0x1234_5678_9abc_def0_1122_3344_5566_7788 };

    fn sample() -> (Vec<u8>, u64) {
        let mut bytes = Vec::new();
        let share = append(&mut bytes, STAMPED, 42, |out| out.extend_from_slice(b"operation"));
        (bytes, share)
    }

    #[test]
    fn what_is_written_is_read() {
        let (bytes, share) = sample();
        let record = read(&bytes).unwrap();
        assert_eq!((record.stamp, record.sequence, record.operation), (STAMPED, 42, &b"operation"[..]));
        assert_eq!((record.share, record.length), (share, bytes.len()));
    }

    #[test]
    fn any_flipped_bit_is_seen() {
        let (bytes, _) = sample();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_part_is_incomplete() {
        let (bytes, _) = sample();
        for cut in 0..bytes.len() {
            assert_eq!(read(&bytes[..cut]), Err(Damage::Incomplete), "{cut}");
        }
    }

    #[test]
    fn the_share_is_of_the_content_alone() {
        let (_, share) = sample();
        let other = |stamp, sequence, text: &'static [u8]| {
            append(&mut Vec::new(), stamp, sequence, |out| out.extend_from_slice(text))
        };
        assert_eq!(other(Stamp::default(), 42, b"operation"), share);
        assert_ne!(other(STAMPED, 43, b"operation"), share);
        assert_ne!(other(STAMPED, 42, b"0peration"), share);
    }
}
