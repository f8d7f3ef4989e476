//! What can be done to all members of a group at once, short of ending it.

use crate::containment::{Containment, say_gone};
use crate::error::Result;
use crate::group::ProcessGroup;
use crate::identity::Stat;
#[cfg(feature = "process-control")]
use crate::signal::Signal;
use std::io;
use std::sync::atomic::Ordering;

impl ProcessGroup {
    /// Take in a child that was started with tokio. Its handle stays its owner's: who awaits it gets the status.
    ///
    /// What it has started before stays where it is, so adopt right after the start. With
    /// [`Mechanism::ProcessGroup`](crate::Mechanism::ProcessGroup) it has no mark: what it starts from now on is found as
    /// long as it lives or was seen, and a [`Guardian`](crate::Guardian) does not find it.
    ///
    /// # Errors
    /// `NotFound` for one that has ended, reaped or not; otherwise what the kernel says (cgroups(7), "moving a process").
    pub fn adopt(&self, child: &tokio::process::Child) -> Result<()> {
        let ended = || io::Error::new(io::ErrorKind::NotFound, "the process to adopt has ended");
        // Its number is its own until it is reaped, and only its handle does that.
        let pid = child.id().ok_or_else(ended)?;
        let alive = || match Stat::read(pid) {
            Ok(stat) if stat.is_zombie() => Err(ended()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(ended()),
            other => other,
        };
        let stat = alive()?;
        match &self.containment {
            Containment::Cgroup(cgroup) => {
                cgroup.admit(pid).map_err(|error| match error.raw_os_error() {
                    Some(libc::ESRCH) => ended(),
                    _ => say_gone(error),
                })?;
                alive()?; // the kernel does not move one that is ending, and says nothing
            }
            Containment::Tree(tree) => tree.adopt(pid, stat.start),
        }
        Ok(())
    }

    /// Send every member a signal. An empty group is a success.
    ///
    /// # Errors
    /// If the kernel refuses one of them.
    #[cfg(feature = "process-control")]
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
        Ok(self.containment.freeze(true)?)
    }

    /// Let a suspended tree go on.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn resume(&self) -> Result<()> {
        self.go_on()
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
}
