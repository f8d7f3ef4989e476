//! How a group holds its processes.

mod cgroup;
mod discovery;
mod spare;
mod tree;

pub(crate) use cgroup::{Cgroup, is_gone, is_populated, say_gone};
pub(crate) use discovery::{base, bases, tidy};
pub(crate) use tree::{Member, Tree};

use std::io;
use std::sync::Arc;

/// Whether it failed for want of descriptors, of memory, of room for one more: it may not the next time.
pub(crate) fn is_short(error: &io::Error) -> bool {
    let short = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EAGAIN, libc::ENOSPC];
    error.raw_os_error().is_some_and(|raw| short.contains(&raw))
}

/// The container itself, shared between its owner and the reaper.
#[derive(Clone, Debug)]
pub(crate) enum Containment {
    Cgroup(Arc<Cgroup>),
    Tree(Arc<Tree>),
}

impl Containment {
    /// SIGKILL for everything in it.
    pub(crate) fn kill(&self) -> io::Result<()> {
        match self {
            Containment::Cgroup(cgroup) => cgroup.kill(),
            Containment::Tree(tree) => tree.kill(),
        }
    }

    /// End what a process left behind in its private group. Mostly nothing is, and then the directory can go at once.
    pub(crate) fn end_rest(&self) {
        let ended = match self {
            Containment::Cgroup(cgroup) if cgroup.remove_empty() => Ok(()),
            group => group.kill(),
        };
        if let Err(error) = ended {
            event!(warn, error = error, "what a process left behind cannot be ended");
        }
    }

    /// A signal for every member.
    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        match self {
            Containment::Cgroup(cgroup) => cgroup.signal(signal),
            Containment::Tree(tree) => tree.signal(signal),
        }
    }

    /// Stop or go on.
    pub(crate) fn freeze(&self, on: bool) -> io::Result<()> {
        match self {
            Containment::Cgroup(cgroup) => cgroup.freeze(on),
            Containment::Tree(tree) => tree.signal(if on { libc::SIGSTOP } else { libc::SIGCONT }),
        }
    }

    /// Until nothing lives in it. Cancel safe.
    pub(crate) async fn emptied(&self) -> io::Result<()> {
        match self {
            Containment::Cgroup(cgroup) => match cgroup.events()? {
                Some(events) => crate::watch::emptied(events).await,
                None => Ok(()),
            },
            Containment::Tree(tree) => {
                use std::os::fd::AsFd;
                while let Some(survivor) = tree.survivor()? {
                    crate::watch::ended(survivor.pidfd.as_fd()).await?;
                }
                Ok(())
            }
        }
    }
}
