//! Loads the data, read-only, also while another process is its writer.
//!
//! Reads forward in steps, so that a successor can follow the log; stops at the last complete record and continues
//! from there. What cannot be a write in progress (a bad record with good ones after it, numbers out of order) is a
//! hole, and refused.

use super::manifest::Manifest;
use super::record::{self, Damage};
use super::{Context as _, Error, Result, SEGMENT, segment, snapshot, sync_dir};
use crate::operation::Operation;
use crate::store::Store;
use handoff::sdk::{Digest, ShardDigest};
use std::fs::{File, Metadata};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// How much a step reads.
const STEP: usize = 1 << 20;

/// The data as far as it was read.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(super) dir: PathBuf,
    /// Segments after this one are not read.
    until: u64,
    pub(super) manifest: Manifest,
    pub(super) files: Vec<Loaded>,
    /// What was loaded.
    pub(crate) store: Store,
    /// Number of the last operation.
    pub(crate) sequence: u64,
    /// Epoch of the last operation.
    pub(crate) epoch: u64,
}

/// One file, as far as it was read.
#[derive(Debug)]
pub(super) struct Loaded {
    /// Of a segment; `None`: the snapshot.
    pub(super) number: Option<u64>,
    path: PathBuf,
    /// While it is read: a long log has more files than a process may have descriptors.
    file: Option<File>,
    /// What it looked like when its end was reached.
    seen: Option<Seen>,
    records: u64,
    pub(super) digest: ShardDigest,
}

/// Changes with every write to a file.
type Seen = (u64, u64, i64, i64, i64, i64);

fn seen(m: &Metadata) -> Seen {
    (m.ino(), m.len(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec())
}

/// Whether there is more to read at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    More,
    End,
}

/// What a record that could not be read turns out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// The writer has finished it meanwhile.
    Whole,
    /// Nothing good comes after it: not finished, or torn by a crash.
    Torn,
    /// A good record of a later operation comes after it.
    Hole,
}

