//! The states a restarted supervisor begins in; [`crate::machine::recovery`] decides which.

use super::{Party, Server, State, Supervisor, Try, Why};
use crate::ids::{Epoch, InstanceId};
use crate::machine::step::{Effects, Upgrade};
use crate::wire::Hello;

impl Supervisor {
    /// Nobody serves who should.
    pub(in crate::machine) fn found_nobody(&mut self) {
        self.state = State::Empty { lost: true };
    }

    /// Somebody serves, nothing is open.
    pub(in crate::machine) fn found_idle(&mut self, hello: Hello, epoch: Epoch) {
        self.state = State::Idle { server: Server { facts: Box::new(hello), epoch } };
    }

    /// A cold-started server is on its way.
    pub(in crate::machine) fn found_starting(&mut self, hello: Hello) {
        let instance = hello.instance;
        self.state = State::Starting { why: Why::Died, instance, facts: Some(Box::new(hello)) };
    }

    /// A handoff is open: who owns its epoch?
    pub(in crate::machine) fn found_open(
        &mut self,
        upgrade: Upgrade,
        incumbent: Hello,
        base: Epoch,
        successor: Option<Hello>,
        reason: String,
    ) -> Effects {
        let facts = Box::new(incumbent);
        let party = if successor.is_some() { Party::Alive } else { Party::Ending };
        let successor = successor.map(Box::new);
        let t = Try { upgrade, server: Server { facts, epoch: base }, successor };
        // whether it was asked to seal is not known: counted as asked
        self.resolve(t, reason, Party::Alive, party, true)
    }

    /// A handoff is open and its incumbent is gone.
    pub(in crate::machine) fn found_orphan(
        &mut self,
        upgrade: Upgrade,
        incumbent: InstanceId,
        base: Epoch,
        successor: Hello,
        reason: String,
    ) -> Effects {
        // nothing of O's facts is needed any more but its name
        let facts = Box::new(Hello { instance: incumbent, ..successor.clone() });
        let t = Try { upgrade, server: Server { facts, epoch: base }, successor: Some(Box::new(successor)) };
        self.resolve(t, reason, Party::Gone, Party::Alive, true)
    }

    /// A former incumbent is leaving.
    pub(in crate::machine) fn watch_retiring(&mut self, instance: InstanceId) {
        self.retiring.push(instance);
    }
}
