//! The builds that a cold start or a rollback may need, kept beside the claims that name them:
//!
//! ```text
//! builds/               0700
//!   <64 hex digits>     0500  an executable, named by its SHA-256
//!   spec.<instance>     0600  which of them an instance was started from, and how it was called
//! ```
//!
//! An executable is *copied*, not linked. A hard link costs nothing, but shares every later write in place: the kernel
//! refuses those only while a process runs from the file (`ETXTBSY`, execve(2)), and a build is needed most when no
//! process runs from it any more, to go back to it. Where the file system can share blocks (btrfs, xfs)
//! copy_file_range(2) does that by itself. The digest is that of the copy, and it is computed again before a
//! supervisor that has not made the copy executes it: a power loss may have torn it.
//!
//! Everything here reads or writes whole executables: call it where blocking is allowed.

use super::files::{Dir, FileError};
use crate::claim::{BuildDigest, KeptSpec, MAX_SPEC};
use crate::ids::InstanceId;
use nix::sys::stat::{FileStat, Mode, fchmod, fstat};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Name of the directory among the claims.
pub const BUILDS: &str = "builds";
const SPEC: &str = "spec.";
/// Digests of files that were looked at, by what the inode tells: a hundred upgrades to one file read it once.
const REMEMBERED: usize = 16;

/// The directory of the kept builds.
#[derive(Debug)]
pub struct Builds {
    /// `None`: nothing can be kept here.
    dir: Option<Dir>,
    /// Held while files come or go.
    known: Mutex<Vec<(Seen, BuildDigest)>>,
}

/// An executable that was looked at.
#[derive(Debug)]
pub struct Kept {
    /// Its content.
    pub digest: BuildDigest,
    /// The copy, open for reading; `None` when there is none.
    pub copy: Option<OwnedFd>,
    /// Why there is none.
    pub trouble: Option<String>,
}

/// Which file, with which content as far as the inode tells. ctime cannot be set back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen([i64; 7]);

impl Seen {
    fn of(stat: &FileStat) -> Self {
        let (dev, ino) = (stat.st_dev.cast_signed(), stat.st_ino.cast_signed());
        Self([dev, ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec])
    }
}

impl Seen {
    /// A write that follows a change within one tick of the file system's clock leaves the same times.
    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs().cast_signed());
        now - self.0[5] > 1
    }
}

impl Builds {
    /// Opens the directory of the kept builds; creates it if it is missing. Where that cannot be, nothing is kept, and
    /// that is said once: a supervisor must not need more than to read the claims.
    #[must_use]
    pub fn open(claims: &Dir) -> Builds {
        let dir = Self::usable(claims).inspect_err(|why| {
            tracing::warn!(
                why,
                "builds are not kept: a program that is replaced or deleted cannot be started again"
            );
        });
        Builds { dir: dir.ok(), known: Mutex::default() }
    }

    fn usable(claims: &Dir) -> Result<Dir, String> {
        let dir = claims.sub_private(BUILDS).map_err(|e| e.to_string())?;
        let flags = fstatvfs(&dir).map_err(|e| e.to_string())?.flags();
        if flags.contains(FsFlags::ST_NOEXEC) {
            return Err(format!("{}: mounted noexec", dir.path().display()));
        }
        dir.sweep_temps().map_err(|e| e.to_string())?;
        Ok(dir)
    }

    fn known(&self) -> MutexGuard<'_, Vec<(Seen, BuildDigest)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies an executable that is not kept yet, and says what it is. The copy survives a kill, and a power loss
    /// once [`Builds::sync`] has returned.
    ///
    /// # Errors
    /// The executable cannot be read.
    pub fn keep(&self, executable: impl AsFd) -> io::Result<Kept> {
        let mut file = File::from(executable.as_fd().try_clone_to_owned()?);
        let seen = Seen::of(&fstat(&file)?);
        let mut known = self.known();
        if let Some((_, digest)) = known.iter().find(|(other, _)| *other == seen) {
            let (digest, copy) = (*digest, self.dir.as_ref().map(|dir| dir.open_ro(&digest.to_string())));
            match copy {
                Some(Err(_)) => {}
                copy => return Ok(Kept { digest, copy: copy.and_then(Result::ok), trouble: None }),
            }
        }
        let copied = self.dir.as_ref().map(|dir| copy(dir, &mut file));
        let kept = match copied {
            Some(Ok((digest, copy))) => Kept { digest, copy: Some(copy), trouble: None },
            Some(Err(error)) => {
                let digest = sha256(&mut file)?;
                Kept { digest, copy: None, trouble: Some(error.to_string()) }
            }
            None => Kept { digest: sha256(&mut file)?, copy: None, trouble: None },
        };
        // written in place meanwhile: what was read is not what it is now
        if Seen::of(&fstat(&file)?) == seen && seen.is_settled() {
            known.retain(|(other, _)| *other != seen);
            known.push((seen, kept.digest));
            let surplus = known.len().saturating_sub(REMEMBERED);
            known.drain(..surplus);
        }
        Ok(kept)
    }

