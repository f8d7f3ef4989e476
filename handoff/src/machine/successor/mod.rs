//! N: the server that shall take over, and X: the one that starts where nobody serves.
//!
//! Until its claim it writes nothing; deciding and beginning to serve are one step.

/// The events that a row has no use for, spelled out so that a new one must be considered in every row.
macro_rules! rest {
    ($($name:ident)+) => { $(Event::$name { .. })|+ };
}

mod cold;
mod event;
mod rows;
#[cfg(test)]
mod tests;

use super::step::{Effect, Effects, Ending, Peer, Timer, Violation, times};
use crate::ids::{Digest, Epoch, HandoffId, InstanceId, ListenerName};
use crate::wire::{Hello, Message, Refused, Standing, Strategy};
use event::Event;
use std::time::Duration;

/// The successor's machine, and the cold-started server's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Successor {
    hello: Box<Hello>,
    lease: Duration,
    state: State,
}

/// A handoff in which N shall take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Open {
    handoff: HandoffId,
    base: Epoch,
    incumbent: InstanceId,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    /// N: before Start.
    New,
    /// N: Hello is sent.
    Greeting,
    /// N: the warm hook runs.
    Warming {
        open: Open,
    },
    /// N: loaded, follows the log.
    Warm {
        open: Open,
    },
    /// N: told Begin.
    Opening {
        open: Open,
        work: Work,
        lost: bool,
    },
    /// N: everything is there but the permission to claim.
    Ready {
        open: Open,
        lost: bool,
    },
    /// N: the claim is being asked for.
    Claiming {
        open: Open,
    },
    /// N: owns the epoch; the serve hook runs.
    Starting {
        open: Open,
        epoch: Epoch,
    },
    /// X: one step after the other.
    Cold {
        stage: Cold,
    },
    /// Serves: from here on it is an incumbent.
    Serving {
        epoch: Epoch,
    },
    Finished,
}

/// What Opening has to bring together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Work {
    sealed: Option<Digest>,
    opened: Option<bool>,
    received: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Cold {
    New,
    Locking,
    Warming { highest: Epoch },
    Opening { highest: Epoch },
    Claiming { epoch: Epoch },
    Starting { epoch: Epoch },
}

impl Successor {
    /// An instance that was started to take over.
    #[must_use]
    pub fn new(hello: Hello) -> Self {
        Self { hello: Box::new(hello), lease: times::LEASE, state: State::New }
    }

    /// An instance that was started where nobody serves.
    #[must_use]
    pub fn cold(hello: Hello) -> Self {
        Self { hello: Box::new(hello), lease: times::LEASE, state: State::Cold { stage: Cold::New } }
    }

    /// The epoch under which it serves, once it does.
    #[must_use]
    pub fn serving(&self) -> Option<Epoch> {
        if let State::Serving { epoch } = self.state { Some(epoch) } else { None }
    }

    /// Whether it may answer requests now: between the claim's fsync and Active the serve hook may already do so.
    #[must_use]
    pub fn serves(&self) -> bool {
        matches!(self.state, State::Starting { .. } | State::Cold { stage: Cold::Starting { .. } })
    }