impl Reader {
    /// Begins with what the manifest says now. Nothing is read yet: call [`Self::catch_up`].
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        Ok(Self::of(dir, Manifest::read(dir)?, u64::MAX))
    }

    /// A reader of one manifest's data up to a closed segment.
    pub(super) fn of(dir: &Path, manifest: Manifest, until: u64) -> Self {
        let base = manifest.snapshot.clone().unwrap_or_default();
        let (dir, files, store) = (dir.to_owned(), Vec::new(), Store::default());
        Self { dir, until, manifest, files, store, sequence: base.sequence, epoch: base.epoch }
    }

    /// Reads one piece. `true`: call it again, there is more; `false`: this is all for now. When the writer has
    /// switched to another generation meanwhile, it begins anew with that.
    pub(crate) fn catch_up(&mut self) -> Result<bool> {
        let step = self.step();
        if let Ok(Step::More) = step {
            return Ok(true);
        }
        // only now: a file that is missing is an error only if the generation is still the same
        if self.until == u64::MAX {
            let now = Manifest::read(&self.dir)?;
            if now != self.manifest {
                *self = Self::of(&self.dir, now, self.until);
                return Ok(true);
            }
        }
        step.map(|step| step == Step::More)
    }

    /// Reads what is left and proves that memory is what is on disk; gives the digest of it. To be called when the
    /// writer has stopped; takes as long as the tail and one segment are.
    pub(crate) fn finish(&mut self) -> Result<Digest> {
        while self.catch_up()? {}
        let last = self.files.len().saturating_sub(1);
        let mut shards: Vec<_> = self.files.iter().map(|f| f.digest).collect();
        for (n, loaded) in self.files.iter_mut().enumerate() {
            // a closed file that nobody touched since is as it was read; the one that was appended to until now
            // cannot be trusted that cheaply
            let now = std::fs::metadata(&loaded.path).context("read", &loaded.path)?;
            if n == last || loaded.seen != Some(seen(&now)) {
                loaded.compare()?;
            }
            // a torn tail counts: behind a sealed writer it is somebody else's
            shards[n].bytes = now.len();
        }
        Ok(super::digest(self.manifest.generation, &shards, self.manifest.snapshot.is_some()))
    }

    /// Makes what was read durable. A writer that was killed may have left records that only the kernel has: who reads
    /// them here must find them again after a power loss.
    pub(crate) fn settle(&self) -> Result<()> {
        let Some(last) = self.files.last() else { return Ok(()) };
        // the others were synced when they were closed
        File::open(&last.path).and_then(|file| file.sync_data()).context("sync", &last.path)?;
        sync_dir(&self.dir)
    }

    /// How far it came, for people.
    pub(crate) fn summary(&self) -> String {
        format!("{} keys up to operation {} of epoch {}", self.store.len(), self.sequence, self.epoch)
    }

    fn step(&mut self) -> Result<Step> {
        if self.manifest.generation == 0 {
            return Ok(Step::End);
        }
        let Some(current) = self.files.last() else {
            let first = if self.manifest.snapshot.is_some() { None } else { Some(self.manifest.first) };
            return self.open(first).map(|()| Step::More);
        };
        let next = current.number.map_or(self.manifest.first, |n| n + 1);
        // looked at before the end of the current one is: a segment is closed before the next is there
        let has_next = next <= self.until && (current.number.is_none() || segment(&self.dir, next).exists());
        match self.read_on(has_next)? {
            Step::More => Ok(Step::More),
            Step::End if has_next => self.open(Some(next)).map(|()| Step::More),
            Step::End => Ok(Step::End),
        }
    }

    fn open(&mut self, number: Option<u64>) -> Result<()> {
        let path = match number {
            Some(n) => segment(&self.dir, n),
            None => snapshot(&self.dir, self.manifest.generation),
        };
        let file = File::open(&path).context("open", &path)?;
        let digest = ShardDigest { revision: self.sequence, ..ShardDigest::default() };
        if let Some(before) = self.files.last_mut() {
            before.file = None;
        }
        self.files.push(Loaded { number, path, file: Some(file), seen: None, records: 0, digest });
        Ok(())
    }

    /// Reads on in the current file. `closed`: nobody appends to it any more.
    fn read_on(&mut self, closed: bool) -> Result<Step> {
        let Some(current) = self.files.last_mut() else { return Ok(Step::End) };
        let now = seen(&current.metadata()?);
        let (size, start) = (now.1, current.digest.bytes);
        if size < start {
            return Err(Error::Changed { path: current.path.clone(), offset: size });
        }
        let mut bytes = current.read(start, STEP)?;
        if let Some(needed) = record::needed(&bytes).filter(|&needed| needed > bytes.len()) {
            bytes = current.read(start, needed)?;
        }
        let mut rest = &bytes[..];
        let mut damage = None;
        while !rest.is_empty() {
            match record::read(rest) {
                Ok(record) => {
                    let offset = current.digest.bytes;
                    let hole = |why: String| Error::Hole { path: current.path.clone(), offset, why };
                    let operation = Operation::decode(record.operation)
                        .ok_or_else(|| hole("an operation this build does not know".into()))?;
                    if current.number.is_none() {
                        if record.sequence != current.records + 1 {
                            return Err(hole(format!("record {} out of order", record.sequence)));
                        }
                    } else {
                        if record.sequence != self.sequence + 1 {
                            return Err(hole(format!(
                                "operation {} follows operation {}",
                                record.sequence, self.sequence
                            )));
                        }
                        if record.stamp.epoch < self.epoch {
                            return Err(hole(format!(
                                "epoch {} follows epoch {}: a writer that was no longer the owner",
                                record.stamp.epoch, self.epoch
                            )));
                        }
                        self.sequence = record.sequence;
                        self.epoch = record.stamp.epoch;
                    }
                    self.store.apply(&operation);
                    current.records += 1;
                    current.digest.revision = self.sequence;
                    current.digest.checksum = current.digest.checksum.wrapping_add(record.share);
                    current.digest.bytes += record.length as u64;
                    rest = &rest[record.length..];
                }
                Err(found) => {
                    damage = Some(found);
                    break;
                }
            }
        }
        let end = current.digest.bytes;
        match damage {
            // the rest of the record is in the next piece
            Some(Damage::Incomplete) if end > start && start + bytes.len() as u64 != size => {
                return Ok(Step::More);
            }
            None if start + (bytes.len() as u64) < size => return Ok(Step::More),
            None => {}
            Some(damage) => {
                let why = match damage {
                    Damage::Incomplete => "a record that is cut short",
                    Damage::Length => "a length that no record has",
                    Damage::Checksum => "a wrong checksum",
                };
                let tail = match closed || current.number.is_none() {
                    true => Tail::Hole,
                    false => current.tail(end, self.sequence)?,
                };
                match tail {
                    Tail::Torn => {}
                    Tail::Whole => return Ok(Step::More),
                    Tail::Hole => {
                        let why = why.to_owned();
                        return Err(Error::Hole { path: current.path.clone(), offset: end, why });
                    }
                }
            }
        }
        current.seen = Some(now);
        let named = self.manifest.snapshot.as_ref().filter(|_| current.number.is_none());
        if named.is_some_and(|n| (n.records, n.checksum) != (current.records, current.digest.checksum)) {
            let why = "not the snapshot that the manifest names".to_owned();
            return Err(Error::Hole { path: current.path.clone(), offset: end, why });
        }
        Ok(Step::End)
    }
}

