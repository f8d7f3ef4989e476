//! From PrepareHandoff to Active, and every way off it.

use super::event::Event;
use super::{Party, State, Supervisor, Try, fit};
use crate::ids::{Digest, Epoch};
use crate::journal::Record;
use crate::machine::step::{Effect, Effects, Ended, Outcome, Peer, Timer, times};
use crate::wire::Message;

impl Supervisor {
    pub(super) fn preparing_on(&mut self, t: Try, event: Event) -> Effects {
        match event {
            Event::Drained { handoff } if t.is(handoff) && t.overlap() => {
                let begin = t.to_successor(Message::Begin { digest: None });
                self.state = State::Readying { t, sealed: None, incumbent: Party::Alive };
                vec![Effect::Disarm(Timer::Drain), begin]
            }
            Event::Drained { handoff } if t.is(handoff) => {
                let (seal, freeze) = (t.to_incumbent(Message::SealRequest), t.upgrade.freeze_budget);
                self.state = State::Sealing { t };
                // the record stands before the request, outside the freeze
                vec![
                    Effect::Disarm(Timer::Drain),
                    Effect::Persist(Record::SealRequested { handoff }),
                    seal,
                    Effect::Arm(Timer::Freeze, freeze),
                ]
            }
            Event::IncumbentRefused { handoff, why } if t.is(handoff) => {
                self.unsealed(t, format!("the incumbent refused: {why}"))
            }
            Event::Resumed { handoff, epoch } if t.is(handoff) => self.settle(
                t,
                epoch,
                "the incumbent resumed: its drain failed or it lost the supervisor".to_owned(),
            ),
            Event::SuccessorExited => self.resolve(
                t,
                "the successor died; awaited Drained from the incumbent".to_owned(),
                Party::Alive,
                Party::Ending,
                false,
            ),
            Event::SuccessorClosed => {
                self.unsealed(t, "the successor left; awaited Drained from the incumbent".to_owned())
            }
            Event::SuccessorRefused { why } => {
                self.unsealed(t, format!("the successor left: {why}; awaited Drained from the incumbent"))
            }
            Event::DrainOver => {
                self.unsealed(t, "the drain took too long; awaited Drained from the incumbent".to_owned())
            }
            Event::DeadlineOver => {
                self.unsealed(t, "the deadline is over; awaited Drained from the incumbent".to_owned())
            }
            Event::Abort => self.unsealed(t, "aborted by the operator".to_owned()),
            Event::IncumbentClosed => Self::again(
                Peer::Incumbent,
                self.unsealed(t, "the incumbent's channel ended; awaited Drained".to_owned()),
            ),
            Event::IncumbentExited => self.resolve(
                t,
                "the incumbent died; awaited Drained".to_owned(),
                Party::Ending,
                Party::Alive,
                false,
            ),
            Event::IncumbentProgress { .. } | Event::SuccessorProgress | Event::Forgiven => Vec::new(),
            event @ rest! {
                Start Upgrade Stop IncumbentHello IncumbentAdopted Drained SealComplete SealFailed
                Resumed RetiringSaid IncumbentRefused IncumbentActive IncumbentGone SuccessorHello
                SuccessorAdopted Warmed Ready Active SuccessorGone RetiredExited RetiredGone
                RetireOver FreezeOver ActiveOver SilentOver BackoffOver ColdStartOver Claimed Failed
                Unhealthy ProbationOver StallOver
                Tried CanaryDue Alien
            } => self.violation(&event),
        }
    }

    /// A channel broke and its peer may live: it is asked again on a new one.
    pub(super) fn again(peer: Peer, resolve: Effects) -> Effects {
        let mut effects = vec![Effect::Reconnect(peer)];
        effects.extend(resolve);
        effects
    }

    fn unsealed(&mut self, t: Try, reason: String) -> Effects {
        self.resolve(t, reason, Party::Alive, Party::Alive, false)
    }

