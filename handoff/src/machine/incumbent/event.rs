//! What O can be told, sorted by what it is about.

use super::{Incumbent, State};
use crate::ids::{Digest, Epoch, HandoffId, InstanceId};
use crate::machine::step::{Command, Hook, Input, Peer, Report, Step, Timer};
use crate::wire::Message;
use std::time::Duration;

/// What O can be told, sorted: everything else is none of its business.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Prepare {
        handoff: HandoffId,
        epoch: Epoch,
        successor: InstanceId,
        drain_grace: Duration,
        freeze: Duration,
    },
    SealRequest,
    Resolve {
        handoff: HandoffId,
    },
    Retire {
        grace: Duration,
    },
    /// A heartbeat or another sign of life from the supervisor.
    Alive,
    Adopt,
    /// A connection to answer on as if a client had made it.
    Canary,
    /// A frame of a handoff that is not open here.
    Foreign {
        what: u16,
        name: &'static str,
        handoff: HandoffId,
        epoch: Epoch,
    },
    SupervisorLost,
    LeaseOver,
    FreezeOver,
    StartOver,
    GraceOver,
    Started,
    TransferEnded,
    SuccessorExited,
    SuccessorGone,
    Drained(Result<u64, String>),
    SealDone(Result<(Digest, u64), String>),
    Verified(Result<Digest, String>),
    Resumed(Result<(), String>),
    Retired,
    /// All connections were streamed, or the channel broke: the successor counts them, nothing to do here.
    HandedOver,
    Locked {
        highest: Option<(Epoch, InstanceId)>,
    },
    Claimed(Epoch, Option<InstanceId>),
    Failed(Step, String),
    Stop,
    /// Nothing that an incumbent knows.
    Alien,
}

impl Incumbent {
    pub(super) fn sort(&self, input: Input) -> Event {
        match input {
            Input::Received(Peer::Supervisor, frame) => {
                let (handoff, epoch) = (frame.handoff, frame.epoch);
                let ours = self.open().is_some_and(|open| open.handoff == handoff && open.base == epoch)
                    || matches!(&self.state, State::Retiring { handoff: of, .. } if *of == handoff);
                let (what, name) = (frame.message.kind(), frame.message.name());
                match frame.message {
                    Message::PrepareHandoff { successor, drain_grace_ms, freeze_budget_ms, .. } => {
                        Event::Prepare {
                            handoff,
                            epoch,
                            successor,
                            drain_grace: Duration::from_millis(drain_grace_ms.into()),
                            freeze: Duration::from_millis(freeze_budget_ms.into()),
                        }
                    }
                    Message::SealRequest if ours => Event::SealRequest,
                    Message::Retire { grace_ms } if ours => {
                        Event::Retire { grace: Duration::from_millis(grace_ms.into()) }
                    }
                    // answered in every state: of whatever handoff when none is open, and of a later one than
                    // the open one, for then S has given that up without an answer
                    Message::Resolve if ours || self.open().is_none_or(|open| handoff > open.handoff) => {
                        Event::Resolve { handoff }
                    }
                    Message::Adopt { .. } => Event::Adopt,
                    Message::Canary => Event::Canary,
                    Message::HelloAck(_) | Message::Heartbeat { .. } | Message::Refused(_) => Event::Alive,
                    Message::SealRequest | Message::Retire { .. } | Message::Resolve => {
                        Event::Foreign { what, name, handoff, epoch }
                    }
                    Message::Hello(_)
                    | Message::Warmed { .. }
                    | Message::Drained { .. }
                    | Message::SealProgress { .. }
                    | Message::SealComplete { .. }
                    | Message::SealFailed { .. }
                    | Message::Unhealthy { .. }
                    | Message::Begin { .. }
                    | Message::Ready { .. }
                    | Message::Commit
                    | Message::Started
                    | Message::Active { .. }
                    | Message::Resumed { .. }
                    | Message::Retiring
                    | Message::Abort { .. }
                    | Message::Adopted { .. }
                    | Message::Parked { .. }
                    | Message::ParkedMore { .. }
                    | Message::ParkedAck { .. }
                    | Message::End { .. } => Event::Foreign { what, name, handoff, epoch },
                }
            }
            Input::Received(Peer::Successor, frame) => {
                let ours =
                    self.open().is_some_and(|open| open.handoff == frame.handoff && open.base == frame.epoch);
                if ours && frame.message == Message::Started { Event::Started } else { Event::Alien }
            }
            Input::Received(Peer::Incumbent | Peer::Retiring(_), _) => Event::Alien,
            Input::Closed(Peer::Supervisor) => Event::SupervisorLost,
            Input::Closed(Peer::Successor) => Event::TransferEnded,
            Input::Exited(Peer::Successor) => Event::SuccessorExited,
            Input::Gone(Peer::Successor) => Event::SuccessorGone,
            Input::Closed(Peer::Incumbent | Peer::Retiring(_))
            | Input::Exited(Peer::Supervisor | Peer::Incumbent | Peer::Retiring(_))
            | Input::Gone(Peer::Supervisor | Peer::Incumbent | Peer::Retiring(_)) => Event::Alien,
            Input::Expired(Timer::Lease) => Event::LeaseOver,
            Input::Expired(Timer::Freeze) => Event::FreezeOver,
            Input::Expired(Timer::Started) => Event::StartOver,
            Input::Expired(Timer::Grace) => Event::GraceOver,
            Input::Expired(
                Timer::Deadline
                | Timer::Drain
                | Timer::SelfCommit
                | Timer::Active
                | Timer::Silent
                | Timer::Backoff
                | Timer::Forgive(_)
                | Timer::Retire(_)
                | Timer::ColdStart
                | Timer::Probation
                | Timer::Stall
                | Timer::Canary,
            ) => Event::Alien,
            Input::Done(hook, result) => match hook {
                Hook::Drain => Event::Drained(result.and_then(|report| {
                    if let Report::Drained { open } = report {
                        Ok(open)
                    } else {
                        Err(format!("the drain hook reported {report:?}"))
                    }
                })),
                Hook::Seal => Event::SealDone(result.and_then(|report| {
                    if let Report::Sealed { digest, connections } = report {
                        Ok((digest, connections))
                    } else {
                        Err(format!("the seal hook reported {report:?}"))
                    }
                })),
                Hook::Verify => Event::Verified(result.and_then(|report| {
                    if let Report::Verified { digest } = report {
                        Ok(digest)
                    } else {
                        Err(format!("the verify hook reported {report:?}"))
                    }
                })),
                Hook::Resume => Event::Resumed(result.map(drop)),
                Hook::Retire => Event::Retired,
                Hook::HandOver => Event::HandedOver,
                Hook::Warm | Hook::Open | Hook::Receive | Hook::Serve | Hook::Health | Hook::Canary => {
                    Event::Alien
                }
            },
            Input::Locked { highest } => Event::Locked { highest },
            Input::Claimed(epoch, owner) => Event::Claimed(epoch, owner),
            Input::Failed(step, why) => Event::Failed(step, why),
            Input::Command(Command::Stop) => Event::Stop,
            Input::Start | Input::Command(Command::Start | Command::Upgrade(_) | Command::Abort) => {
                Event::Alien
            }
        }
    }
}
