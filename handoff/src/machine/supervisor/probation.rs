//! The time after a commit in which the new server has to prove itself, and the way back when it does not.
//!
//! The way back is an ordinary handoff in the other direction while the new server lives, and a cold start of the build
//! before when it is dead or hangs. It goes only to a build that declared that it reads what the new one writes: whether it
//! does was asked before the incumbent heard of the upgrade.

use super::event::Event;
use super::{Party, Server, State, Supervisor, Try, Why};
use crate::ids::{Epoch, HandoffId, InstanceId};
use crate::journal::Record;
use crate::machine::step::{Effect, Effects, Ended, Outcome, Peer, Step, Timer, Way, times};
use std::time::Duration;

/// A server on probation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Trial {
    /// The handoff that committed.
    pub(super) handoff: HandoffId,
    /// Who served before: its build is gone back to.
    pub(super) previous: InstanceId,
    /// The last progress that was heard of.
    progress: Option<u64>,
    /// Why it did not stand it; the way back is being looked for.
    verdict: Option<String>,
}

impl Trial {
    /// It has failed, only the way back is not known yet.
    pub(super) fn is_over(&self) -> bool {
        self.verdict.is_some()
    }
}

/// What makes a handoff a rollback.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Back {
    /// The handoff that is undone, and the instance before it; `None` beyond the probation.
    undone: Option<(HandoffId, InstanceId)>,
    reason: String,
}

impl Back {
    /// The handoff whose server was on probation.
    pub(super) fn undoes(&self) -> Option<HandoffId> {
        self.undone.map(|(handoff, _)| handoff)
    }

    /// A rollback that nothing but an operator's wish is the reason of.
    pub(super) fn by_hand() -> Self {
        Self { undone: None, reason: "an operator wanted it".to_owned() }
    }

    /// A rollback that an earlier supervisor began within the probation.
    pub(super) fn resumed(handoff: HandoffId, previous: InstanceId) -> Self {
        let reason = "a rollback was under way when the supervisor was restarted".to_owned();
        Self { undone: Some((handoff, previous)), reason }
    }
}

impl Try {
    /// What its commit is called.
    pub(super) fn committed(&self) -> (Outcome, Option<String>) {
        match &self.back {
            Some(back) => (Outcome::RolledBack, Some(back.reason.clone())),
            None => (Outcome::Committed, None),
        }
    }

    pub(super) fn went_back(&self, epoch: Epoch) -> Option<Record> {
        let back = self.back.as_ref()?;
        let (handoff, reason) = (self.upgrade.handoff, back.reason.clone());
        Some(Record::RolledBack { handoff, reason, epoch })
    }

    /// The rollback came to nothing, and the server serves on: it is not tried again.
    pub(super) fn stays(&self) -> Option<Effect> {
        let handoff = self.back.as_ref()?.undoes()?;
        Some(Effect::Persist(Record::ProbationOver { handoff }))
    }

    /// Whose build a server is started from when this handoff leaves nobody: going back, never the one that was to
    /// be left, but only one that is known to read what is on disk.
    pub(super) fn fallback(&self) -> Option<InstanceId> {
        let back = self.back.as_ref()?;
        match &self.successor {
            Some(successor) => Some(successor.instance),
            None => back.undone.map(|(_, previous)| previous),
        }
    }
}

impl Supervisor {
    /// The new server serves: on probation, if there is a way back.
    pub(super) fn probe(&mut self, t: &Try, server: Server) -> Effects {
        let window = t.upgrade.probation;
        if t.back.is_some() || window.is_zero() {
            self.state = State::Idle { server };
            return Vec::new();
        }
        self.watch(server, t.upgrade.handoff, t.server.facts.instance, window)
    }

    pub(super) fn watch(
        &mut self,
        server: Server,
        handoff: HandoffId,
        previous: InstanceId,
        window: Duration,
    ) -> Effects {
        let trial = Trial { handoff, previous, progress: None, verdict: None };
        self.state = State::Probation { server, trial };
        vec![Effect::Arm(Timer::Probation, window), Effect::Arm(Timer::Stall, times::LEASE)]
    }

