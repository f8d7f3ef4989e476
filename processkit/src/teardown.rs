//! The end of a group: asked for, forced, and waited for.

use crate::containment::Containment;
use crate::error::Result;
use crate::group::{Intent, ProcessGroup};
use crate::ladder::{Event, Ladder, Order};
use crate::watch;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use tokio::time::Instant;

impl ProcessGroup {
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
        let told = self.containment.signal(libc::SIGTERM);
        if self.suspended.load(Ordering::Relaxed) {
            self.go_on()?; // those that were told can obey, though another may not be signalled
        }
        Ok(told?)
    }

    pub(crate) fn go_on(&self) -> Result<()> {
        self.containment.freeze(false)?;
        self.suspended.store(false, Ordering::Relaxed);
        Ok(())
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
    /// If the kernel refuses. That somebody may not be asked to end is told when the rest is done: it is killed all the same.
    pub async fn shutdown(mut self) -> Result<()> {
        let mut ladder = Ladder::new(self.options.escalate_to_kill);
        let mut asked = Ok(());
        let mut event = Event::Begin;
        let mut grace_over = None;
        loop {
            let orders;
            (ladder, orders) = ladder.step(event);
            for order in orders {
                match order {
                    Order::Terminate => asked = self.terminate_all(),
                    Order::ArmGrace => {
                        // `None`: later than any clock can tell, so never
                        grace_over = Instant::now().checked_add(self.options.shutdown_timeout);
                    }
                    Order::Kill => {
                        event!(
                            debug,
                            group = format_args!("{:?}", self.location()),
                            "grace is over, killing"
                        );
                        self.kill()?;
                    }
                }
            }
            event = match ladder {
                Ladder::Ground { .. } => Event::Begin,
                Ladder::Grace { .. } => match grace_over {
                    None => self.wait_empty().await.map(|()| Event::Empty)?,
                    Some(end) => match tokio::time::timeout_at(end, self.wait_empty()).await {
                        Ok(result) => result.map(|()| Event::Empty)?,
                        Err(_) => Event::GraceOver,
                    },
                },
                Ladder::Killing => self.wait_empty().await.map(|()| Event::Empty)?,
                Ladder::Gone { .. } => return self.clear_away().await.and(asked),
                Ladder::Spared => {
                    self.persist();
                    return asked;
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
            while let Some(events) = cgroup.events()?
                && !cgroup.clear_away(events.as_fd())?
            {
                watch::emptied(events).await?;
            }
        }
        self.intent = Intent::Leave;
        Ok(())
    }

    /// `cgroup.kill`, open for writing: who holds it can end the group with [`kill_by_fd`](crate::kill_by_fd), under any uid.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) without a cgroup.
    pub fn kill_fd(&self) -> Result<OwnedFd> {
        match &self.containment {
            Containment::Cgroup(cgroup) => Ok(cgroup.kill_file()?),
            Containment::Tree(_) => Err(self.unsupported("a descriptor that kills the group")),
        }
    }

    /// `cgroup.events`, open for reading, for [`wait_empty_by_fd`](crate::wait_empty_by_fd). A new open file at every call.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) without a cgroup.
    pub fn events_fd(&self) -> Result<OwnedFd> {
        match &self.containment {
            Containment::Cgroup(cgroup) => Ok(cgroup.events_file()?),
            Containment::Tree(_) => Err(self.unsupported("a descriptor that tells when the group is empty")),
        }
    }
}
