//! One cgroup v2 directory (Documentation/admin-guide/cgroup-v2.rst).

use super::spare;
use super::tree::unless_short;
use crate::owner::is_unnamed;
use crate::reaper;
use crate::sys;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
#[cfg(feature = "stats")]
use std::io::Read;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// How often the members are read again for ones that were born meanwhile.
const PASSES: usize = 64;

/// So many members are held at once: whoever has few descriptors left can signal many.
const BATCH: usize = 32;

/// How often a group's directory is tried again because the one above was removed under it.
const CREATION_TRIES: usize = 100;

/// How often an empty directory that is busy is tried again before it is left to the next sweep.
const REMOVAL_TRIES: usize = 100;

/// A cgroup by a descriptor. The path is for people, and for the removal of one that others may name.
#[derive(Debug)]
pub(crate) struct Cgroup {
    /// Its directory; that of all groups for an unnamed one, so that a private group costs its child no descriptor.
    anchor: Arc<OwnedFd>,
    /// Where it lies from there: nowhere else, or the name of an unnamed one. That name is enough: it holds boot, pid
    /// namespace, pid, start time and a number given once, so nobody makes it again after somebody removed the directory,
    /// and the directory above is not replaced as long as this one is in it.
    inside: PathBuf,
    path: PathBuf,
}

/// A file of a cgroup that is not there any more: nothing lives in it.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

/// What to say of a group that was to take somebody in.
pub(crate) fn say_gone(error: io::Error) -> io::Error {
    if is_gone(&error) { io::Error::new(error.kind(), "the group's cgroup was removed") } else { error }
}

/// The directories of groups that were opened so far.
static BASES: Mutex<BTreeMap<PathBuf, Arc<OwnedFd>>> = Mutex::new(BTreeMap::new());

/// The directory of groups, from before or opened now.
fn open_base(base: &Path) -> io::Result<Arc<OwnedFd>> {
    let mut bases = BASES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = bases.get(base) {
        return Ok(Arc::clone(known));
    }
    let opened = Arc::new(open_directory(base)?);
    bases.insert(base.to_owned(), Arc::clone(&opened));
    Ok(opened)
}

impl Cgroup {
    /// Make a directory that does not exist yet, and its parent where that is missing. Others may remove the parent as long
    /// as it is empty, and make it again.
    pub(crate) fn create(path: PathBuf) -> io::Result<Self> {
        spare::keep();
        let (Some(base), Some(name)) = (path.parent(), path.file_name().map(Path::new)) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let make = || {
            let anchor = open_base(base)?;
            mkdirat(&*anchor, name, Mode::from_bits_truncate(0o777))?;
            Ok::<_, io::Error>(anchor)
        };
        let mut tries = 0;
        let anchor = loop {
            match make() {
                Err(error) if is_gone(&error) && tries < CREATION_TRIES => tries += 1,
                other => break other?,
            }
            BASES.lock().unwrap_or_else(PoisonError::into_inner).remove(base); // perhaps of one that was removed
            match std::fs::create_dir(base) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        };
        if is_unnamed(name) {
            return Ok(Cgroup { anchor, inside: name.to_owned(), path });
        }
        match open_directory(&path) {
            Ok(directory) => Ok(Self::over(directory, path)),
            Err(error) => {
                let _ = std::fs::remove_dir(&path); // the open failed; that is the error to report
                Err(error)
            }
        }
    }

    fn over(directory: OwnedFd, path: PathBuf) -> Self {
        Cgroup { anchor: Arc::new(directory), inside: PathBuf::new(), path }
    }

