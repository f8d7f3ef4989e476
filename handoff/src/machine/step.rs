//! What goes into a machine and what comes out: facts in, orders out.
//!
//! A machine is a plain value. It knows no time, descriptor or path; who drives it does. The driver performs the
//! effects of one step one by one, in order, and gives the next input only afterwards. **Order is the contract**:
//! a crash is a prefix of the list, and so is a failure: when an effect fails, the rest of its list is dropped and
//! [`Input::Failed`] says which one it was.

use crate::ids::{Digest, Epoch, HandoffId, InstanceId, ListenerName};
use crate::journal::Record;
pub use crate::outcome::{Ended, Outcome};
use crate::wire::{Hello, Message, Stamped};
use std::fmt;
use std::time::Duration;

/// One step's orders, in order.
pub type Effects = Vec<Effect>;

/// A pure state machine.
pub trait Machine {
    /// Takes one fact, changes the state, says what has to be done.
    fn handle(&mut self, input: Input) -> Effects;
}

/// Another role, as one role sees it. The driver knows which channel, process or container has that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Seen by O, N and X: the supervisor's channel.
    Supervisor,
    /// Seen by S: the server that serves. Seen by N: the other end of the transfer channel.
    Incumbent,
    /// Seen by S: the server that shall serve. Seen by O: the other end of the transfer channel, N's process, N's tree.
    Successor,
    /// Seen by S: a former incumbent that is leaving.
    Retiring(InstanceId),
}

/// A fact that has already happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// The process began and its channels stand. Always the first input of an instance.
    Start,
    /// An order from outside: an operator, the embedding program, a signal.
    Command(Command),
    /// A frame arrived whole.
    Received(Peer, Stamped),
    /// The channel to the peer ended (EOF, reset or garbage). Every frame it had carried was delivered before.
    Closed(Peer),
    /// The peer's main process ended (its pidfd became readable). Its children may live.
    Exited(Peer),
    /// The peer's whole tree has ended and its container is empty. Answers [`Effect::Kill`] and [`Effect::Terminate`].
    Gone(Peer),
    /// An armed timer ran out. Never delivered before a frame that was readable at that moment.
    Expired(Timer),
    /// A hook returned.
    Done(Hook, Result<Report, String>),
    /// Answers [`Effect::Lock`]: this process now holds owner.lock. Gives what the claim files say under the lock.
    Locked {
        /// The highest claim and whom it names, if there is any.
        highest: Option<(Epoch, InstanceId)>,
    },
    /// Answers [`Effect::Claim`] and [`Effect::ReadClaim`], and reports for [`Effect::WatchClaim`]: whom the claim of
    /// this epoch names, `None` if there is none.
    Claimed(Epoch, Option<InstanceId>),
    /// An effect could not be performed; the effects after it in its list were not performed.
    Failed(Step, String),
}

/// An order from outside.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// S: start the first server.
    Start,
    /// S: replace the server.
    Upgrade(Upgrade),
    /// S: the operator wants the open handoff aborted.
    Abort,
    /// S: drain, end everything. An instance: SIGTERM, leave cleanly.
    Stop,
}

/// The facts of one upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Upgrade {
    /// The new handoff's id.
    pub handoff: HandoffId,
    /// The instance that shall take over.
    pub successor: InstanceId,
    /// Time for the whole handoff.
    pub deadline: Duration,
    /// Time for the drain hook.
    pub drain_grace: Duration,
    /// Longest time from seal to start.
    pub freeze_budget: Duration,
    /// How long the new server is on probation after it was committed; zero: not at all.
    pub probation: Duration,
    /// A canary is tried on the new server before it may claim, and while it is on probation.
    pub canary: bool,
    /// Which way it goes.
    pub way: Way,
}

/// Which way an upgrade goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Way {
    /// To another build, if the running one reads what that one writes: there is a way back.
    #[default]
    Forward,
    /// To another build, whatever it writes. Never on probation: no way back is pretended.
    OneWay,
    /// To a build that served before.
    Back,
}

