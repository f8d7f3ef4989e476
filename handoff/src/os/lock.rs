//! Locks that say who may write (`owner.lock`) and which lineage owns the data (`lineage.lock`): `flock(2)`.

use super::files::{Dir, FileError, file_id, id_of};
use crate::wire::FileId;
use fs2::FileExt as _;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Name of the writer's lock in the claim directory.
pub const OWNER_LOCK: &str = "owner.lock";
/// Name of the lineage's lock in the claim directory.
pub const LINEAGE_LOCK: &str = "lineage.lock";

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else has it.
    #[error("{} is held by {}; next: stop it, or use another directory", .path.display(), holder_text(.holder))]
    Held {
        /// The lock.
        path: PathBuf,
        /// Who took it, where the kernel says so.
        holder: Option<u32>,
    },
    /// Somebody else still had it when patience ended.
    #[error("{} is still held by {} after {waited:?}", .path.display(), holder_text(.holder))]
    StillHeld {
        /// The lock.
        path: PathBuf,
        /// Who took it, where the kernel says so.
        holder: Option<u32>,
        /// How long was waited.
        waited: Duration,
    },
    /// The name leads to another file than the one that was locked: the lock protects nothing any more.
    #[error("{} was removed or replaced while in use; next: stop every server on this directory", .0.display())]
    Replaced(PathBuf),
    /// A descriptor that came as a lock is none.
    #[error("the inherited descriptor is not {LINEAGE_LOCK}: {0}")]
    NotALock(String),
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
}

fn holder_text(holder: &Option<u32>) -> String {
    holder.map_or_else(|| "another process".into(), |pid| format!("pid {pid}"))
}

/// A lock on a file that this process opened afresh: never passed on, never unlinked, gone with the process.
#[derive(Debug)]
pub struct Lock {
    dir: Dir,
    name: String,
    file: File,
    held: bool,
}

impl Lock {
    /// Opens the lock's file, without taking the lock; creates it, mode 0600, if it is missing.
    ///
    /// # Errors
    /// Those of `open(2)`.
    pub fn open(dir: &Dir, name: &str) -> Result<Lock, FileError> {
        Ok(Lock { dir: dir.clone(), name: name.to_owned(), file: dir.create(name, 0o600)?, held: false })
    }

    /// Takes the lock over with a descriptor that came through an exec and holds it.
    ///
    /// # Errors
    /// It is not the file of this name any more, or does not hold the lock.
    pub fn from_fd(dir: &Dir, name: &str, fd: OwnedFd) -> Result<Lock, LockError> {
        let mut lock = Lock { dir: dir.clone(), name: name.to_owned(), file: fd.into(), held: false };
        // succeeds, and changes nothing, when this very description holds the lock
        if lock.try_lock()? {
            return Ok(lock);
        }
        Err(LockError::Held { path: dir.join(name), holder: lock.holder() })
    }

    /// Identity of the file: two processes with different ones do not exclude each other.
    ///
    /// # Errors
    /// Those of `fstat(2)`.
    pub fn id(&self) -> Result<FileId, FileError> {
        file_id(&self.file).map_err(|source| self.error("look at", source))
    }

    /// Whether this value holds the lock.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// Takes the lock if it is free; says whether it has it now.
    ///
    /// # Errors
    /// [`LockError::Replaced`]; the system refuses.
    pub fn try_lock(&mut self) -> Result<bool, LockError> {
        if self.held {
            return Ok(true);
        }
        match self.file.try_lock_exclusive() {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == fs2::lock_contended_error().raw_os_error() => return Ok(false),
            Err(e) => return Err(self.error("lock", e).into()),
        }
        self.held = true;
        self.refuse_if_replaced()?;
        Ok(true)
    }

    /// Takes the lock; waits for it up to the patience, `None` for ever.
    ///
    /// The first attempt is made right here. If somebody has the lock, a thread waits in the kernel, so that it is
    /// taken in the moment it becomes free. Cancel safe: a lock that comes after its waiter went is let go at once.
    ///
    /// # Errors
    /// [`LockError::StillHeld`] with the holder's pid; [`LockError::Replaced`]; the system refuses.
    pub async fn lock_within(&mut self, patience: Option<Duration>) -> Result<(), LockError> {
        if self.try_lock()? {
            return Ok(());
        }
        let begun = Instant::now();
        // A description of its own: one that is locked after the waiter gave up must not turn into a held lock.
        let file = self.dir.open_rw(&self.name)?;
        let (give, taken) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("handoff-lock".into())
            .spawn(move || {
                let locked = lock_uninterrupted(&file).map(|()| file);
                // nobody waits any more: dropping the file lets go
                drop(give.send(locked));
            })
            .map_err(|e| self.error("start a thread to wait for", e))?;
        let waited = match patience {
            Some(patience) => tokio::time::timeout(patience, taken).await,
            None => Ok(taken.await),
        };
        match waited {
            Ok(Ok(Ok(file))) => {
                self.file = file;
                self.held = true;
                self.refuse_if_replaced()
            }
            Ok(Ok(Err(e))) => Err(self.error("lock", e).into()),
            Ok(Err(_)) => Err(self.error("lock", io::Error::other("the waiting thread died")).into()),
            Err(_) => Err(LockError::StillHeld {
                path: self.dir.join(&self.name),
                holder: self.holder(),
                waited: begun.elapsed(),
            }),
        }
    }

