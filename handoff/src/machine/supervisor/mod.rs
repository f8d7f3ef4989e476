//! S: starts, watches, asks, kills, and never claims.
//!
//! It decides nothing that a claim decides. Its rows: [`before`], [`during`] and, where one is wanted, [`canary`] are the
//! way of a handoff that commits, [`probation`] watches who took over, [`resolve`] finds out who owns the next epoch, [`cold`] starts a server where nobody serves.

/// The events that a row has no use for, spelled out so that a new one must be considered in every row.
macro_rules! rest {
    ($($name:ident)+) => { $(Event::$name { .. })|+ };
}

mod before;
mod canary;
mod cold;
mod during;
mod event;
mod found;
mod look;
mod probation;
mod resolve;
mod stop;
#[cfg(test)]
mod tests;

use super::fit;
use super::restarts::{Failures, Restarts};
use super::step::{Effect, Effects, Ended, Input, Machine, Outcome, Peer, Timer, Upgrade, Violation, times};
use crate::ids::{Digest, Epoch, HandoffId, InstanceId};
use crate::journal::Record;
use crate::wire::{Hello, HelloAck, Message, Strategy};
use event::Event;
use std::time::Duration;

/// The supervisor's machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Supervisor {
    /// Base of the instance ids it gives to cold-started servers.
    base: InstanceId,
    spawned: u32,
    generation: u64,
    restarts: Restarts,
    failures: Failures,
    cold_starts: u64,
    retiring: Vec<InstanceId>,
    state: State,
}

/// The server that serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Server {
    facts: Box<Hello>,
    epoch: Epoch,
}

/// One try to hand over.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Try {
    upgrade: Upgrade,
    /// Who serves, and under which epoch it began.
    server: Server,
    /// What the successor said of itself; it has not spoken yet where a handoff was found open.
    successor: Option<Box<Hello>>,
    /// It goes back to a build that served before.
    back: Option<probation::Back>,
}

/// A process of a handoff, from S's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Party {
    Alive,
    /// Its main process ended or it is being killed; its tree is not known to be empty.
    Ending,
    Gone,
}

/// Why a server is started from disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Why {
    /// Nothing ran before.
    First,
    /// Somebody served, and nobody was found to do so: the machine, or supervisor and server, went down.
    Lost,
    /// The server died.
    Died,
    /// A handoff ended with nobody to serve on, or its server did not stand its probation.
    Handoff { handoff: HandoffId, reason: String, back: Option<InstanceId> },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    /// Nothing was started yet.
    Empty {
        /// The data was served by somebody who was never asked to stop.
        lost: bool,
    },
    /// The dead server's tree is being emptied before another may start.
    Emptying {
        why: Why,
        successor: Party,
    },
    /// The pause before a cold start.
    Pausing {
        why: Why,
    },
    /// X was started.
    Starting {
        why: Why,
        instance: InstanceId,
        facts: Option<Box<Hello>>,
    },
    /// X did not become active: its tree is being ended.
    StartFailed {
        why: Why,
        reason: String,
    },
    /// Somebody serves, nothing is open.
    Idle {
        server: Server,
    },
    /// The same, and it has not proven itself yet.
    Probation {
        server: Server,
        trial: probation::Trial,
    },
    /// N was started, its Hello is awaited.
    Greeting {
        t: Try,
    },
    /// N loads.
    Warming {
        t: Try,
    },
    /// N is being ended before O was touched.
    Ending {
        t: Try,
        reason: String,
    },
    /// PrepareHandoff is sent.
    Preparing {
        t: Try,
    },
    /// SealRequest is sent.
    Sealing {
        t: Try,
    },
    /// Begin is sent.
    Readying {
        t: Try,
        sealed: Option<(Digest, u64)>,
        incumbent: Party,
    },
    /// Ready was good, Canary is sent.
    Canary {
        t: Try,
        /// O was asked to seal.
        asked: bool,
        incumbent: Party,
    },
    /// Commit is sent.
    Activating {
        t: Try,
        incumbent: Party,
    },
    /// Who owns the next epoch is being found out.
    Resolving {
        r: resolve::Resolving,
    },
    /// O serves on under `epoch`; N's tree is being ended.
    Settling {
        t: Try,
        epoch: Epoch,
        outcome: Outcome,
        reason: String,
    },
    /// The restart budget is over.
    Failed {
        why: String,
    },
    /// Everything is being ended.
    Stopping {
        incumbent: Party,
        successor: Party,
    },
    Stopped,
}