/// Which build an instance is started from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Which {
    /// The one that the open upgrade brings.
    Wanted,
    /// The one of the highest claim, whoever that is.
    Highest,
    /// The one that this instance was started from.
    Of(InstanceId),
}

/// A kind of effect that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// [`Effect::Persist`]
    Persist,
    /// [`Effect::Propose`]
    Propose,
    /// [`Effect::Claim`]
    Claim,
    /// [`Effect::SyncClaim`]
    SyncClaim,
    /// [`Effect::Spawn`]
    Spawn,
    /// [`Effect::TurnBack`]: there is no build to go back to. Comes when that was found out.
    TurnBack,
    /// [`Effect::Lock`]: not free within the patience, or the file cannot be opened.
    Lock,
}

/// A procedure of the server (SDK trait) or of the driver that takes time; its end is [`Input::Done`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// N, X: load, read-only. Afterwards the driver lets N follow the log until `Open`.
    Warm,
    /// N, X: under owner.lock, read the tail, compute the digest.
    Open,
    /// N: take the connections until `End`, EOF, or (S lost) 3 s without a frame.
    Receive,
    /// N, X: begin to read, write and accept.
    Serve,
    /// O: bring dirty data down, say goodbye to what cannot be parked.
    Drain,
    /// O: close the gate, park, stop the writers, flush, digest.
    Seal,
    /// O: stream the parked connections on the transfer channel. Never waited for: `Done` is information.
    HandOver,
    /// O: the digest of what is on disk now.
    Verify,
    /// O: serve again with what was parked.
    Resume,
    /// O: leave: what could not be handed over ends within the grace.
    Retire,
    /// O: its own check, by the driver's clock. Never ordered by a machine: its answer is for the supervisor.
    Health,
    /// S: the talk on the connection that went with the last `Canary`; bounded by a time of its own. N, O: answer on
    /// it; whatever comes of that, S sees it on the connection, and the machine hears nothing.
    Canary,
}

/// What a hook says when it ends well.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Report {
    /// Nothing to say (`Serve`, `Resume`, `Retire`, `HandOver`, `Canary`).
    Nothing,
    /// `Warm`
    Warmed {
        /// What was loaded.
        loaded: String,
        /// Up to which revision.
        revision: u64,
    },
    /// `Open`
    Opened {
        /// What was loaded.
        digest: Digest,
        /// The highest epoch found in the data.
        data_epoch: Epoch,
        /// Whether the server's own check is good.
        healthy: bool,
    },
    /// `Receive`
    Received {
        /// Connections that arrived whole.
        connections: u64,
    },
    /// `Drain`
    Drained {
        /// Open connections.
        open: u64,
    },
    /// `Seal`
    Sealed {
        /// What the data is.
        digest: Digest,
        /// Connections that were parked.
        connections: u64,
    },
    /// `Verify`
    Verified {
        /// What is on disk.
        digest: Digest,
    },
}

/// A timer. Arming it again starts it anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// The whole handoff (S); the time until Begin (N).
    Deadline,
    /// S: Drained is late.
    Drain,
    /// From the seal on (S and O each by their own clock).
    Freeze,
    /// O, N: the supervisor was silent for the lease.
    Lease,
    /// N: 3 s after it lost S.
    SelfCommit,
    /// O: the successor claimed and does not start (T_start).
    Started,
    /// S: the successor may have claimed and does not become active (T_active).
    Active,
    /// S: the incumbent does not answer Resolve (T_kill).
    Silent,
    /// S: pause before a cold start.
    Backoff,
    /// S: the failure of this number is so old that it does not count any more.
    Forgive(u32),
    /// S: one retiring generation has to be gone.
    Retire(InstanceId),
    /// O: time for the retire hook.
    Grace,
    /// S: Hello or Active of a cold-started server is late.
    ColdStart,
    /// S: the new server has stood its probation.
    Probation,
    /// S: the new server is on probation and made no progress for the lease.
    Stall,
    /// S: the next canary of a probation is due.
    Canary,
}

