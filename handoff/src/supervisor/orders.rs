//! What the face and the operators ask of the supervisor's loop, and what it tells them.

use super::canary::Canary;
use super::options::SpawnSpec;
use super::replace::report::ReplacementReport;
use super::report::{HandoffReport, StatusReport};
use crate::error::{Error, Result};
use crate::ids::{Epoch, HandoffId, InstanceId};
use crate::phase::Phase;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// A handoff entered a phase.
#[derive(Clone, Debug)]
pub struct PhaseEvent {
    /// The handoff.
    pub handoff_id: HandoffId,
    /// The phase.
    pub phase: Phase,
    /// Time since the upgrade was asked for.
    pub at: Duration,
    /// What is going on, for people.
    pub note: String,
}

/// A process in a container of the supervisor's.
#[derive(Clone, Debug)]
pub struct Child {
    /// Its instance id.
    pub instance: InstanceId,
    /// Its process id.
    pub pid: u32,
    /// A handle that no pid reuse can mislead.
    pub(super) pidfd: Arc<OwnedFd>,
}

impl AsFd for Child {
    /// The pidfd: readable once the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Who serves since [`Supervisor::start`](super::Supervisor::start).
#[derive(Clone, Debug)]
pub struct Serving {
    /// The server.
    pub child: Child,
    /// The epoch of its tenure.
    pub epoch: Epoch,
}

/// How long a handoff may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) drain_grace: Duration,
    pub(super) freeze_budget: Duration,
    pub(super) deadline: Duration,
}

/// What is to be started at an upgrade.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    /// Exactly this.
    Spec(SpawnSpec),
    /// The configured program, or another one, with the configured arguments and environment.
    Operator {
        binary: Option<PathBuf>,
        times: Times,
        probation: Duration,
        one_way: bool,
        wait: bool,
        canary: Option<Canary>,
    },
    /// The build before the one that serves, or the kept one that is called so.
    Back { times: Times, to: Option<String> },
}

/// How an upgrade ended, and the process that serves when it committed.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) report: HandoffReport,
    pub(super) child: Option<Child>,
}

/// Why an upgrade was not begun.
#[derive(Debug)]
pub(super) enum Refusal {
    Busy(HandoffId),
    Error(Error),
}

/// What became of the wish to abort.
#[derive(Debug)]
pub(super) enum Aborted {
    Aborting(HandoffId),
    Nothing(String),
}

/// An order to the supervisor's loop. Who asked may be gone when the answer is ready: that stops nothing.
#[derive(Debug)]
pub(super) enum Order {
    Start {
        spec: SpawnSpec,
        reply: oneshot::Sender<Result<Serving>>,
    },
    Upgrade {
        wanted: Wanted,
        phases: mpsc::UnboundedSender<PhaseEvent>,
        reply: oneshot::Sender<std::result::Result<Box<Done>, Refusal>>,
    },
    Abort {
        reply: oneshot::Sender<Aborted>,
    },
    Status {
        reply: oneshot::Sender<Box<StatusReport>>,
    },
    Replace {
        binary: Option<PathBuf>,
        /// The connection of who asked: a new program answers on it.
        client: OwnedFd,
        reply: oneshot::Sender<ReplacementReport>,
    },
    /// Tell me when nothing is open and nobody is leaving.
    Quiet {
        reply: oneshot::Sender<()>,
    },
    Stop {
        grace: Duration,
        reply: oneshot::Sender<()>,
    },
}

/// The way to the supervisor's loop.
#[derive(Clone, Debug)]
pub(super) struct Handle(pub(super) mpsc::Sender<Order>);

impl Handle {
    /// Sends an order; [`Error::Stopped`] when the loop has ended.
    pub(super) async fn send(&self, order: Order) -> Result<()> {
        self.0.send(order).await.map_err(|_| Error::Stopped)
    }

    /// Returns when the loop has ended.
    pub(super) async fn closed(&self) {
        self.0.closed().await;
    }

    pub(super) async fn status(&self) -> Result<Box<StatusReport>> {
        let (reply, answer) = oneshot::channel();
        self.send(Order::Status { reply }).await?;
        answer.await.map_err(|_| Error::Stopped)
    }

    pub(super) async fn abort(&self) -> Result<Aborted> {
        let (reply, answer) = oneshot::channel();
        self.send(Order::Abort { reply }).await?;
        answer.await.map_err(|_| Error::Stopped)
    }
}