impl Supervisor {
    /// A supervisor that has started nothing. `base` is a random id (its low 32 bits are used up), unique to this
    /// supervisor.
    #[must_use]
    pub fn new(base: InstanceId, generation: u64) -> Self {
        Self {
            base,
            spawned: 0,
            generation,
            restarts: Restarts::default(),
            failures: Failures::default(),
            cold_starts: 0,
            retiring: Vec::new(),
            state: State::Empty { lost: false },
        }
    }

    /// How a server that dies is started again.
    #[must_use]
    pub fn with_restarts(mut self, restarts: Restarts) -> Self {
        self.restarts = restarts;
        self
    }

    /// The failures that the program before counted, which executed this one in its place: the time until each is
    /// forgotten. The effects are to be performed.
    pub fn carry_failures(&mut self, left: &[Duration]) -> Effects {
        self.failures = Failures::carried(u32::try_from(left.len()).unwrap_or(u32::MAX));
        (1..).zip(left).map(|(number, left)| Effect::Arm(Timer::Forgive(number), *left)).collect()
    }

    /// The one place that decides what happens with what a state has no use for: nothing but a trace.
    fn violation(&self, event: &Event) -> Effects {
        let violation = Violation { state: self.state_name(), input: format!("{event:?}") };
        #[cfg(feature = "system")]
        tracing::debug!(target: "handoff.violation", role = "S", %violation);
        #[cfg(not(feature = "system"))]
        drop(violation);
        Vec::new()
    }

    /// The answer to Hello.
    fn ack(&self, hello: &Hello, incumbent: InstanceId, t: Option<&Try>) -> Option<Message> {
        Some(Message::HelloAck(HelloAck {
            version: fit::version(hello)?,
            lease_ms: millis(times::LEASE),
            freeze_budget_ms: t.map_or(0, |t| millis(t.upgrade.freeze_budget)),
            deadline_ms: t.map_or(0, |t| millis(t.upgrade.deadline)),
            generation: self.generation,
            incumbent,
            connection_format: t.map_or(0, |t| fit::connection_format(&t.server.facts, hello)),
        }))
    }

    /// The new server is the incumbent, the old one, if it lives, retires by itself and is watched.
    fn commit(&mut self, t: Try, epoch: Epoch, incumbent: Party) -> Effects {
        let handoff = t.upgrade.handoff;
        let old = t.server.facts.instance;
        let facts = t.successor.clone().unwrap_or_else(|| t.server.facts.clone());
        let serving = facts.instance;
        let (outcome, reason) = t.committed();
        let trial = self.probe(&t, Server { facts, epoch });
        let mut effects = vec![
            Effect::Disarm(Timer::Deadline),
            Effect::Disarm(Timer::Freeze),
            Effect::Disarm(Timer::Active),
            Effect::Disarm(Timer::Silent),
        ];
        // it left at Started, which is often seen before Active: nothing of it is left to retire
        if incumbent == Party::Gone {
            effects.push(Effect::Forget(Peer::Incumbent));
        }
        effects.extend([Effect::Promote, Effect::Persist(Record::Serving { instance: serving, epoch })]);
        // before the end, so that it is not forgotten between the two
        effects.extend(t.went_back(epoch).map(Effect::Persist));
        effects.push(Effect::Persist(Record::Ended {
            handoff,
            outcome: Outcome::Committed,
            reason: None,
            epoch,
        }));
        effects.extend(trial);
        if incumbent != Party::Gone {
            let grace = t.upgrade.drain_grace;
            let peer = Peer::Retiring(old);
            self.retiring.push(old);
            effects.push(Effect::send(
                peer,
                handoff,
                t.server.epoch,
                Message::Retire { grace_ms: millis(grace) },
            ));
            effects.push(Effect::Arm(Timer::Retire(old), grace + times::RETIRE_SLACK));
            if incumbent == Party::Ending {
                effects.push(Effect::Kill(peer));
            }
            // eight generations may be leaving at once; beyond that the oldest goes early
            if self.retiring.len() > 8 {
                effects.push(Effect::Kill(Peer::Retiring(self.retiring[0])));
            }
        }
        effects.push(Effect::Report(Ended { handoff, outcome, reason, epoch }));
        effects
    }
}

