//! The one routine that finds out who owns the next epoch: after a timeout, a death, an abort, and after S itself died.
//!
//! S reads the claim and asks O. It never claims, and it ends N only when O has arbitrated or is gone.

use super::event::Event;
use super::{Party, State, Supervisor, Try, Why};
use crate::ids::InstanceId;
use crate::journal::Record;
use crate::machine::step::{Effect, Effects, Ended, Outcome, Peer, Timer, times};
use crate::wire::Message;

/// What is known while it is found out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Resolving {
    pub(super) t: Try,
    pub(super) reason: String,
    pub(super) incumbent: Party,
    pub(super) successor: Party,
    /// SealRequest was sent, or may have been.
    pub(super) sealed: bool,
    /// O said something since it was asked: it is not silent, whatever its answer will be.
    progress: bool,
    ask: Ask,
}

/// What is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Ask {
    /// The claim was ordered to be read.
    Claim,
    /// Nobody, or O, owns the next epoch: O was asked, the claim is watched.
    Incumbent,
    /// N owns the next epoch: it may become active.
    Active,
    /// N owns the next epoch and is being ended.
    EndingOwner,
    /// N owned the next epoch and is gone: O was asked whether it takes it back.
    Reclaim,
    /// O is gone, N owned nothing when the claim was read: N is being ended.
    EndingOther,
    /// Both are gone: the claim is read once more, for N may have claimed before it died.
    LastLook,
    /// O does not answer and was never asked to seal: N is being ended, O is left alone.
    EndingUnheard,
    /// So it was, and N is gone: without a seal either of them may have claimed meanwhile.
    LookUnheard,
}

impl Resolving {
    pub(super) fn state_name(&self) -> &'static str {
        match self.ask {
            Ask::Claim => "Resolving (reading the claim)",
            Ask::Incumbent => "Resolving (asking O)",
            Ask::Active => "Resolving (N owns, awaiting Active)",
            Ask::EndingOwner => "Resolving (N owns, ending it)",
            Ask::Reclaim => "Resolving (asking O to reclaim)",
            Ask::EndingOther => "Resolving (ending N)",
            Ask::LastLook => "Resolving (last look)",
            Ask::EndingUnheard => "Resolving (O unresponsive, ending N)",
            Ask::LookUnheard => "Resolving (O unresponsive, last look)",
        }
    }
}

impl Supervisor {
    /// `Party::Ending` for a party whose main process ended.
    pub(super) fn resolve(
        &mut self,
        t: Try,
        reason: String,
        incumbent: Party,
        successor: Party,
        sealed: bool,
    ) -> Effects {
        let handoff = t.upgrade.handoff;
        let next = t.next();
        // who was never sealed may serve although it is silent
        let sealed = sealed && !t.overlap();
        let mut effects = vec![
            Effect::Disarm(Timer::Deadline),
            Effect::Disarm(Timer::Drain),
            Effect::Disarm(Timer::Freeze),
            Effect::Disarm(Timer::Active),
            Effect::Persist(Record::Resolving { handoff, reason: reason.clone() }),
        ];
        if incumbent == Party::Ending {
            effects.push(Effect::Kill(Peer::Incumbent));
        }
        effects.push(Effect::ReadClaim(next));
        let r = Resolving { t, reason, incumbent, successor, sealed, progress: false, ask: Ask::Claim };
        self.state = State::Resolving { r };
        effects
    }

