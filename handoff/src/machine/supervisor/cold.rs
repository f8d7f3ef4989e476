//! X: a server is started from disk where nobody serves. The old tree is empty first, always.

use super::event::Event;
use super::{Party, Server, State, Supervisor, Why};
use crate::ids::{Epoch, InstanceId};
use crate::journal::Record;
use crate::machine::step::{Effect, Effects, Ended, Outcome, Peer, Step, Timer, Which, times};
use crate::wire::{Hello, Message};

impl Supervisor {
    pub(super) fn empty_on(&mut self, lost: bool, event: Event) -> Effects {
        match event {
            Event::Start => {
                let effects = self.start_cold(if lost { Why::Lost } else { Why::First });
                // the first one is none that a death made necessary here
                self.cold_starts = 0;
                effects
            }
            event @ rest! {
                Upgrade Abort Stop IncumbentHello IncumbentAdopted Drained SealComplete SealFailed
                Resumed RetiringSaid IncumbentRefused IncumbentProgress IncumbentActive
                IncumbentClosed IncumbentExited IncumbentGone SuccessorHello SuccessorAdopted Warmed
                Ready Active SuccessorRefused SuccessorProgress SuccessorClosed SuccessorExited
                SuccessorGone RetiredExited RetiredGone RetireOver DeadlineOver DrainOver FreezeOver
                ActiveOver SilentOver BackoffOver Forgiven ColdStartOver Claimed Failed Unhealthy ProbationOver StallOver Tried CanaryDue Alien
            } => self.violation(&event),
        }
    }

    /// The server's main process ended: what is left of its tree first, then another one.
    pub(super) fn died(&mut self) -> Effects {
        self.state = State::Emptying { why: Why::Died, successor: Party::Gone };
        vec![Effect::Kill(Peer::Incumbent)]
    }

    pub(super) fn emptying_on(&mut self, why: Why, successor: Party, event: Event) -> Effects {
        match event {
            Event::IncumbentGone if successor == Party::Gone => {
                let mut effects = vec![Effect::Forget(Peer::Incumbent)];
                if matches!(why, Why::Handoff { .. }) {
                    effects.extend(self.start_owed(why));
                } else {
                    let number = self.failures.died();
                    effects.extend(self.after_failure(why, number, "the server died"));
                }
                effects
            }
            event @ rest! {
                Start Upgrade Abort Stop IncumbentHello IncumbentAdopted Drained SealComplete
                SealFailed Resumed RetiringSaid IncumbentRefused IncumbentProgress IncumbentActive
                IncumbentClosed IncumbentExited IncumbentGone SuccessorHello SuccessorAdopted Warmed
                Ready Active SuccessorRefused SuccessorProgress SuccessorClosed SuccessorExited
                SuccessorGone RetiredExited RetiredGone RetireOver DeadlineOver DrainOver FreezeOver
                ActiveOver SilentOver BackoffOver Forgiven ColdStartOver Claimed Failed Unhealthy ProbationOver StallOver Tried CanaryDue Alien
            } => self.violation(&event),
        }
    }

    /// Another one at once or after a pause, until the budget is over. Each failure is forgotten by itself, a window
    /// later.
    fn after_failure(&mut self, why: Why, number: u32, last: &str) -> Effects {
        let count = self.failures.count();
        // the base is a random number; what is added makes it another one each time
        let dice = (self.base.0 >> 64) as u64 ^ u64::from(number);
        let Some(pause) = self.restarts.pause(count, dice) else {
            let (budget, window) = (self.restarts.budget, self.restarts.window);
            let reason = format!(
                "{last}; restarted {budget} times within {window:?} or without serving, which is the budget"
            );
            return self.fail(&why, reason);
        };
        let mut effects = vec![Effect::Arm(Timer::Forgive(number), self.restarts.window)];
        if pause.is_zero() {
            effects.extend(self.start_cold(why));
        } else {
            self.state = State::Pausing { why };
            effects.push(Effect::Arm(Timer::Backoff, pause));
        }
        effects
    }

    /// A server that a handoff left nobody instead of, or the one that is gone back to, is owed to who asked for that:
    /// the death counts, and what fails after it waits.
    pub(super) fn start_owed(&mut self, why: Why) -> Effects {
        let number = self.failures.died();
        let mut effects = vec![Effect::Arm(Timer::Forgive(number), self.restarts.window)];
        effects.extend(self.start_cold(why));
        effects
    }