    /// Notes how an instance is started.
    ///
    /// # Errors
    /// It is longer than [`MAX_SPEC`]; it cannot be written.
    pub fn describe(&self, instance: InstanceId, spec: &KeptSpec) -> Result<(), String> {
        let Some(dir) = &self.dir else { return Ok(()) };
        let bytes = spec.encode()?;
        let _known = self.known();
        let written = dir.write_temp(&bytes, 0o600).and_then(|temp| dir.rename(&temp, &spec_name(instance)));
        written.map_err(|e| e.to_string())
    }

    /// Makes what was kept durable.
    ///
    /// # Errors
    /// Those of `fsync(2)`.
    pub fn sync(&self, digest: BuildDigest) -> Result<(), FileError> {
        let Some(dir) = &self.dir else { return Ok(()) };
        dir.sync_file(&digest.to_string())?;
        dir.sync_dir()
    }

    /// How an instance was started; `None` where that was not noted, or cannot be read any more.
    #[must_use]
    pub fn spec_of(&self, instance: InstanceId) -> Option<KeptSpec> {
        let dir = self.dir.as_ref()?;
        let name = spec_name(instance);
        let bytes = match dir.read(&name, MAX_SPEC) {
            Ok(bytes) => bytes,
            Err(error) => {
                if !error.is_not_found() {
                    tracing::warn!(%error, "how a build was called is not known");
                }
                return None;
            }
        };
        let read = KeptSpec::decode(&bytes);
        read.inspect_err(|why| tracing::warn!(name, why, "how a build was called cannot be read")).ok()
    }

    /// A kept executable, checked to be what its name says.
    ///
    /// # Errors
    /// It is not there, or not that any more.
    pub fn executable(&self, digest: BuildDigest) -> Result<OwnedFd, String> {
        let dir = self.dir.as_ref().ok_or("builds are not kept here")?;
        let name = digest.to_string();
        let copy = dir.open_ro(&name).map_err(|e| e.to_string())?;
        let mut file = File::from(copy.try_clone().map_err(|e| e.to_string())?);
        let found = sha256(&mut file).and_then(|found| file.rewind().map(|()| found));
        let found = found.map_err(|e| format!("{}: {e}", dir.join(&name).display()))?;
        if found == digest {
            Ok(copy)
        } else {
            Err(format!("{}: damaged, its content is {found}", dir.join(&name).display()))
        }
    }

    /// Removes what neither these instances nor these builds need.
    ///
    /// # Errors
    /// Those of listing and removing. What was not removed is removed the next time.
    pub fn tidy(
        &self,
        named: &BTreeSet<InstanceId>,
        builds: &BTreeSet<BuildDigest>,
    ) -> Result<(), FileError> {
        let Some(dir) = &self.dir else { return Ok(()) };
        let _known = self.known();
        let mut needed = builds.clone();
        let names = dir.list()?;
        for name in &names {
            let Some(instance) = name.strip_prefix(SPEC).map(InstanceId::parse) else { continue };
            match instance.filter(|instance| named.contains(instance)) {
                Some(instance) => needed.extend(self.spec_of(instance).map(|spec| spec.digest)),
                None => drop(dir.unlink_if_there(name)?),
            }
        }
        for name in &names {
            if BuildDigest::parse(name).is_some_and(|digest| !needed.contains(&digest)) {
                dir.unlink_if_there(name)?;
            }
        }
        Ok(())
    }
}

fn spec_name(instance: InstanceId) -> String {
    format!("{SPEC}{instance}")
}

fn copy(dir: &Dir, file: &mut File) -> Result<(BuildDigest, OwnedFd), FileError> {
    let (temp, mut to) = dir.create_temp(0o600)?;
    let wrong = |source| FileError { op: "copy a build to", path: dir.join(&temp), source };
    let copied = (|| {
        file.rewind().map_err(wrong)?;
        // in the kernel, and shared where the file system can (std: copy_file_range)
        io::copy(file, &mut to).map_err(wrong)?;
        let digest = sha256(&mut to).map_err(wrong)?;
        fchmod(&to, Mode::S_IRUSR | Mode::S_IXUSR).map_err(|e| wrong(e.into()))?;
        Ok(digest)
    })();
    let renamed = copied.and_then(|digest: BuildDigest| {
        let name = digest.to_string();
        dir.rename(&temp, &name)?;
        Ok((digest, dir.open_ro(&name)?))
    });
    renamed.inspect_err(|_| drop(dir.unlink_if_there(&temp)))
}

fn sha256(file: &mut File) -> io::Result<BuildDigest> {
    file.rewind()?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(BuildDigest(hash.finalize().into())),
            Ok(n) => hash.update(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests;