    /// Open one that exists.
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        Self::over(open_directory(&path)?, path).check()
    }

    /// Take over a directory somebody opened.
    pub(crate) fn from_fd(directory: OwnedFd) -> io::Result<Self> {
        let path = std::fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd()))?;
        Self::over(directory, path).check()
    }

    fn check(self) -> io::Result<Self> {
        if !sys::is_cgroup2(self.anchor.as_fd())? {
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

    /// The directory, open: for a moment if it is an unnamed one.
    pub(crate) fn directory(&self) -> io::Result<Arc<OwnedFd>> {
        if self.is_own() {
            return Ok(Arc::clone(&self.anchor));
        }
        Ok(Arc::new(self.file("", OFlag::O_RDONLY | OFlag::O_DIRECTORY)?))
    }

    /// Whether the descriptor is the directory itself.
    fn is_own(&self) -> bool {
        self.inside.as_os_str().is_empty()
    }

    fn file(&self, name: &str, flags: OFlag) -> io::Result<OwnedFd> {
        Ok(openat(&*self.anchor, &self.inside.join(name), flags | OFlag::O_CLOEXEC, Mode::empty())?)
    }

    /// The directory as `/proc` names it.
    fn shown(&self) -> PathBuf {
        Path::new("/proc/self/fd").join(self.anchor.as_raw_fd().to_string()).join(&self.inside)
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

    /// [`events_file`](Cgroup::events_file); `None` if the directory was removed.
    pub(crate) fn events(&self) -> io::Result<Option<OwnedFd>> {
        match self.events_file() {
            Err(error) if is_gone(&error) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Whether anything lives in here or below. Zombies do not.
    pub(crate) fn is_populated(&self) -> io::Result<bool> {
        self.events()?.map_or(Ok(false), |events| is_populated(events.as_fd()))
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
        let directory = File::from(self.directory()?.try_clone()?);
        let mode = directory.metadata()?.mode();
        let mode = if keep { mode | STICKY } else { mode & !STICKY };
        directory.set_permissions(std::fs::Permissions::from_mode(mode & 0o7777))
    }

    /// Whether [`Cgroup::keep`] was called.
    pub(crate) fn is_kept(&self) -> io::Result<bool> {
        Ok(std::fs::metadata(self.shown())?.mode() & STICKY != 0)
    }

    /// Remove the directory of an unnamed group if that is all that is left; whether it is gone.
    pub(crate) fn remove_empty(&self) -> bool {
        self.remove_directory().is_ok()
    }

    fn remove_directory(&self) -> io::Result<()> {
        let removed = if self.is_own() {
            // The name may have gone to somebody else meanwhile.
            match (std::fs::metadata(self.shown()), std::fs::metadata(&self.path)) {
                (Ok(ours), Ok(there)) if (ours.dev(), ours.ino()) == (there.dev(), there.ino()) => {
                    std::fs::remove_dir(&self.path)
                }
                _ => return Ok(()),
            }
        } else {
            unlinkat(&*self.anchor, &self.inside, UnlinkatFlags::RemoveDir).map_err(io::Error::from)
        };
        match removed {
            Err(error) if is_gone(&error) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => {
                reaper::tidy_later();
                Ok(())
            }
        }
    }

    /// Kill what lives in it, and remove it once nothing does. `Ok(false)`: not yet, its open `events` will tell.
    pub(crate) fn clear_away(&self, events: BorrowedFd<'_>) -> io::Result<bool> {
        for _ in 0..REMOVAL_TRIES {
            if is_populated(events)? {
                self.kill()?; // somebody else put a process in, or it has not ended yet
                return Ok(false);
            }
            if self.try_remove()? {
                event!(debug, path = self.path.display(), "group removed");
                return Ok(true);
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// Remove the directory and those its processes made below. `Ok(false)` if something lives in it (again).
    pub(crate) fn try_remove(&self) -> io::Result<bool> {
        for directory in self.directories()?.iter().skip(1).rev() {
            match std::fs::remove_dir(directory) {
                Err(error) if is_busy(&error) => return Ok(false),
                Err(error) if !is_gone(&error) => return Err(error),
                _ => {}
            }
        }
        match self.remove_directory() {
            Err(error) if is_busy(&error) => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// This directory and all below, parents first. Empty if it was removed.
    fn directories(&self) -> io::Result<Vec<PathBuf>> {
        let mut found = vec![self.shown().join(".")];
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

fn is_busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBUSY)
}

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
