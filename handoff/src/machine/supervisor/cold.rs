//! X: a server is started from disk where nobody serves. The old tree is empty first, always.

use super::event::Event;
use super::{Party, Server, State, Supervisor, Why};
use crate::ids::{Epoch, InstanceId};
use crate::journal::Record;
use crate::machine::step::{Effect, Effects, Ended, Outcome, Peer, Step, Timer, Which, times};
use crate::wire::{Hello, Message};

/// Crashes without a healthy stretch in between after which nothing is started any more.
const BUDGET: u32 = 10;

impl Supervisor {
    pub(super) fn empty_on(&mut self, event: Event) -> Effects {
        match event {
            Event::Start => self.start_cold(Why::First),
            event @ rest! {
                Upgrade Abort Stop IncumbentHello IncumbentAdopted Drained SealComplete SealFailed
                Resumed RetiringSaid IncumbentRefused IncumbentProgress IncumbentActive
                IncumbentClosed IncumbentExited IncumbentGone SuccessorHello SuccessorAdopted Warmed
                Ready Active SuccessorRefused SuccessorProgress SuccessorClosed SuccessorExited
                SuccessorGone RetiredExited RetiredGone RetireOver DeadlineOver DrainOver FreezeOver
                ActiveOver SilentOver BackoffOver Healthy ColdStartOver Claimed Failed Unhealthy ProbationOver StallOver
                Alien
            } => self.violation(&event),
        }
    }

    /// The server's main process ended: what is left of its tree first, then another one.
    pub(super) fn died(&mut self) -> Effects {
        self.state = State::Emptying { why: Why::Died, successor: Party::Gone };
        vec![Effect::Disarm(Timer::Healthy), Effect::Kill(Peer::Incumbent)]
    }

    pub(super) fn emptying_on(&mut self, why: Why, successor: Party, event: Event) -> Effects {
        match event {
            Event::IncumbentGone if successor == Party::Gone => {
                let mut effects = vec![Effect::Forget(Peer::Incumbent)];
                effects.extend(self.pause(why));
                effects
            }
            event @ rest! {
                Start Upgrade Abort Stop IncumbentHello IncumbentAdopted Drained SealComplete
                SealFailed Resumed RetiringSaid IncumbentRefused IncumbentProgress IncumbentActive
                IncumbentClosed IncumbentExited IncumbentGone SuccessorHello SuccessorAdopted Warmed
                Ready Active SuccessorRefused SuccessorProgress SuccessorClosed SuccessorExited
                SuccessorGone RetiredExited RetiredGone RetireOver DeadlineOver DrainOver FreezeOver
                ActiveOver SilentOver BackoffOver Healthy ColdStartOver Claimed Failed Unhealthy ProbationOver StallOver
                Alien
            } => self.violation(&event),
        }
    }

    /// The first crash is answered at once, each further one after a longer pause, until the budget is over.
    pub(super) fn pause(&mut self, why: Why) -> Effects {
        if why == Why::Died {
            self.crashes += 1;
        }
        if self.crashes > BUDGET {
            let reason = format!(
                "the server died {BUDGET} times without serving {} s in between",
                times::HEALTHY.as_secs()
            );
            return self.fail(&why, reason);
        }
        let doublings = self.crashes.saturating_sub(1);
        if doublings == 0 {
            return self.start_cold(why);
        }
        let pause = (times::BACKOFF * 2u32.pow(doublings.min(16))).min(times::BACKOFF_MAX);
        self.state = State::Pausing { why };
        vec![Effect::Arm(Timer::Backoff, pause)]
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
                ActiveOver SilentOver Healthy ColdStartOver Claimed Failed Unhealthy ProbationOver StallOver
                Alien
            } => self.violation(&event),
        }
    }

    pub(super) fn start_cold(&mut self, why: Why) -> Effects {
        self.spawned += 1;
        let instance = self.base.nth(self.spawned);
        let (reason, which) = match &why {
            Why::First => ("first start".to_owned(), Which::Highest),
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
            Event::IncumbentAdopted { standing: crate::wire::Standing::Active, epoch } => match facts {
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
                ActiveOver SilentOver BackoffOver Healthy Claimed Failed Unhealthy ProbationOver StallOver
                Alien
            } => self.violation(&event),
        }
    }

    fn started(&mut self, why: &Why, server: Server) -> Effects {
        let (instance, epoch) = (server.facts.instance, server.epoch);
        self.state = State::Idle { server };
        let mut effects = vec![
            Effect::Disarm(Timer::ColdStart),
            Effect::Arm(Timer::Healthy, times::HEALTHY),
            Effect::Persist(Record::Serving { instance, epoch }),
        ];
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
                if why == Why::First {
                    effects.extend(self.fail(&why, reason));
                } else {
                    self.crashes += 1;
                    effects.extend(self.pause(why));
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
                BackoffOver Healthy ColdStartOver Claimed Failed Unhealthy ProbationOver StallOver
                Alien
            } => self.violation(&event),
        }
    }

    /// Nothing is started any more; the listeners stay open, so that clients queue.
    fn fail(&mut self, why: &Why, reason: String) -> Effects {
        self.state = State::Failed { why: reason.clone() };
        match why {
            Why::First | Why::Died => Vec::new(),
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
                self.crashes = 0;
                self.start_cold(Why::First)
            }
            event @ rest! {
                Upgrade Abort Stop IncumbentHello IncumbentAdopted Drained SealComplete SealFailed
                Resumed RetiringSaid IncumbentRefused IncumbentProgress IncumbentActive
                IncumbentClosed IncumbentExited IncumbentGone SuccessorHello SuccessorAdopted Warmed
                Ready Active SuccessorRefused SuccessorProgress SuccessorClosed SuccessorExited
                SuccessorGone RetiredExited RetiredGone RetireOver DeadlineOver DrainOver FreezeOver
                ActiveOver SilentOver BackoffOver Healthy ColdStartOver Claimed Failed Unhealthy ProbationOver StallOver
                Alien
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
                BackoffOver Healthy ColdStartOver Claimed Failed Unhealthy ProbationOver StallOver
                Alien
            } => self.violation(&event),
        }
    }

    /// Used where O's next word after a reconnect matters.
    pub(super) fn ask_again(server: &Server, handoff: crate::ids::HandoffId) -> Effect {
        Effect::send(Peer::Incumbent, handoff, server.epoch, Message::Resolve)
    }
}
