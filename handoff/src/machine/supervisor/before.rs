//! Up to PrepareHandoff: the incumbent is not touched, and an end here is "preflight failed".

use super::event::Event;
use super::probation::Back;
use super::{Party, Server, State, Supervisor, Try, fit, millis};
use crate::ids::{Epoch, HandoffId};
use crate::journal::Record;
use crate::machine::step::{Effect, Effects, Ended, Outcome, Peer, Step, Timer, Upgrade, Way, Which, times};
use crate::wire::{Message, Standing};
use std::time::Duration;

impl Supervisor {
    pub(super) fn idle_on(&mut self, server: Server, event: Event) -> Effects {
        match event {
            Event::Upgrade(upgrade) => {
                let by_hand = upgrade.way == Way::Back;
                self.begin(server, upgrade, by_hand.then(Back::by_hand))
            }
            Event::IncumbentExited => self.died(),
            // the channel broke: the server serves on, S asks it again
            Event::IncumbentClosed => vec![Effect::Reconnect(Peer::Incumbent)],
            Event::IncumbentAdopted { standing, epoch, handoff } => {
                let server = Server { epoch, ..server };
                let effects = Self::unfinished(&server, standing, handoff);
                self.state = State::Idle { server };
                effects
            }
            // the server took its tenure back by itself, and S hears of it late
            Event::Resumed { epoch, .. } if epoch >= server.epoch => {
                self.state = State::Idle { server: Server { epoch, ..server } };
                Vec::new()
            }
            Event::IncumbentProgress { .. } | Event::IncumbentHello { .. } => Vec::new(),
            event @ rest! {
                Start Abort Stop Drained SealComplete SealFailed Resumed RetiringSaid
                IncumbentRefused IncumbentActive IncumbentGone SuccessorHello SuccessorAdopted
                Warmed Ready Active SuccessorRefused SuccessorProgress SuccessorClosed
                SuccessorExited SuccessorGone RetiredExited RetiredGone RetireOver DeadlineOver
                DrainOver FreezeOver ActiveOver SilentOver BackoffOver Forgiven ColdStartOver Claimed
                Failed Unhealthy ProbationOver StallOver Tried CanaryDue Alien
            } => self.violation(&event),
        }
    }

    /// It has not heard how an older handoff ended: nobody else will tell it, and it would refuse every later one.
    pub(super) fn unfinished(server: &Server, standing: Standing, handoff: HandoffId) -> Effects {
        let nothing = standing == Standing::Active || handoff.is_nil();
        if nothing { Vec::new() } else { vec![Self::ask_again(server, handoff)] }
    }

    pub(super) fn begin(&mut self, server: Server, mut upgrade: Upgrade, back: Option<Back>) -> Effects {
        let handoff = upgrade.handoff;
        if upgrade.way != Way::Forward {
            upgrade.probation = Duration::ZERO;
        }
        let probation_ms = u64::from(millis(upgrade.probation));
        let intent = Record::Intent {
            handoff: upgrade.handoff,
            incumbent: server.facts.instance,
            successor: upgrade.successor,
            epoch: server.epoch,
        };
        self.state = State::Greeting { t: Try { upgrade, server, successor: None, back } };
        let mut effects = vec![Effect::Persist(intent)];
        if probation_ms > 0 {
            effects.push(Effect::Persist(Record::Terms { handoff, probation_ms }));
        }
        effects.extend([
            Effect::Spawn(Peer::Successor, upgrade.successor, Which::Wanted),
            Effect::Arm(Timer::Deadline, upgrade.deadline),
        ]);
        effects
    }

    /// Before O was touched: N's tree is ended, nothing else.
    fn end(&mut self, t: Try, reason: String) -> Effects {
        self.state = State::Ending { t, reason };
        vec![Effect::Disarm(Timer::Deadline), Effect::Kill(Peer::Successor)]
    }

    /// O answers an older handoff only now: it had taken its tenure back under a later epoch, and would refuse a handoff
    /// from the one before.
    fn moved_on(&mut self, t: Try, epoch: Epoch) -> Effects {
        let reason = format!(
            "the incumbent answers an older handoff only now, it serves under epoch {epoch}: try again"
        );
        self.end(t.under(epoch), reason)
    }

