//! The time after a commit in which the new server has to prove itself, and the way back when it does not.
//!
//! The way back is an ordinary handoff in the other direction while the new server lives, and a cold start of the build
//! before when it is dead or hangs. It goes only to a build that declared that it reads what the new one writes: whether it
//! does was asked before the incumbent heard of the upgrade.
//!
//! A way back that is aborted is tried once more, whoever supervises then. After that the new server is ended for it only
//! where the build before had come up beside it; else there would be nobody.

use super::event::Event;
use super::{Party, Server, State, Supervisor, Try, Why};
use crate::ids::{Epoch, HandoffId, InstanceId};
use crate::journal::Record;
use crate::machine::recovery::FoundTrial;
use crate::machine::step::{Effect, Effects, Ended, Hook, Outcome, Peer, Step, Timer, Way, times};
use crate::wire::Message;
use std::time::Duration;

/// A server on probation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Trial {
    /// The handoff that committed.
    pub(super) handoff: HandoffId,
    /// Who served before: its build is gone back to.
    pub(super) previous: InstanceId,
    /// How long it is on probation, from the beginning.
    window: Duration,
    /// The last progress that was heard of.
    progress: Option<u64>,
    /// A canary is tried on it again and again.
    canary: bool,
    /// Why it did not stand it; the way back is being looked for.
    verdict: Option<String>,
    /// How many ways back have come to nothing.
    failed: u32,
}

impl Trial {
    fn new(handoff: HandoffId, previous: InstanceId, window: Duration) -> Self {
        Self { handoff, previous, window, progress: None, canary: false, verdict: None, failed: 0 }
    }

    /// As an earlier supervisor left it.
    pub(super) fn found(found: &FoundTrial) -> Self {
        let (verdict, failed) = found.turned_down.clone().unzip();
        let fresh = Self::new(found.handoff, found.previous, found.window);
        Self { canary: found.canary, verdict, failed: failed.unwrap_or_default(), ..fresh }
    }

    /// What is to be known of it after this supervisor.
    fn noted(&self) -> Effect {
        let (handoff, failed) = (self.handoff, self.failed);
        let reason = self.verdict.clone().unwrap_or_default();
        Effect::Persist(Record::TurnedDown { handoff, reason, failed })
    }

    /// It has failed, only the way back is not known yet.
    pub(super) fn is_over(&self) -> bool {
        self.verdict.is_some()
    }

    pub(super) fn has_canary(&self) -> bool {
        self.canary
    }

    /// Its answers are listened to.
    fn is_tried(&self) -> bool {
        self.canary && !self.is_over()
    }

    /// No canary any more.
    fn leave_canary(&self) -> Effects {
        if !self.canary {
            return Vec::new();
        }
        vec![Effect::Disarm(Timer::Canary), Effect::Cancel(Hook::Canary)]
    }
}

/// What makes a handoff a rollback.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Back {
    /// The probation within which it began.
    undone: Option<Trial>,
    reason: String,
    /// An operator has aborted it.
    called_off: bool,
    /// Found open: the build before had perhaps not come up.
    cold: bool,
}

impl Back {
    /// The handoff whose server was on probation.
    pub(super) fn undoes(&self) -> Option<HandoffId> {
        self.undone.as_ref().map(|trial| trial.handoff)
    }

    /// Who served before the handoff that is undone.
    pub(super) fn before(&self) -> Option<InstanceId> {
        self.undone.as_ref().map(|trial| trial.previous)
    }

    /// A rollback that nothing but an operator's wish is the reason of.
    pub(super) fn by_hand() -> Self {
        Self { undone: None, reason: "an operator wanted it".to_owned(), called_off: false, cold: false }
    }