/// An order to the driver.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// S: append to the journal; returns when durable.
    Persist(Record),
    /// O, N, X: write and fsync this instance's proposal for the open handoff (X: for itself).
    Propose,
    /// O, N, X: link the proposal to the claim of this epoch. Answered by `Claimed`, before anything else.
    Claim(Epoch),
    /// Read whom the claim names. Answered by `Claimed`, before anything else.
    ReadClaim(Epoch),
    /// S: report `Claimed` when the claim of this epoch appears (at once if it is there).
    WatchClaim(Epoch),
    /// O, N, X: fsync the claim and its directory; returns when durable. Never retried.
    SyncClaim(Epoch),
    /// Put a frame into the peer's queue. Never fails: a dead peer shows as `Closed`.
    Send(Peer, Stamped),
    /// Let go of everything that has to do with the peer: channel, process handle, container.
    Forget(Peer),
    /// S: the channel broke while the peer lives: connect to its control socket and send Adopt. Its answer arrives as
    /// `Received(Adopted)`; when it cannot be reached at all, nothing comes (timers decide). No-op for an instance.
    Reconnect(Peer),
    /// Start a timer anew.
    Arm(Timer, Duration),
    /// Stop a timer: it will not be delivered any more.
    Disarm(Timer),
    /// S: start an instance in a container of its own under the peer's name (`Successor`, or `Incumbent` at a cold start).
    Spawn(Peer, InstanceId, Which),
    /// S: find the build that this instance was started from, and order the way back to it: answered by an upgrade
    /// [`Way::Back`], or by `Failed`.
    TurnBack(InstanceId),
    /// End the peer's whole tree by SIGKILL. Answered by `Gone` when it is empty (at once if it already was). A
    /// second order before that answer is the same order: one `Gone`. `Forget` drops an answer that is still due.
    Kill(Peer),
    /// S: end the peer's tree by TERM, grace, KILL. Answered by `Gone`.
    Terminate(Peer),
    /// O, N, X: take owner.lock; waits up to the patience, `None` for ever. Answered by `Locked`.
    Lock(Option<Duration>),
    /// O: LOCK_UN owner.lock.
    Unlock,
    /// Begin a procedure.
    Call(Hook),
    /// Stop a procedure; it gives no `Done` any more.
    Cancel(Hook),
    /// O: close the copies of the parked connections, deregistered from epoll first, and the transfer channel.
    CloseParked,
    /// O: remove the proposals of ended handoffs, then old claims (never the highest 16).
    Tidy,
    /// S: from here the successor is the incumbent, and the incumbent, if there is one, is retiring.
    Promote,
    /// S: the open handoff has ended.
    Report(Ended),
    /// The machine is at its end: an instance leaves the process, a supervisor has stopped.
    Finish(Ending),
}

/// Why a machine ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// O: handed over and left.
    Retired,
    /// N: left without having touched anything.
    Untouched(String),
    /// A tenure was given up: serving on could not be proven safe. Starting from disk is safe.
    GaveUp(String),
    /// Asked to stop.
    Stopped,
}

/// An input that the state has no use for: late, stale or out of order. It has no effect but this trace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Violation {
    /// Name of the state.
    pub state: &'static str,
    /// The input, in short.
    pub input: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in state {}", self.input, self.state)
    }
}

/// What S must know of an instance to let it hand over or take over: its Hello, kept.
pub type Facts = Hello;

/// Times that are no one's option: chosen so that the fences hold (protocol, section 5).
pub mod times {
    use std::time::Duration;