    pub(super) fn pausing_on(&mut self, why: Why, event: Event) -> Effects {
        match event {
            Event::BackoffOver => self.start_cold(why),
            event @ rest! {
                Start Upgrade Abort Stop IncumbentHello IncumbentAdopted Drained SealComplete
                SealFailed Resumed RetiringSaid IncumbentRefused IncumbentProgress IncumbentActive
                IncumbentClosed IncumbentExited IncumbentGone SuccessorHello SuccessorAdopted Warmed
                Ready Active SuccessorRefused SuccessorProgress SuccessorClosed SuccessorExited
                SuccessorGone RetiredExited RetiredGone RetireOver DeadlineOver DrainOver FreezeOver
                ActiveOver SilentOver Forgiven ColdStartOver Claimed Failed Unhealthy ProbationOver StallOver Tried CanaryDue Alien
            } => self.violation(&event),
        }
    }

    pub(super) fn start_cold(&mut self, why: Why) -> Effects {
        self.spawned += 1;
        let instance = self.base.nth(self.spawned);
        let (reason, which) = match &why {
            Why::First => ("first start".to_owned(), Which::Highest),
            Why::Lost => ("nobody was left who served".to_owned(), Which::Highest),
            Why::Died => ("the server died".to_owned(), Which::Highest),
            Why::Handoff { reason, back, .. } => (reason.clone(), back.map_or(Which::Highest, Which::Of)),
        };
        if why != Why::First {
            self.cold_starts += 1;
        }
        self.state = State::Starting { why, instance, facts: None };
        vec![
            Effect::Persist(Record::ColdStart { instance, reason }),
            Effect::Spawn(Peer::Incumbent, instance, which),
            Effect::Arm(Timer::ColdStart, times::COLD_START),
        ]
    }

    pub(super) fn starting_on(
        &mut self,
        why: Why,
        instance: InstanceId,
        facts: Option<Box<Hello>>,
        event: Event,
    ) -> Effects {
        match event {
            Event::IncumbentHello { hello } if hello.instance == instance => {
                let Some(ack) = self.ack(&hello, InstanceId::NIL, None) else {
                    let reason =
                        format!("it speaks wire versions {}..={} only", hello.wire_min, hello.wire_max);
                    return self.start_failed(why, reason);
                };
                let epoch = hello.epoch;
                self.state = State::Starting { why, instance, facts: Some(hello) };
                vec![Effect::send(Peer::Incumbent, crate::ids::HandoffId::NIL, epoch, ack)]
            }
            Event::IncumbentActive { epoch } => match facts {
                Some(facts) => self.started(&why, Server { facts, epoch }),
                None => self.start_failed(why, "it said Active before Hello".to_owned()),
            },
            Event::IncumbentAdopted { standing: crate::wire::Standing::Active, epoch, .. } => match facts {
                Some(facts) => self.started(&why, Server { facts, epoch }),
                None => Vec::new(),
            },
            Event::IncumbentRefused { why: reason, .. } => self.start_failed(why, reason),
            Event::IncumbentExited => self.start_failed(why, "it exited before it served".to_owned()),
            Event::ColdStartOver => {
                self.start_failed(why, format!("it did not serve within {} s", times::COLD_START.as_secs()))
            }
            Event::Failed(Step::Spawn, reason) => self.start_failed(why, reason),
            Event::IncumbentClosed => vec![Effect::Reconnect(Peer::Incumbent)],
            Event::IncumbentProgress { .. } => Vec::new(),
            event @ rest! {
                Start Upgrade Abort Stop IncumbentHello IncumbentAdopted Drained SealComplete
                SealFailed Resumed RetiringSaid IncumbentGone SuccessorHello SuccessorAdopted Warmed
                Ready Active SuccessorRefused SuccessorProgress SuccessorClosed SuccessorExited
                SuccessorGone RetiredExited RetiredGone RetireOver DeadlineOver DrainOver FreezeOver
                ActiveOver SilentOver BackoffOver Forgiven Claimed Failed Unhealthy ProbationOver StallOver Tried CanaryDue Alien
            } => self.violation(&event),
        }
    }

    fn started(&mut self, why: &Why, server: Server) -> Effects {
        let (instance, epoch) = (server.facts.instance, server.epoch);
        self.state = State::Idle { server };
        self.failures.serves();
        let mut effects =
            vec![Effect::Disarm(Timer::ColdStart), Effect::Persist(Record::Serving { instance, epoch })];
        if let Why::Handoff { handoff, reason, back } = why {
            let (handoff, reason) = (*handoff, reason.clone());
            let outcome = if back.is_some() {
                effects.push(Effect::Persist(Record::RolledBack { handoff, reason: reason.clone(), epoch }));
                Outcome::RolledBack
            } else {
                Outcome::ColdStarted
            };
            let (ended, reason) = (Outcome::ColdStarted, Some(reason));
            let record = Record::Ended { handoff, outcome: ended, reason: reason.clone(), epoch };
            effects.push(Effect::Persist(record));
            effects.push(Effect::Report(Ended { handoff, outcome, reason, epoch }));
        }
        effects
    }