    /// A rollback that an earlier supervisor began within the probation. If it is aborted, it was one of the two tries where
    /// the new server had been turned down; else an operator had wanted it.
    pub(super) fn resumed(found: &FoundTrial, warm: bool) -> Self {
        let trial = Trial::found(found);
        let restarted = || "a rollback was under way when the supervisor was restarted".to_owned();
        let reason = trial.verdict.clone().unwrap_or_else(restarted);
        Self { undone: Some(trial), reason, called_off: false, cold: !warm }
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

    /// Whose build a rollback goes back to: this one's if it is aborted and tried again.
    pub(super) fn previous(&self) -> Option<InstanceId> {
        self.back.as_ref().and_then(Back::before).or_else(|| self.fallback())
    }

    /// Whose build a server is started from when this handoff leaves nobody: going back, never the one that was to
    /// be left, but only one that is known to read what is on disk.
    pub(super) fn fallback(&self) -> Option<InstanceId> {
        let back = self.back.as_ref()?;
        match &self.successor {
            Some(successor) => Some(successor.instance),
            None => back.before(),
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
        self.watch(server, t.upgrade.handoff, t.server.facts.instance, window, t.upgrade.canary)
    }

    pub(super) fn watch(
        &mut self,
        server: Server,
        handoff: HandoffId,
        previous: InstanceId,
        window: Duration,
        canary: bool,
    ) -> Effects {
        let trial = Trial { canary, ..Trial::new(handoff, previous, window) };
        self.state = State::Probation { server, trial };
        let mut effects =
            vec![Effect::Arm(Timer::Probation, window), Effect::Arm(Timer::Stall, times::LEASE)];
        if canary {
            effects.push(Self::next_canary());
        }
        effects
    }

    fn next_canary() -> Effect {
        Effect::Arm(Timer::Canary, times::HEARTBEAT)
    }

    pub(super) fn probation_on(&mut self, server: Server, mut trial: Trial, event: Event) -> Effects {
        match event {
            Event::Upgrade(upgrade) => {
                let mut effects = vec![Effect::Disarm(Timer::Probation), Effect::Disarm(Timer::Stall)];
                effects.extend(trial.leave_canary());
                let back = match upgrade.way {
                    // it stays on trial in the journal: a supervisor that is restarted knows that this goes back
                    Way::Back => {
                        let wanted = || "an operator wanted it".to_owned();
                        let reason = trial.verdict.clone().unwrap_or_else(wanted);
                        Some(Back { undone: Some(trial), reason, called_off: false, cold: false })
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
                let mut effects = trial.leave_canary();
                effects.extend([
                    Effect::Disarm(Timer::Stall),
                    Effect::Persist(Record::ProbationOver { handoff }),
                ]);
                effects
            }
            Event::Unhealthy { why } if !trial.is_over() => {
                let verdict = format!("the new server says that it is not healthy: {why}");
                self.voted_down(server, trial, verdict)
            }
            Event::Tried(Err(why)) if trial.is_tried() => {
                self.voted_down(server, trial, format!("the canary failed on probation: {why}"))
            }
            Event::Tried(Ok(())) if trial.is_tried() => vec![Self::next_canary()],
            Event::CanaryDue if trial.is_tried() => {
                let canary = Effect::send(Peer::Incumbent, trial.handoff, server.epoch, Message::Canary);
                vec![canary, Effect::Call(Hook::Canary)]
            }
            Event::IncumbentExited => self.fell(trial, "the new server died on probation"),
            Event::StallOver => self.fell(trial, "the new server made no progress on probation"),
            Event::IncumbentProgress { progress } if trial.progress != Some(progress) => {
                trial.progress = Some(progress);
                self.state = State::Probation { server, trial };
                vec![Effect::Arm(Timer::Stall, times::LEASE)]
            }
            Event::Failed(Step::TurnBack, why) => {
                let mut effects = vec![Effect::Disarm(Timer::Stall)];
                effects.extend(self.serves_on(server, trial, &format!("there is no way back: {why}")));
                effects
            }
            // the channel broke: the server serves on, S asks it again
            Event::IncumbentClosed => {
                // with the channel a canary may be lost: that is not the server's fault
                let mut effects = trial.leave_canary();
                effects.push(Effect::Reconnect(Peer::Incumbent));
                effects
            }
            Event::IncumbentAdopted { standing, epoch, handoff } => {
                let server = Server { epoch, ..server };
                // a way back that was aborted may be open there still
                let mut effects = Self::unfinished(&server, standing, handoff);
                effects.extend(trial.is_tried().then(Self::next_canary));
                self.state = State::Probation { server, trial };
                effects
            }
            // so it took its tenure back from it, and S hears of it late
            Event::Resumed { epoch, .. } if epoch >= server.epoch => {
                self.state = State::Probation { server: Server { epoch, ..server }, trial };
                Vec::new()
            }
            Event::IncumbentProgress { .. }
            | Event::Unhealthy { .. }
            | Event::ProbationOver
            | Event::Tried(_)
            | Event::CanaryDue
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

    /// An operator has aborted what is open.
    pub(super) fn call_off(&mut self) {
        let t = match &mut self.state {
            State::Greeting { t }
            | State::Warming { t }
            | State::Preparing { t }
            | State::Sealing { t }
            | State::Readying { t, .. }
            | State::Canary { t, .. } => t,
            State::Empty { .. }
            | State::Emptying { .. }
            | State::Pausing { .. }
            | State::Starting { .. }
            | State::StartFailed { .. }
            | State::Idle { .. }
            | State::Probation { .. }
            | State::Ending { .. }
            | State::Activating { .. }
            | State::Resolving { .. }
            | State::Settling { .. }
            | State::Failed { .. }
            | State::Stopping { .. }
            | State::Stopped => return,
        };
        if let Some(back) = &mut t.back {
            back.called_off = true;
        }
    }

    /// A handoff has come to nothing and its incumbent serves on, under this epoch. If it was to go back from that one:
    /// once more, then from disk, where the build before had come up (`warm`), and never for ever.
    pub(super) fn stay(&mut self, t: Try, epoch: Epoch, warm: bool) -> Effects {
        let server = Server { epoch, ..t.server };
        let Some(Back { undone: Some(mut trial), called_off, cold, .. }) = t.back else {
            self.state = State::Idle { server };
            return Vec::new();
        };
        match (&trial.verdict, trial.failed) {
            // an operator wanted it, and can want it again
            (None, _) => self.watch(server, trial.handoff, trial.previous, trial.window, trial.canary),
            (Some(_), _) if called_off => {
                self.serves_on(server, trial, "an operator called the way back off")
            }
            (Some(_), 0) => {
                trial.failed = 1;
                let noted = trial.noted();
                std::iter::once(noted).chain(self.go_on_back(server, trial)).collect()
            }
            (Some(_), _) if warm && !cold => {
                trial.failed += 1;
                let noted = trial.noted();
                std::iter::once(noted).chain(self.go_on_back(server, trial)).collect()
            }
            (Some(_), _) => {
                self.serves_on(server, trial, "the build before was tried twice and did not take over")
            }
        }
    }

    /// It is turned down: the way back is looked for, or it is ended when two have come to nothing.
    pub(super) fn go_on_back(&mut self, server: Server, trial: Trial) -> Effects {
        if trial.failed > 1 {
            return self.fell(trial, "the way back was aborted twice, and it was ended");
        }
        let previous = trial.previous;
        self.state = State::Probation { server, trial };
        vec![Effect::Arm(Timer::Stall, times::LEASE), Effect::TurnBack(previous)]
    }

    /// It has not stood its probation, and yet nobody could take its place.
    fn serves_on(&mut self, server: Server, trial: Trial, why: &str) -> Effects {
        let (handoff, epoch, outcome) = (trial.handoff, server.epoch, Outcome::Committed);
        let reason = Some(format!("{}; it serves on, {why}", trial.verdict.unwrap_or_default()));
        self.state = State::Idle { server };
        vec![
            Effect::Persist(Record::ProbationOver { handoff }),
            Effect::Persist(Record::Ended { handoff, outcome, reason: reason.clone(), epoch }),
            Effect::Report(Ended { handoff, outcome, reason, epoch }),
        ]
    }

    /// It lives and is not fit to serve: the way back is looked for.
    fn voted_down(&mut self, server: Server, mut trial: Trial, verdict: String) -> Effects {
        let mut effects = trial.leave_canary();
        trial.verdict = Some(verdict);
        let back = Effect::TurnBack(trial.previous);
        effects.extend([Effect::Disarm(Timer::Probation), trial.noted(), back]);
        self.state = State::Probation { server, trial };
        effects
    }

    /// Its tree is emptied, then the build before it is started from disk.
    fn fell(&mut self, trial: Trial, what: &str) -> Effects {
        let mut effects = trial.leave_canary();
        let reason = match trial.verdict {
            Some(verdict) => format!("{verdict}; {what}"),
            None => what.to_owned(),
        };
        let (handoff, back) = (trial.handoff, Some(trial.previous));
        let why = Why::Handoff { handoff, reason, back };
        self.state = State::Emptying { why, successor: Party::Gone };
        effects.extend([
            Effect::Disarm(Timer::Probation),
            Effect::Disarm(Timer::Stall),
            Effect::Kill(Peer::Incumbent),
        ]);
        effects
    }
}
