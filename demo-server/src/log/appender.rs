//! The one who writes the log.
//!
//! Keeps the digest of the data as it goes, so that a seal costs no reading. A failed write is undone and refused; a
//! failed fsync is never retried: what the kernel then has is unknown, and only a start from disk can tell.

use super::manifest::Manifest;
use super::reader::Reader;
use super::{Context as _, Result, SEGMENT, segment, snapshot, sync_dir};
use crate::store::Store;
use handoff::sdk::{Digest, ShardDigest};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

/// The log, open for appending.
#[derive(Debug)]
pub(crate) struct Appender {
    pub(super) dir: PathBuf,
    pub(super) manifest: Manifest,
    /// Of the snapshot, if there is one; then of each segment.
    shards: Vec<ShardDigest>,
    /// Number of the segment that is appended to.
    current: u64,
    path: PathBuf,
    file: File,
    /// How many bytes only the kernel has.
    dirty: u64,
    background: Option<JoinHandle<std::io::Result<()>>>,
}

/// The bytes could not be written and are not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// The log is as before.
    #[error("{0}")]
    Undone(std::io::Error),
    /// The log is in an unknown state: the tenure has to be given up.
    #[error("{0}")]
    Unknown(std::io::Error),
}

impl Appender {
    /// Continues what was loaded: makes the files of an empty directory, cuts a torn tail, removes leftovers of a
    /// compaction. Gives the store and the number of the last operation with it.
    pub(crate) fn open(reader: Reader) -> Result<(Self, Store, u64)> {
        let Reader { dir, mut manifest, files, store, sequence, .. } = reader;
        let mut shards: Vec<_> = files.iter().map(|f| f.digest).collect();
        if manifest.generation == 0 {
            manifest = Manifest { generation: 1, first: 1, snapshot: None };
            // the log before the manifest: a manifest never names what is not there
            let path = segment(&dir, 1);
            let file = File::create(&path).context("create", &path)?;
            file.sync_all().context("sync", &path)?;
            manifest.install(&dir)?;
        }
        if shards.len() == usize::from(manifest.snapshot.is_some()) {
            shards.push(ShardDigest { revision: sequence, ..ShardDigest::default() });
        }
        let current = files.last().and_then(|f| f.number).unwrap_or(manifest.first);
        drop(files);
        let path = segment(&dir, current);
        let file = OpenOptions::new().write(true).open(&path).context("open", &path)?;
        let appender = Self { dir, manifest, shards, current, path, file, dirty: 0, background: None };
        let length = appender.file.metadata().context("read", &appender.path)?.len();
        let complete = appender.shards.last().map_or(0, |s| s.bytes);
        if complete < length {
            tracing::warn!(file = %appender.path.display(), complete, length, "cut a torn record off the log");
            appender.file.set_len(complete).context("cut", &appender.path)?;
            appender.file.sync_all().context("sync", &appender.path)?;
        }
        appender.remove_unnamed();
        Ok((appender, store, sequence))
    }

    /// Appends whole records, the last of which is `sequence`; `sum` is the sum of their shares.
    pub(crate) fn append(
        &mut self,
        bytes: &[u8],
        sum: u64,
        sequence: u64,
    ) -> std::result::Result<(), Refused> {
        let Some(last) = self.shards.last_mut() else { return Ok(()) };
        if let Err(error) = self.file.write_all_at(bytes, last.bytes) {
            return Err(match self.file.set_len(last.bytes) {
                Ok(()) => Refused::Undone(error),
                Err(_) => Refused::Unknown(error),
            });
        }
        self.dirty += bytes.len() as u64;
        last.bytes += bytes.len() as u64;
        last.checksum = last.checksum.wrapping_add(sum);
        last.revision = sequence;
        Ok(())
    }

    /// How many bytes only the kernel has. Those that a [`Self::sync_behind`] is about do not count, but its outcome,
    /// not looked at yet, does.
    pub(crate) fn dirty(&self) -> u64 {
        self.dirty.max(u64::from(self.background.is_some()))
    }

    /// Whether a [`Self::sync_behind`] is at work.
    pub(crate) fn is_syncing(&self) -> bool {
        self.background.as_ref().is_some_and(|sync| !sync.is_finished())
    }

    /// Begins to make what there is durable without waiting for it; gives the outcome of the one before. Does nothing
    /// while that is still at work.
    pub(crate) fn sync_behind(&mut self) -> Result<()> {
        if self.is_syncing() {
            return Ok(());
        }
        self.await_background()?;
        if self.dirty == 0 {
            return Ok(());
        }
        let file = self.file.try_clone().context("open", &self.path)?;
        let sync = move || file.sync_data();
        match std::thread::Builder::new().name("sync".into()).spawn(sync) {
            Ok(thread) => (self.background, self.dirty) = (Some(thread), 0),
            Err(_) => self.sync()?,
        }
        Ok(())
    }

