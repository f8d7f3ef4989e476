//! What S can be told, sorted by who it is about.

use crate::ids::{Digest, Epoch, HandoffId, InstanceId, ListenerName};
use crate::machine::step::{Command, Hook, Input, Peer, Step, Timer, Upgrade};
use crate::wire::{Hello, Message, Refused, Standing};

#[derive(Clone, Debug)]
pub(super) enum Event {
    // orders
    Start,
    Upgrade(Upgrade),
    Abort,
    Stop,
    // O (or X)
    IncumbentHello {
        hello: Box<Hello>,
    },
    IncumbentAdopted {
        standing: Standing,
        epoch: Epoch,
        handoff: HandoffId,
    },
    Drained {
        handoff: HandoffId,
    },
    SealComplete {
        handoff: HandoffId,
        digest: Digest,
        connections: u64,
    },
    SealFailed {
        handoff: HandoffId,
        error: String,
    },
    Resumed {
        handoff: HandoffId,
        epoch: Epoch,
    },
    RetiringSaid {
        handoff: HandoffId,
    },
    IncumbentRefused {
        handoff: HandoffId,
        why: String,
    },
    IncumbentProgress {
        progress: u64,
    },
    /// It says so of itself.
    Unhealthy {
        why: String,
    },
    IncumbentActive {
        epoch: Epoch,
    },
    IncumbentClosed,
    IncumbentExited,
    IncumbentGone,
    // N
    SuccessorHello {
        hello: Box<Hello>,
    },
    SuccessorAdopted {
        standing: Standing,
    },
    Warmed {
        handoff: HandoffId,
    },
    Ready {
        handoff: HandoffId,
        digest: Option<Digest>,
        listeners: Vec<ListenerName>,
        healthy: bool,
        connections: u64,
    },
    Active {
        handoff: HandoffId,
        epoch: Epoch,
    },
    SuccessorRefused {
        why: String,
    },
    SuccessorProgress,
    SuccessorClosed,
    SuccessorExited,
    SuccessorGone,
    // retiring generations
    RetiredExited(InstanceId),
    RetiredGone(InstanceId),
    RetireOver(InstanceId),
    // time
    DeadlineOver,
    DrainOver,
    FreezeOver,
    ActiveOver,
    SilentOver,
    BackoffOver,
    Forgiven,
    ColdStartOver,
    ProbationOver,
    StallOver,
    CanaryDue,
    // answers
    /// How the canary went.
    Tried(Result<(), String>),
    Claimed(Epoch, Option<InstanceId>),
    Failed(Step, String),
    /// Nothing that a supervisor knows.
    Alien,
}

