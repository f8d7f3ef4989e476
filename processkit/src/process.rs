//! One process: a child of ours, or taken over by its pidfd.

use crate::error::Result;
use crate::exit::{Exit, Usage};
use crate::identity::{ProcessIdentity, Stat, boot_id};
use crate::signal::Signal;
use crate::sys::{self, Waited};
use crate::watch;
use nix::sys::resource::{UsageWho, getrusage};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Instant, SystemTime};

/// A pidfd for a process that exists now.
///
/// Compare [`identity_of`](crate::identity_of) *after* the open with a recorded identity to know that the pid was not reused.
///
/// # Errors
/// `ESRCH` if there is no such process.
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    sys::pidfd_open(pid)
}

/// A child of this process, shared by its handle, its group and the reaper. Its pid stays its own until it is reaped.
#[derive(Debug)]
pub(crate) struct Child {
    pidfd: OwnedFd,
    pid: u32,
    /// In clock ticks, once somebody asked.
    start: OnceLock<u64>,
    born: Born,
    end: Mutex<Option<End>>,
    /// The most this process had had resident at the spawn.
    inherited_rss_bytes: u64,
    /// A script executed through our descriptor: its interpreter opens it some time after exec.
    _script: Option<Arc<OwnedFd>>,
}

/// When a child was spawned, by both clocks: taken before, since it may be at its end when the spawn returns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Born {
    pub(crate) at: Instant,
    pub(crate) time: SystemTime,
}

/// What is left of a child: known once, for good.
#[derive(Clone, Copy, Debug)]
struct End {
    exit: Exit,
    /// `None` if somebody else reaped it.
    usage: Option<Usage>,
}

impl Child {
    /// Right after the spawn, so that what was resident then is still known.
    pub(crate) fn new(pidfd: OwnedFd, pid: u32, born: Born, script: Option<Arc<OwnedFd>>) -> Self {
        let (start, end) = (OnceLock::new(), Mutex::new(None));
        Child { pidfd, pid, start, born, end, inherited_rss_bytes: own_peak(), _script: script }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// When it was started, by the clock of `/proc`: for who asks before it is reaped, then and from then on; 0 later.
    pub(crate) fn start_ticks(&self) -> u64 {
        *self.start.get_or_init(|| {
            let read = Stat::read(self.pid).map_or(0, |stat| stat.start);
            // Not reaped after the read: the entry was its own, also if it has ended.
            let gone = sys::pidfd_send_signal(self.pidfd(), 0)
                .is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH));
            if gone { 0 } else { read }
        })
    }

    pub(crate) fn identity(&self) -> ProcessIdentity {
        let boot_id = boot_id().unwrap_or_default().to_owned();
        ProcessIdentity { pid: self.pid, start_time_ticks: self.start_ticks(), boot_id }
    }

    pub(crate) fn born(&self) -> Born {
        self.born
    }

    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    pub(crate) fn is_reaped(&self) -> bool {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Do something by its pid, which is its own until then; whoever would reap it waits.
    pub(crate) fn unless_reaped<T>(&self, act: impl FnOnce(u32) -> T) -> Option<T> {
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        end.is_none().then(|| act(self.pid))
    }

    /// What it used, once it is reaped.
    pub(crate) fn usage(&self) -> Option<Usage> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).and_then(|end| end.usage)
    }

    /// Reap it if it has ended. The status is kept: whoever asks later gets the same.
    pub(crate) fn try_reap(&self) -> io::Result<Option<Exit>> {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        if end.is_none() {
            *end = match sys::wait_pidfd(self.pidfd(), false)? {
                Waited::Running => None,
                Waited::Reaped(exit, usage) => {
                    Some(End { exit, usage: Some(usage.above(self.inherited_rss_bytes)) })
                }
                // SIGCHLD is ignored, or somebody waits for any child.
                Waited::NotOurs => {
                    let exit = sys::pidfd_exit_status(self.pidfd()).unwrap_or(Exit::UNKNOWN);
                    Some(End { exit, usage: None })
                }
            };
            if let Some(End { exit, .. }) = *end {
                event!(debug, pid = self.pid(), exit = exit, "process ended");
            }
        }
        Ok(end.map(|end| end.exit))
    }
}

