//! A container of processes, and what its owner intends with it.

use crate::command::Command;
use crate::containment::{Cgroup, Containment, Tree, base};
use crate::error::{Error, Result};
use crate::ladder::{Event, Ladder, Order};
use crate::launch::{Birthplace, launch};
use crate::mechanism::{Mechanism, MechanismReason};
use crate::options::ProcessGroupOptions;
use crate::owner::{Owner, sweep_once};
use crate::process::RunningProcess;
use crate::reaper;
use crate::signal::Signal;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::time::Instant;

/// How often an empty directory that is busy is tried again.
const REMOVAL_TRIES: usize = 100;

/// A container of processes: everything started in it, and everything that starts.
///
/// Dropping it kills the whole tree, unless it was [persisted](ProcessGroup::persist), [released](ProcessGroup::release) or
/// [reopened](ProcessGroup::reopen): one write, and a background thread empties and removes the rest (see
/// [`settled`](crate::settled)). [`shutdown`](ProcessGroup::shutdown) and [`remove`](ProcessGroup::remove) return only when
/// everything is gone.
///
/// Holds one descriptor, of the cgroup's directory.
#[derive(Debug)]
pub struct ProcessGroup {
    containment: Containment,
    reason: MechanismReason,
    options: ProcessGroupOptions,
    intent: Intent,
    /// Whether members may be frozen, so that a TERM would not be obeyed.
    suspended: AtomicBool,
}

/// What dropping the group means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Intent {
    Kill,
    Leave,
}

impl ProcessGroup {
    /// A private group with the strongest mechanism there is.
    ///
    /// # Errors
    /// If the kernel refuses; a missing cgroup is no error but [another mechanism](ProcessGroup::mechanism_reason).
    pub fn new() -> Result<Self> {
        Self::with_options(ProcessGroupOptions::default())
    }

    /// A private group with options. See [`ProcessGroup::new`].
    ///
    /// # Errors
    /// As for [`ProcessGroup::new`].
    pub fn with_options(options: ProcessGroupOptions) -> Result<Self> {
        if options.force_process_group {
            return Self::fallback(options, MechanismReason::Forced);
        }
        match base() {
            Ok(base) => {
                sweep_once();
                let cgroup = Cgroup::create(base.join(Owner::this_process()?.next_name()))?;
                Ok(Self::over(cgroup, options, Intent::Kill))
            }
            Err(reason) => Self::fallback(options, reason),
        }
    }

    /// A group that another process can [reopen](ProcessGroup::reopen) by its name once it is
    /// [persisted](ProcessGroup::persist). Until then dropping it kills.
    ///
    /// The directory is `<own cgroup>/processkit/<name>`: who reopens it must run in the same cgroup, or use
    /// [`ProcessGroup::reopen_by_path`].
    ///
    /// # Errors
    /// `InvalidInput` for a name other than 1 to 128 of `A-Z a-z 0-9 . _ -` with no dot in front; `AlreadyExists` if there
    /// is such a group; [`Error::Unsupported`] without cgroups, with the reason.
    pub fn named(name: &str, options: ProcessGroupOptions) -> Result<Self> {
        let path = named_path(name, options.force_process_group)?;
        sweep_once();
        Ok(Self::over(Cgroup::create(path)?, options, Intent::Kill))
    }

    /// Open a group that was persisted under this name. Dropping it leaves it as it is, until
    /// [`kill_on_drop`](ProcessGroup::kill_on_drop) is called.
    ///
    /// # Errors
    /// `NotFound` if there is none; otherwise as for [`ProcessGroup::named`].
    pub fn reopen(name: &str) -> Result<Self> {
        Self::reopen_by_path(named_path(name, false)?)
    }

