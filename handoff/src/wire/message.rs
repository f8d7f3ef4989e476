//! The messages. Beside each stands what happens when it is lost.
//!
//! `Hello`, `HelloAck` and `Refused` are frozen for ever (tag-length-value, see [`super::codec`]); the rest is
//! bincode in one fixed configuration, chosen by the version that `HelloAck` names.

use crate::ids::{BuildId, Digest, Epoch, HandoffId, InstanceId, ListenerName};
use serde::{Deserialize, Serialize};

/// A message with the handoff and the epoch it belongs to. `handoff` is nil for talk outside a handoff; `epoch` is
/// the epoch under which the incumbent served when the handoff began.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stamped {
    /// The handoff; nil outside one.
    pub handoff: HandoffId,
    /// The base epoch of the handoff.
    pub epoch: Epoch,
    /// What is said.
    pub message: Message,
}

/// Which order a service is handed over in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// One writer owns a data directory; the service pauses for the freeze.
    #[default]
    Exclusive,
    /// Stateless: both accept until the incumbent stops.
    Overlap,
}

/// What an instance is started as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It serves.
    Incumbent,
    /// It shall take over from an incumbent.
    Successor,
    /// It starts where nobody serves.
    Cold,
    /// It has handed over and is leaving.
    Retiring,
}

/// A set of formats: all that can be read, the one that is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Formats {
    /// Every format that can be read, at most 64.
    pub reads: Vec<u32>,
    /// The format that is written.
    pub writes: u32,
}

/// Identity of a file: device and inode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileId {
    /// `st_dev`
    pub dev: u64,
    /// `st_ino`
    pub ino: u64,
}

/// Who an instance is and what it can do. Frozen encoding.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Hello {
    /// What it was started as, or is now.
    pub role: Role,
    /// Its id.
    pub instance: InstanceId,
    /// Its pid as it sees it; the kernel's word (`SCM_CREDENTIALS`) wins.
    pub pid: u32,
    /// Its build.
    pub build: BuildId,
    /// Name of the service.
    pub service: String,
    /// Lowest wire version it speaks.
    pub wire_min: u16,
    /// Highest wire version it speaks.
    pub wire_max: u16,
    /// How it hands over.
    pub strategy: Strategy,
    /// State formats.
    pub state: Formats,
    /// Formats of parked connections.
    pub connections: Formats,
    /// Identity of `owner.lock`: two instances with different ones look at different data. `None` without data.
    pub owner_lock: Option<FileId>,
    /// The epoch it serves under, or the highest claim it sees.
    pub epoch: Epoch,
    /// The listeners it has.
    pub listeners: Vec<ListenerName>,
    /// Highest supervisor generation it has seen.
    pub generation: u64,
    /// It answers canaries.
    pub canary: bool,
}

/// The supervisor's answer to `Hello`. Frozen encoding. For a successor: start warming; its end of the transfer
/// channel comes with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HelloAck {
    /// The wire version from here on.
    pub version: u16,
    /// Silence after which the supervisor counts as gone.
    pub lease_ms: u32,
    /// Longest time from seal to start.
    pub freeze_budget_ms: u32,
    /// Time after which a successor that was not told Begin gives up.
    pub deadline_ms: u32,
    /// The supervisor's generation.
    pub generation: u64,
    /// Whom a successor shall take over from; nil at a cold start.
    pub incumbent: InstanceId,
    /// Format in which connections are parked; 0 = none in common, they get the protocol's goodbye.
    pub connection_format: u32,
}

/// "No", politely, in an encoding that every version reads. Frozen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Refused {
    /// The message type that was refused.
    pub what: u16,
    /// Why, and what to do.
    pub why: String,
}

/// How an incumbent or successor stands when a new supervisor asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Standing {
    /// Serves; no handoff is open.
    Active,
    /// A handoff is open, the seal has not begun.
    Draining,
    /// Sealing, sealed or finding out who owns the next epoch.
    Sealed,
    /// It has handed over and is leaving.
    Retiring,
    /// A successor that was not told Begin.
    Warming,
    /// A successor between Begin and its claim.
    Opening,
    /// A successor or cold-started server that claimed and does not serve yet.
    Claimed,
    /// A cold-started server before its claim.
    Starting,
}