    /// Silence after which the supervisor counts as gone.
    pub const LEASE: Duration = Duration::from_secs(6);
    /// Pause between two heartbeats.
    pub const HEARTBEAT: Duration = Duration::from_secs(2);
    /// N claims by itself this long after it lost S.
    pub const SELF_COMMIT: Duration = Duration::from_secs(3);
    /// A successor that claimed must start within this (T_start).
    pub const START: Duration = Duration::from_secs(5);
    /// A successor that claimed must be active within this (T_active).
    pub const ACTIVE: Duration = Duration::from_secs(5);
    /// An incumbent that does not answer Resolve is silent after this (T_kill: lease + 10 s).
    pub const SILENT: Duration = Duration::from_secs(16);
    /// N waits this long for owner.lock.
    pub const LOCK: Duration = Duration::from_secs(2);
    /// A cold-started server must be active within this.
    pub const COLD_START: Duration = Duration::from_secs(120);
    /// An instance that was asked to stop (SIGTERM) leaves within this.
    pub const STOP: Duration = Duration::from_secs(10);
    /// A retiring generation is ended this long after its grace.
    pub const RETIRE_SLACK: Duration = Duration::from_secs(5);
}

impl Effect {
    /// The name of this effect in crash points and traces, e.g. `send.Begin`, `claim`, `call.Seal`.
    #[must_use]
    pub fn point(&self) -> String {
        match self {
            Effect::Persist(record) => format!("persist.{}", record.name()),
            Effect::Propose => "propose".into(),
            Effect::Claim(_) => "claim".into(),
            Effect::ReadClaim(_) => "read_claim".into(),
            Effect::WatchClaim(_) => "watch_claim".into(),
            Effect::SyncClaim(_) => "sync_claim".into(),
            Effect::Send(_, frame) => format!("send.{}", frame.message.name()),
            Effect::Forget(peer) => format!("forget.{}", peer.name()),
            Effect::Reconnect(peer) => format!("reconnect.{}", peer.name()),
            Effect::Arm(timer, _) => format!("arm.{}", timer.name()),
            Effect::Disarm(timer) => format!("disarm.{}", timer.name()),
            Effect::Spawn(peer, ..) => format!("spawn.{}", peer.name()),
            Effect::TurnBack(_) => "turn_back".into(),
            Effect::Kill(peer) => format!("kill.{}", peer.name()),
            Effect::Terminate(peer) => format!("terminate.{}", peer.name()),
            Effect::Lock(_) => "lock".into(),
            Effect::Unlock => "unlock".into(),
            Effect::Call(hook) => format!("call.{hook:?}"),
            Effect::Cancel(hook) => format!("cancel.{hook:?}"),
            Effect::CloseParked => "close_parked".into(),
            Effect::Tidy => "tidy".into(),
            Effect::Promote => "promote".into(),
            Effect::Report(_) => "report".into(),
            Effect::Finish(_) => "finish".into(),
        }
    }

    /// Shorthand for [`Effect::Send`].
    pub(crate) fn send(to: Peer, handoff: HandoffId, epoch: Epoch, message: Message) -> Effect {
        Effect::Send(to, Stamped { handoff, epoch, message })
    }
}

impl Peer {
    /// The name in crash points and traces.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Peer::Supervisor => "supervisor",
            Peer::Incumbent => "incumbent",
            Peer::Successor => "successor",
            Peer::Retiring(_) => "retiring",
        }
    }
}

impl Timer {
    /// The name in crash points and traces.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Timer::Deadline => "deadline",
            Timer::Drain => "drain",
            Timer::Freeze => "freeze",
            Timer::Lease => "lease",
            Timer::SelfCommit => "self_commit",
            Timer::Started => "started",
            Timer::Probation => "probation",
            Timer::Stall => "stall",
            Timer::Canary => "canary",
            Timer::Active => "active",
            Timer::Silent => "silent",
            Timer::Backoff => "backoff",
            Timer::Forgive(_) => "forgive",
            Timer::Retire(_) => "retire",
            Timer::Grace => "grace",
            Timer::ColdStart => "cold_start",
        }
    }
}

/// A listener set as the machines compare it.
pub type ListenerSet = Vec<ListenerName>;