    /// O on a new channel.
    fn heard_again(&mut self, t: Try, standing: Standing, epoch: Epoch, handoff: HandoffId) -> Effects {
        let mut effects = Self::unfinished(&t.server, standing, handoff);
        if epoch > t.server.epoch {
            effects.extend(self.moved_on(t, epoch));
        }
        effects
    }

    pub(super) fn greeting_on(&mut self, t: Try, event: Event) -> Effects {
        match event {
            Event::SuccessorHello { hello } => {
                if hello.instance != t.upgrade.successor {
                    return self.end(t, "the successor calls itself another instance".to_owned());
                }
                if let Some(reason) = fit::misfit(&t.server.facts, &hello) {
                    return self.end(t, reason);
                }
                if t.upgrade.way == Way::Forward
                    && let Some(reason) = fit::no_way_back(&t.server.facts, &hello)
                {
                    return self.end(t, reason);
                }
                if t.upgrade.canary
                    && let Some(reason) = fit::no_canary(&hello)
                {
                    return self.end(t, reason);
                }
                let Some(ack) = self.ack(&hello, t.server.facts.instance, Some(&t)) else {
                    return self.end(t, "no wire version in common".to_owned());
                };
                let greeting = t.to_successor(ack);
                self.state = State::Warming { t: Try { successor: Some(hello), ..t } };
                vec![greeting]
            }
            Event::SuccessorExited => {
                self.end(t, "the new binary exited before it said Hello: is it a handoff server?".to_owned())
            }
            Event::SuccessorClosed => self.end(
                t,
                "the new binary closed its channel or sent garbage before Hello: is it a handoff server?"
                    .to_owned(),
            ),
            Event::SuccessorRefused { why } => self.end(t, format!("the new binary refused: {why}")),
            Event::DeadlineOver => {
                self.end(t, "the deadline is over; awaited Hello from the new binary".to_owned())
            }
            Event::Abort => self.end(t, "aborted by the operator".to_owned()),
            Event::Failed(Step::Spawn | Step::Persist, why) => self.end(t, why),
            Event::IncumbentExited => self.incumbent_died_early(t),
            Event::IncumbentClosed => vec![Effect::Reconnect(Peer::Incumbent)],
            Event::IncumbentAdopted { standing, epoch, handoff } => {
                self.heard_again(t, standing, epoch, handoff)
            }
            Event::Resumed { epoch, .. } if epoch > t.server.epoch => self.moved_on(t, epoch),
            Event::IncumbentProgress { .. }
            | Event::SuccessorProgress
            | Event::Forgiven
            | Event::IncumbentHello { .. } => Vec::new(),
            event @ rest! {
                Start Upgrade Stop Drained SealComplete SealFailed Resumed RetiringSaid
                IncumbentRefused IncumbentActive IncumbentGone SuccessorAdopted Warmed Ready Active
                SuccessorGone RetiredExited RetiredGone RetireOver DrainOver FreezeOver ActiveOver
                SilentOver BackoffOver ColdStartOver Claimed Failed Unhealthy ProbationOver StallOver
                Tried CanaryDue Alien
            } => self.violation(&event),
        }
    }