/// What is said. Direction and loss stand at each.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Message {
    /// O,N,X -> S. Lost: no handoff begins.
    #[serde(skip)]
    Hello(Box<Hello>),
    /// S -> O,N,X. Lost: N exits on EOF or deadline.
    #[serde(skip)]
    HelloAck(HelloAck),
    /// Any. Lost: nothing.
    #[serde(skip)]
    Refused(Refused),
    /// N -> S: loaded and following. Lost: S aborts, O untouched.
    Warmed {
        /// What was loaded.
        loaded: String,
        /// Up to which revision.
        revision: u64,
    },
    /// S -> O; N's pidfd, `cgroup.kill`, `cgroup.events` and O's end of the transfer channel come with it.
    /// Lost: S resolves.
    PrepareHandoff {
        /// Who shall take over.
        successor: InstanceId,
        /// Time for the whole handoff.
        deadline_ms: u32,
        /// Time for the drain hook.
        drain_grace_ms: u32,
        /// Longest time from seal to start.
        freeze_budget_ms: u32,
        /// Format in which connections are parked; 0 = none in common.
        connection_format: u32,
    },
    /// O -> S. Lost: S resolves.
    Drained {
        /// Open connections.
        open: u64,
    },
    /// S -> O. Lost: O keeps serving, S resolves.
    SealRequest,
    /// O -> S: life and progress within the seal. Lost: the lease runs.
    SealProgress {
        /// Grows while work is done.
        progress: u64,
    },
    /// Both ways, every 2 s. Life without progress is a stall.
    Heartbeat {
        /// Grows while work is done.
        progress: u64,
    },
    /// O -> S: sealed, the lock is free. Lost: S resolves; so does O's budget.
    SealComplete {
        /// What the data is.
        digest: Digest,
        /// Connections that follow on the transfer channel.
        connections: u64,
    },
    /// O -> S: the seal failed, O has resumed. Lost: S resolves.
    SealFailed {
        /// Why.
        error: String,
    },
    /// S -> N. Lost: N exits on EOF.
    Begin {
        /// What O sealed; `None` under the overlap strategy.
        digest: Option<Digest>,
    },
    /// N -> S. Lost: S resolves.
    Ready {
        /// What it loaded; `None` under the overlap strategy.
        digest: Option<Digest>,
        /// Listeners it will serve.
        listeners: Vec<ListenerName>,
        /// Whether its own check is good.
        healthy: bool,
        /// Connections it received.
        connections: u64,
    },
    /// S -> N between Ready and Commit, S -> O on probation: answer on the connection that comes with it as if a
    /// client had made it; before the claim nothing is written for it. Sent only to who said in Hello that it can.
    /// Lost: the connection ends, which is no good answer.
    Canary,
    /// S -> N: permission to claim. Lost: N claims by itself 3 s after it lost S.
    Commit,
    /// N -> O on the transfer channel, after the claim's fsync and before the first read or accept.
    /// Lost: O learns it from EOF or its timer.
    Started,
    /// N,X -> S. Lost: S reads the claim.
    Active {
        /// The epoch it serves under.
        epoch: Epoch,
    },
    /// O -> S: it would rather not serve. Said again with the next heartbeat. Lost: nothing.
    Unhealthy {
        /// Why.
        why: String,
    },
    /// S -> O. Lost: O lingers, sees Started, leaves.
    Retire {
        /// Time for what could not be handed over.
        grace_ms: u32,
    },
    /// S -> O: find out who owns the next epoch and act. Answered in every state. Lost: O's own timers do it.
    Resolve,
    /// O -> S. Lost: S reads the claim.
    Resumed {
        /// The epoch it now serves under.
        epoch: Epoch,
    },
    /// O -> S: the successor started, I am leaving. Lost: S reads the claim.
    Retiring,
    /// S -> N. Lost: its tree is killed anyway.
    Abort {
        /// Why.
        reason: String,
    },
    /// S' -> O,N,X: a new supervisor takes over. Lost: S' asks again.
    Adopt {
        /// The new supervisor's generation.
        generation: u64,
    },
    /// Back to S'; listeners and lineage.lock come with it. Lost: S' asks again.
    Adopted {
        /// How it stands.
        standing: Standing,
        /// The epoch it serves under (base epoch while a handoff is open).
        epoch: Epoch,
        /// The open handoff, or nil.
        handoff: HandoffId,
        /// The other side of the open handoff, or nil.
        peer: InstanceId,
    },
    /// O -> N on the transfer channel: a batch of connections, one descriptor each. Lost: counted as missing.
    Parked {
        /// Running number of the first one.
        first: u64,
        /// One per descriptor that comes with the frame, in the same order.
        entries: Vec<ParkedEntry>,
    },
    /// O -> N on the transfer channel: more of the state of connection `index`.
    ParkedMore {
        /// Running number of the connection.
        index: u64,
        /// Its next bytes.
        bytes: Vec<u8>,
    },
    /// N -> O on the transfer channel: this many connections have arrived whole.
    ParkedAck {
        /// How many so far.
        received: u64,
    },
    /// O -> N on the transfer channel: that was all.
    End {
        /// How many in all.
        connections: u64,
    },
}

/// One connection in a `Parked` frame.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ParkedEntry {
    /// Length of its whole state.
    pub total: u32,
    /// The first part of it; the rest follows in `ParkedMore`.
    pub bytes: Vec<u8>,
}

impl Message {
    /// The name in traces, crash points and documents.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Message::Hello(_) => "Hello",
            Message::HelloAck(_) => "HelloAck",
            Message::Refused(_) => "Refused",
            Message::Warmed { .. } => "Warmed",
            Message::PrepareHandoff { .. } => "PrepareHandoff",
            Message::Drained { .. } => "Drained",
            Message::SealRequest => "SealRequest",
            Message::SealProgress { .. } => "SealProgress",
            Message::Heartbeat { .. } => "Heartbeat",
            Message::SealComplete { .. } => "SealComplete",
            Message::SealFailed { .. } => "SealFailed",
            Message::Begin { .. } => "Begin",
            Message::Ready { .. } => "Ready",
            Message::Canary => "Canary",
            Message::Commit => "Commit",
            Message::Started => "Started",
            Message::Active { .. } => "Active",
            Message::Unhealthy { .. } => "Unhealthy",
            Message::Retire { .. } => "Retire",
            Message::Resolve => "Resolve",
            Message::Resumed { .. } => "Resumed",
            Message::Retiring => "Retiring",
            Message::Abort { .. } => "Abort",
            Message::Adopt { .. } => "Adopt",
            Message::Adopted { .. } => "Adopted",
            Message::Parked { .. } => "Parked",
            Message::ParkedMore { .. } => "ParkedMore",
            Message::ParkedAck { .. } => "ParkedAck",
            Message::End { .. } => "End",
        }
    }
}
