//! How a group holds its processes.

mod cgroup;
mod discovery;
mod spare;
mod tree;

pub(crate) use cgroup::{Cgroup, is_gone, is_populated};
pub(crate) use discovery::{base, bases, tidy};
pub(crate) use tree::{Member, Tree};

use std::io;
use std::sync::Arc;

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
            Containment::Cgroup(cgroup) => match cgroup.events_file() {
                Ok(events) => crate::watch::emptied(events).await,
                Err(error) if is_gone(&error) => Ok(()),
                Err(error) => Err(error),
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
