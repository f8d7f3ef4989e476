//! The rows of the incumbent's table: one function a state, every event answered in each.

use super::{Event, Incumbent, Open, Stage, State, Trail};
use crate::ids::{Digest, Epoch};
use crate::machine::step::{Effect, Effects, Ending, Hook, Peer, Step, Timer, times};
use crate::wire::{Message, PREPARE_HANDOFF, Refused, Strategy};

/// The events that a row has no use for, spelled out so that a new one must be considered in every row.
macro_rules! rest {
    ($($name:ident)+) => { $(Event::$name { .. })|+ };
}

impl Incumbent {
    pub(super) fn active_on(&mut self, epoch: Epoch, event: Event) -> Effects {
        match event {
            Event::Prepare { handoff, epoch: of, .. } if handoff == self.refused || of != epoch => {
                vec![self.refuse_prepare(
                    handoff,
                    of,
                    format!("this handoff is over here, epoch {epoch} is served"),
                )]
            }
            Event::Prepare { handoff, epoch: base, successor, drain_grace, freeze } => {
                let open = Open { handoff, base, successor, grace: drain_grace, freeze };
                match self.strategy {
                    Strategy::Exclusive => {
                        self.state = State::Draining { open };
                        vec![Effect::Propose, self.lease(), Effect::Call(Hook::Drain)]
                    }
                    Strategy::Overlap => {
                        self.state = State::Drained { open };
                        vec![Effect::Propose, self.lease(), self.say(&open, Message::Drained { open: 0 })]
                    }
                }
            }
            Event::Resolve { handoff } => {
                self.refused = handoff;
                vec![Effect::send(Peer::Supervisor, handoff, epoch, Message::Resumed { epoch })]
            }
            Event::Canary => vec![Effect::Call(Hook::Canary)],
            Event::Stop => self.stop(epoch),
            // the claim under which an overlapping server went on is not durable
            Event::Failed(Step::SyncClaim, why) => self.give_up(format!("the claim is not durable: {why}")),
            Event::SupervisorLost | Event::Alive => Vec::new(),
            event @ rest! {
                SealRequest Retire Adopt Foreign LeaseOver FreezeOver StartOver GraceOver Started
                TransferEnded SuccessorExited SuccessorGone Drained SealDone Verified Resumed
                Retired HandedOver Locked Claimed Failed Alien
            } => self.violation(event),
        }
    }

    pub(super) fn draining_on(&mut self, open: Open, event: Event) -> Effects {
        match event {
            Event::Drained(Ok(count)) => {
                self.state = State::Drained { open };
                vec![self.say(&open, Message::Drained { open: count })]
            }
            Event::Drained(Err(_)) | Event::Resolve { .. } | Event::SupervisorLost | Event::LeaseOver => {
                self.go_on(open, None)
            }
            Event::Failed(Step::Propose, why) => {
                // nothing was begun but the proposal
                self.refused = open.handoff;
                self.state = State::Active { epoch: open.base };
                let what = PREPARE_HANDOFF;
                vec![
                    self.say(&open, Message::Refused(Refused { what, why: format!("no proposal: {why}") })),
                    Effect::Forget(Peer::Successor),
                ]
            }
            Event::Alive => vec![self.lease()],
            Event::Stop => self.stop(open.base),
            Event::TransferEnded | Event::SuccessorExited => Vec::new(),
            event @ rest! {
                Prepare SealRequest Retire Adopt Foreign FreezeOver StartOver GraceOver Started
                SuccessorGone SealDone Verified Resumed Retired HandedOver Locked Claimed Failed
                Canary Alien
            } => self.violation(event),
        }
    }