    pub(super) fn resolving_on(&mut self, mut r: Resolving, event: Event) -> Effects {
        let handoff = r.t.upgrade.handoff;
        match event {
            Event::Claimed(epoch, owner) if epoch == r.t.next() => self.claim_read(r, owner),
            Event::Active { handoff: of, epoch } if of == handoff && epoch == r.t.next() => match r.ask {
                // it says so only after its claim, and nobody has ended it
                Ask::Claim | Ask::Incumbent | Ask::Active if r.successor == Party::Alive => {
                    self.commit(r.t, epoch, r.incumbent)
                }
                // too late: it is dead, or its tree is being ended
                Ask::Claim
                | Ask::Incumbent
                | Ask::Active
                | Ask::EndingOwner
                | Ask::Reclaim
                | Ask::EndingOther
                | Ask::LastLook
                | Ask::EndingUnheard
                | Ask::LookUnheard => Vec::new(),
            },
            Event::SuccessorAdopted { standing: crate::wire::Standing::Active } if r.ask == Ask::Active => {
                let epoch = r.t.next();
                self.commit(r.t, epoch, r.incumbent)
            }
            // whatever it is: O goes on under the epoch that it names
            Event::Resumed { handoff: of, epoch } if of == handoff && r.incumbent == Party::Alive => {
                self.settle(r.t, epoch, r.reason)
            }
            Event::SealFailed { handoff: of, .. } if of == handoff && r.incumbent == Party::Alive => {
                let epoch = r.t.server.epoch;
                self.settle(r.t, epoch, r.reason)
            }
            // its last words: it is dead or being ended, and who serves is decided without it
            Event::Resumed { handoff: of, .. } | Event::SealFailed { handoff: of, .. } if of == handoff => {
                Vec::new()
            }
            // O saw Started: N owns the next epoch, and O leaves
            Event::RetiringSaid { handoff: of } if of == handoff => match r.ask {
                Ask::Claim | Ask::Incumbent => self.owned_by_successor(r),
                Ask::Reclaim => {
                    // nothing to take back any more: O's copies are stale
                    r.incumbent = Party::Ending;
                    self.state = State::Resolving { r };
                    vec![Effect::Kill(Peer::Incumbent)]
                }
                Ask::Active
                | Ask::EndingOwner
                | Ask::EndingOther
                | Ask::LastLook
                | Ask::EndingUnheard
                | Ask::LookUnheard => Vec::new(),
            },
            Event::IncumbentExited => {
                r.incumbent = Party::Ending;
                self.state = State::Resolving { r };
                vec![Effect::Kill(Peer::Incumbent)]
            }
            Event::IncumbentGone => {
                r.incumbent = Party::Gone;
                self.incumbent_gone(r)
            }
            Event::SuccessorExited => match r.ask {
                Ask::Active => {
                    r.successor = Party::Ending;
                    self.end_owner(r)
                }
                Ask::Claim
                | Ask::Incumbent
                | Ask::EndingOwner
                | Ask::Reclaim
                | Ask::EndingOther
                | Ask::LastLook
                | Ask::EndingUnheard
                | Ask::LookUnheard => {
                    if r.successor == Party::Alive {
                        r.successor = Party::Ending;
                    }
                    self.state = State::Resolving { r };
                    Vec::new()
                }
            },
            Event::SuccessorGone => {
                r.successor = Party::Gone;
                self.successor_gone(r)
            }
            Event::ActiveOver if r.ask == Ask::Active => {
                r.reason = format!("{}; the successor claimed and did not become active", r.reason);
                self.end_owner(r)
            }
            Event::SilentOver => self.silent(r),
            Event::IncumbentProgress { .. } => {
                r.progress = true;
                self.state = State::Resolving { r };
                Vec::new()
            }
            // a new channel: the question again
            Event::IncumbentAdopted { .. } => {
                let ask = matches!(r.ask, Ask::Incumbent | Ask::Reclaim);
                let server = r.t.server.clone();
                self.state = State::Resolving { r };
                if ask { vec![Self::ask_again(&server, handoff)] } else { Vec::new() }
            }
            Event::IncumbentClosed if r.incumbent == Party::Alive => vec![Effect::Reconnect(Peer::Incumbent)],
            // it may be serving already and unable to say so
            Event::SuccessorClosed
                if r.successor == Party::Alive
                    && matches!(r.ask, Ask::Claim | Ask::Incumbent | Ask::Active) =>
            {
                vec![Effect::Reconnect(Peer::Successor)]
            }
            // what it says itself when it leaves is the better reason
            Event::SuccessorRefused { why } => {
                r.reason = format!("{}: {why}", r.reason);
                self.state = State::Resolving { r };
                Vec::new()
            }
            // Resolve itself is never refused; this answers an order of before
            Event::IncumbentRefused { .. }
            | Event::IncumbentClosed
            | Event::IncumbentHello { .. }
            | Event::SuccessorProgress
            | Event::SuccessorClosed
            | Event::Warmed { .. }
            | Event::Ready { .. }
            | Event::Drained { .. }
            | Event::SealComplete { .. }
            | Event::Forgiven => Vec::new(),
            event @ rest! {
                Start Upgrade Abort Stop IncumbentActive SealFailed Resumed RetiringSaid
                SuccessorHello SuccessorAdopted Active RetiredExited RetiredGone RetireOver
                DeadlineOver DrainOver FreezeOver ActiveOver BackoffOver ColdStartOver Claimed
                Failed Unhealthy ProbationOver StallOver
                Tried CanaryDue Alien
            } => self.violation(&event),
        }
    }

