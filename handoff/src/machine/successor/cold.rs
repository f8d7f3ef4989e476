//! X: one step after the other; who else could serve is dead, and by owner.lock (exclusive) it is sure of that.

use super::event::Event;
use super::{Cold, State, Successor};
use crate::ids::{Epoch, HandoffId};
use crate::machine::step::{Effect, Effects, Hook, Step, times};
use crate::wire::Strategy;
use std::time::Duration;

impl Successor {
    /// X goes straight on, supervised or not: who else could serve is dead.
    pub(super) fn cold_on(&mut self, stage: Cold, event: Event) -> Effects {
        match (stage, event) {
            // nothing but the claim keeps overlapping servers apart, and one that retires may be there for its whole grace
            (Cold::New, Event::Start) if self.hello.strategy == Strategy::Overlap => {
                self.state = State::Cold { stage: Cold::Warming { highest: self.hello.epoch } };
                vec![self.hello(), Effect::Call(Hook::Warm)]
            }
            (Cold::New, Event::Start) => {
                self.state = State::Cold { stage: Cold::Locking };
                vec![self.hello(), Effect::Lock(Some(times::LOCK))]
            }
            (Cold::Locking, Event::Locked { highest }) => {
                let highest = highest.map_or(Epoch::ZERO, |(epoch, _)| epoch);
                self.state = State::Cold { stage: Cold::Warming { highest } };
                vec![Effect::Call(Hook::Warm)]
            }
            (Cold::Warming { highest }, Event::Warmed(Ok(_))) => {
                self.state = State::Cold { stage: Cold::Opening { highest } };
                vec![Effect::Call(Hook::Open)]
            }
            (Cold::Opening { highest }, Event::Opened(Ok((_, data_epoch, _)))) => {
                let epoch = highest.max(data_epoch).next();
                self.state = State::Cold { stage: Cold::Claiming { epoch } };
                vec![Effect::Propose, Effect::Claim(epoch)]
            }
            (Cold::Claiming { epoch }, Event::Claimed(of, Some(owner)))
                if of == epoch && owner == self.hello.instance =>
            {
                self.state = State::Cold { stage: Cold::Starting { epoch } };
                vec![Effect::SyncClaim(epoch), Effect::Call(Hook::Serve)]
            }
            (Cold::Claiming { epoch }, Event::Claimed(_, owner)) => {
                let whom = owner.map_or_else(|| "nobody".to_owned(), |owner| owner.to_string());
                self.leave(format!("epoch {epoch} belongs to {whom}"))
            }
            (Cold::Starting { epoch }, Event::Served(Ok(()))) => self.serve(epoch, HandoffId::NIL, epoch),
            (Cold::Warming { .. }, Event::Warmed(Err(why))) => self.leave(format!("warm: {why}")),
            (Cold::Opening { .. }, Event::Opened(Err(why))) => self.leave(format!("open: {why}")),
            (Cold::Starting { .. }, Event::Served(Err(why))) => self.give_up(format!("serve: {why}")),
            (_, Event::Failed(Step::Lock, why)) => self.leave(format!("owner.lock: {why}")),
            (_, Event::Failed(step, why)) => self.give_up(format!("{step:?}: {why}")),
            (_, Event::Refused { why }) => self.leave(format!("refused by the supervisor: {why}")),
            (_, Event::Abort { reason }) => self.leave(format!("aborted: {reason}")),
            (_, Event::Stop) => self.leave("asked to stop".into()),
            (_, Event::Adopt) => vec![self.adopted()],
            (_, Event::Ack { ack, .. }) => {
                self.lease = Duration::from_millis(ack.lease_ms.into());
                Vec::new()
            }
            (_, Event::SupervisorLost | Event::LeaseOver | Event::Alive) => Vec::new(),
            (
                _,
                event @ rest! {
                    Start Begin Commit DeadlineOver SelfCommit Warmed Opened ReceiveDone Served
                    Locked Claimed TransferEnded Canary Alien
                },
            ) => self.violation(&event),
        }
    }
}