impl Loaded {
    fn file(&self) -> Result<&File> {
        self.file.as_ref().ok_or(std::io::ErrorKind::NotConnected.into()).context("read", &self.path)
    }

    fn metadata(&self) -> Result<Metadata> {
        self.file()?.metadata().context("read", &self.path)
    }

    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let size = self.metadata()?.len();
        let there = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length.min(there)];
        let mut filled = 0;
        while filled < bytes.len() {
            match self
                .file()?
                .read_at(&mut bytes[filled..], offset + filled as u64)
                .context("read", &self.path)?
            {
                // cut by the writer meanwhile
                0 => break,
                n => filled += n,
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// What a record is that could not be read a moment ago, in a segment that somebody may append to.
    pub(super) fn tail(&self, offset: u64, sequence: u64) -> Result<Tail> {
        // one piece decides all of it: what the writer finishes after it was read must not look like a hole in it
        let bytes = self.read(offset, 2 * record::MAX_RECORD + SEGMENT as usize)?;
        if record::read(&bytes).is_ok() {
            return Ok(Tail::Whole);
        }
        let most = sequence + bytes.len() as u64;
        let follows = (1..bytes.len()).any(|n| {
            let claimed = record::sequence(&bytes[n..]);
            claimed.is_some_and(|s| s > sequence && s <= most) && record::read(&bytes[n..]).is_ok()
        });
        Ok(if follows { Tail::Hole } else { Tail::Torn })
    }

    /// Reads the file once more and compares it with what was loaded.
    fn compare(&mut self) -> Result<()> {
        let file = File::open(&self.path).context("open", &self.path)?;
        self.file = Some(file);
        self.seen = Some(seen(&self.metadata()?));
        let (mut offset, mut sum, mut want) = (0, 0u64, STEP);
        while offset < self.digest.bytes {
            let changed = || Error::Changed { path: self.path.clone(), offset };
            let left = usize::try_from(self.digest.bytes - offset).unwrap_or(usize::MAX);
            let bytes = self.read(offset, want.min(left))?;
            let mut taken = 0;
            while let Ok(record) = record::read(&bytes[taken..]) {
                sum = sum.wrapping_add(record.share);
                taken += record.length;
            }
            if taken == 0 {
                want =
                    record::needed(&bytes).filter(|&n| n > bytes.len() && n <= left).ok_or_else(changed)?;
            } else {
                want = STEP;
                offset += taken as u64;
            }
        }
        if sum == self.digest.checksum {
            Ok(())
        } else {
            Err(Error::Changed { path: self.path.clone(), offset: 0 })
        }
    }
}
