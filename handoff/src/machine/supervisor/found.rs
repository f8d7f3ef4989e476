//! The states a restarted supervisor begins in; [`crate::machine::recovery`] decides which.

use super::probation::{Back, Trial};
use super::{Party, Server, State, Supervisor, Try, Why};
use crate::ids::{Epoch, InstanceId};
use crate::machine::recovery::FoundTrial;
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

    /// Somebody serves, and has not proven itself: its probation begins anew, the time of the first one is not known.
    /// Its canary goes on where it was kept, and so does the way back from it.
    pub(in crate::machine) fn found_on_probation(
        &mut self,
        hello: Hello,
        epoch: Epoch,
        trial: FoundTrial,
    ) -> Effects {
        let canary = trial.canary && hello.canary;
        let server = Server { facts: Box::new(hello), epoch };
        if trial.turned_down.is_some() {
            return self.go_on_back(server, Trial::found(&trial));
        }
        self.watch(server, trial.handoff, trial.previous, trial.window, canary)
    }

    /// A cold-started server is on its way, perhaps to go back.
    pub(in crate::machine) fn found_starting(&mut self, hello: Hello, trial: Option<FoundTrial>) {
        let instance = hello.instance;
        let why = trial.map_or(Why::Died, |trial| Self::fallen(&trial));
        self.state = State::Starting { why, instance, facts: Some(Box::new(hello)) };
    }

    /// The server on probation is gone: the build before it is started from disk.
    pub(in crate::machine) fn found_fallen(&mut self, trial: FoundTrial) -> Effects {
        self.start_cold(Self::fallen(&trial))
    }

    fn fallen(trial: &FoundTrial) -> Why {
        let reason = match &trial.turned_down {
            Some((verdict, _)) => format!("{verdict}; it was gone when the supervisor was started again"),
            None => "the new server died on probation, and so did the supervisor".to_owned(),
        };
        Why::Handoff { handoff: trial.handoff, reason, back: Some(trial.previous) }
    }

    /// A handoff is open: who owns its epoch? With what it undoes goes whether the build before had come up.
    pub(in crate::machine) fn found_open(
        &mut self,
        upgrade: Upgrade,
        incumbent: Hello,
        base: Epoch,
        successor: Option<Hello>,
        reason: String,
        undone: Option<(FoundTrial, bool)>,
    ) -> Effects {
        let back = undone.map(|(trial, warm)| Back::resumed(&trial, warm));
        let facts = Box::new(incumbent);
        let party = if successor.is_some() { Party::Alive } else { Party::Ending };
        let successor = successor.map(Box::new);
        let t = Try { upgrade, server: Server { facts, epoch: base }, successor, back };
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
        undone: Option<FoundTrial>,
    ) -> Effects {
        let back = undone.map(|trial| Back::resumed(&trial, true));
        // nothing of O's facts is needed any more but its name
        let facts = Box::new(Hello { instance: incumbent, ..successor.clone() });
        let (server, successor) = (Server { facts, epoch: base }, Some(Box::new(successor)));
        let t = Try { upgrade, server, successor, back };
        self.resolve(t, reason, Party::Gone, Party::Alive, true)
    }

    /// A former incumbent is leaving.
    pub(in crate::machine) fn watch_retiring(&mut self, instance: InstanceId) {
        self.retiring.push(instance);
    }
}