    fn claim_read(&mut self, mut r: Resolving, owner: Option<InstanceId>) -> Effects {
        let by_successor = owner == Some(r.t.upgrade.successor);
        match r.ask {
            Ask::Claim | Ask::Incumbent if by_successor => self.owned_by_successor(r),
            Ask::Claim if r.incumbent == Party::Alive => {
                let resolve = r.t.to_incumbent(Message::Resolve);
                let next = r.t.next();
                r.ask = Ask::Incumbent;
                self.state = State::Resolving { r };
                // N is left alone: a Commit still on its way may make it win, and O arbitrates
                vec![resolve, Effect::WatchClaim(next), Effect::Arm(Timer::Silent, times::SILENT)]
            }
            // O is dead or dying: wait until its tree is empty, then look again
            Ask::Claim if r.incumbent == Party::Ending => {
                self.state = State::Resolving { r };
                Vec::new()
            }
            Ask::Claim => {
                r.ask = Ask::EndingOther;
                self.state = State::Resolving { r };
                vec![Effect::Kill(Peer::Successor)]
            }
            Ask::LastLook => self.cold_start(r),
            // silent because it is dying: its end decides
            Ask::LookUnheard if r.incumbent != Party::Alive => {
                self.state = State::Resolving { r };
                Vec::new()
            }
            Ask::LookUnheard if by_successor => self.end_owner(r),
            Ask::LookUnheard => self.unheard(r, owner.is_some()),
            Ask::Incumbent
            | Ask::Active
            | Ask::EndingOwner
            | Ask::Reclaim
            | Ask::EndingOther
            | Ask::EndingUnheard => {
                self.state = State::Resolving { r };
                Vec::new()
            }
        }
    }

    fn owned_by_successor(&mut self, mut r: Resolving) -> Effects {
        if r.successor != Party::Alive {
            return self.end_owner(r);
        }
        r.ask = Ask::Active;
        self.state = State::Resolving { r };
        vec![Effect::Disarm(Timer::Silent), Effect::Arm(Timer::Active, times::ACTIVE)]
    }

    fn end_owner(&mut self, mut r: Resolving) -> Effects {
        r.ask = Ask::EndingOwner;
        if r.successor == Party::Gone {
            return self.successor_gone(r);
        }
        r.successor = Party::Ending;
        self.state = State::Resolving { r };
        vec![Effect::Disarm(Timer::Active), Effect::Kill(Peer::Successor)]
    }

    fn incumbent_gone(&mut self, mut r: Resolving) -> Effects {
        match r.ask {
            // once more before anything is decided: the claim may have come in between
            Ask::Claim | Ask::Incumbent => {
                let next = r.t.next();
                r.ask = Ask::Claim;
                self.state = State::Resolving { r };
                vec![Effect::Disarm(Timer::Silent), Effect::ReadClaim(next)]
            }
            Ask::Reclaim => self.cold_start(r),
            // it was silent because it was dying: N's end may have been seen before
            Ask::EndingUnheard if r.successor == Party::Gone => {
                let next = r.t.next();
                r.ask = Ask::LastLook;
                self.state = State::Resolving { r };
                vec![Effect::ReadClaim(next)]
            }
            Ask::EndingUnheard => {
                r.ask = Ask::EndingOther;
                self.state = State::Resolving { r };
                Vec::new()
            }
            Ask::LookUnheard => {
                let next = r.t.next();
                r.ask = Ask::LastLook;
                self.state = State::Resolving { r };
                vec![Effect::ReadClaim(next)]
            }
            Ask::Active | Ask::EndingOwner | Ask::EndingOther | Ask::LastLook => {
                self.state = State::Resolving { r };
                Vec::new()
            }
        }
    }