/// The most that a living process had resident at once.
pub(crate) fn peak_of(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// [`peak_of`] this process, mostly for less: getrusage(2) counts as ours what our own parent had resident at our exec, but
/// what it tells beyond that is ours.
fn own_peak() -> u64 {
    static FOREIGN: OnceLock<u64> = OnceLock::new();
    let told = getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| usage.max_rss().unsigned_abs() * 1024);
    let peak = || peak_of(std::process::id()).unwrap_or(told);
    let foreign = FOREIGN.get_or_init(|| if peak() < told { told } else { 0 });
    if told > *foreign { told } else { peak() }
}

/// A signal through a pidfd; one that is gone needs none.
pub(crate) fn send(pidfd: BorrowedFd<'_>, signal: Signal) -> Result<()> {
    match sys::pidfd_send_signal(pidfd, signal.as_raw()) {
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => Err(error.into()),
        _ => Ok(()),
    }
}

/// A process that somebody else started, held by its pidfd: for a supervisor that was restarted and takes over.
///
/// Dropping it does nothing to the process.
#[derive(Debug)]
pub struct Adopted {
    pidfd: OwnedFd,
    pid: u32,
}

impl Adopted {
    /// Take a process over.
    ///
    /// # Errors
    /// `InvalidInput` if the descriptor is no pidfd, or of a process outside of our pid namespace; `NotFound` if it is
    /// gone and reaped.
    pub fn from_pidfd(pidfd: OwnedFd) -> Result<Self> {
        let pid = pid_of(pidfd.as_fd())?;
        Ok(Adopted { pidfd, pid })
    }

    /// The pid it has, or had: once it is gone the number may be somebody else's.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The pidfd.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Send a signal. One that has ended already is a success.
    ///
    /// # Errors
    /// `EPERM` for a process that is not ours to signal.
    #[cfg(feature = "process-control")]
    pub fn signal(&self, signal: Signal) -> Result<()> {
        send(self.pidfd(), signal)
    }

    /// Wait until it has ended, reaped or not. Cancel safe.
    ///
    /// # Errors
    /// If the runtime cannot watch the pidfd.
    pub async fn gone(&self) -> Result<()> {
        // A descriptor of its own: the runtime watches each only once, and several may wait.
        let pidfd = self.pidfd.try_clone().map_err(crate::Error::Io)?;
        Ok(watch::ended(pidfd.as_fd()).await?)
    }

    /// Wait until it has ended, and say how, as far as the kernel tells: for our children always, for others from
    /// Linux 6.15 on (and before, while it is a zombie whose `/proc` entry we may read). [`Exit::UNKNOWN`] otherwise.
    ///
    /// Cancel safe. A child of ours is reaped by this.
    ///
    /// # Errors
    /// If the runtime cannot watch the pidfd.
    pub async fn exit(&self) -> Result<Exit> {
        self.gone().await?;
        // anything else: it is no child of ours, and what others can see has to do
        if let Ok(Waited::Reaped(exit, _)) = sys::wait_pidfd(self.pidfd(), false) {
            return Ok(exit);
        }
        // Reaped: the pidfd remembers. Not yet: it is a zombie, and its status stands in /proc. Reaped in between: the
        // pidfd remembers.
        let zombie = || {
            let stat = Stat::read(self.pid).ok().filter(Stat::is_zombie)?;
            let still_it = pid_of(self.pidfd()).is_ok_and(|pid| pid == self.pid);
            still_it.then(|| Exit::from_status(stat.status))
        };
        let told = sys::pidfd_exit_status(self.pidfd()).or_else(zombie);
        Ok(told.or_else(|| sys::pidfd_exit_status(self.pidfd())).unwrap_or(Exit::UNKNOWN))
    }
}

/// The pid behind a pidfd (proc_pid_fdinfo(5)).
fn pid_of(pidfd: BorrowedFd<'_>) -> io::Result<u32> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid: i64 = info
        .lines()
        .find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a pidfd"))?;
    match pid {
        -1 => Err(io::Error::new(io::ErrorKind::NotFound, "the process is gone")),
        pid => u32::try_from(pid).ok().filter(|pid| *pid != 0).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "a process outside of our pid namespace")
        }),
    }
}