impl Machine for Supervisor {
    fn handle(&mut self, input: Input) -> Effects {
        let event = event::sort(input);
        if let Some(effects) = self.retiring_on(&event) {
            return effects;
        }
        if matches!(event, Event::Stop) {
            return self.stop();
        }
        // time passes in every state
        if matches!(event, Event::Forgiven) {
            self.failures.forgive();
            return Vec::new();
        }
        if matches!(event, Event::Abort) {
            self.call_off();
        }
        match self.state.clone() {
            State::Empty { lost } => self.empty_on(lost, event),
            State::Emptying { why, successor } => self.emptying_on(why, successor, event),
            State::Pausing { why } => self.pausing_on(why, event),
            State::Starting { why, instance, facts } => self.starting_on(why, instance, facts, event),
            State::StartFailed { why, reason } => self.start_failed_on(why, reason, event),
            State::Idle { server } => self.idle_on(server, event),
            State::Probation { server, trial } => self.probation_on(server, trial, event),
            State::Greeting { t } => self.greeting_on(t, event),
            State::Warming { t } => self.warming_on(t, event),
            State::Ending { t, reason } => self.ending_on(t, reason, event),
            State::Preparing { t } => self.preparing_on(t, event),
            State::Sealing { t } => self.sealing_on(t, event),
            State::Readying { t, sealed, incumbent } => self.readying_on(t, sealed, incumbent, event),
            State::Canary { t, asked, incumbent } => self.canary_on(t, asked, incumbent, event),
            State::Activating { t, incumbent } => self.activating_on(t, incumbent, event),
            State::Resolving { r } => self.resolving_on(r, event),
            State::Settling { t, epoch, outcome, reason } => {
                self.settling_on(t, epoch, outcome, reason, event)
            }
            State::Failed { .. } => self.failed_on(event),
            State::Stopping { incumbent, successor } => self.stopping_on(incumbent, successor, event),
            State::Stopped => self.violation(&event),
        }
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

impl Try {
    fn overlap(&self) -> bool {
        self.server.facts.strategy == Strategy::Overlap
    }

    /// A frame to O within this handoff.
    fn to_incumbent(&self, message: Message) -> Effect {
        Effect::send(Peer::Incumbent, self.upgrade.handoff, self.server.epoch, message)
    }

    /// A frame to N within this handoff.
    fn to_successor(&self, message: Message) -> Effect {
        Effect::send(Peer::Successor, self.upgrade.handoff, self.server.epoch, message)
    }

    fn is(&self, handoff: HandoffId) -> bool {
        self.upgrade.handoff == handoff
    }

    /// The same, of an incumbent that serves under this epoch.
    fn under(self, epoch: Epoch) -> Self {
        Self { server: Server { epoch, ..self.server }, ..self }
    }

    /// The epoch that the handoff is about.
    fn next(&self) -> Epoch {
        self.server.epoch.next()
    }
}
