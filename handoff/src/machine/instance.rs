//! One instance over its whole life: it shall serve, then it serves, then it hands over.

use super::incumbent::Incumbent;
use super::step::{Effects, Input, Machine};
use super::successor::Successor;
use crate::ids::{Epoch, HandoffId, InstanceId};
use crate::wire::{Hello, Role, Standing, Strategy};

/// The machine of a server process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Instance {
    me: InstanceId,
    strategy: Strategy,
    tenure: Tenure,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Tenure {
    Before(Successor),
    During(Incumbent),
}

impl Instance {
    /// An instance that was started to take over.
    #[must_use]
    pub fn successor(hello: Hello) -> Self {
        let (me, strategy) = (hello.instance, hello.strategy);
        Self { me, strategy, tenure: Tenure::Before(Successor::new(hello)) }
    }

    /// An instance that was started where nobody serves.
    #[must_use]
    pub fn cold(hello: Hello) -> Self {
        let (me, strategy) = (hello.instance, hello.strategy);
        Self { me, strategy, tenure: Tenure::Before(Successor::cold(hello)) }
    }

    /// The epoch it serves under or, before and during a handoff, the base epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        match &self.tenure {
            Tenure::Before(successor) => successor.epoch(),
            Tenure::During(incumbent) => incumbent.epoch(),
        }
    }

    /// The epoch of the tenure that a serve or resume hook is called for.
    #[must_use]
    pub fn tenure(&self) -> Epoch {
        match &self.tenure {
            Tenure::Before(successor) => successor.epoch(),
            Tenure::During(incumbent) => incumbent.tenure(),
        }
    }

    /// What it is now.
    #[must_use]
    pub fn role(&self) -> Role {
        match &self.tenure {
            Tenure::Before(successor) if successor.is_successor() => Role::Successor,
            Tenure::Before(_) => Role::Cold,
            Tenure::During(incumbent) if incumbent.standing() == Standing::Retiring => Role::Retiring,
            Tenure::During(_) => Role::Incumbent,
        }
    }

    /// The letter of the role in crash points: `O`, `N` or `X`.
    #[must_use]
    pub fn letter(&self) -> &'static str {
        match self.role() {
            Role::Successor => "N",
            Role::Cold => "X",
            Role::Incumbent | Role::Retiring => "O",
        }
    }

    /// How it stands, for a supervisor that asks.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match &self.tenure {
            Tenure::Before(successor) => successor.standing(),
            Tenure::During(incumbent) => incumbent.standing(),
        }
    }

    /// The open handoff.
    #[must_use]
    pub fn handoff(&self) -> Option<HandoffId> {
        match &self.tenure {
            Tenure::Before(successor) => successor.handoff(),
            Tenure::During(incumbent) => incumbent.handoff(),
        }
    }

    /// Whether it may answer requests and acknowledge writes now.
    #[must_use]
    pub fn serves(&self) -> bool {
        match &self.tenure {
            Tenure::Before(successor) => successor.serves(),
            Tenure::During(incumbent) => incumbent.serves(),
        }
    }

    /// Name of the state, for traces and tables.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        match &self.tenure {
            Tenure::Before(successor) => successor.state_name(),
            Tenure::During(incumbent) => incumbent.state_name(),
        }
    }
}

impl Machine for Instance {
    fn handle(&mut self, input: Input) -> Effects {
        match &mut self.tenure {
            Tenure::Before(successor) => {
                let effects = successor.handle(input);
                if let Some(epoch) = successor.serving() {
                    let lease = successor.lease();
                    self.tenure = Tenure::During(Incumbent::active(self.me, epoch, self.strategy, lease));
                }
                effects
            }
            Tenure::During(incumbent) => incumbent.handle(input),
        }
    }
}
