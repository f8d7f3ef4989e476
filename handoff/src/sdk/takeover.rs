//! The successor's process as the incumbent sees it: its pidfd, its container, the channel to it.

use super::transfer::Stamp;
use crate::ids::HandoffId;
use crate::os::channel::{Channel, Received};
use crate::wire::Message;
use processkit::{Adopted, Signal};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Pause before the kernel is asked again what it refused.
const AGAIN: Duration = Duration::from_millis(20);

/// What becomes of the successor's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Its main process ended.
    Exited(HandoffId),
    /// Its whole tree is gone.
    Gone(HandoffId),
}

/// A handoff that the supervisor asks for, with what came with the question.
#[derive(Debug)]
pub(super) struct Takeover {
    pub(super) stamp: Stamp,
    pub(super) drain_grace: Duration,
    pub(super) freeze_budget: Duration,
    /// `None`: no format in common.
    pub(super) connection_format: Option<u32>,
    /// Taken by whoever installs the handoff.
    pub(super) transfer: Option<Channel>,
    process: Arc<OwnedFd>,
    kill: Option<OwnedFd>,
    events: Option<OwnedFd>,
    fates: mpsc::UnboundedSender<Fate>,
    exit: Option<JoinHandle<()>>,
    end: Option<JoinHandle<()>>,
}

impl Takeover {
    /// Reads a `PrepareHandoff`: descriptors are pidfd, `cgroup.kill`, `cgroup.events`, transfer channel; the two in
    /// the middle are missing where there are no cgroups.
    pub(super) fn read(received: Received, fates: mpsc::UnboundedSender<Fate>) -> Result<Self, String> {
        let Received { frame, fds } = received;
        let Message::PrepareHandoff { drain_grace_ms, freeze_budget_ms, connection_format, .. } =
            frame.message
        else {
            return Err(format!("{} is no PrepareHandoff", frame.message.name()));
        };
        let mut fds = fds.into_iter();
        let (process, kill, events, transfer) = match (fds.len(), fds.next(), fds.next()) {
            (4, Some(process), Some(kill)) => (process, Some(kill), fds.next(), fds.next()),
            (2, Some(process), transfer) => (process, None, None, transfer),
            (n, ..) => return Err(format!("PrepareHandoff came with {n} descriptors, 2 or 4 are needed")),
        };
        let Some(transfer) = transfer else { return Err("no transfer channel came".to_owned()) };
        let transfer = Channel::from_fd(transfer).map_err(|e| format!("transfer channel: {e}"))?;
        Ok(Self {
            stamp: Stamp { handoff: frame.handoff, epoch: frame.epoch },
            drain_grace: Duration::from_millis(drain_grace_ms.into()),
            freeze_budget: Duration::from_millis(freeze_budget_ms.into()),
            connection_format: Some(connection_format).filter(|f| *f != 0),
            transfer: Some(transfer),
            process: Arc::new(process),
            kill,
            events,
            fates,
            exit: None,
            end: None,
        })
    }

    /// Reports when the process ends.
    pub(super) fn watch(&mut self) {
        let (process, fates, handoff) = (Arc::clone(&self.process), self.fates.clone(), self.stamp.handoff);
        self.exit = Some(tokio::spawn(async move {
            until_exited(&process).await;
            let _ = fates.send(Fate::Exited(handoff));
        }));
    }

    /// Ends the whole tree and reports when it is gone.
    pub(super) fn end(&mut self) {
        if self.end.is_some() {
            return;
        }
        if let Some(kill) = &self.kill
            && let Err(error) = processkit::kill_by_fd(kill.as_fd())
        {
            tracing::error!(%error, "the successor's cgroup.kill");
        }
        // asked for once: no copy, which there may be no descriptor for
        let events = self.events.take();
        let (process, fates, handoff) = (Arc::clone(&self.process), self.fates.clone(), self.stamp.handoff);
        let mut killed = kill(&process);
        if let Err(error) = &killed {
            tracing::error!(%error, "the successor's pidfd");
        }
        self.end = Some(tokio::spawn(async move {
            while killed.is_err() {
                tokio::time::sleep(AGAIN).await;
                killed = kill(&process);
            }
            until_exited(&process).await;
            if let Some(events) = events
                && let Err(error) = processkit::wait_empty_by_fd(events).await
            {
                tracing::error!(%error, "the successor's cgroup.events cannot be watched");
                return;
            }
            let _ = fates.send(Fate::Gone(handoff));
        }));
    }
}

impl Drop for Takeover {
    fn drop(&mut self) {
        for task in [&self.exit, &self.end].into_iter().flatten() {
            task.abort();
        }
    }
}

fn handle(process: &OwnedFd) -> io::Result<Option<Adopted>> {
    match Adopted::from_pidfd(process.try_clone()?) {
        Ok(adopted) => Ok(Some(adopted)),
        // it has ended and nobody can see it any more
        Err(processkit::Error::Io(e)) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io::Error::other(e)),
    }
}

fn kill(process: &OwnedFd) -> io::Result<()> {
    handle(process)?.map_or(Ok(()), |process| process.signal(Signal::Kill).map_err(io::Error::other))
}

/// Insists: a sealed incumbent that cannot watch its successor's end (descriptors used up) would never resume.
async fn until_exited(process: &OwnedFd) {
    let mut warned = false;
    while let Err(error) = exited(process).await {
        if !std::mem::replace(&mut warned, true) {
            tracing::error!(%error, "the successor's pidfd cannot be watched; tried again until it can");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn exited(process: &OwnedFd) -> io::Result<()> {
    match handle(process)? {
        Some(process) => process.gone().await.map_err(io::Error::other),
        None => Ok(()),
    }
}