    /// The epoch it owns or, before that, the epoch of the incumbent.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        match &self.state {
            State::New | State::Greeting | State::Finished => self.hello.epoch,
            State::Warming { open }
            | State::Warm { open }
            | State::Opening { open, .. }
            | State::Ready { open, .. }
            | State::Claiming { open } => open.base,
            State::Starting { epoch, .. } | State::Serving { epoch } => *epoch,
            State::Cold { stage } => match stage {
                Cold::New | Cold::Locking => self.hello.epoch,
                Cold::Warming { highest } | Cold::Opening { highest } => *highest,
                Cold::Claiming { epoch } | Cold::Starting { epoch } => *epoch,
            },
        }
    }

    /// The handoff it shall take over in.
    #[must_use]
    pub fn handoff(&self) -> Option<HandoffId> {
        self.open().map(|open| open.handoff)
    }

    /// Whether it was started as a successor (and not cold).
    #[must_use]
    pub fn is_successor(&self) -> bool {
        !matches!(self.state, State::Cold { .. })
    }

    /// Its lease, as the supervisor gave it.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// How it stands, for a supervisor that asks.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match &self.state {
            State::New | State::Greeting | State::Warming { .. } | State::Warm { .. } => Standing::Warming,
            State::Opening { .. } | State::Ready { .. } => Standing::Opening,
            State::Claiming { .. } | State::Starting { .. } => Standing::Claimed,
            State::Cold { stage: Cold::Claiming { .. } | Cold::Starting { .. } } => Standing::Claimed,
            State::Cold { .. } => Standing::Starting,
            State::Serving { .. } => Standing::Active,
            State::Finished => Standing::Retiring,
        }
    }

    /// Name of the state, for traces and tables.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        match &self.state {
            State::New => "New",
            State::Greeting => "Greeting",
            State::Warming { .. } => "Warming",
            State::Warm { .. } => "Warm",
            State::Opening { lost: false, .. } => "Opening",
            State::Opening { lost: true, .. } => "Opening (S lost)",
            State::Ready { lost: false, .. } => "Ready",
            State::Ready { lost: true, .. } => "Ready (S lost)",
            State::Claiming { .. } => "Claiming",
            State::Starting { .. } => "Starting",
            State::Cold { stage: Cold::New } => "Cold",
            State::Cold { stage: Cold::Locking } => "Cold (locking)",
            State::Cold { stage: Cold::Warming { .. } } => "Cold (warming)",
            State::Cold { stage: Cold::Opening { .. } } => "Cold (opening)",
            State::Cold { stage: Cold::Claiming { .. } } => "Cold (claiming)",
            State::Cold { stage: Cold::Starting { .. } } => "Cold (starting)",
            State::Serving { .. } => "Serving",
            State::Finished => "Finished",
        }
    }

    fn open(&self) -> Option<Open> {
        match &self.state {
            State::Warming { open }
            | State::Warm { open }
            | State::Opening { open, .. }
            | State::Ready { open, .. }
            | State::Claiming { open }
            | State::Starting { open, .. } => Some(*open),
            State::New | State::Greeting | State::Cold { .. } | State::Serving { .. } | State::Finished => {
                None
            }
        }
    }

    /// The one place that decides what happens with what a state has no use for: nothing but a trace.
    fn violation(&self, event: &Event) -> Effects {
        let violation = Violation { state: self.state_name(), input: format!("{event:?}") };
        #[cfg(feature = "system")]
        tracing::debug!(target: "handoff.violation", role = "N", %violation);
        #[cfg(not(feature = "system"))]
        drop(violation);
        Vec::new()
    }

    fn say(&self, open: &Open, message: Message) -> Effect {
        Effect::send(Peer::Supervisor, open.handoff, open.base, message)
    }

    fn hello(&self) -> Effect {
        Effect::send(Peer::Supervisor, HandoffId::NIL, self.hello.epoch, Message::Hello(self.hello.clone()))
    }

    /// Leaves without having touched anything, and says why if anybody listens.
    fn leave(&mut self, why: String) -> Effects {
        let open = self.open();
        self.state = State::Finished;
        let mut effects = Vec::new();
        let (handoff, epoch) =
            open.map_or((HandoffId::NIL, self.hello.epoch), |open| (open.handoff, open.base));
        effects.push(Effect::send(
            Peer::Supervisor,
            handoff,
            epoch,
            Message::Refused(Refused { what: 0, why: why.clone() }),
        ));
        effects.push(Effect::Finish(Ending::Untouched(why)));
        effects
    }

    fn give_up(&mut self, why: String) -> Effects {
        self.state = State::Finished;
        vec![Effect::Finish(Ending::GaveUp(why))]
    }

    fn adopted(&self) -> Effect {
        let open = self.open();
        let handoff = open.map_or(HandoffId::NIL, |open| open.handoff);
        let peer = open.map_or(InstanceId::NIL, |open| open.incumbent);
        let epoch = open.map_or(self.epoch(), |open| open.base);
        let message = Message::Adopted { standing: self.standing(), epoch, handoff, peer };
        Effect::send(Peer::Supervisor, handoff, epoch, message)
    }

    /// Ready as soon as the data and the connections are there.
    fn opening(&mut self, open: Open, work: Work, lost: bool) -> Effects {
        let overlap = self.hello.strategy == Strategy::Overlap;
        let (Some(healthy), Some(connections)) = (work.opened, work.received) else {
            self.state = State::Opening { open, work, lost };
            return Vec::new();
        };
        self.state = State::Ready { open, lost };
        let ready = Message::Ready {
            digest: if overlap { None } else { work.sealed },
            listeners: self.listeners(),
            healthy,
            connections,
        };
        let mut effects = vec![self.say(&open, ready)];
        if lost {
            effects.push(Effect::Arm(Timer::SelfCommit, times::SELF_COMMIT));
        }
        effects
    }

    fn listeners(&self) -> Vec<ListenerName> {
        self.hello.listeners.clone()
    }

    fn claim(&mut self, open: Open) -> Effects {
        self.state = State::Claiming { open };
        vec![Effect::Disarm(Timer::SelfCommit), Effect::Disarm(Timer::Lease), Effect::Claim(open.base.next())]
    }

    /// To O: its copies are stale, it leaves.
    fn started(open: &Open) -> Effect {
        Effect::send(Peer::Incumbent, open.handoff, open.base, Message::Started)
    }

    fn serve(&mut self, epoch: Epoch, handoff: HandoffId, base: Epoch) -> Effects {
        self.state = State::Serving { epoch };
        vec![
            Effect::send(Peer::Supervisor, handoff, base, Message::Active { epoch }),
            Effect::Forget(Peer::Incumbent),
            Effect::Tidy,
        ]
    }
}