    fn start_failed(&mut self, why: Why, reason: String) -> Effects {
        self.state = State::StartFailed { why, reason };
        vec![Effect::Disarm(Timer::ColdStart), Effect::Kill(Peer::Incumbent)]
    }

    pub(super) fn start_failed_on(&mut self, why: Why, reason: String, event: Event) -> Effects {
        match event {
            Event::IncumbentGone => {
                let mut effects = vec![Effect::Forget(Peer::Incumbent)];
                // who starts a service for the first time is there to read what is wrong
                if why == Why::First {
                    effects.extend(self.fail(&why, reason));
                } else {
                    let number = self.failures.unserved();
                    effects.extend(self.after_failure(why, number, &reason));
                }
                effects
            }
            // the better reason: what it said itself
            Event::IncumbentRefused { why: said, .. } => {
                self.state = State::StartFailed { why, reason: said };
                Vec::new()
            }
            event @ rest! {
                Start Upgrade Abort Stop IncumbentHello IncumbentAdopted Drained SealComplete
                SealFailed Resumed RetiringSaid IncumbentProgress IncumbentActive IncumbentClosed
                IncumbentExited SuccessorHello SuccessorAdopted Warmed Ready Active SuccessorRefused
                SuccessorProgress SuccessorClosed SuccessorExited SuccessorGone RetiredExited
                RetiredGone RetireOver DeadlineOver DrainOver FreezeOver ActiveOver SilentOver
                BackoffOver Forgiven ColdStartOver Claimed Failed Unhealthy ProbationOver StallOver Tried CanaryDue Alien
            } => self.violation(&event),
        }
    }

    /// Nothing is started any more; the listeners stay open, so that clients queue.
    fn fail(&mut self, why: &Why, reason: String) -> Effects {
        self.state = State::Failed { why: reason.clone() };
        match why {
            Why::First | Why::Lost | Why::Died => Vec::new(),
            Why::Handoff { handoff, .. } => vec![Effect::Report(Ended {
                handoff: *handoff,
                outcome: Outcome::Unknown,
                reason: Some(format!("no server could be started: {reason}")),
                epoch: Epoch::ZERO,
            })],
        }
    }

    pub(super) fn failed_on(&mut self, event: Event) -> Effects {
        match event {
            Event::Start => {
                let open = self.failures.clear();
                let mut effects: Effects = open.map(|n| Effect::Disarm(Timer::Forgive(n))).collect();
                effects.extend(self.start_cold(Why::First));
                effects
            }
            event @ rest! {
                Upgrade Abort Stop IncumbentHello IncumbentAdopted Drained SealComplete SealFailed
                Resumed RetiringSaid IncumbentRefused IncumbentProgress IncumbentActive
                IncumbentClosed IncumbentExited IncumbentGone SuccessorHello SuccessorAdopted Warmed
                Ready Active SuccessorRefused SuccessorProgress SuccessorClosed SuccessorExited
                SuccessorGone RetiredExited RetiredGone RetireOver DeadlineOver DrainOver FreezeOver
                ActiveOver SilentOver BackoffOver Forgiven ColdStartOver Claimed Failed Unhealthy ProbationOver StallOver Tried CanaryDue Alien
            } => self.violation(&event),
        }
    }

    pub(super) fn stopping_on(&mut self, incumbent: Party, successor: Party, event: Event) -> Effects {
        match event {
            Event::IncumbentGone => {
                self.state = State::Stopping { incumbent: Party::Gone, successor };
                let mut effects = vec![Effect::Forget(Peer::Incumbent)];
                effects.extend(self.stopped_if_empty());
                effects
            }
            Event::SuccessorGone => {
                self.state = State::Stopping { incumbent, successor: Party::Gone };
                let mut effects = vec![Effect::Forget(Peer::Successor)];
                effects.extend(self.stopped_if_empty());
                effects
            }
            event @ rest! {
                Start Upgrade Abort Stop IncumbentHello IncumbentAdopted Drained SealComplete
                SealFailed Resumed RetiringSaid IncumbentRefused IncumbentProgress IncumbentActive
                IncumbentClosed IncumbentExited SuccessorHello SuccessorAdopted Warmed Ready Active
                SuccessorRefused SuccessorProgress SuccessorClosed SuccessorExited RetiredExited
                RetiredGone RetireOver DeadlineOver DrainOver FreezeOver ActiveOver SilentOver
                BackoffOver Forgiven ColdStartOver Claimed Failed Unhealthy ProbationOver StallOver Tried CanaryDue Alien
            } => self.violation(&event),
        }
    }

    /// Used where O's next word after a reconnect matters.
    pub(super) fn ask_again(server: &Server, handoff: crate::ids::HandoffId) -> Effect {
        Effect::send(Peer::Incumbent, handoff, server.epoch, Message::Resolve)
    }
}
