//! What N and X can be told, sorted by what it is about.

use super::Successor;
use crate::ids::{Digest, Epoch, HandoffId, InstanceId};
use crate::machine::step::{Command, Hook, Input, Peer, Report, Step, Timer};
use crate::wire::{HelloAck, Message, Refused};

/// What N and X can be told, sorted.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Start,
    Ack {
        handoff: HandoffId,
        epoch: Epoch,
        ack: HelloAck,
    },
    Begin {
        digest: Option<Digest>,
    },
    Commit,
    Canary,
    Abort {
        reason: String,
    },
    /// The supervisor refused something: whatever it was, N goes.
    Refused {
        why: String,
    },
    Alive,
    Adopt,
    SupervisorLost,
    LeaseOver,
    DeadlineOver,
    SelfCommit,
    Warmed(Result<(String, u64), String>),
    Opened(Result<(Digest, Epoch, bool), String>),
    ReceiveDone(Result<u64, String>),
    Served(Result<(), String>),
    Locked {
        highest: Option<(Epoch, InstanceId)>,
    },
    Claimed(Epoch, Option<InstanceId>),
    Failed(Step, String),
    Stop,
    /// The transfer channel ended: the receive hook has noticed too.
    TransferEnded,
    Alien,
}

impl Successor {
    pub(super) fn sort(&self, input: Input) -> Event {
        match input {
            Input::Start => Event::Start,
            Input::Received(Peer::Supervisor, frame) => {
                let ours =
                    self.open().is_some_and(|open| open.handoff == frame.handoff && open.base == frame.epoch);
                match frame.message {
                    Message::HelloAck(ack) => Event::Ack { handoff: frame.handoff, epoch: frame.epoch, ack },
                    Message::Begin { digest } if ours => Event::Begin { digest },
                    Message::Commit if ours => Event::Commit,
                    Message::Canary if ours => Event::Canary,
                    Message::Abort { reason } if ours => Event::Abort { reason },
                    Message::Refused(Refused { why, .. }) => Event::Refused { why },
                    Message::Heartbeat { .. } => Event::Alive,
                    Message::Adopt { .. } => Event::Adopt,
                    Message::Begin { .. }
                    | Message::Commit
                    | Message::Canary
                    | Message::Abort { .. }
                    | Message::Hello(_)
                    | Message::Warmed { .. }
                    | Message::PrepareHandoff { .. }
                    | Message::Drained { .. }
                    | Message::SealRequest
                    | Message::SealProgress { .. }
                    | Message::SealComplete { .. }
                    | Message::SealFailed { .. }
                    | Message::Unhealthy { .. }
                    | Message::Ready { .. }
                    | Message::Started
                    | Message::Active { .. }
                    | Message::Retire { .. }
                    | Message::Resolve
                    | Message::Resumed { .. }
                    | Message::Retiring
                    | Message::Adopted { .. }
                    | Message::Parked { .. }
                    | Message::ParkedMore { .. }
                    | Message::ParkedAck { .. }
                    | Message::End { .. } => Event::Alien,
                }
            }
            Input::Closed(Peer::Supervisor) => Event::SupervisorLost,
            Input::Closed(Peer::Incumbent) => Event::TransferEnded,
            Input::Received(Peer::Incumbent | Peer::Successor | Peer::Retiring(_), _)
            | Input::Closed(Peer::Successor | Peer::Retiring(_))
            | Input::Exited(_)
            | Input::Gone(_) => Event::Alien,
            Input::Expired(Timer::Lease) => Event::LeaseOver,
            Input::Expired(Timer::Deadline) => Event::DeadlineOver,
            Input::Expired(Timer::SelfCommit) => Event::SelfCommit,
            Input::Expired(
                Timer::Drain
                | Timer::Freeze
                | Timer::Started
                | Timer::Active
                | Timer::Silent
                | Timer::Backoff
                | Timer::Forgive(_)
                | Timer::Retire(_)
                | Timer::Grace
                | Timer::ColdStart
                | Timer::Probation
                | Timer::Stall
                | Timer::Canary,
            ) => Event::Alien,
            Input::Done(hook, result) => match hook {
                Hook::Warm => Event::Warmed(result.and_then(|report| {
                    if let Report::Warmed { loaded, revision } = report {
                        Ok((loaded, revision))
                    } else {
                        Err(format!("the warm hook reported {report:?}"))
                    }
                })),
                Hook::Open => Event::Opened(result.and_then(|report| {
                    if let Report::Opened { digest, data_epoch, healthy } = report {
                        Ok((digest, data_epoch, healthy))
                    } else {
                        Err(format!("the open hook reported {report:?}"))
                    }
                })),
                Hook::Receive => Event::ReceiveDone(result.and_then(|report| {
                    if let Report::Received { connections } = report {
                        Ok(connections)
                    } else {
                        Err(format!("the transfer reported {report:?}"))
                    }
                })),
                Hook::Serve => Event::Served(result.map(drop)),
                Hook::Drain
                | Hook::Seal
                | Hook::HandOver
                | Hook::Verify
                | Hook::Resume
                | Hook::Retire
                | Hook::Health
                | Hook::Canary => Event::Alien,
            },
            Input::Locked { highest } => Event::Locked { highest },
            Input::Claimed(epoch, owner) => Event::Claimed(epoch, owner),
            Input::Failed(step, why) => Event::Failed(step, why),
            Input::Command(Command::Stop) => Event::Stop,
            Input::Command(Command::Start | Command::Upgrade(_) | Command::Abort) => Event::Alien,
        }
    }
}