    pub(super) fn sealing_on(&mut self, t: Try, event: Event) -> Effects {
        match event {
            Event::SealComplete { handoff, digest, connections } if t.is(handoff) => {
                let begin = t.to_successor(Message::Begin { digest: Some(digest.clone()) });
                self.state =
                    State::Readying { t, sealed: Some((digest, connections)), incumbent: Party::Alive };
                vec![begin]
            }
            Event::SealFailed { handoff, error } if t.is(handoff) => {
                let epoch = t.server.epoch;
                self.settle(t, epoch, format!("the seal failed: {error}"))
            }
            Event::Resumed { handoff, epoch } if t.is(handoff) => {
                self.settle(t, epoch, "the incumbent resumed: its freeze budget was over".to_owned())
            }
            Event::IncumbentRefused { handoff, why } if t.is(handoff) => {
                self.sealed(t, format!("the incumbent refused: {why}"), Party::Alive)
            }
            Event::SuccessorExited => self.resolve(
                t,
                "the successor died; awaited SealComplete from the incumbent".to_owned(),
                Party::Alive,
                Party::Ending,
                true,
            ),
            Event::SuccessorClosed => self.sealed(
                t,
                "the successor left; awaited SealComplete from the incumbent".to_owned(),
                Party::Alive,
            ),
            Event::SuccessorRefused { why } => self.sealed(
                t,
                format!("the successor left: {why}; awaited SealComplete from the incumbent"),
                Party::Alive,
            ),
            Event::FreezeOver => self.sealed(
                t,
                "the freeze budget is over; awaited SealComplete from the incumbent".to_owned(),
                Party::Alive,
            ),
            Event::DeadlineOver => self.sealed(
                t,
                "the deadline is over; awaited SealComplete from the incumbent".to_owned(),
                Party::Alive,
            ),
            Event::Abort => self.sealed(t, "aborted by the operator".to_owned(), Party::Alive),
            Event::IncumbentClosed => Self::again(
                Peer::Incumbent,
                self.sealed(
                    t,
                    "the incumbent's channel ended; awaited SealComplete".to_owned(),
                    Party::Alive,
                ),
            ),
            Event::IncumbentExited => {
                self.sealed(t, "the incumbent died; awaited SealComplete".to_owned(), Party::Ending)
            }
            Event::IncumbentProgress { .. } | Event::SuccessorProgress | Event::Forgiven => Vec::new(),
            event @ rest! {
                Start Upgrade Stop IncumbentHello IncumbentAdopted Drained SealComplete SealFailed
                Resumed RetiringSaid IncumbentRefused IncumbentActive IncumbentGone SuccessorHello
                SuccessorAdopted Warmed Ready Active SuccessorGone RetiredExited RetiredGone
                RetireOver DrainOver ActiveOver SilentOver BackoffOver ColdStartOver Claimed Failed
                Unhealthy ProbationOver StallOver
                Tried CanaryDue Alien
            } => self.violation(&event),
        }
    }

    fn sealed(&mut self, t: Try, reason: String, incumbent: Party) -> Effects {
        self.resolve(t, reason, incumbent, Party::Alive, true)
    }

