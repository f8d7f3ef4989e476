//! O: the server that serves, hands over, and takes back what nobody else owns.
//!
//! Before the seal it is still the owner and simply goes on; nothing is claimed. From the seal on only a claim decides.

mod event;
mod rows;
#[cfg(test)]
mod tests;

use super::step::{Effect, Effects, Ending, Hook, Input, Machine, Peer, Timer, Violation, times};
use crate::ids::{Digest, Epoch, HandoffId, InstanceId};
use crate::wire::{Message, PREPARE_HANDOFF, Refused, Standing, Strategy};
use event::Event;
use std::time::Duration;

/// The incumbent's machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Incumbent {
    me: InstanceId,
    strategy: Strategy,
    lease: Duration,
    /// The handoff that was resolved last: refused for ever, whatever still arrives of it.
    refused: HandoffId,
    /// A later handoff whose Resolve came while another one was open here: answered too. Nil otherwise.
    asked: HandoffId,
    state: State,
}

/// A handoff that O takes part in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Open {
    handoff: HandoffId,
    /// The epoch under which O served when it began.
    base: Epoch,
    successor: InstanceId,
    /// For the drain hook, and again for what ends after a handover without a freeze.
    grace: Duration,
    freeze: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    Active {
        epoch: Epoch,
    },
    Draining {
        open: Open,
    },
    Drained {
        open: Open,
    },
    Sealing {
        open: Open,
        interrupted: bool,
    },
    Sealed {
        open: Open,
        digest: Digest,
        trail: Trail,
    },
    /// The claim of base + 1 is being asked for.
    Resolving {
        open: Open,
        digest: Digest,
        trail: Trail,
    },
    /// The successor claimed and has not started yet.
    Lingering {
        open: Open,
        digest: Digest,
        trail: Trail,
        ending: bool,
    },
    /// O is on its way back to serving, as the owner of `epoch` (or before it becomes that).
    Taking {
        open: Open,
        digest: Digest,
        epoch: Epoch,
        stage: Stage,
    },
    /// The resume hook runs.
    Resuming {
        open: Open,
        epoch: Epoch,
        failure: Option<String>,
    },
    Retiring {
        handoff: HandoffId,
        epoch: Epoch,
    },
    Stopping {
        epoch: Epoch,
    },
    Finished {
        epoch: Epoch,
    },
}

/// What has been seen of the successor's end, in whatever order it comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Trail {
    /// Its main process ended.
    exited: bool,
    /// Its tree is empty.
    gone: bool,
    /// The transfer channel was read to its end: a `Started` would have been seen.
    eof: bool,
}

/// How far the way back is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// The successor's tree is being ended.
    Ending,
    /// owner.lock is awaited.
    Locking,
    /// The data on disk is compared with what was sealed.
    Verifying,
    /// The claim of base + 2 is being asked for (the successor owned base + 1).
    Claiming,
}

impl Incumbent {
    /// A server that serves under this epoch; no handoff is open.
    #[must_use]
    pub fn active(me: InstanceId, epoch: Epoch, strategy: Strategy, lease: Duration) -> Self {
        Self {
            me,
            strategy,
            lease,
            refused: HandoffId::NIL,
            asked: HandoffId::NIL,
            state: State::Active { epoch },
        }
    }

