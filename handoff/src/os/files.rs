//! The file door: every file below a run or data directory is reached through a directory descriptor.
//!
//! Names are single components, never paths; symbolic links are not followed; every descriptor is close-on-exec.
//! Nothing is durable until it was synced: a new file by itself *and* its directory.

use crate::crash::{Disk, disk_fault};
use crate::wire::FileId;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, fsync, geteuid, linkat, unlinkat};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What was tried, with which file, and why it did not work.
#[derive(Debug, thiserror::Error)]
#[error("{op} {}: {source}", .path.display())]
pub struct FileError {
    /// What was tried.
    pub op: &'static str,
    /// With which file.
    pub path: PathBuf,
    /// Why not; where the operator can do something about it, what to do next.
    #[source]
    pub source: io::Error,
}

impl FileError {
    /// An error of our own: the file is there, but must not be used.
    pub(crate) fn refused(op: &'static str, path: PathBuf, why: String) -> Self {
        FileError { op, path, source: io::Error::new(io::ErrorKind::PermissionDenied, why) }
    }

    /// An error of our own: the content is not what it has to be.
    pub(crate) fn content(path: PathBuf, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        FileError { op: "read", path, source: io::Error::new(io::ErrorKind::InvalidData, why) }
    }

    /// Whether the system gave this error number.
    #[must_use]
    pub fn is(&self, errno: Errno) -> bool {
        self.source.raw_os_error() == Some(errno as i32)
    }

    /// Whether the disk or the quota is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.is(Errno::ENOSPC) || self.is(Errno::EDQUOT)
    }

    /// Whether there is no such file.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.is(Errno::ENOENT)
    }
}

/// A directory, open: files in it stay reachable whatever happens to its path.
#[derive(Clone, Debug)]
pub struct Dir {
    fd: Arc<OwnedFd>,
    path: PathBuf,
}

