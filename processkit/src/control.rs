//! What can be done to all members of a group at once, short of ending it.

use crate::containment::Containment;
use crate::error::Result;
use crate::group::ProcessGroup;
use crate::signal::Signal;
use std::sync::atomic::Ordering;

impl ProcessGroup {
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
}