    fn successor_gone(&mut self, mut r: Resolving) -> Effects {
        match r.ask {
            Ask::EndingOwner if r.incumbent == Party::Alive => {
                let resolve = r.t.to_incumbent(Message::Resolve);
                r.ask = Ask::Reclaim;
                r.progress = false;
                self.state = State::Resolving { r };
                vec![resolve, Effect::Arm(Timer::Silent, times::SILENT)]
            }
            Ask::EndingOwner if r.incumbent == Party::Gone => self.cold_start(r),
            // O's tree is being emptied: its end decides
            Ask::EndingOwner => {
                r.ask = Ask::Reclaim;
                self.state = State::Resolving { r };
                Vec::new()
            }
            Ask::EndingOther => {
                let next = r.t.next();
                r.ask = Ask::LastLook;
                self.state = State::Resolving { r };
                vec![Effect::ReadClaim(next)]
            }
            // silent because it is dying: its end decides
            Ask::EndingUnheard if r.incumbent != Party::Alive => {
                self.state = State::Resolving { r };
                Vec::new()
            }
            Ask::EndingUnheard => {
                let next = r.t.next();
                r.ask = Ask::LookUnheard;
                self.state = State::Resolving { r };
                vec![Effect::ReadClaim(next)]
            }
            Ask::Claim | Ask::Incumbent | Ask::Active | Ask::Reclaim | Ask::LastLook | Ask::LookUnheard => {
                self.state = State::Resolving { r };
                Vec::new()
            }
        }
    }

    /// O is left alone, under the epoch that the claims give it.
    fn unheard(&mut self, r: Resolving, claimed: bool) -> Effects {
        let epoch = if claimed { r.t.next() } else { r.t.server.epoch };
        let (handoff, outcome) = (r.t.upgrade.handoff, Outcome::Aborted);
        let reason = Some(format!("{}; aborted, incumbent unresponsive", r.reason));
        let mut effects = vec![
            Effect::Forget(Peer::Successor),
            // the question went with a channel that broke, perhaps: who is heard late shall not stay in this handoff
            r.t.to_incumbent(Message::Resolve),
            Effect::Persist(Record::Ended { handoff, outcome, reason: reason.clone(), epoch }),
            Effect::Report(Ended { handoff, outcome, reason, epoch }),
        ];
        effects.extend(self.stay(r.t, epoch, true));
        effects
    }

    /// Nothing came for T_kill.
    fn silent(&mut self, mut r: Resolving) -> Effects {
        if r.incumbent != Party::Alive {
            // it is being ended already, and that decides
            self.state = State::Resolving { r };
            return Vec::new();
        }
        match r.ask {
            Ask::Incumbent | Ask::Reclaim if r.progress => {
                r.progress = false;
                self.state = State::Resolving { r };
                vec![Effect::Arm(Timer::Silent, times::SILENT)]
            }
            Ask::Incumbent if !r.sealed => {
                r.ask = Ask::EndingUnheard;
                self.state = State::Resolving { r };
                vec![Effect::Kill(Peer::Successor)]
            }
            Ask::Incumbent | Ask::Reclaim => {
                r.incumbent = Party::Ending;
                r.reason = format!("{}; the incumbent was silent and was ended", r.reason);
                self.state = State::Resolving { r };
                vec![Effect::Kill(Peer::Incumbent)]
            }
            Ask::Claim
            | Ask::Active
            | Ask::EndingOwner
            | Ask::EndingOther
            | Ask::LastLook
            | Ask::EndingUnheard
            | Ask::LookUnheard => {
                self.state = State::Resolving { r };
                Vec::new()
            }
        }
    }

    /// Both trees are empty: with the build of the highest claim, whoever that is, unless this goes back.
    fn cold_start(&mut self, r: Resolving) -> Effects {
        let mut effects = vec![
            Effect::Disarm(Timer::Silent),
            Effect::Disarm(Timer::Active),
            Effect::Forget(Peer::Successor),
            Effect::Forget(Peer::Incumbent),
        ];
        let back = r.t.fallback();
        effects.extend(self.start_owed(Why::Handoff {
            handoff: r.t.upgrade.handoff,
            reason: r.reason,
            back,
        }));
        effects
    }
}