    pub(super) fn readying_on(
        &mut self,
        t: Try,
        sealed: Option<(Digest, u64)>,
        incumbent: Party,
        event: Event,
    ) -> Effects {
        let asked = sealed.is_some();
        let lives = incumbent == Party::Alive;
        match event {
            Event::Ready { handoff, digest, listeners, healthy, connections } if t.is(handoff) => {
                let facts = &t.server.facts;
                if let Some(reason) = fit::not_ready(
                    facts,
                    sealed.as_ref(),
                    lives,
                    digest.as_ref(),
                    &listeners,
                    healthy,
                    connections,
                ) {
                    return self.resolve(t, reason, incumbent, Party::Alive, asked);
                }
                if t.upgrade.canary {
                    return self.try_canary(t, asked, incumbent);
                }
                self.permit(t, incumbent)
            }
            // sealed and gone: its data is on disk and its connections are queued, S goes on to commit
            Event::IncumbentExited if asked => {
                self.state = State::Readying { t, sealed, incumbent: Party::Ending };
                vec![Effect::Kill(Peer::Incumbent)]
            }
            Event::IncumbentGone if incumbent == Party::Ending => {
                self.state = State::Readying { t, sealed, incumbent: Party::Gone };
                Vec::new()
            }
            Event::IncumbentExited => self.resolve(
                t,
                "the incumbent died; awaited Ready".to_owned(),
                Party::Ending,
                Party::Alive,
                asked,
            ),
            Event::Resumed { handoff, epoch } if t.is(handoff) && lives => {
                self.settle(t, epoch, "the incumbent resumed before the successor was ready".to_owned())
            }
            // the last words of one that died: the claim decides
            Event::Resumed { handoff, .. } if t.is(handoff) => Vec::new(),
            Event::SuccessorExited => self.resolve(
                t,
                "the successor died; awaited Ready".to_owned(),
                incumbent,
                Party::Ending,
                asked,
            ),
            Event::SuccessorClosed => self.resolve(
                t,
                "the successor's channel ended; awaited Ready".to_owned(),
                incumbent,
                Party::Alive,
                asked,
            ),
            Event::SuccessorRefused { why } => {
                self.resolve(t, format!("the successor left: {why}"), incumbent, Party::Alive, asked)
            }
            Event::FreezeOver => self.resolve(
                t,
                "the freeze budget is over; awaited Ready from the successor".to_owned(),
                incumbent,
                Party::Alive,
                asked,
            ),
            Event::DeadlineOver => self.resolve(
                t,
                "the deadline is over; awaited Ready from the successor".to_owned(),
                incumbent,
                Party::Alive,
                asked,
            ),
            Event::Abort => {
                self.resolve(t, "aborted by the operator".to_owned(), incumbent, Party::Alive, asked)
            }
            Event::IncumbentClosed if !lives => Vec::new(),
            // sealed: whether it died (the usual reason) or only its channel broke, the handoff can go on without it
            Event::IncumbentClosed if asked => vec![Effect::Reconnect(Peer::Incumbent)],
            Event::IncumbentAdopted { .. } if asked => Vec::new(),
            Event::IncumbentClosed => Self::again(
                Peer::Incumbent,
                self.resolve(
                    t,
                    "the incumbent's channel ended; awaited Ready".to_owned(),
                    incumbent,
                    Party::Alive,
                    asked,
                ),
            ),
            Event::IncumbentProgress { .. } | Event::SuccessorProgress | Event::Forgiven => Vec::new(),
            event @ rest! {
                Start Upgrade Stop IncumbentHello IncumbentAdopted Drained SealComplete SealFailed
                Resumed RetiringSaid IncumbentRefused IncumbentActive IncumbentGone SuccessorHello
                SuccessorAdopted Warmed Ready Active SuccessorGone RetiredExited RetiredGone
                RetireOver DrainOver ActiveOver SilentOver BackoffOver ColdStartOver Claimed Failed
                Unhealthy ProbationOver StallOver
                Tried CanaryDue Alien
            } => self.violation(&event),
        }
    }

    /// N may claim.
    pub(super) fn permit(&mut self, t: Try, incumbent: Party) -> Effects {
        let commit = t.to_successor(Message::Commit);
        self.state = State::Activating { t, incumbent };
        vec![commit, Effect::Disarm(Timer::Freeze), Effect::Arm(Timer::Active, times::ACTIVE)]
    }

