//! What is checked before the incumbent hears of an upgrade: each failure names the thing and the next step.
//!
//! Here is the program; the place is in `place`, and what two Hellos must have in common is the machine's business.

use crate::claim::BuildDigest;
use crate::os::builds::Builds;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::unistd::{AccessFlags, access};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A program that was opened and checked; what is executed is this very file.
#[derive(Clone, Debug)]
pub(super) struct Executable {
    /// Where it was found.
    pub(super) path: PathBuf,
    /// The open file.
    pub(super) file: Arc<OwnedFd>,
    /// Which file, and which content as far as size and time tell.
    pub(super) stamp: Stamp,
    /// Its content, where somebody has read it.
    pub(super) digest: BuildDigest,
    /// The copy that is kept, which nobody writes to.
    pub(super) copy: Option<Arc<OwnedFd>>,
}

/// Identity of a file and of its content, as far as the inode tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) dev: u64,
    pub(super) ino: u64,
    pub(super) size: u64,
    pub(super) mtime_ns: i128,
}

impl Stamp {
    pub(super) fn of(stat: &FileStat) -> Self {
        Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            mtime_ns: i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec),
        }
    }
}

impl Executable {
    /// Opens and checks a program.
    ///
    /// # Errors
    /// What is wrong with it and what to do.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        // NONBLOCK: a fifo of that name must not hold the supervisor
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
        let file = open(path, flags, Mode::empty()).map_err(|e| match e {
            nix::Error::ENOENT => format!("{shown}: no such program: check the path"),
            e => format!("{shown}: {}: the supervisor must be able to read the program", e.desc()),
        })?;
        let stat = fstat(&file).map_err(|e| format!("{shown}: {}", e.desc()))?;
        let mode = Mode::from_bits_truncate(stat.st_mode);
        if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
            return Err(format!("{shown}: not a regular file: give the program itself"));
        }
        // by the open file, not by the name: what was checked is what is executed
        let by_fd = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)));
        if !mode.intersects(Mode::S_IXUSR | Mode::S_IXGRP | Mode::S_IXOTH)
            || access(&by_fd, AccessFlags::X_OK).is_err()
        {
            return Err(format!("{shown}: not executable: chmod +x it"));
        }
        if mode.intersects(Mode::S_IWGRP | Mode::S_IWOTH) {
            return Err(format!("{shown}: writable by group or others: chmod go-w it"));
        }
        if stat.st_size == 0 {
            return Err(format!("{shown}: the file is empty: was it copied whole?"));
        }
        let (path, file, stamp) = (path.to_owned(), Arc::new(file), Stamp::of(&stat));
        Ok(Self { path, file, stamp, digest: BuildDigest::UNKNOWN, copy: None })
    }

    /// Keeps it among the builds. Reads the whole file.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn keep(&mut self, builds: &Builds) -> Result<(), String> {
        let kept = builds.keep(&self.file).map_err(|e| format!("{}: {e}", self.path.display()))?;
        if let Some(why) = kept.trouble {
            tracing::warn!(program = %self.path.display(), why, "the build is not kept");
        }
        self.digest = kept.digest;
        self.copy = kept.copy.map(Arc::new);
        Ok(())
    }

    /// The same content, whatever happened to the file meanwhile: the file itself where it is as it was (libraries
    /// may lie beside it), else the copy. `None` when it was written in place and no copy is kept.
    pub(super) fn unchanged(&self) -> Option<Self> {
        let stat = fstat(&self.file).ok()?;
        if Stamp::of(&stat) == self.stamp && stat.st_nlink > 0 {
            return Some(self.clone());
        }
        match &self.copy {
            Some(copy) => Some(Self { file: Arc::clone(copy), ..self.clone() }),
            None => (Stamp::of(&stat) == self.stamp).then(|| self.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn file(dir: &Path, name: &str, mode: u32, content: &[u8]) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, content).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("mode set");
        path
    }

    #[test]
    fn a_bad_program_is_named_with_the_next_step() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let at = dir.path();
        let fifo = at.join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).expect("a fifo");
        let table = [
            (at.join("missing"), "no such program"),
            (at.to_owned(), "not a regular file"),
            (fifo, "not a regular file"),
            (PathBuf::from("/dev/null"), "not a regular file"),
            (file(at, "plain", 0o644, b"x"), "chmod +x"),
            (file(at, "open", 0o777, b"x"), "chmod go-w"),
            (file(at, "group", 0o775, b"x"), "chmod go-w"),
            (file(at, "empty", 0o755, b""), "empty"),
        ];
        for (path, expected) in table {
            let why = Executable::open(&path).expect_err(expected);
            assert!(why.contains(expected), "{why}");
            assert!(why.contains(&path.display().to_string()), "{why}");
        }
    }

    #[test]
    fn a_changed_program_has_another_stamp() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = file(dir.path(), "prog", 0o755, b"\x7fELF");
        let before = Executable::open(&path).expect("a program").stamp;
        assert_eq!(Executable::open(&path).expect("a program").stamp, before);
        std::fs::write(&path, b"\x7fELF2").expect("written");
        assert_ne!(Executable::open(&path).expect("a program").stamp, before);
    }
}