    pub(super) fn drained_on(&mut self, open: Open, event: Event) -> Effects {
        let overlap = self.strategy == Strategy::Overlap;
        match event {
            Event::SealRequest if !overlap => {
                self.state = State::Sealing { open, interrupted: false };
                vec![self.lease(), Effect::Arm(Timer::Freeze, open.freeze), Effect::Call(Hook::Seal)]
            }
            // without a seal the successor may already have been told to commit: only the claim decides
            Event::Resolve { .. } | Event::SupervisorLost | Event::LeaseOver if overlap => {
                self.resolve(open, Digest::default(), Trail::default())
            }
            Event::Resolve { .. } | Event::SupervisorLost | Event::LeaseOver => self.go_on(open, None),
            Event::Started if overlap => self.retire(open),
            Event::Retire { .. } if overlap => vec![self.lease()],
            Event::Failed(Step::Propose, why) if overlap => {
                self.refused = open.handoff;
                self.state = State::Active { epoch: open.base };
                let what = PREPARE_HANDOFF;
                vec![
                    self.say(&open, Message::Refused(Refused { what, why: format!("no proposal: {why}") })),
                    Effect::Forget(Peer::Successor),
                ]
            }
            Event::Alive => vec![self.lease()],
            Event::Stop => self.stop(open.base),
            Event::SuccessorExited if overlap => {
                let trail = Trail { exited: true, ..Trail::default() };
                self.resolve(open, Digest::default(), trail)
            }
            // nor will Started come any more: to be kept in mind, for nothing tells it again
            Event::TransferEnded if overlap => {
                let trail = Trail { eof: true, ..Trail::default() };
                self.resolve(open, Digest::default(), trail)
            }
            Event::TransferEnded | Event::SuccessorExited => Vec::new(),
            event @ rest! {
                Prepare SealRequest Retire Adopt Foreign FreezeOver StartOver GraceOver Started
                SuccessorGone Drained SealDone Verified Resumed Retired HandedOver Locked Claimed
                Failed Canary Alien
            } => self.violation(event),
        }
    }

    pub(super) fn sealing_on(&mut self, open: Open, interrupted: bool, event: Event) -> Effects {
        match event {
            // an fsync cannot be interrupted: remembered, acted on when the hook returns
            Event::Resolve { .. } | Event::SupervisorLost | Event::LeaseOver | Event::FreezeOver => {
                self.state = State::Sealing { open, interrupted: true };
                Vec::new()
            }
            Event::SealDone(Ok(_)) if interrupted => self.go_on(open, None),
            Event::SealDone(Ok((digest, connections))) => {
                self.state = State::Sealed { open, digest: digest.clone(), trail: Trail::default() };
                vec![
                    Effect::Unlock,
                    self.say(&open, Message::SealComplete { digest, connections }),
                    Effect::Call(Hook::HandOver),
                ]
            }
            Event::SealDone(Err(error)) => self.go_on(open, Some(error)),
            Event::Alive => vec![self.lease()],
            // the data is as safe as in a crash, and the service manager wants it gone
            Event::Stop => self.finish(Ending::Stopped),
            Event::TransferEnded | Event::SuccessorExited => Vec::new(),
            event @ rest! {
                Prepare SealRequest Retire Adopt Foreign StartOver GraceOver Started SuccessorGone
                Drained Verified Resumed Retired HandedOver Locked Claimed Failed Canary Alien
            } => self.violation(event),
        }
    }

    pub(super) fn sealed_on(
        &mut self,
        open: Open,
        digest: Digest,
        mut trail: Trail,
        event: Event,
    ) -> Effects {
        match event {
            Event::Started => self.retire(open),
            Event::Resolve { .. } | Event::SupervisorLost | Event::LeaseOver | Event::FreezeOver => {
                self.resolve(open, digest, trail)
            }
            // it will not start any more, whatever it claimed: no need to wait for the budget
            Event::SuccessorExited => {
                trail.exited = true;
                self.resolve(open, digest, trail)
            }
            Event::TransferEnded => {
                trail.eof = true;
                self.state = State::Sealed { open, digest, trail };
                Vec::new()
            }
            Event::Retire { grace } => self.retire_for(open, grace),
            Event::Alive => vec![self.lease()],
            Event::HandedOver => Vec::new(),
            Event::Stop => self.finish(Ending::Stopped),
            event @ rest! {
                Prepare SealRequest Adopt Foreign StartOver GraceOver SuccessorGone Drained SealDone
                Verified Resumed Retired Locked Claimed Failed Canary Alien
            } => self.violation(event),
        }
    }

