//! What is checked before the incumbent hears of an upgrade: each failure names the thing and the next step.
//!
//! What two Hellos must have in common is the machine's business; here is what only the system knows.

use crate::claim::BuildDigest;
use crate::ids::InstanceId;
use crate::os::builds::Builds;
use crate::os::claims::Claims;
use crate::os::files::FileError;
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

/// The place where an upgrade will happen.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The directory of the claims.
    pub(super) claims: Claims,
    /// The service's data, if it has any.
    pub(super) data: Option<PathBuf>,
    /// The process that serves: its successor must be able to hold as many descriptors.
    pub(super) incumbent: Option<u32>,
    /// Who serves, as the supervisor knows.
    pub(super) serving: Option<InstanceId>,
}

/// Descriptors that a successor needs besides the incumbent's: its own files, sockets, epoll.
const SPARE_DESCRIPTORS: u64 = 64;

impl Place {
    /// Checks that claims can be made and that the data is where a handoff is possible.
    ///
    /// # Errors
    /// What is wrong and what to do.
    pub(super) fn check(&self) -> Result<(), String> {
        let claims = self.claims.dir().path().display();
        let said = |e: FileError| format!("{e}: the directory of the claims must be writable and have room");
        // put back when there is room again; without it a full disk could not be survived
        self.claims.ensure_reserve().map_err(said)?;
        self.claims.probe_link().map_err(said)?;
        let disk =
            nix::sys::statvfs::fstatvfs(self.claims.dir()).map_err(|e| format!("{claims}: {}", e.desc()))?;
        if disk.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY) {
            return Err(format!("{claims}: the file system is read-only: remount it"));
        }
        // file systems that make inodes as they need them say 0 of 0
        if disk.files() > 0 && disk.files_available() == 0 {
            return Err(format!("{claims}: no free inodes: remove files"));
        }
        if let Some(data) = &self.data {
            local(data)?;
        }
        self.unclaimed()?;
        self.incumbent.map_or(Ok(()), descriptors_fit)
    }
}

impl Place {
    /// Nobody but the server has claimed beyond it: a handoff would end with nobody who may serve.
    fn unclaimed(&self) -> Result<(), String> {
        let Some(serving) = self.serving else { return Ok(()) };
        let highest = self.claims.highest().map_err(|e| {
            format!(
                "{e}; the server goes on without it; next: restore it from a copy before the next upgrade"
            )
        })?;
        match highest {
            Some((epoch, claim)) if claim.instance != serving => Err(format!(
                "epoch {epoch} is claimed by instance {} (pid {}, {}), and not by the server, {serving}: somebody \
                 else started on this data, or files were put there; next: find out who, then stop the service and \
                 start it again, which claims the epoch after that",
                claim.instance,
                claim.pid,
                claim.executable_text()
            )),
            _ => Ok(()),
        }
    }
}

/// Locks and hard links must mean what they say.
fn local(dir: &Path) -> Result<(), String> {
    const NFS: i64 = 0x6969;
    const SMB: i64 = 0x517b;
    const CIFS: i64 = 0xff53_4d42;
    const SMB2: i64 = 0xfe53_4d42;
    let shown = dir.display();
    let found = nix::sys::statfs::statfs(dir).map_err(|e| format!("{shown}: {}", e.desc()))?;
    if [NFS, SMB, CIFS, SMB2].contains(&found.filesystem_type().0) {
        return Err(format!("{shown}: not a local file system: locks there do not fence, use a local one"));
    }
    Ok(())
}

fn descriptors_fit(incumbent: u32) -> Result<(), String> {
    // a process of another uid hides them: then it is not known, and not refused
    let Ok(open) = std::fs::read_dir(format!("/proc/{incumbent}/fd")) else { return Ok(()) };
    let open = open.count() as u64;
    let (limit, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
        .map_err(|e| format!("descriptor limit: {}", e.desc()))?;
    if open.saturating_add(SPARE_DESCRIPTORS) > limit {
        return Err(format!(
            "the incumbent has {open} descriptors open, a successor may have {limit}: raise the limit (ulimit -n) \
             of the supervisor"
        ));
    }
    Ok(())
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

    #[test]
    fn a_place_needs_its_claims_and_a_reserve() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let claims = Claims::open(dir.path()).expect("claims");
        let place = Place {
            claims,
            data: Some(dir.path().to_owned()),
            incumbent: Some(std::process::id()),
            serving: None,
        };
        assert_eq!(place.check(), Ok(()));
        let reserve = dir.path().join(Claims::IN_DATA).join("reserve");
        std::fs::remove_file(&reserve).expect("removed");
        assert_eq!(place.check(), Ok(()));
        assert!(reserve.exists(), "put back");
        std::fs::remove_dir_all(dir.path().join(Claims::IN_DATA)).expect("removed");
        assert!(place.check().expect_err("gone").contains("claims"));
    }
}