    /// The epoch it serves under, or served under when the open handoff began.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        match &self.state {
            State::Active { epoch }
            | State::Retiring { epoch, .. }
            | State::Stopping { epoch }
            | State::Finished { epoch } => *epoch,
            State::Draining { open, .. }
            | State::Drained { open }
            | State::Sealing { open, .. }
            | State::Sealed { open, .. }
            | State::Resolving { open, .. }
            | State::Lingering { open, .. }
            | State::Taking { open, .. }
            | State::Resuming { open, .. } => open.base,
        }
    }

    /// The epoch whose tenure the resume hook is called for: only while it resumes is it another than `epoch`.
    #[must_use]
    pub fn tenure(&self) -> Epoch {
        match &self.state {
            State::Resuming { epoch, .. } => *epoch,
            State::Active { .. }
            | State::Draining { .. }
            | State::Drained { .. }
            | State::Sealing { .. }
            | State::Sealed { .. }
            | State::Resolving { .. }
            | State::Lingering { .. }
            | State::Taking { .. }
            | State::Retiring { .. }
            | State::Stopping { .. }
            | State::Finished { .. } => self.epoch(),
        }
    }

    /// The open handoff.
    #[must_use]
    pub fn handoff(&self) -> Option<HandoffId> {
        self.open().map(|open| open.handoff)
    }

    /// Whether it may answer requests and acknowledge writes now.
    #[must_use]
    pub fn serves(&self) -> bool {
        match &self.state {
            State::Active { .. } | State::Draining { .. } | State::Drained { .. } => true,
            // the resume hook may already answer
            State::Resuming { .. } => true,
            // the strategy without a freeze serves until it retires
            State::Resolving { .. } | State::Lingering { .. } | State::Taking { .. } => {
                self.strategy == Strategy::Overlap
            }
            State::Sealing { .. }
            | State::Sealed { .. }
            | State::Retiring { .. }
            | State::Stopping { .. }
            | State::Finished { .. } => false,
        }
    }

    /// How it stands, for a supervisor that asks.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match &self.state {
            State::Active { .. } => Standing::Active,
            State::Draining { .. } | State::Drained { .. } => Standing::Draining,
            State::Sealing { .. }
            | State::Sealed { .. }
            | State::Resolving { .. }
            | State::Lingering { .. }
            | State::Taking { .. }
            | State::Resuming { .. } => Standing::Sealed,
            State::Retiring { .. } | State::Stopping { .. } | State::Finished { .. } => Standing::Retiring,
        }
    }

    /// Name of the state, for traces and tables.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        match &self.state {
            State::Active { .. } => "Active",
            State::Draining { .. } => "Draining",
            State::Drained { .. } => "Drained",
            State::Sealing { interrupted: false, .. } => "Sealing",
            State::Sealing { interrupted: true, .. } => "Sealing (interrupted)",
            State::Sealed { .. } => "Sealed",
            State::Resolving { .. } => "Resolving",
            State::Lingering { ending: false, .. } => "Lingering",
            State::Lingering { ending: true, .. } => "Lingering (ending N)",
            State::Taking { stage: Stage::Ending, .. } => "Taking (ending N)",
            State::Taking { stage: Stage::Locking, .. } => "Taking (locking)",
            State::Taking { stage: Stage::Verifying, .. } => "Taking (verifying)",
            State::Taking { stage: Stage::Claiming, .. } => "Taking (claiming)",
            State::Resuming { .. } => "Resuming",
            State::Retiring { .. } => "Retiring",
            State::Stopping { .. } => "Stopping",
            State::Finished { .. } => "Finished",
        }
    }

    fn open(&self) -> Option<&Open> {
        match &self.state {
            State::Draining { open, .. }
            | State::Drained { open }
            | State::Sealing { open, .. }
            | State::Sealed { open, .. }
            | State::Resolving { open, .. }
            | State::Lingering { open, .. }
            | State::Taking { open, .. }
            | State::Resuming { open, .. } => Some(open),
            State::Active { .. }
            | State::Retiring { .. }
            | State::Stopping { .. }
            | State::Finished { .. } => None,
        }
    }

    /// One place decides what happens with what a state has no use for: a frame of another handoff is refused,
    /// everything else is ignored. Both leave a trace.
    fn violation(&self, event: Event) -> Effects {
        tracing_violation(&Violation { state: self.state_name(), input: format!("{event:?}") });
        if let Event::Foreign { what, name, handoff, epoch } = event {
            let refused = Refused { what, why: format!("{name} of a handoff that is not open here") };
            return vec![Effect::send(Peer::Supervisor, handoff, epoch, Message::Refused(refused))];
        }
        if let Event::Prepare { handoff, epoch, .. } = event {
            return vec![self.refuse_prepare(handoff, epoch, format!("in state {}", self.state_name()))];
        }
        Vec::new()
    }

    fn refuse_prepare(&self, handoff: HandoffId, epoch: Epoch, why: String) -> Effect {
        let what = PREPARE_HANDOFF;
        Effect::send(Peer::Supervisor, handoff, epoch, Message::Refused(Refused { what, why }))
    }

    fn say(&self, open: &Open, message: Message) -> Effect {
        Effect::send(Peer::Supervisor, open.handoff, open.base, message)
    }

    fn adopted(&self) -> Effect {
        let open = self.open().copied();
        let handoff = open.map_or(HandoffId::NIL, |open| open.handoff);
        let peer = open.map_or(InstanceId::NIL, |open| open.successor);
        let message = Message::Adopted { standing: self.standing(), epoch: self.epoch(), handoff, peer };
        Effect::send(Peer::Supervisor, handoff, self.epoch(), message)
    }

    fn lease(&self) -> Effect {
        Effect::Arm(Timer::Lease, self.lease)
    }

    /// Before the seal: still the owner, goes on under the same epoch.
    fn go_on(&mut self, open: Open, failure: Option<String>) -> Effects {
        self.refused = open.handoff;
        self.state = State::Resuming { open, epoch: open.base, failure };
        vec![
            Effect::Cancel(Hook::Drain),
            Effect::Disarm(Timer::Lease),
            Effect::Disarm(Timer::Freeze),
            Effect::Call(Hook::Resume),
        ]
    }

    /// Nobody can decide but the claim.
    fn resolve(&mut self, open: Open, digest: Digest, trail: Trail) -> Effects {
        self.refused = open.handoff;
        self.state = State::Resolving { open, digest, trail };
        vec![Effect::Disarm(Timer::Lease), Effect::Disarm(Timer::Freeze), Effect::Claim(open.base.next())]
    }

    /// The resume hook is the last step back: everything that makes it safe lies before it.
    fn resume(&mut self, open: Open, epoch: Epoch) -> Effects {
        self.state = State::Resuming { open, epoch, failure: None };
        vec![Effect::SyncClaim(epoch), Effect::Call(Hook::Resume)]
    }

    fn serve_on(&mut self, open: Open, epoch: Epoch, failure: Option<String>) -> Effects {
        self.state = State::Active { epoch };
        let answer = match failure {
            Some(error) => Message::SealFailed { error },
            None => Message::Resumed { epoch },
        };
        let mut effects = vec![self.say(&open, answer)];
        effects.extend(self.answer_asked(&open, Message::Resumed { epoch }));
        effects.extend([Effect::Forget(Peer::Successor), Effect::Tidy]);
        effects
    }

    /// The same answer to the later handoff that asked, which is over with it.
    fn answer_asked(&mut self, open: &Open, answer: Message) -> Option<Effect> {
        let asked = std::mem::take(&mut self.asked);
        if asked.is_nil() {
            return None;
        }
        self.refused = asked;
        Some(Effect::send(Peer::Supervisor, asked, open.base, answer))
    }

    /// The successor started: what O still has of connections is stale.
    fn retire(&mut self, open: Open) -> Effects {
        self.refused = open.handoff;
        self.state = State::Retiring { handoff: open.handoff, epoch: open.base };
        let mut effects =
            vec![Effect::Disarm(Timer::Lease), Effect::Disarm(Timer::Freeze), Effect::Disarm(Timer::Started)];
        let grace = match self.strategy {
            Strategy::Exclusive => {
                effects.extend([Effect::CloseParked, Effect::Forget(Peer::Successor)]);
                times::START
            }
            // nothing was parked: each connection goes over the transfer channel when it becomes idle
            Strategy::Overlap => open.grace,
        };
        effects.push(self.say(&open, Message::Retiring));
        effects.extend(self.answer_asked(&open, Message::Retiring));
        effects.extend([Effect::Arm(Timer::Grace, grace), Effect::Call(Hook::Retire)]);
        effects
    }

    /// S says so only when N has told it that it is Active, after Started: where the transfer channel broke and Started was
    /// lost, this is the word that keeps a healthy N from being ended.
    fn retire_for(&mut self, open: Open, grace: Duration) -> Effects {
        let mut effects = self.retire(open);
        effects.push(Effect::Arm(Timer::Grace, grace));
        effects
    }

    fn finish(&mut self, ending: Ending) -> Effects {
        self.state = State::Finished { epoch: self.epoch() };
        vec![Effect::Finish(ending)]
    }

    fn give_up(&mut self, why: String) -> Effects {
        self.finish(Ending::GaveUp(why))
    }

    /// The successor claimed base + 1 and has not said Started: once its tree is gone and its channel is read to
    /// the end, there never will be one.
    fn linger(&mut self, open: Open, digest: Digest, trail: Trail, ending: bool) -> Effects {
        if trail.gone && trail.eof {
            return match self.strategy {
                Strategy::Exclusive => {
                    let epoch = open.base.next().next();
                    self.state = State::Taking { open, digest, epoch, stage: Stage::Locking };
                    vec![Effect::Disarm(Timer::Started), Effect::Lock(None)]
                }
                Strategy::Overlap => {
                    let epoch = open.base.next().next();
                    self.state = State::Taking { open, digest, epoch, stage: Stage::Claiming };
                    vec![Effect::Disarm(Timer::Started), Effect::Claim(epoch)]
                }
            };
        }
        let end_now = trail.exited && !ending;
        self.state = State::Lingering { open, digest, trail, ending: ending || end_now };
        if end_now { vec![Effect::Kill(Peer::Successor)] } else { Vec::new() }
    }
}