    pub(super) fn resolving_on(
        &mut self,
        open: Open,
        digest: Digest,
        mut trail: Trail,
        event: Event,
    ) -> Effects {
        match event {
            Event::Claimed(epoch, owner) if epoch == open.base.next() => match owner {
                Some(owner) if owner == self.me => {
                    self.state = State::Taking { open, digest, epoch, stage: Stage::Ending };
                    vec![Effect::Kill(Peer::Successor)]
                }
                Some(owner) if owner == open.successor => {
                    let mut effects = vec![Effect::Arm(Timer::Started, times::START)];
                    effects.extend(self.linger(open, digest, trail, false));
                    effects
                }
                Some(third) => {
                    self.give_up(format!("epoch {epoch} belongs to {third}, which is not of this handoff"))
                }
                None => self.give_up(format!("the claim of epoch {epoch} is gone: the handoff is over")),
            },
            Event::Failed(Step::Claim, why) => self.give_up(why),
            Event::SuccessorExited => {
                trail.exited = true;
                self.state = State::Resolving { open, digest, trail };
                Vec::new()
            }
            Event::TransferEnded => {
                trail.eof = true;
                self.state = State::Resolving { open, digest, trail };
                Vec::new()
            }
            Event::Started => self.retire(open),
            Event::Retire { grace } => self.retire_for(open, grace),
            Event::Stop => self.finish(Ending::Stopped),
            Event::Resolve { .. }
            | Event::SupervisorLost
            | Event::LeaseOver
            | Event::FreezeOver
            | Event::HandedOver
            | Event::Alive => Vec::new(),
            event @ rest! {
                Prepare SealRequest Adopt Foreign StartOver GraceOver SuccessorGone Drained SealDone
                Verified Resumed Retired Locked Claimed Failed Canary Alien
            } => self.violation(event),
        }
    }

    pub(super) fn lingering_on(
        &mut self,
        open: Open,
        digest: Digest,
        mut trail: Trail,
        ending: bool,
        event: Event,
    ) -> Effects {
        match event {
            Event::Started => self.retire(open),
            Event::Retire { grace } if !ending => self.retire_for(open, grace),
            Event::SuccessorExited => {
                trail.exited = true;
                self.linger(open, digest, trail, ending)
            }
            Event::SuccessorGone => {
                trail.gone = true;
                self.linger(open, digest, trail, ending)
            }
            Event::TransferEnded => {
                trail.eof = true;
                self.linger(open, digest, trail, ending)
            }
            Event::StartOver if !ending => {
                self.state = State::Lingering { open, digest, trail, ending: true };
                vec![Effect::Kill(Peer::Successor)]
            }
            Event::Stop => self.finish(Ending::Stopped),
            // answered when it is decided, by Resumed or Retiring
            Event::Resolve { .. }
            | Event::Retire { .. }
            | Event::SupervisorLost
            | Event::LeaseOver
            | Event::FreezeOver
            | Event::StartOver
            | Event::HandedOver
            | Event::Alive => Vec::new(),
            event @ rest! {
                Prepare SealRequest Adopt Foreign GraceOver Drained SealDone Verified Resumed
                Retired Locked Claimed Failed Canary Alien
            } => self.violation(event),
        }
    }

    pub(super) fn taking_on(
        &mut self,
        open: Open,
        digest: Digest,
        epoch: Epoch,
        stage: Stage,
        event: Event,
    ) -> Effects {
        let overlap = self.strategy == Strategy::Overlap;
        match (stage, event) {
            (Stage::Ending, Event::SuccessorGone) if overlap => self.take_overlap(open, epoch),
            (Stage::Ending, Event::SuccessorGone) => {
                self.state = State::Taking { open, digest, epoch, stage: Stage::Locking };
                // for ever: whoever holds it is ended or ends; leaving on "held" could leave nobody
                vec![Effect::Lock(None)]
            }
            (Stage::Locking, Event::Locked { highest }) if highest.is_some_and(|(top, _)| top > epoch) => {
                self.give_up(format!("a claim above epoch {epoch} exists: somebody else serves"))
            }
            (Stage::Locking, Event::Locked { .. }) => {
                self.state = State::Taking { open, digest, epoch, stage: Stage::Verifying };
                vec![Effect::Call(Hook::Verify)]
            }
            (Stage::Verifying, Event::Verified(Ok(found))) if found == digest => {
                if epoch == open.base.next() {
                    self.resume(open, epoch)
                } else {
                    self.state = State::Taking { open, digest, epoch, stage: Stage::Claiming };
                    vec![Effect::Claim(epoch)]
                }
            }
            (Stage::Verifying, Event::Verified(Ok(found))) => {
                self.give_up(format!("the data changed after the seal: sealed {digest}, found {found}"))
            }
            (Stage::Verifying, Event::Verified(Err(why))) => {
                self.give_up(format!("the data cannot be verified: {why}"))
            }
            (Stage::Claiming, Event::Claimed(of, owner)) if of == epoch => match owner {
                Some(owner) if owner == self.me && overlap => self.take_overlap(open, epoch),
                Some(owner) if owner == self.me => self.resume(open, epoch),
                Some(other) => self.give_up(format!("epoch {epoch} belongs to {other}")),
                None => self.give_up(format!("the claim of epoch {epoch} is gone: the handoff is over")),
            },
            (Stage::Claiming, Event::Failed(Step::Claim, why))
            | (Stage::Locking, Event::Failed(Step::Lock, why)) => self.give_up(why),
            (_, Event::Stop) => self.finish(Ending::Stopped),
            // on its way; Resumed will answer whoever asked
            (
                _,
                Event::Resolve { .. }
                | Event::Retire { .. }
                | Event::SupervisorLost
                | Event::LeaseOver
                | Event::FreezeOver
                | Event::StartOver
                | Event::SuccessorExited
                | Event::TransferEnded
                | Event::HandedOver
                | Event::Alive,
            ) => Vec::new(),
            (
                _,
                event @ rest! {
                    Prepare SealRequest Adopt Foreign GraceOver Started SuccessorGone Drained
                    SealDone Verified Resumed Retired Locked Claimed Failed Canary Alien
                },
            ) => self.violation(event),
        }
    }