impl Dir {
    /// Opens a directory as it is.
    ///
    /// # Errors
    /// It is not there, is no directory or may not be read.
    pub fn open(path: &Path) -> Result<Dir, FileError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = openat(AT_FDCWD, path, flags, Mode::empty()).map_err(|e| error("open", path, e))?;
        Ok(Dir { fd: Arc::new(fd), path: path.to_owned() })
    }

    /// Opens a directory for this user alone; creates it, mode 0700, where only the last component is missing.
    ///
    /// # Errors
    /// It belongs to somebody else, lets group or others in, or a parent lets them replace it. The message says
    /// which path, which mode and what to do.
    pub fn open_private(path: &Path) -> Result<Dir, FileError> {
        match mkdirat(AT_FDCWD, path, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(e) => return Err(error("create", path, e)),
        }
        let path =
            path.canonicalize().map_err(|source| FileError { op: "open", path: path.into(), source })?;
        refuse_open_parents(&path)?;
        let dir = Dir::open(&path)?;
        dir.refuse_if_open()?;
        Ok(dir)
    }

    /// Opens a directory in this one for this user alone; creates it, mode 0700, if it is missing.
    ///
    /// # Errors
    /// As [`Dir::open_private`]; it is a symbolic link.
    pub fn sub_private(&self, name: &str) -> Result<Dir, FileError> {
        match mkdirat(&self.fd, component(self, name)?, Mode::S_IRWXU) {
            Ok(()) => self.sync_dir()?,
            Err(Errno::EEXIST) => {}
            Err(e) => return Err(self.error("create", name, e)),
        }
        let dir = self.sub(name)?;
        dir.refuse_if_open()?;
        Ok(dir)
    }

    /// Opens a directory in this one as it is.
    ///
    /// # Errors
    /// It is not there, is no directory or may not be read; it is a symbolic link.
    pub fn sub(&self, name: &str) -> Result<Dir, FileError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        Ok(Dir { fd: Arc::new(self.open_fd(name, flags, 0)?), path: self.join(name) })
    }

    /// The path it was opened by, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in it, for messages.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Opens a file for reading and writing; creates it if it is missing.
    ///
    /// # Errors
    /// Those of `open(2)`.
    pub fn create(&self, name: &str, mode: u32) -> Result<File, FileError> {
        self.open_fd(name, OFlag::O_RDWR | OFlag::O_CREAT, mode).map(File::from)
    }

    /// Creates a file that must not be there yet, for reading and writing.
    ///
    /// # Errors
    /// Those of `open(2)`; `EEXIST` when it is there.
    pub fn create_new(&self, name: &str, mode: u32) -> Result<File, FileError> {
        self.works("open", name, Disk::Write)?;
        self.open_fd(name, OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL, mode).map(File::from)
    }

    /// Opens a file for reading and writing that must be there.
    ///
    /// # Errors
    /// Those of `open(2)`.
    pub fn open_rw(&self, name: &str) -> Result<File, FileError> {
        self.open_fd(name, OFlag::O_RDWR, 0).map(File::from)
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// Those of `open(2)`; it is not a regular file.
    pub fn open_ro(&self, name: &str) -> Result<OwnedFd, FileError> {
        // a FIFO in the place of the file must not block us
        let file = self.open_fd(name, OFlag::O_RDONLY | OFlag::O_NONBLOCK, 0)?;
        let stat = fstat(&file).map_err(|e| self.error("look at", name, e))?;
        if is(&stat, SFlag::S_IFREG) {
            Ok(file)
        } else {
            Err(FileError::content(self.join(name), "not a regular file"))
        }
    }

    /// Creates a file with this content and syncs it. The *name* is durable only after [`Dir::sync_dir`].
    /// When it returns an error the file is gone again.
    ///
    /// # Errors
    /// `EEXIST` when the name is taken; no room; a failed fsync.
    pub fn write_new(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), FileError> {
        let mut file = self.create_new(name, mode)?;
        let written = file
            .write_all(bytes)
            .map_err(|source| FileError { op: "write", path: self.join(name), source })
            .and_then(|()| self.works("fsync", name, Disk::Sync))
            .and_then(|()| fsync(&file).map_err(|e| self.error("fsync", name, e)));
        if written.is_err() {
            // the first error is the one that tells something
            let _ = self.unlink(name);
        }
        written
    }

    /// Puts a file with this content in the place of whatever has the name, durably: readers see the old content
    /// or the new, also after power loss.
    ///
    /// # Errors
    /// No room; a failed fsync. The old file is still there then.
    pub fn replace(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), FileError> {
        let temp = self.write_temp(bytes, mode)?;
        self.rename(&temp, name).inspect_err(|_| {
            let _ = self.unlink(&temp);
        })?;
        self.sync_dir()
    }

    /// Creates a file under a temporary name, as [`Dir::write_new`] does; gives the name.
    ///
    /// A name can be taken: after a boot this process may have the pid of one that died before it, and where each
    /// container counts its own pids even of one that lives. Then another name is taken, and nothing removed.
    ///
    /// # Errors
    /// No room; a failed fsync.
    pub(crate) fn write_temp(&self, bytes: &[u8], mode: u32) -> Result<String, FileError> {
        Self::as_temp(|name| self.write_new(name, bytes, mode)).map(|(name, ())| name)
    }

    /// Creates an empty file under such a name, for reading and writing.
    ///
    /// # Errors
    /// Those of `open(2)`.
    pub(crate) fn create_temp(&self, mode: u32) -> Result<(String, File), FileError> {
        Self::as_temp(|name| self.create_new(name, mode))
    }

    fn as_temp<T>(make: impl Fn(&str) -> Result<T, FileError>) -> Result<(String, T), FileError> {
        loop {
            let name = Dir::temp_name();
            match make(&name) {
                Err(e) if e.is(Errno::EEXIST) => {}
                made => return made.map(|made| (name, made)),
            }
        }
    }

    /// A name for a temporary file: `tmp.<pid>.<n>`. What its writer leaves behind is removed by
    /// [`Dir::sweep_temps`].
    fn temp_name() -> String {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        format!("tmp.{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Removes temporary files whose writers are no longer alive; gives their names.
    ///
    /// # Errors
    /// Those of listing and removing.
    pub(crate) fn sweep_temps(&self) -> Result<Vec<String>, FileError> {
        let mut removed = Vec::new();
        for name in self.list()? {
            let writer = name.strip_prefix("tmp.").and_then(|rest| rest.split_once('.')).map(|(pid, _)| pid);
            let Some(pid) = writer.and_then(|pid| pid.parse::<i32>().ok()).filter(|pid| *pid > 0) else {
                continue;
            };
            if is_over(pid) {
                self.unlink_if_there(&name)?;
                removed.push(name);
            }
        }
        Ok(removed)
    }

    /// Gives a file a second name.
    ///
    /// # Errors
    /// Those of `link(2)`; the path in the error is the new name's.
    pub fn link(&self, from: &str, to: &str) -> Result<(), FileError> {
        let (old, new) = (component(self, from)?, component(self, to)?);
        self.works("link", to, Disk::Write)?;
        linkat(&self.fd, old, &self.fd, new, AtFlags::empty()).map_err(|e| self.error("link", to, e))
    }

    /// Takes a name away.
    ///
    /// # Errors
    /// Those of `unlink(2)`.
    pub fn unlink(&self, name: &str) -> Result<(), FileError> {
        unlinkat(&self.fd, component(self, name)?, UnlinkatFlags::NoRemoveDir)
            .map_err(|e| self.error("remove", name, e))
    }

    /// Takes a name away if it is there; says whether it was.
    ///
    /// # Errors
    /// Those of `unlink(2)` but `ENOENT`.
    pub fn unlink_if_there(&self, name: &str) -> Result<bool, FileError> {
        match self.unlink(name) {
            Ok(()) => Ok(true),
            Err(e) if e.is_not_found() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Renames, in place of whatever has the new name.
    ///
    /// # Errors
    /// Those of `rename(2)`.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), FileError> {
        let (old, new) = (component(self, from)?, component(self, to)?);
        self.works("rename to", to, Disk::Write)?;
        nix::fcntl::renameat(&self.fd, old, &self.fd, new).map_err(|e| self.error("rename to", to, e))
    }

    /// The whole content of a regular file of at most `limit` bytes.
    ///
    /// # Errors
    /// Those of `open(2)` and `read(2)`; it is longer; it is not a regular file.
    pub fn read(&self, name: &str, limit: usize) -> Result<Vec<u8>, FileError> {
        let file = File::from(self.open_ro(name)?);
        let mut bytes = Vec::new();
        let most = limit as u64 + 1;
        file.take(most).read_to_end(&mut bytes).map_err(|source| FileError {
            op: "read",
            path: self.join(name),
            source,
        })?;
        if bytes.len() > limit {
            return Err(FileError::content(self.join(name), format!("longer than {limit} bytes")));
        }
        Ok(bytes)
    }

    /// The names in it, in no order. Names that are not UTF-8 are not ours and are left out.
    ///
    /// # Errors
    /// Those of reading a directory.
    pub fn list(&self) -> Result<Vec<String>, FileError> {
        let wrong = |source| FileError { op: "list", path: self.path.clone(), source };
        let own = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        let mut names = Vec::new();
        for entry in std::fs::read_dir(own).map_err(wrong)? {
            if let Ok(name) = entry.map_err(wrong)?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Status of a file, `None` if it is not there.
    ///
    /// # Errors
    /// Those of `fstatat(2)`.
    pub fn stat(&self, name: &str) -> Result<Option<FileStat>, FileError> {
        match fstatat(&self.fd, component(self, name)?, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(self.error("look at", name, e)),
        }
    }

    /// Makes the content of a file durable. Never call it again after an error: the kernel has forgotten by then
    /// which pages did not get to the disk, and a second call says "fine" (fsync(2), "EIO").
    ///
    /// # Errors
    /// Those of `open(2)` and `fsync(2)`.
    pub fn sync_file(&self, name: &str) -> Result<(), FileError> {
        let file = self.open_fd(name, OFlag::O_RDONLY | OFlag::O_NONBLOCK, 0)?;
        self.works("fsync", name, Disk::Sync)?;
        fsync(&file).map_err(|e| self.error("fsync", name, e))
    }

    /// Makes the names in it durable. Never call it again after an error.
    ///
    /// # Errors
    /// Those of `fsync(2)`.
    pub fn sync_dir(&self) -> Result<(), FileError> {
        self.works("fsync", ".", Disk::Sync)?;
        fsync(&self.fd).map_err(|e| error("fsync", &self.path, e))
    }

    fn open_fd(&self, name: &str, flags: OFlag, mode: u32) -> Result<OwnedFd, FileError> {
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(&self.fd, component(self, name)?, flags, Mode::from_bits_truncate(mode))
            .map_err(|e| self.error("open", name, e))
    }

    /// A test may make the disk fail here.
    fn works(&self, op: &'static str, name: &str, does: Disk) -> Result<(), FileError> {
        match disk_fault(does) {
            Some(errno) => Err(self.error(op, name, Errno::from_raw(errno))),
            None => Ok(()),
        }
    }

    fn error(&self, op: &'static str, name: &str, errno: Errno) -> FileError {
        error(op, &self.join(name), errno)
    }

    fn refuse_if_open(&self) -> Result<(), FileError> {
        let stat = fstat(&self.fd).map_err(|e| error("look at", &self.path, e))?;
        let (path, mode, me) = (self.path.display(), stat.st_mode & 0o7777, geteuid());
        if stat.st_uid != me.as_raw() {
            let why = format!(
                "belongs to uid {}, not to uid {me} that this runs as; \
                 next: run as its owner, or chown {me} {path}",
                stat.st_uid
            );
            return Err(FileError::refused("use", self.path.clone(), why));
        }
        if mode & 0o077 != 0 {
            let why = format!("mode {mode:04o} lets group or others in; next: chmod 700 {path}");
            return Err(FileError::refused("use", self.path.clone(), why));
        }
        Ok(())
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Identity of an open file.
///
/// # Errors
/// Those of `fstat(2)`.
pub fn file_id(file: impl AsFd) -> io::Result<FileId> {
    Ok(id_of(&fstat(file)?))
}

pub(crate) fn id_of(stat: &FileStat) -> FileId {
    FileId { dev: stat.st_dev, ino: stat.st_ino }
}

fn is(stat: &FileStat, kind: SFlag) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == kind.bits()
}

fn error(op: &'static str, path: &Path, errno: Errno) -> FileError {
    FileError { op, path: path.to_owned(), source: errno.into() }
}

/// A name must stay in the directory: one component.
fn component<'a>(dir: &Dir, name: &'a str) -> Result<&'a str, FileError> {
    if name.is_empty() || name == "." || name == ".." || name.contains('/') {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "not the name of a file in this directory");
        return Err(FileError { op: "use", path: dir.join(name), source });
    }
    Ok(name)
}

/// Who may write to a parent may put another directory in the place of ours, unless the parent is sticky.
fn refuse_open_parents(path: &Path) -> Result<(), FileError> {
    for parent in path.ancestors().skip(1) {
        let stat = nix::sys::stat::stat(parent).map_err(|e| error("look at", parent, e))?;
        let mode = stat.st_mode & 0o7777;
        if mode & 0o022 != 0 && mode & Mode::S_ISVTX.bits() == 0 {
            let why = format!(
                "{} has mode {mode:04o}: group or others may replace what is in it; \
                 next: chmod go-w {0}, or use another place",
                parent.display()
            );
            return Err(FileError::refused("use", path.to_owned(), why));
        }
    }
    Ok(())
}

/// Whether a process writes no more: it is gone, or has ended and nobody waited for it yet.
fn is_over(pid: i32) -> bool {
    if nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None) == Err(Errno::ESRCH) {
        return true;
    }
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']))
}

#[cfg(test)]
mod tests;