    pub(super) fn warming_on(&mut self, t: Try, event: Event) -> Effects {
        match event {
            Event::Warmed { handoff } if t.is(handoff) => {
                let facts = &t.server.facts;
                let format = t.successor.as_ref().map_or(0, |n| fit::connection_format(facts, n));
                let prepare = t.to_incumbent(Message::PrepareHandoff {
                    successor: t.upgrade.successor,
                    deadline_ms: millis(t.upgrade.deadline),
                    drain_grace_ms: millis(t.upgrade.drain_grace),
                    freeze_budget_ms: millis(t.upgrade.freeze_budget),
                    connection_format: format,
                });
                let late = t.upgrade.drain_grace + times::LEASE;
                self.state = State::Preparing { t };
                vec![prepare, Effect::Arm(Timer::Drain, late)]
            }
            Event::SuccessorExited => {
                self.end(t, "the successor died while warming; awaited Warmed".to_owned())
            }
            Event::SuccessorClosed => {
                self.end(t, "the successor's channel ended while warming; awaited Warmed".to_owned())
            }
            Event::SuccessorRefused { why } => {
                self.end(t, format!("the successor left while warming: {why}"))
            }
            Event::DeadlineOver => {
                self.end(t, "the deadline is over; awaited Warmed from the successor".to_owned())
            }
            Event::Abort => self.end(t, "aborted by the operator".to_owned()),
            Event::IncumbentExited => self.incumbent_died_early(t),
            Event::IncumbentClosed => vec![Effect::Reconnect(Peer::Incumbent)],
            Event::IncumbentAdopted { standing, epoch, handoff } => {
                self.heard_again(t, standing, epoch, handoff)
            }
            Event::Resumed { epoch, .. } if epoch > t.server.epoch => self.moved_on(t, epoch),
            Event::IncumbentProgress { .. }
            | Event::SuccessorProgress
            | Event::Forgiven
            | Event::IncumbentHello { .. } => Vec::new(),
            event @ rest! {
                Start Upgrade Stop Drained SealComplete SealFailed Resumed RetiringSaid
                IncumbentRefused IncumbentActive IncumbentGone SuccessorHello SuccessorAdopted
                Warmed Ready Active SuccessorGone RetiredExited RetiredGone RetireOver DrainOver
                FreezeOver ActiveOver SilentOver BackoffOver ColdStartOver Claimed Failed Unhealthy ProbationOver StallOver
                Tried CanaryDue Alien
            } => self.violation(&event),
        }
    }

    /// O died by itself before the handoff touched it: the same routine as for every other open end.
    fn incumbent_died_early(&mut self, t: Try) -> Effects {
        self.resolve(
            t,
            "the incumbent died while the successor warmed".to_owned(),
            Party::Ending,
            Party::Alive,
            false,
        )
    }

    pub(super) fn ending_on(&mut self, t: Try, reason: String, event: Event) -> Effects {
        match event {
            Event::SuccessorGone => {
                let (handoff, epoch) = (t.upgrade.handoff, t.server.epoch);
                let (outcome, reason) = (Outcome::PreflightFailed, Some(reason));
                let mut effects = vec![
                    Effect::Forget(Peer::Successor),
                    Effect::Persist(Record::Ended { handoff, outcome, reason: reason.clone(), epoch }),
                    Effect::Report(Ended { handoff, outcome, reason, epoch }),
                ];
                effects.extend(self.stay(t, epoch, false));
                effects
            }
            // what it said itself is the better reason than how its end was seen
            Event::SuccessorRefused { why } => {
                self.state = State::Ending { t, reason: format!("{reason}: {why}") };
                Vec::new()
            }
            Event::IncumbentExited => self.resolve(
                t,
                format!("{reason}; the incumbent died too"),
                Party::Ending,
                Party::Ending,
                false,
            ),
            Event::IncumbentClosed => vec![Effect::Reconnect(Peer::Incumbent)],
            // the next handoff has to begin from the epoch under which O serves
            Event::IncumbentAdopted { standing, epoch, handoff } => {
                let effects = Self::unfinished(&t.server, standing, handoff);
                let latest = epoch.max(t.server.epoch);
                self.state = State::Ending { t: t.under(latest), reason };
                effects
            }
            Event::Resumed { epoch, .. } if epoch > t.server.epoch => {
                self.state = State::Ending { t: t.under(epoch), reason };
                Vec::new()
            }
            Event::IncumbentProgress { .. }
            | Event::SuccessorProgress
            | Event::SuccessorClosed
            | Event::SuccessorExited
            | Event::Forgiven
            | Event::IncumbentHello { .. } => Vec::new(),
            event @ rest! {
                Start Upgrade Abort Stop Drained SealComplete SealFailed Resumed RetiringSaid
                IncumbentRefused IncumbentActive IncumbentGone SuccessorHello SuccessorAdopted
                Warmed Ready Active RetiredExited RetiredGone RetireOver DeadlineOver DrainOver
                FreezeOver ActiveOver SilentOver BackoffOver ColdStartOver Claimed Failed Unhealthy ProbationOver StallOver
                Tried CanaryDue Alien
            } => self.violation(&event),
        }
    }
}