    pub(super) fn resuming_on(
        &mut self,
        open: Open,
        epoch: Epoch,
        failure: Option<String>,
        event: Event,
    ) -> Effects {
        match event {
            Event::Resumed(Ok(())) => self.serve_on(open, epoch, failure),
            Event::Resumed(Err(why)) => self.give_up(format!("resume: {why}")),
            Event::Failed(Step::SyncClaim, why) => self.give_up(format!("the claim is not durable: {why}")),
            Event::Stop => self.finish(Ending::Stopped),
            Event::Resolve { .. }
            | Event::Retire { .. }
            | Event::SupervisorLost
            | Event::LeaseOver
            | Event::FreezeOver
            | Event::SuccessorExited
            | Event::TransferEnded
            | Event::HandedOver
            | Event::Alive => Vec::new(),
            event @ rest! {
                Prepare SealRequest Adopt Foreign StartOver GraceOver Started SuccessorGone Drained
                SealDone Verified Retired Locked Claimed Failed Canary Alien
            } => self.violation(event),
        }
    }

    pub(super) fn retiring_on(&mut self, epoch: Epoch, event: Event) -> Effects {
        match event {
            Event::Resolve { handoff: asked } => {
                vec![Effect::send(Peer::Supervisor, asked, epoch, Message::Retiring)]
            }
            Event::Retire { grace } => vec![Effect::Arm(Timer::Grace, grace)],
            Event::Retired | Event::GraceOver | Event::Stop => self.finish(Ending::Retired),
            Event::SupervisorLost
            | Event::SuccessorExited
            | Event::TransferEnded
            | Event::HandedOver
            | Event::LeaseOver
            | Event::FreezeOver
            | Event::StartOver
            | Event::Alive => Vec::new(),
            event @ rest! {
                Prepare SealRequest Adopt Foreign Started SuccessorGone Drained SealDone Verified
                Resumed Locked Claimed Failed Canary Alien
            } => self.violation(event),
        }
    }

    pub(super) fn stopping_on(&mut self, event: Event) -> Effects {
        match event {
            Event::Retired | Event::GraceOver => self.finish(Ending::Stopped),
            Event::SupervisorLost
            | Event::LeaseOver
            | Event::SuccessorExited
            | Event::TransferEnded
            | Event::HandedOver
            | Event::Stop
            | Event::Alive => Vec::new(),
            event @ rest! {
                Prepare SealRequest Resolve Retire Adopt Foreign FreezeOver StartOver Started
                SuccessorGone Drained SealDone Verified Resumed Locked Claimed Failed Canary Alien
            } => self.violation(event),
        }
    }

    /// SIGTERM while it serves.
    fn stop(&mut self, epoch: Epoch) -> Effects {
        self.state = State::Stopping { epoch };
        vec![
            Effect::Cancel(Hook::Drain),
            Effect::Disarm(Timer::Lease),
            Effect::Forget(Peer::Successor),
            Effect::Arm(Timer::Grace, times::STOP),
            Effect::Call(Hook::Retire),
        ]
    }

    /// Without a seal there is nothing to lock, to verify or to resume: it served all the time.
    fn take_overlap(&mut self, open: Open, epoch: Epoch) -> Effects {
        let mut effects = vec![Effect::SyncClaim(epoch)];
        effects.extend(self.serve_on(open, epoch, None));
        effects
    }
}
