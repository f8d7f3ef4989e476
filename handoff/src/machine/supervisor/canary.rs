//! Between Ready and Commit: a request is tried on the new server while no client can reach it yet.
//!
//! N writes nothing and claims nothing for it, so what can end a handoff before Commit ends it here too, and by the
//! same routine. Its time is part of the freeze, whose budget rules: O has a clock of its own.

use super::event::Event;
use super::{Party, State, Supervisor, Try};
use crate::machine::step::{Effect, Effects, Hook, Peer};
use crate::wire::Message;

impl Supervisor {
    /// `asked`: O is sealed.
    pub(super) fn try_canary(&mut self, t: Try, asked: bool, incumbent: Party) -> Effects {
        let canary = t.to_successor(Message::Canary);
        self.state = State::Canary { t, asked, incumbent };
        vec![canary, Effect::Call(Hook::Canary)]
    }

    pub(super) fn canary_on(&mut self, t: Try, asked: bool, incumbent: Party, event: Event) -> Effects {
        let lives = incumbent == Party::Alive;
        match event {
            Event::Tried(Ok(())) => self.permit(t, incumbent),
            Event::Tried(Err(why)) => {
                self.resolve(t, format!("the canary failed: {why}"), incumbent, Party::Alive, asked)
            }
            // it lost S for as long as its lease and claimed by itself: nobody else will say so again
            Event::Active { handoff, epoch } if t.is(handoff) && epoch == t.next() => {
                without_canary(self.commit(t, epoch, incumbent))
            }
            // sealed and gone: its data is on disk and its connections are queued, the canary alone decides
            Event::IncumbentExited if asked => {
                self.state = State::Canary { t, asked, incumbent: Party::Ending };
                vec![Effect::Kill(Peer::Incumbent)]
            }
            Event::IncumbentGone if incumbent == Party::Ending => {
                self.state = State::Canary { t, asked, incumbent: Party::Gone };
                Vec::new()
            }
            Event::IncumbentExited => {
                self.untried(t, "the incumbent died", Party::Ending, Party::Alive, asked)
            }
            Event::Resumed { handoff, epoch } if t.is(handoff) && lives => {
                let reason = "the incumbent resumed before the canary was answered".to_owned();
                without_canary(self.settle(t, epoch, reason))
            }
            // the last words of one that died: the claim decides
            Event::Resumed { handoff, .. } if t.is(handoff) => Vec::new(),
            Event::SuccessorExited => self.untried(t, "the successor died", incumbent, Party::Ending, asked),
            Event::SuccessorClosed => {
                self.untried(t, "the successor's channel ended", incumbent, Party::Alive, asked)
            }
            Event::SuccessorRefused { why } => {
                self.untried(t, &format!("the successor left: {why}"), incumbent, Party::Alive, asked)
            }
            Event::FreezeOver => self.untried(t, "the freeze budget is over", incumbent, Party::Alive, asked),
            Event::DeadlineOver => self.untried(t, "the deadline is over", incumbent, Party::Alive, asked),
            Event::Abort => self.untried(t, "aborted by the operator", incumbent, Party::Alive, asked),
            Event::IncumbentClosed if !lives => Vec::new(),
            // sealed: whether it died (the usual reason) or only its channel broke, the handoff can go on without it
            Event::IncumbentClosed if asked => vec![Effect::Reconnect(Peer::Incumbent)],
            Event::IncumbentAdopted { .. } if asked => Vec::new(),
            Event::IncumbentClosed => {
                let resolve =
                    self.untried(t, "the incumbent's channel ended", incumbent, Party::Alive, asked);
                Self::again(Peer::Incumbent, resolve)
            }
            Event::IncumbentProgress { .. } | Event::SuccessorProgress | Event::Forgiven => Vec::new(),
            event @ rest! {
                Start Upgrade Stop IncumbentHello IncumbentAdopted Drained SealComplete SealFailed
                Resumed RetiringSaid IncumbentRefused IncumbentActive IncumbentGone SuccessorHello
                SuccessorAdopted Warmed Ready Active SuccessorGone RetiredExited RetiredGone
                RetireOver DrainOver ActiveOver SilentOver BackoffOver ColdStartOver Claimed Failed
                Unhealthy ProbationOver StallOver CanaryDue Alien
            } => self.violation(&event),
        }
    }

    fn untried(&mut self, t: Try, what: &str, incumbent: Party, successor: Party, asked: bool) -> Effects {
        let reason = format!("{what}; awaited the answer to the canary");
        without_canary(self.resolve(t, reason, incumbent, successor, asked))
    }
}

/// It is not listened to any more.
pub(super) fn without_canary(effects: Effects) -> Effects {
    std::iter::once(Effect::Cancel(Hook::Canary)).chain(effects).collect()
}