pub(super) fn sort(input: Input) -> Event {
    match input {
        Input::Command(Command::Start) => Event::Start,
        Input::Command(Command::Upgrade(upgrade)) => Event::Upgrade(upgrade),
        Input::Command(Command::Abort) => Event::Abort,
        Input::Command(Command::Stop) => Event::Stop,
        Input::Received(Peer::Incumbent, frame) => {
            let handoff = frame.handoff;
            match frame.message {
                Message::Hello(hello) => Event::IncumbentHello { hello },
                Message::Adopted { standing, epoch, .. } => {
                    Event::IncumbentAdopted { standing, epoch, handoff }
                }
                Message::Drained { .. } => Event::Drained { handoff },
                Message::SealComplete { digest, connections } => {
                    Event::SealComplete { handoff, digest, connections }
                }
                Message::SealFailed { error } => Event::SealFailed { handoff, error },
                Message::Resumed { epoch } => Event::Resumed { handoff, epoch },
                Message::Retiring => Event::RetiringSaid { handoff },
                Message::Refused(Refused { why, .. }) => Event::IncumbentRefused { handoff, why },
                Message::Active { epoch } => Event::IncumbentActive { epoch },
                Message::Heartbeat { progress } | Message::SealProgress { progress } => {
                    Event::IncumbentProgress { progress }
                }
                Message::Unhealthy { why } => Event::Unhealthy { why },
                Message::HelloAck(_)
                | Message::Warmed { .. }
                | Message::PrepareHandoff { .. }
                | Message::SealRequest
                | Message::Begin { .. }
                | Message::Ready { .. }
                | Message::Canary
                | Message::Commit
                | Message::Started
                | Message::Retire { .. }
                | Message::Resolve
                | Message::Abort { .. }
                | Message::Adopt { .. }
                | Message::Parked { .. }
                | Message::ParkedMore { .. }
                | Message::ParkedAck { .. }
                | Message::End { .. } => Event::Alien,
            }
        }
        Input::Received(Peer::Successor, frame) => {
            let handoff = frame.handoff;
            match frame.message {
                Message::Hello(hello) => Event::SuccessorHello { hello },
                Message::Adopted { standing, .. } => Event::SuccessorAdopted { standing },
                Message::Warmed { .. } => Event::Warmed { handoff },
                Message::Ready { digest, listeners, healthy, connections } => {
                    Event::Ready { handoff, digest, listeners, healthy, connections }
                }
                Message::Active { epoch } => Event::Active { handoff, epoch },
                Message::Refused(Refused { why, .. }) => Event::SuccessorRefused { why },
                Message::Heartbeat { .. } | Message::SealProgress { .. } => Event::SuccessorProgress,
                Message::HelloAck(_)
                | Message::PrepareHandoff { .. }
                | Message::Drained { .. }
                | Message::SealRequest
                | Message::SealComplete { .. }
                | Message::SealFailed { .. }
                | Message::Begin { .. }
                | Message::Canary
                | Message::Commit
                | Message::Started
                | Message::Retire { .. }
                | Message::Resolve
                | Message::Resumed { .. }
                | Message::Retiring
                | Message::Abort { .. }
                | Message::Adopt { .. }
                | Message::Parked { .. }
                | Message::ParkedMore { .. }
                | Message::ParkedAck { .. }
                | Message::Unhealthy { .. }
                | Message::End { .. } => Event::Alien,
            }
        }
        Input::Closed(Peer::Incumbent) => Event::IncumbentClosed,
        Input::Closed(Peer::Successor) => Event::SuccessorClosed,
        Input::Exited(Peer::Incumbent) => Event::IncumbentExited,
        Input::Exited(Peer::Successor) => Event::SuccessorExited,
        Input::Exited(Peer::Retiring(instance)) => Event::RetiredExited(instance),
        Input::Gone(Peer::Incumbent) => Event::IncumbentGone,
        Input::Gone(Peer::Successor) => Event::SuccessorGone,
        Input::Gone(Peer::Retiring(instance)) => Event::RetiredGone(instance),
        Input::Done(Hook::Canary, result) => Event::Tried(result.map(drop)),
        // what a leaving generation still says changes nothing: its pidfd tells when it is gone
        Input::Received(Peer::Retiring(_) | Peer::Supervisor, _)
        | Input::Closed(Peer::Retiring(_) | Peer::Supervisor)
        | Input::Exited(Peer::Supervisor)
        | Input::Gone(Peer::Supervisor)
        | Input::Start
        | Input::Done(..)
        | Input::Locked { .. } => Event::Alien,
        Input::Expired(timer) => match timer {
            Timer::Deadline => Event::DeadlineOver,
            Timer::Drain => Event::DrainOver,
            Timer::Freeze => Event::FreezeOver,
            Timer::Active => Event::ActiveOver,
            Timer::Silent => Event::SilentOver,
            Timer::Backoff => Event::BackoffOver,
            Timer::Forgive(_) => Event::Forgiven,
            Timer::Retire(instance) => Event::RetireOver(instance),
            Timer::ColdStart => Event::ColdStartOver,
            Timer::Probation => Event::ProbationOver,
            Timer::Stall => Event::StallOver,
            Timer::Canary => Event::CanaryDue,
            Timer::Lease | Timer::SelfCommit | Timer::Started | Timer::Grace => Event::Alien,
        },
        Input::Claimed(epoch, owner) => Event::Claimed(epoch, owner),
        Input::Failed(step, why) => Event::Failed(step, why),
    }
}