/// Violations are counted by whoever drives; in pure builds they only exist as values.
fn tracing_violation(violation: &Violation) {
    #[cfg(feature = "system")]
    tracing::debug!(target: "handoff.violation", role = "O", %violation);
    #[cfg(not(feature = "system"))]
    let _ = violation;
}

impl Machine for Incumbent {
    fn handle(&mut self, input: Input) -> Effects {
        let event = self.sort(input);
        // a new supervisor asks how things stand: the same answer in every state, changing nothing
        if matches!(event, Event::Adopt) {
            let mut effects = vec![self.adopted()];
            if self.open().is_some() && self.standing() != Standing::Active {
                effects.push(self.lease());
            }
            return effects;
        }
        if let Event::Resolve { handoff } = &event
            && self.open().is_some_and(|open| *handoff > open.handoff)
        {
            self.asked = *handoff;
        }
        match self.state.clone() {
            State::Active { epoch } => self.active_on(epoch, event),
            State::Draining { open } => self.draining_on(open, event),
            State::Drained { open } => self.drained_on(open, event),
            State::Sealing { open, interrupted } => self.sealing_on(open, interrupted, event),
            State::Sealed { open, digest, trail } => self.sealed_on(open, digest, trail, event),
            State::Resolving { open, digest, trail } => self.resolving_on(open, digest, trail, event),
            State::Lingering { open, digest, trail, ending } => {
                self.lingering_on(open, digest, trail, ending, event)
            }
            State::Taking { open, digest, epoch, stage } => self.taking_on(open, digest, epoch, stage, event),
            State::Resuming { open, epoch, failure } => self.resuming_on(open, epoch, failure, event),
            State::Retiring { epoch, .. } => self.retiring_on(epoch, event),
            State::Stopping { .. } => self.stopping_on(event),
            State::Finished { .. } => self.violation(event),
        }
    }
}