    pub(super) fn probation_on(&mut self, server: Server, mut trial: Trial, event: Event) -> Effects {
        match event {
            Event::Upgrade(upgrade) => {
                let mut effects = vec![Effect::Disarm(Timer::Probation), Effect::Disarm(Timer::Stall)];
                let back = match upgrade.way {
                    // it stays on trial in the journal: a supervisor that is restarted knows that this goes back
                    Way::Back => {
                        let reason = trial.verdict.unwrap_or_else(|| "an operator wanted it".to_owned());
                        Some(Back { undone: Some((trial.handoff, trial.previous)), reason })
                    }
                    Way::Forward | Way::OneWay => {
                        let handoff = trial.handoff;
                        effects.push(Effect::Persist(Record::ProbationOver { handoff }));
                        None
                    }
                };
                effects.extend(self.begin(server, upgrade, back));
                effects
            }
            Event::ProbationOver if !trial.is_over() => {
                self.state = State::Idle { server };
                let handoff = trial.handoff;
                vec![Effect::Disarm(Timer::Stall), Effect::Persist(Record::ProbationOver { handoff })]
            }
            Event::Unhealthy { why } if !trial.is_over() => {
                let previous = trial.previous;
                trial.verdict = Some(format!("the new server says that it is not healthy: {why}"));
                self.state = State::Probation { server, trial };
                vec![Effect::Disarm(Timer::Probation), Effect::TurnBack(previous)]
            }
            Event::IncumbentExited => self.fell(trial, "the new server died on probation"),
            Event::StallOver => self.fell(trial, "the new server made no progress on probation"),
            Event::IncumbentProgress { progress } if trial.progress != Some(progress) => {
                trial.progress = Some(progress);
                self.state = State::Probation { server, trial };
                vec![Effect::Arm(Timer::Stall, times::LEASE)]
            }
            Event::Failed(Step::TurnBack, why) => {
                let (handoff, epoch) = (trial.handoff, server.epoch);
                let verdict = trial.verdict.unwrap_or_default();
                let reason = Some(format!("{verdict}; it serves on, there is no way back: {why}"));
                self.state = State::Idle { server };
                let outcome = Outcome::Committed;
                vec![
                    Effect::Disarm(Timer::Stall),
                    Effect::Persist(Record::ProbationOver { handoff }),
                    Effect::Persist(Record::Ended { handoff, outcome, reason: reason.clone(), epoch }),
                    Effect::Report(Ended { handoff, outcome, reason, epoch }),
                ]
            }
            // the channel broke: the server serves on, S asks it again
            Event::IncumbentClosed => vec![Effect::Reconnect(Peer::Incumbent)],
            Event::IncumbentAdopted { epoch, .. } => {
                self.state = State::Probation { server: Server { epoch, ..server }, trial };
                Vec::new()
            }
            Event::IncumbentProgress { .. }
            | Event::Unhealthy { .. }
            | Event::ProbationOver
            | Event::IncumbentHello { .. } => Vec::new(),
            event @ rest! {
                Start Abort Stop Drained SealComplete SealFailed Resumed RetiringSaid
                IncumbentRefused IncumbentActive IncumbentGone SuccessorHello SuccessorAdopted
                Warmed Ready Active SuccessorRefused SuccessorProgress SuccessorClosed
                SuccessorExited SuccessorGone RetiredExited RetiredGone RetireOver DeadlineOver
                DrainOver FreezeOver ActiveOver SilentOver BackoffOver Forgiven ColdStartOver Claimed
                Failed Alien
            } => self.violation(&event),
        }
    }

    /// Its tree is emptied, then the build before it is started from disk.
    fn fell(&mut self, trial: Trial, what: &str) -> Effects {
        let reason = match trial.verdict {
            Some(verdict) => format!("{verdict}; {what}"),
            None => what.to_owned(),
        };
        let (handoff, back) = (trial.handoff, Some(trial.previous));
        let why = Why::Handoff { handoff, reason, back };
        self.state = State::Emptying { why, successor: Party::Gone };
        vec![Effect::Disarm(Timer::Probation), Effect::Disarm(Timer::Stall), Effect::Kill(Peer::Incumbent)]
    }
}