    pub(super) fn activating_on(&mut self, t: Try, incumbent: Party, event: Event) -> Effects {
        match event {
            Event::Active { handoff, epoch } if t.is(handoff) && epoch == t.next() => {
                self.commit(t, epoch, incumbent)
            }
            Event::IncumbentExited => {
                self.state = State::Activating { t, incumbent: Party::Ending };
                vec![Effect::Kill(Peer::Incumbent)]
            }
            Event::IncumbentGone if incumbent == Party::Ending => {
                self.state = State::Activating { t, incumbent: Party::Gone };
                Vec::new()
            }
            Event::SuccessorExited => self.resolve(
                t,
                "the successor died after Commit; awaited Active".to_owned(),
                incumbent,
                Party::Ending,
                true,
            ),
            Event::SuccessorClosed => Self::again(
                Peer::Successor,
                self.resolve(
                    t,
                    "the successor's channel ended after Commit; awaited Active".to_owned(),
                    incumbent,
                    Party::Alive,
                    true,
                ),
            ),
            Event::SuccessorRefused { why } => self.resolve(
                t,
                format!("the successor left after Commit: {why}"),
                incumbent,
                Party::Alive,
                true,
            ),
            Event::ActiveOver => {
                self.resolve(t, "awaited Active from the successor".to_owned(), incumbent, Party::Alive, true)
            }
            Event::DeadlineOver => self.resolve(
                t,
                "the deadline is over; awaited Active".to_owned(),
                incumbent,
                Party::Alive,
                true,
            ),
            // O's own budget was over and its claim won the race against the successor's
            Event::Resumed { handoff, epoch } if t.is(handoff) && incumbent == Party::Alive => {
                self.settle(t, epoch, "the incumbent took the next epoch before the successor".to_owned())
            }
            // the last words of one that died: the claim decides
            Event::Resumed { handoff, .. } if t.is(handoff) => Vec::new(),
            Event::IncumbentClosed if incumbent == Party::Alive => vec![Effect::Reconnect(Peer::Incumbent)],
            Event::RetiringSaid { .. }
            | Event::IncumbentClosed
            | Event::IncumbentAdopted { .. }
            | Event::IncumbentProgress { .. }
            | Event::SuccessorProgress
            | Event::Forgiven => Vec::new(),
            event @ rest! {
                Start Upgrade Abort Stop IncumbentHello Drained SealComplete SealFailed Resumed
                IncumbentRefused IncumbentActive IncumbentGone SuccessorHello SuccessorAdopted
                Warmed Ready Active SuccessorGone RetiredExited RetiredGone RetireOver DrainOver
                FreezeOver SilentOver BackoffOver ColdStartOver Claimed Failed Unhealthy ProbationOver StallOver
                Tried CanaryDue Alien
            } => self.violation(&event),
        }
    }

    /// O serves on under `epoch` and has said so: only now N is ended.
    pub(super) fn settle(&mut self, t: Try, epoch: Epoch, reason: String) -> Effects {
        // base + 2: the successor had owned base + 1 and the incumbent took it back
        let outcome = if epoch > t.next() { Outcome::Reclaimed } else { Outcome::Aborted };
        self.state = State::Settling { t, epoch, outcome, reason };
        vec![
            Effect::Disarm(Timer::Deadline),
            Effect::Disarm(Timer::Drain),
            Effect::Disarm(Timer::Freeze),
            Effect::Disarm(Timer::Active),
            Effect::Disarm(Timer::Silent),
            Effect::Kill(Peer::Successor),
        ]
    }

    pub(super) fn settling_on(
        &mut self,
        t: Try,
        epoch: Epoch,
        outcome: Outcome,
        reason: String,
        event: Event,
    ) -> Effects {
        match event {
            Event::SuccessorGone => {
                let handoff = t.upgrade.handoff;
                let instance = t.server.facts.instance;
                let reason = Some(reason);
                let mut effects = vec![
                    Effect::Forget(Peer::Successor),
                    Effect::Persist(Record::Serving { instance, epoch }),
                    Effect::Persist(Record::Ended { handoff, outcome, reason: reason.clone(), epoch }),
                    Effect::Report(Ended { handoff, outcome, reason, epoch }),
                ];
                effects.extend(self.stay(t, epoch, true));
                effects
            }
            Event::IncumbentExited => self.resolve(
                t,
                format!("{reason}; then the incumbent died"),
                Party::Ending,
                Party::Ending,
                true,
            ),
            // O saw N's end before S did: what N said when it left is the better reason
            Event::SuccessorRefused { why } => {
                let reason = format!("the successor left: {why}");
                self.state = State::Settling { t, epoch, outcome, reason };
                Vec::new()
            }
            Event::IncumbentClosed => vec![Effect::Reconnect(Peer::Incumbent)],
            Event::IncumbentAdopted { .. }
            | Event::IncumbentHello { .. }
            | Event::IncumbentProgress { .. }
            | Event::SuccessorProgress
            | Event::SuccessorClosed
            | Event::SuccessorExited
            | Event::Resumed { .. }
            | Event::Forgiven => Vec::new(),
            event @ rest! {
                Start Upgrade Abort Stop Drained SealComplete SealFailed RetiringSaid
                IncumbentRefused IncumbentActive IncumbentGone SuccessorHello SuccessorAdopted
                Warmed Ready Active RetiredExited RetiredGone RetireOver DeadlineOver DrainOver
                FreezeOver ActiveOver SilentOver BackoffOver ColdStartOver Claimed Failed Unhealthy ProbationOver StallOver
                Tried CanaryDue Alien
            } => self.violation(&event),
        }
    }
}
