//! What ends beside or above a handoff: retiring generations, and everything at a stop.

use super::event::Event;
use super::{Party, State, Supervisor};
use crate::ids::Epoch;
use crate::journal::Record;
use crate::machine::step::{Effect, Effects, Ended, Ending, Outcome, Peer, Timer};

impl Supervisor {
    /// A retiring generation has its own small life beside whatever else goes on.
    pub(super) fn retiring_on(&mut self, event: &Event) -> Option<Effects> {
        if let Event::RetiredExited(instance) | Event::RetireOver(instance) = event {
            return self.retiring.contains(instance).then(|| vec![Effect::Kill(Peer::Retiring(*instance))]);
        }
        let Event::RetiredGone(instance) = event else { return None };
        if !self.retiring.contains(instance) {
            return None;
        }
        self.retiring.retain(|other| other != instance);
        let mut effects =
            vec![Effect::Disarm(Timer::Retire(*instance)), Effect::Forget(Peer::Retiring(*instance))];
        effects.extend(self.stopped_if_empty());
        Some(effects)
    }

    /// SIGTERM or `shutdown`: every process that was started is ended, whatever is open. Crash safety makes it
    /// safe; the open handoff is left to the claims.
    pub(super) fn stop(&mut self) -> Effects {
        let (incumbent, successor) = match &self.state {
            State::Empty { .. } | State::Pausing { .. } | State::Failed { .. } | State::Stopped => {
                (Party::Gone, Party::Gone)
            }
            State::Emptying { successor, .. } => (Party::Ending, *successor),
            State::StartFailed { .. } => (Party::Ending, Party::Gone),
            State::Starting { .. } | State::Idle { .. } | State::Probation { .. } => {
                (Party::Alive, Party::Gone)
            }
            State::Greeting { .. }
            | State::Warming { .. }
            | State::Preparing { .. }
            | State::Sealing { .. }
            | State::Ending { .. }
            | State::Settling { .. } => (Party::Alive, Party::Alive),
            State::Readying { incumbent, .. }
            | State::Canary { incumbent, .. }
            | State::Activating { incumbent, .. } => (*incumbent, Party::Alive),
            State::Resolving { r } => (r.incumbent, r.successor),
            State::Stopping { .. } => return Vec::new(),
        };
        let handoff = self.handoff();
        let epoch = self.serving().map_or(Epoch::ZERO, |(_, epoch)| epoch);
        let mut effects = Vec::new();
        if let Some(handoff) = handoff {
            let reason = Some("the supervisor was stopped".to_owned());
            effects.push(Effect::Report(Ended { handoff, outcome: Outcome::Unknown, reason, epoch }));
        }
        if successor != Party::Gone {
            effects.push(Effect::Kill(Peer::Successor));
        }
        match incumbent {
            Party::Alive => effects.push(Effect::Terminate(Peer::Incumbent)),
            Party::Ending => effects.push(Effect::Kill(Peer::Incumbent)),
            Party::Gone => {}
        }
        effects.extend(self.retiring.iter().map(|instance| Effect::Terminate(Peer::Retiring(*instance))));
        self.state = State::Stopping { incumbent, successor };
        effects.extend(self.stopped_if_empty());
        effects
    }

    pub(super) fn stopped_if_empty(&mut self) -> Effects {
        if self.state == (State::Stopping { incumbent: Party::Gone, successor: Party::Gone })
            && self.retiring.is_empty()
        {
            self.state = State::Stopped;
            vec![Effect::Persist(Record::Stopped), Effect::Finish(Ending::Stopped)]
        } else {
            Vec::new()
        }
    }
}