    /// Lets go by an explicit `LOCK_UN`: also where a forked child still has a copy of the descriptor.
    ///
    /// # Errors
    /// The system refuses; the lock then counts as held.
    pub fn unlock(&mut self) -> Result<(), FileError> {
        if self.held {
            fs2::FileExt::unlock(&self.file).map_err(|e| self.error("unlock", e))?;
            self.held = false;
        }
        Ok(())
    }

    /// Who took the lock, as far as the kernel tells.
    #[must_use]
    pub fn holder(&self) -> Option<u32> {
        holder_of(file_id(&self.file).ok()?)
    }

    fn refuse_if_replaced(&mut self) -> Result<(), LockError> {
        let named = self.dir.stat(&self.name)?.map(|stat| id_of(&stat));
        if named == Some(self.id()?) {
            return Ok(());
        }
        self.unlock()?;
        Err(LockError::Replaced(self.dir.join(&self.name)))
    }

    fn error(&self, op: &'static str, source: io::Error) -> FileError {
        FileError { op, path: self.dir.join(&self.name), source }
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The right of a lineage to this data: the lock is on the open file description, which S, O, N and X share by
/// passing the descriptor on. It ends with the last copy; nobody ever unlocks it.
#[derive(Debug)]
pub struct LineageLock {
    fd: OwnedFd,
}

impl LineageLock {
    /// Takes the lock for a new lineage.
    ///
    /// # Errors
    /// [`LockError::Held`] when another lineage owns the data, with the pid that took it.
    pub fn acquire(dir: &Dir) -> Result<LineageLock, LockError> {
        let mut lock = Lock::open(dir, LINEAGE_LOCK)?;
        if !lock.try_lock()? {
            return Err(LockError::Held { path: dir.join(LINEAGE_LOCK), holder: lock.holder() });
        }
        Ok(LineageLock { fd: lock.file.into() })
    }

    /// Takes a descriptor that was passed on, and makes sure that it carries the lock.
    ///
    /// # Errors
    /// [`LockError::NotALock`] when it is no regular file, or somebody else holds the lock on it.
    pub fn from_fd(fd: OwnedFd) -> Result<LineageLock, LockError> {
        use nix::fcntl::{FcntlArg, FdFlag, fcntl};
        let not = |what: String| LockError::NotALock(what);
        let file = File::from(fd);
        let metadata = file.metadata().map_err(|e| not(e.to_string()))?;
        if !metadata.is_file() {
            return Err(not(format!("a {:?}", metadata.file_type())));
        }
        fcntl(&file, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|e| not(e.to_string()))?;
        // succeeds, and changes nothing, when this very description holds the lock
        file.try_lock_exclusive().map_err(|e| {
            let path = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap_or_default();
            not(format!("{} cannot be locked through it: {e}", path.display()))
        })?;
        Ok(LineageLock { fd: file.into() })
    }

    /// Identity of the file.
    ///
    /// # Errors
    /// Those of `fstat(2)`.
    pub fn id(&self) -> io::Result<FileId> {
        file_id(&self.fd)
    }

    /// Whether it is the lineage lock of this claim directory.
    ///
    /// # Errors
    /// Those of `stat(2)`.
    pub fn belongs_to(&self, dir: &Dir) -> Result<bool, FileError> {
        let own =
            self.id().map_err(|source| FileError { op: "look at", path: dir.join(LINEAGE_LOCK), source })?;
        Ok(dir.stat(LINEAGE_LOCK)?.is_some_and(|stat| id_of(&stat) == own))
    }

    /// A copy to pass on, close-on-exec.
    ///
    /// # Errors
    /// No descriptor is free.
    pub fn try_clone(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }
}

impl AsFd for LineageLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn lock_uninterrupted(file: &File) -> io::Result<()> {
    loop {
        match file.lock_exclusive() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// The pid in `/proc/locks` (proc(5)) for an flock on this file; lines of waiters (`->`) are passed over.
fn holder_of(id: FileId) -> Option<u32> {
    let wanted = format!("{:02x}:{:02x}:{}", libc::major(id.dev), libc::minor(id.dev), id.ino);
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let pid = words.next().filter(|kind| *kind == "FLOCK").and_then(|_| words.nth(2))?;
        (words.next()? == wanted).then(|| pid.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests;