    /// As [`ProcessGroup::reopen`], by [`location`](ProcessGroup::location).
    ///
    /// # Errors
    /// `NotFound` if there is none, `InvalidInput` if it is no cgroup v2 directory.
    pub fn reopen_by_path(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self::reopened(Cgroup::open(path.as_ref().to_owned())?))
    }

    /// As [`ProcessGroup::reopen`], by an open descriptor of the directory.
    ///
    /// # Errors
    /// `InvalidInput` if it is no cgroup v2 directory, `NotFound` if the directory was removed.
    pub fn reopen_by_fd(directory: OwnedFd) -> Result<Self> {
        Ok(Self::reopened(Cgroup::from_fd(directory)?))
    }

    fn reopened(cgroup: Cgroup) -> Self {
        let group = Self::over(cgroup, ProcessGroupOptions::default(), Intent::Leave);
        group.suspended.store(true, Ordering::Relaxed); // who knows
        group
    }

    fn over(cgroup: Cgroup, options: ProcessGroupOptions, intent: Intent) -> Self {
        tracing::debug!(path = %cgroup.path().display(), "group opened");
        ProcessGroup {
            containment: Containment::Cgroup(Arc::new(cgroup)),
            reason: MechanismReason::Strongest,
            options,
            intent,
            suspended: AtomicBool::new(false),
        }
    }

    fn fallback(options: ProcessGroupOptions, reason: MechanismReason) -> Result<Self> {
        tracing::debug!(%reason, "group without a cgroup");
        Ok(ProcessGroup {
            containment: Containment::Tree(Arc::new(Tree::new()?)),
            reason,
            options,
            intent: Intent::Kill,
            suspended: AtomicBool::new(false),
        })
    }

    /// From now on dropping this, or the end of this process, leaves the group alone.
    ///
    /// A group that must be found again by name, or while nothing runs in it, has to be [named](ProcessGroup::named): an
    /// unnamed one is removed by a later sweep once it is empty and its owner dead.
    pub fn persist(&mut self) {
        self.keep(true);
        self.intent = Intent::Leave;
    }

    /// From now on dropping this kills the tree: the opposite of [`persist`](ProcessGroup::persist).
    pub fn kill_on_drop(&mut self) {
        self.keep(false);
        self.intent = Intent::Kill;
    }

    /// Let go of the group without killing anything. Its directory stays while something runs in it.
    pub fn release(mut self) {
        self.persist();
    }

    /// Let one process (not what it has started) out of the group, into the cgroup of this process. It lives on when the
    /// group ends.
    ///
    /// # Errors
    /// [`Error::Unsupported`] without cgroups; `NotFound` if it has ended.
    pub fn release_process(&self, process: &RunningProcess) -> Result<()> {
        let (Containment::Cgroup(cgroup), Ok(Some(own))) = (&self.containment, base().map(Path::parent))
        else {
            return Err(self.unsupported("to release one process of a group"));
        };
        // Its number is its own until it is reaped, and only its handle does that.
        let pid = process.pid().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        cgroup.expel(pid, own).map_err(|error| match error.raw_os_error() {
            Some(libc::ESRCH) => io::Error::from(io::ErrorKind::NotFound).into(),
            _ => error.into(),
        })
    }

    fn keep(&self, keep: bool) {
        if let Containment::Cgroup(cgroup) = &self.containment
            && let Err(error) = cgroup.keep(keep)
        {
            tracing::warn!(%error, path = %cgroup.path().display(), "cannot mark the group");
        }
    }

    /// The cgroup's directory; `None` for [`Mechanism::ProcessGroup`].
    pub fn location(&self) -> Option<&Path> {
        match &self.containment {
            Containment::Cgroup(cgroup) => Some(cgroup.path()),
            Containment::Tree(_) => None,
        }
    }

    /// The mechanism in force.
    pub fn mechanism(&self) -> Mechanism {
        match &self.containment {
            Containment::Cgroup(_) => Mechanism::CgroupV2,
            Containment::Tree(_) => Mechanism::ProcessGroup,
        }
    }

    /// Why it is that mechanism.
    pub fn mechanism_reason(&self) -> &MechanismReason {
        &self.reason
    }

    /// Start a process in this group. It is a member before its first instruction; see [`Command`] for what it finds.
    ///
    /// Does not wait for anything but the exec (less than a millisecond): see [`ProcessGroup::start_blocking`].
    ///
    /// # Errors
    /// [`Error::Spawn`] with the program's name; nothing of the attempt is left then.
    pub async fn start(&self, command: &Command) -> Result<RunningProcess> {
        self.start_blocking(command)
    }

    /// [`ProcessGroup::start`] outside of async code. Needs no runtime.
    ///
    /// # Errors
    /// As for [`ProcessGroup::start`].
    pub fn start_blocking(&self, command: &Command) -> Result<RunningProcess> {
        let without_clone3 = self.options.without_clone3;
        let child = match &self.containment {
            Containment::Cgroup(cgroup) => {
                let place = Birthplace { cgroup: Some(cgroup.directory()), mark: None, without_clone3 };
                Arc::new(launch(command, place)?)
            }
            Containment::Tree(tree) => {
                let place = Birthplace { cgroup: None, mark: Some(tree.mark()), without_clone3 };
                let child = Arc::new(launch(command, place)?);
                tree.add(Arc::clone(&child));
                child
            }
        };
        Ok(RunningProcess::new(child))
    }

    /// Kill the whole tree. Returns when the signal is out: await [`wait_empty`](ProcessGroup::wait_empty) for the end. The
    /// group stays usable.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn kill(&self) -> Result<()> {
        Ok(self.containment.kill()?)
    }

    /// Ask every member to end (TERM). Idempotent; the group stays usable. A suspended group goes on, or it could not obey.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn terminate_all(&self) -> Result<()> {
        self.containment.signal(libc::SIGTERM)?;
        if self.suspended.load(Ordering::Relaxed) { self.resume() } else { Ok(()) }
    }

    /// Send every member a signal. An empty group is a success.
    ///
    /// # Errors
    /// If the kernel refuses one of them.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match signal {
            Signal::Kill => self.kill(),
            other => Ok(self.containment.signal(other.as_raw())?),
        }
    }

    /// Stop the whole tree: `cgroup.freeze`, or SIGSTOP for every member. With a cgroup the stop is complete when
    /// `cgroup.events` says `frozen 1`, shortly after this returns.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn suspend(&self) -> Result<()> {
        self.suspended.store(true, Ordering::Relaxed);
        match &self.containment {
            Containment::Cgroup(cgroup) => Ok(cgroup.freeze(true)?),
            Containment::Tree(tree) => Ok(tree.signal(libc::SIGSTOP)?),
        }
    }

    /// Let a suspended tree go on.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn resume(&self) -> Result<()> {
        match &self.containment {
            Containment::Cgroup(cgroup) => cgroup.freeze(false)?,
            Containment::Tree(tree) => tree.signal(libc::SIGCONT)?,
        }
        self.suspended.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// The pids of the living members, in order. A number may be somebody else's by the time it is looked at.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn members(&self) -> Result<Vec<u32>> {
        match &self.containment {
            Containment::Cgroup(cgroup) => Ok(cgroup.members()?),
            Containment::Tree(tree) => {
                let mut pids: Vec<u32> = tree.members()?.iter().map(|member| member.pid).collect();
                pids.sort_unstable();
                Ok(pids)
            }
        }
    }

    /// Whether nothing lives in the group.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn is_empty(&self) -> Result<bool> {
        match &self.containment {
            Containment::Cgroup(cgroup) => Ok(!cgroup.is_populated()?),
            Containment::Tree(tree) => Ok(tree.members()?.is_empty()),
        }
    }

    /// Wait until nothing lives in the group; a zombie does not. Driven by the kernel's event, without a clock.
    ///
    /// Cancel safe. A group that is empty now is a success at once.
    ///
    /// # Errors
    /// If the runtime cannot watch it.
    pub async fn wait_empty(&self) -> Result<()> {
        Ok(self.containment.emptied().await?)
    }

    /// TERM, the grace of the options, KILL; returns when nothing lives any more and the directory is removed. Processes
    /// that obey end the grace at once, whether or not somebody awaits them.
    ///
    /// Without escalation, what outlives the grace is spared and the group [released](ProcessGroup::release).
    ///
    /// Ends persisted and reopened groups as well. If the future is dropped early, what happens is what dropping the group
    /// does.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn shutdown(mut self) -> Result<()> {
        let mut ladder = Ladder::new(self.options.escalate_to_kill);
        let mut event = Event::Begin;
        let mut grace_over = Instant::now();
        loop {
            let orders;
            (ladder, orders) = ladder.step(event);
            for order in orders {
                match order {
                    Order::Terminate => self.terminate_all()?,
                    Order::ArmGrace => grace_over = Instant::now() + self.options.shutdown_timeout,
                    Order::Kill => {
                        tracing::debug!(group = ?self.location(), "grace is over, killing");
                        self.kill()?;
                    }
                }
            }
            event = match ladder {
                Ladder::Ground { .. } => Event::Begin,
                Ladder::Grace { .. } => match tokio::time::timeout_at(grace_over, self.wait_empty()).await {
                    Ok(result) => result.map(|()| Event::Empty)?,
                    Err(_) => Event::GraceOver,
                },
                Ladder::Killing => self.wait_empty().await.map(|()| Event::Empty)?,
                Ladder::Gone { .. } => return self.clear_away().await,
                Ladder::Spared => {
                    self.persist();
                    return Ok(());
                }
            };
        }
    }

    /// Kill at once; returns when nothing lives any more and the directory is removed. Otherwise as
    /// [`shutdown`](ProcessGroup::shutdown).
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn remove(mut self) -> Result<()> {
        self.kill()?;
        self.wait_empty().await?;
        self.clear_away().await
    }

    /// Remove the directory of an empty group.
    async fn clear_away(&mut self) -> Result<()> {
        if let Containment::Cgroup(cgroup) = &self.containment {
            let mut tries = 0;
            while !cgroup.try_remove()? {
                // Somebody else put a process in, or one of ours made a directory: whatever it is, it ends here.
                cgroup.kill()?;
                self.containment.emptied().await?;
                tries += 1;
                if tries == REMOVAL_TRIES {
                    return Err(io::Error::from(io::ErrorKind::ResourceBusy).into());
                }
            }
        }
        self.intent = Intent::Leave;
        tracing::debug!(group = ?self.location(), "group removed");
        Ok(())
    }

    /// `cgroup.kill`, open for writing: who holds it can end the group with [`kill_by_fd`](crate::kill_by_fd), under any uid.
    ///
    /// # Errors
    /// [`Error::Unsupported`] without a cgroup.
    pub fn kill_fd(&self) -> Result<OwnedFd> {
        match &self.containment {
            Containment::Cgroup(cgroup) => Ok(cgroup.kill_file()?),
            Containment::Tree(_) => Err(self.unsupported("a descriptor that kills the group")),
        }
    }

    /// `cgroup.events`, open for reading, for [`wait_empty_by_fd`](crate::wait_empty_by_fd). A new open file at every call.
    ///
    /// # Errors
    /// [`Error::Unsupported`] without a cgroup.
    pub fn events_fd(&self) -> Result<OwnedFd> {
        match &self.containment {
            Containment::Cgroup(cgroup) => Ok(cgroup.events_file()?),
            Containment::Tree(_) => Err(self.unsupported("a descriptor that tells when the group is empty")),
        }
    }

    fn unsupported(&self, what: &str) -> Error {
        Error::Unsupported { operation: format!("{what} ({})", self.reason) }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if self.intent == Intent::Kill {
            if let Err(error) = self.containment.kill() {
                tracing::warn!(%error, group = ?self.location(), "cannot kill a dropped group");
            }
            reaper::bury(self.containment.clone());
        }
    }
}

/// Where a named group lives.
fn named_path(name: &str, forced: bool) -> Result<PathBuf> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > 128 || name.starts_with('.') || !name.bytes().all(allowed) {
        let message = format!("not a name for a group: {name:?}");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message).into());
    }
    let unsupported =
        |reason: MechanismReason| Error::Unsupported { operation: format!("named groups ({reason})") };
    if forced {
        return Err(unsupported(MechanismReason::Forced));
    }
    Ok(base().map_err(unsupported)?.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_groups() {
        for name in ["", ".", "..", ".x", "a/b", "a b", "@x", "ü", &"x".repeat(129)] {
            let error = named_path(name, false).expect_err(name);
            assert!(
                matches!(&error, Error::Io(e) if e.kind() == io::ErrorKind::InvalidInput),
                "{name}: {error}"
            );
        }
    }
}
