//! One cgroup v2 directory (Documentation/admin-guide/cgroup-v2.rst).

use super::spare;
use super::tree::unless_short;
use crate::reaper;
use crate::sys;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use std::collections::HashSet;
use std::fs::File;
#[cfg(feature = "stats")]
use std::io::Read;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// How often the members are read again for ones that were born meanwhile.
const PASSES: usize = 64;

/// So many members are held at once: whoever has few descriptors left can signal many.
const BATCH: usize = 32;

/// How often a group's directory is tried again because the one above was removed under it.
const CREATION_TRIES: usize = 100;

/// A cgroup by its descriptor. The path is for people, and for the removal.
#[derive(Debug)]
pub(crate) struct Cgroup {
    directory: OwnedFd,
    path: PathBuf,
}

/// A file of a cgroup that is not there any more: nothing lives in it.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

impl Cgroup {
    /// Make a directory that does not exist yet, and its parent where that is missing. Others may remove the parent as long
    /// as it is empty, and make it again.
    pub(crate) fn create(path: PathBuf) -> io::Result<Self> {
        spare::keep();
        let mut tries = 0;
        while let Err(error) = std::fs::create_dir(&path) {
            tries += 1;
            let Some(parent) = path.parent().filter(|_| is_gone(&error) && tries < CREATION_TRIES) else {
                return Err(error);
            };
            match std::fs::create_dir(parent) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        match open_directory(&path) {
            Ok(directory) => Ok(Cgroup { directory, path }),
            Err(error) => {
                let _ = std::fs::remove_dir(&path); // the open failed; that is the error to report
                Err(error)
            }
        }
    }

    /// Open one that exists.
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        Self::check(Cgroup { directory: open_directory(&path)?, path })
    }