    fn await_background(&mut self) -> Result<()> {
        match self.background.take().map(JoinHandle::join) {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(error))) => Err(error).context("sync", &self.path),
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }

    /// Makes everything durable. On an error give up the tenure.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.await_background()?;
        if self.dirty > 0 {
            self.file.sync_data().context("sync", &self.path)?;
            self.dirty = 0;
        }
        Ok(())
    }

    /// Whether the current segment is long enough.
    pub(crate) fn is_full(&self) -> bool {
        self.is_longer(SEGMENT)
    }

    /// Whether the current segment is longer.
    pub(crate) fn is_longer(&self, bytes: u64) -> bool {
        self.shards.last().is_some_and(|s| s.bytes > bytes)
    }

    /// Closes the current segment and begins the next; `sync` first. If no file can be made, the current one goes on.
    /// If its name cannot be made durable, nothing does: the file may or may not be there, and no digest would say so.
    pub(crate) fn rotate(&mut self) -> std::result::Result<(), Refused> {
        let path = segment(&self.dir, self.current + 1);
        let file = File::create(&path).map_err(Refused::Undone)?;
        sync_dir(&self.dir).map_err(|error| Refused::Unknown(std::io::Error::other(error)))?;
        self.shards.push(ShardDigest { revision: self.revision(), ..ShardDigest::default() });
        (self.current, self.path, self.file) = (self.current + 1, path, file);
        Ok(())
    }

    /// Bytes of all segments.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.shards.iter().skip(usize::from(self.manifest.snapshot.is_some())).map(|s| s.bytes).sum()
    }

    /// Digest of what is on disk, from what was written.
    pub(crate) fn digest(&self) -> Digest {
        super::digest(self.manifest.generation, &self.shards, self.manifest.snapshot.is_some())
    }

    /// Digest of what is on disk, from the disk, as far as it shows whether anybody else wrote: which files there
    /// are and how long. Content is not compared: this process has it in memory, and a flipped bit is no reason to
    /// leave the data to a process that could only load the flipped one.
    pub(crate) fn verify(&self) -> Result<Digest> {
        let mut shards = self.shards.clone();
        let generation = Manifest::read(&self.dir)?.generation;
        let snapshot = self.manifest.snapshot.as_ref().map(|_| snapshot(&self.dir, self.manifest.generation));
        let segments = (self.manifest.first..=self.current).map(|n| segment(&self.dir, n));
        for (path, shard) in snapshot.into_iter().chain(segments).zip(&mut shards) {
            shard.bytes = std::fs::metadata(&path).context("read", &path)?.len();
        }
        if segment(&self.dir, self.current + 1).exists() {
            shards.push(ShardDigest::default());
        }
        Ok(super::digest(generation, &shards, self.manifest.snapshot.is_some()))
    }

    /// Number of the last operation.
    fn revision(&self) -> u64 {
        self.shards.last().map_or(0, |s| s.revision)
    }

    /// The segment that is appended to.
    pub(super) fn current(&self) -> u64 {
        self.current
    }

    /// Lets a compaction's manifest count, and removes what it replaced.
    pub(super) fn switch(&mut self, manifest: Manifest, snapshot: ShardDigest) -> Result<()> {
        manifest.install(&self.dir)?;
        let kept = usize::try_from(self.current - manifest.first + 1).unwrap_or(usize::MAX);
        self.shards.drain(..self.shards.len().saturating_sub(kept));
        self.shards.insert(0, snapshot);
        self.manifest = manifest;
        self.remove_unnamed();
        Ok(())
    }

    /// Removes files of older generations, and what a compaction or a manifest that never counted left. What cannot be
    /// removed does no harm.
    fn remove_unnamed(&self) {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return };
        for path in entries.flatten().map(|e| e.path()) {
            if self.is_unnamed(&path) && std::fs::remove_file(&path).is_ok() {
                tracing::info!(file = %path.display(), "removed: not part of the data");
            }
        }
    }

    fn is_unnamed(&self, path: &Path) -> bool {
        if path.file_name().is_some_and(|name| name == super::manifest::NEW) {
            return true;
        }
        let number = |prefix: &str| path.file_name()?.to_str()?.strip_prefix(prefix)?.parse::<u64>().ok();
        let snapshots = self.manifest.snapshot.is_some();
        number("log.").is_some_and(|n| n < self.manifest.first)
            || number("snapshot.").is_some_and(|g| !(snapshots && g == self.manifest.generation))
    }
}
