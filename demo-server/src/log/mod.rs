//! The data on disk: a snapshot, and a log of every operation since.
//!
//! ```text
//! <data>/manifest        which files make up the data; replaced by rename, each time with a higher generation
//! <data>/snapshot.<g>    all keys as of the manifest of generation g (none before the first compaction)
//! <data>/log.<n>         segments from the manifest's first one on; the last one is appended to
//! ```
//! Segments are small ([`SEGMENT`]): a closed one never changes again, so that a successor that has followed the log
//! re-reads one segment at most to be sure that what it has in memory is what is on disk.

mod appender;
mod compaction;
mod manifest;
mod reader;
mod record;
#[cfg(test)]
mod tests;

pub(crate) use appender::{Appender, Refused};
pub(crate) use compaction::Compaction;
pub(crate) use reader::Reader;
pub(crate) use record::{Stamp, append, read};

use handoff::sdk::{Digest, ShardDigest};
use std::io;
use std::path::{Path, PathBuf};

/// A segment that is longer is closed and the next one begun.
pub(crate) const SEGMENT: u64 = 8 << 20;

/// The format of everything in the data directory.
pub(crate) const FORMAT: u32 = 1;

/// The data on disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{}: {why}; restore the data directory from a backup", path.display())]
    Manifest { path: PathBuf, why: String },
    #[error(
        "{}: {why} at offset {offset}; restore the file from a backup, or cut it there \
         (truncate -s {offset}) and lose what follows",
        path.display()
    )]
    Hole { path: PathBuf, offset: u64, why: String },
    #[error("{}: changed on disk after it was loaded, at offset {offset}: somebody else writes there", path.display())]
    Changed { path: PathBuf, offset: u64 },
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

trait Context<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io { action, path: path.to_owned(), source })
    }
}

/// Digest of the data: a shard for the snapshot (if there is one), one for all closed segments, one for the last.
fn digest(generation: u64, mut shards: &[ShardDigest], has_snapshot: bool) -> Digest {
    let mut merged = Vec::new();
    if has_snapshot && let Some((snapshot, rest)) = shards.split_first() {
        merged.push(*snapshot);
        shards = rest;
    }
    if let Some((last, closed)) = shards.split_last() {
        merged.push(closed.iter().fold(ShardDigest::default(), |sum, shard| ShardDigest {
            revision: shard.revision,
            bytes: sum.bytes + shard.bytes,
            checksum: sum.checksum.wrapping_add(shard.checksum),
        }));
        merged.push(*last);
    }
    Digest { format: FORMAT, generation, shards: merged }
}

fn segment(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("log.{number}"))
}

fn snapshot(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("snapshot.{generation}"))
}

fn sync_dir(dir: &Path) -> Result<()> {
    std::fs::File::open(dir).and_then(|d| d.sync_all()).context("sync directory", dir)
}
