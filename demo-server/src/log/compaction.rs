//! Compaction: closed segments become a snapshot, in the background.
//!
//! It works from the files, not from memory: the server that goes on is not stopped for a moment, at the price of a
//! second copy of the data while it runs. Nothing counts before [`Compaction::install`] switches the manifest.

use super::appender::Appender;
use super::manifest::{Manifest, Snapshot};
use super::reader::Reader;
use super::record::{self, Stamp};
use super::{Context as _, Result, snapshot, sync_dir};
use crate::operation::Operation;
use handoff::sdk::ShardDigest;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

const PIECE: usize = 1 << 20;

/// The new manifest with its snapshot's digest; `None`: cancelled.
type Made = Result<Option<(Manifest, ShardDigest)>>;

/// A compaction that runs. Dropping it stops it and removes what it wrote.
#[derive(Debug)]
pub(crate) struct Compaction {
    cancelled: Arc<AtomicBool>,
    path: PathBuf,
    thread: Option<JoinHandle<Made>>,
}

impl Compaction {
    /// Begins to compact everything before the current segment; to be called right after a rotation.
    pub(crate) fn start(appender: &Appender) -> Self {
        let (dir, old, first) = (appender.dir.clone(), appender.manifest.clone(), appender.current());
        let cancelled = Arc::new(AtomicBool::new(false));
        let path = snapshot(&dir, old.generation + 1);
        let flag = Arc::clone(&cancelled);
        let thread = std::thread::Builder::new()
            .name("compaction".into())
            .spawn(move || compact(&dir, &old, first, &flag))
            .ok();
        Self { cancelled, path, thread }
    }

    /// Whether [`Self::install`] would not wait.
    pub(crate) fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Lets the new snapshot count. On an error of the switch itself the old files are still the data.
    pub(crate) fn install(mut self, appender: &mut Appender) -> Result<()> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(made)) => match made? {
                Some((manifest, digest)) => appender.switch(manifest, digest),
                None => Ok(()),
            },
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Ok(()),
        }
    }
}

impl Drop for Compaction {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
        if self.thread.take().is_some_and(|thread| thread.join().is_ok()) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn compact(dir: &Path, old: &Manifest, first: u64, cancelled: &AtomicBool) -> Made {
    let mut reader = Reader::of(dir, old.clone(), first - 1);
    while reader.catch_up()? {
        if cancelled.load(Ordering::Relaxed) {
            return Ok(None);
        }
    }
    let generation = old.generation + 1;
    let path = snapshot(dir, generation);
    let made = write(&path, &reader, cancelled);
    let Ok(Some(digest)) = made else {
        let _ = std::fs::remove_file(&path);
        return made.map(|_| None);
    };
    sync_dir(dir)?;
    let snapshot = Snapshot {
        records: reader.store.len() as u64,
        checksum: digest.checksum,
        sequence: reader.sequence,
        epoch: reader.epoch,
    };
    Ok(Some((Manifest { generation, first, snapshot: Some(snapshot) }, digest)))
}

fn write(path: &Path, reader: &Reader, cancelled: &AtomicBool) -> Result<Option<ShardDigest>> {
    let mut file = File::create(path).context("create", path)?;
    let mut digest = ShardDigest { revision: reader.sequence, ..ShardDigest::default() };
    let mut piece = Vec::with_capacity(PIECE);
    for (number, (key, entry)) in (1..).zip(reader.store.entries()) {
        let stamp = Stamp { epoch: reader.epoch, instance: 0 };
        let operation = Operation::Set { key, value: &entry.value, expires: entry.expires };
        let share = record::append(&mut piece, stamp, number, |out| operation.encode(out));
        digest.checksum = digest.checksum.wrapping_add(share);
        if piece.len() >= PIECE {
            if cancelled.load(Ordering::Relaxed) {
                return Ok(None);
            }
            file.write_all(&piece).context("write", path)?;
            digest.bytes += piece.len() as u64;
            piece.clear();
        }
    }
    file.write_all(&piece).context("write", path)?;
    digest.bytes += piece.len() as u64;
    file.sync_all().context("sync", path)?;
    Ok(Some(digest))
}
