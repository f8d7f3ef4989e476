//! What the hooks are given and give back.

use crate::ids::{Digest, Epoch, InstanceId};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;

/// What an instance knows from its start.
#[derive(Debug)]
pub struct Context<C> {
    pub(super) inner: Arc<ContextInner<C>>,
}

#[derive(Debug)]
pub(super) struct ContextInner<C> {
    pub(super) config: C,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) instance: InstanceId,
    pub(super) progress: Progress,
    pub(super) votes: mpsc::UnboundedSender<String>,
}

impl<C> Clone for Context<C> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<C> Context<C> {
    /// The program's own configuration.
    #[must_use]
    pub fn config(&self) -> &C {
        &self.inner.config
    }

    /// The data directory; `None` for a stateless service.
    #[must_use]
    pub fn data_dir(&self) -> Option<&Path> {
        self.inner.data_dir.as_deref()
    }

    /// This process's instance id.
    #[must_use]
    pub fn instance(&self) -> InstanceId {
        self.inner.instance
    }

    /// Says that this server should not serve, and why. While it is on probation after an upgrade the supervisor goes
    /// back to the build before it; later it changes nothing. It cannot be taken back.
    pub fn vote_down(&self, why: impl Into<String>) {
        // nobody listens any more when the instance has left
        let _ = self.inner.votes.send(why.into());
    }

    /// Where work that takes long reports that it goes on: life without progress is a stall.
    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.inner.progress
    }
}

/// A counter that heartbeats carry.
#[derive(Clone, Debug, Default)]
pub struct Progress(pub(super) Arc<std::sync::atomic::AtomicU64>);

impl Progress {
    /// Work went on.
    pub fn tick(&self) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Proof that this process holds owner.lock: nobody else writes while it exists.
#[derive(Debug)]
pub struct Disk {
    pub(super) data_dir: Option<PathBuf>,
    pub(super) highest_claim: Epoch,
}

impl Disk {
    /// The data directory; `None` for a stateless service.
    #[must_use]
    pub fn data_dir(&self) -> Option<&Path> {
        self.data_dir.as_deref()
    }

    /// The highest epoch that a claim file names.
    #[must_use]
    pub fn highest_claim(&self) -> Epoch {
        self.highest_claim
    }
}

/// What `open` found.
#[derive(Clone, Debug, Default)]
pub struct Opened {
    /// Digest of what was loaded, computed from memory.
    pub digest: Digest,
    /// The highest epoch that the data itself carries (0 if none): the next claim is higher.
    pub data_epoch: Epoch,
    /// The server's own verdict on itself.
    pub healthy: bool,
    /// What was loaded, for people.
    pub loaded: String,
}

impl Opened {
    /// Data of this digest was loaded, and the server is fit to serve it.
    #[must_use]
    pub fn healthy(digest: Digest) -> Self {
        Self { digest, healthy: true, ..Self::default() }
    }
}

/// What `drain` leaves.
#[derive(Clone, Copy, Debug, Default)]
pub struct DrainReport {
    /// Open connections.
    pub open_connections: u64,
}