    /// Take over a directory somebody opened.
    pub(crate) fn from_fd(directory: OwnedFd) -> io::Result<Self> {
        let path = std::fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd()))?;
        Self::check(Cgroup { directory, path })
    }

    fn check(self) -> io::Result<Self> {
        if !sys::is_cgroup2(self.directory.as_fd())? {
            let message = format!("{} is not a cgroup v2 directory", self.path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        // The root has none, and must never be killed.
        self.file("cgroup.events", OFlag::O_RDONLY)?;
        Ok(self)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    fn file(&self, name: &str, flags: OFlag) -> io::Result<OwnedFd> {
        Ok(openat(&self.directory, name, flags | OFlag::O_CLOEXEC, Mode::empty())?)
    }

    /// One of its files, as text.
    #[cfg(feature = "stats")]
    pub(crate) fn read(&self, name: &str) -> io::Result<String> {
        let mut text = String::new();
        File::from(self.file(name, OFlag::O_RDONLY)?).read_to_string(&mut text)?;
        Ok(text)
    }

    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        File::from(self.file(name, OFlag::O_WRONLY)?).write_all(text.as_bytes())
    }

    /// `cgroup.kill`, open for writing.
    pub(crate) fn kill_file(&self) -> io::Result<OwnedFd> {
        self.file("cgroup.kill", OFlag::O_WRONLY)
    }

    /// `cgroup.events`, open for reading: an open file of its own, so that its pollers do not take events from others.
    pub(crate) fn events_file(&self) -> io::Result<OwnedFd> {
        self.file("cgroup.events", OFlag::O_RDONLY)
    }

    /// SIGKILL for everything in here, forks in flight included.
    pub(crate) fn kill(&self) -> io::Result<()> {
        match self.write("cgroup.kill", "1") {
            Err(error) if is_gone(&error) => Ok(()),
            // Out of descriptors is no reason to let it live.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                spare::given_up(|| self.write("cgroup.kill", "1"))
                    .or_else(|_| self.signal(libc::SIGKILL))
                    .map_err(|_| error)
            }
            other => other,
        }
    }

    /// Stop or go on, the whole tree at once.
    pub(crate) fn freeze(&self, on: bool) -> io::Result<()> {
        match self.write("cgroup.freeze", if on { "1" } else { "0" }) {
            Err(error) if is_gone(&error) => Ok(()),
            other => other,
        }
    }

    /// Whether it was told to stop, though its members may not all stand still yet.
    pub(crate) fn is_freezing(&self) -> io::Result<bool> {
        let mut text = [0u8; 1];
        let length = nix::unistd::read(self.file("cgroup.freeze", OFlag::O_RDONLY)?, &mut text)?;
        Ok(length == 1 && text == *b"1")
    }

    /// Whether anything lives in here or below. Zombies do not.
    pub(crate) fn is_populated(&self) -> io::Result<bool> {
        match self.events_file() {
            Ok(events) => is_populated(events.as_fd()),
            Err(error) if is_gone(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The pids in here and below.
    pub(crate) fn members(&self) -> io::Result<Vec<u32>> {
        let mut pids = Vec::new();
        for directory in self.directories()? {
            match std::fs::read_to_string(directory.join("cgroup.procs")) {
                // 0 stands for a process outside of our pid namespace
                Ok(text) => pids
                    .extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|pid| *pid != 0)),
                Err(error) if is_gone(&error) || error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                Err(error) => return Err(error),
            }
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// A signal for every member. One that is born while this runs gets it too, or its parent got it before. One that may not
    /// be signalled spares no other; the first such error is told in the end.
    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        let (mut done, mut told) = (HashSet::new(), Ok(()));
        for _ in 0..PASSES {
            let fresh: Vec<u32> = self.members()?.into_iter().filter(|pid| !done.contains(pid)).collect();
            if fresh.is_empty() {
                break;
            }
            for batch in fresh.chunks(BATCH) {
                let open =
                    |pid: &u32| Some(unless_short(sys::pidfd_open(*pid)).transpose()?.map(|fd| (*pid, fd)));
                let opened = batch.iter().filter_map(open).collect::<io::Result<Vec<_>>>()?;
                // Still listed after it was opened: the descriptor is the member, not somebody who got its number.
                let members: HashSet<u32> = self.members()?.into_iter().collect();
                for (pid, pidfd) in opened.into_iter().filter(|(pid, _)| members.contains(pid)) {
                    done.insert(pid);
                    match sys::pidfd_send_signal(pidfd.as_fd(), signal) {
                        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                            told = told.and(Err(error))
                        }
                        _ => {}
                    }
                }
            }
        }
        told
    }

    /// Take a process in, with all its threads.
    #[cfg(feature = "process-control")]
    pub(crate) fn admit(&self, pid: u32) -> io::Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Let a process out, into the cgroup that holds all groups' directory.
    pub(crate) fn expel(&self, pid: u32, to: &Path) -> io::Result<()> {
        File::options().write(true).open(to.join("cgroup.procs"))?.write_all(pid.to_string().as_bytes())
    }

    /// Mark the directory as one that must survive its owner. The sticky bit means nothing else to a cgroup, and needs no
    /// more than to own the directory.
    pub(crate) fn keep(&self, keep: bool) -> io::Result<()> {
        let directory = File::from(self.directory.try_clone()?);
        let mode = directory.metadata()?.mode();
        let mode = if keep { mode | STICKY } else { mode & !STICKY };
        directory.set_permissions(std::fs::Permissions::from_mode(mode & 0o7777))
    }

    /// Whether [`Cgroup::keep`] was called.
    pub(crate) fn is_kept(&self) -> io::Result<bool> {
        Ok(File::from(self.directory.try_clone()?).metadata()?.mode() & STICKY != 0)
    }

    /// Remove the directory if that is all that is left; whether it is gone.
    pub(crate) fn remove_empty(&self) -> bool {
        match std::fs::remove_dir(&self.path) {
            Ok(()) => {
                reaper::tidy_later();
                true
            }
            Err(error) => is_gone(&error),
        }
    }

    /// Remove the directory and those its processes made below. `Ok(false)` if something lives in it (again).
    pub(crate) fn try_remove(&self) -> io::Result<bool> {
        let mut below = self.directories()?;
        if below.is_empty() {
            return Ok(true); // gone already
        }
        below.remove(0);
        for directory in below.iter().rev() {
            match std::fs::remove_dir(directory) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => return Ok(false),
                Err(error) if !is_gone(&error) => return Err(error),
                _ => {}
            }
        }
        // The name may have gone to somebody else meanwhile.
        let ours = std::fs::metadata(format!("/proc/self/fd/{}", self.directory.as_raw_fd()));
        match (ours, std::fs::metadata(&self.path)) {
            (Ok(ours), Ok(there)) if (ours.dev(), ours.ino()) == (there.dev(), there.ino()) => {}
            _ => return Ok(true),
        }
        match std::fs::remove_dir(&self.path) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => return Ok(false),
            Err(error) if !is_gone(&error) => return Err(error),
            _ => {}
        }
        reaper::tidy_later();
        Ok(true)
    }

    /// This directory and all below, parents first. Empty if it was removed.
    fn directories(&self) -> io::Result<Vec<PathBuf>> {
        let mut found = vec![PathBuf::from(format!("/proc/self/fd/{}/.", self.directory.as_raw_fd()))];
        let mut next = 0;
        while let Some(directory) = found.get(next) {
            match std::fs::read_dir(directory) {
                Ok(entries) => {
                    let below: Vec<PathBuf> = entries
                        .filter_map(Result::ok) // removed while it is read
                        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                        .map(|entry| entry.path())
                        .collect();
                    found.extend(below);
                    next += 1;
                }
                Err(error) if is_gone(&error) => {
                    found.remove(next);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

const STICKY: u32 = 0o1000;

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let mut options = File::options();
    Ok(options.read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(path)?.into())
}

/// Whether an open `cgroup.events` says that something lives. Reading also arms the next poll of that open file.
pub(crate) fn is_populated(events: BorrowedFd<'_>) -> io::Result<bool> {
    let mut text = [0u8; 256];
    let length = match nix::sys::uio::pread(events, &mut text, 0) {
        Ok(length) => length,
        Err(nix::Error::ENODEV | nix::Error::ENOENT) => return Ok(false), // removed meanwhile, so empty before
        Err(error) => return Err(error.into()),
    };
    let text = std::str::from_utf8(&text[..length]).unwrap_or_default();
    match text.lines().find_map(|line| line.strip_prefix("populated ")) {
        Some(value) => Ok(value.trim() != "0"),
        None => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a cgroup.events file")),
    }
}
