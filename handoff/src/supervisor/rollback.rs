//! The way back to the build before, and who waits for the end of a probation.

use super::ask::{Ask, Reply};
use super::builds::{keep, recall, sync};
use super::instance::News;
use super::kept_builds;
use super::options::SpawnSpec;
use super::orders::Done;
use super::place::Place;
use super::spawn::Build;
use super::view::View;
use super::world::World;
use crate::ids::{HandoffId, InstanceId};
use crate::machine::{Ended, Outcome, Way};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Time for the whole way back when nobody named another.
const DEADLINE: Duration = Duration::from_secs(60);
/// Time for its drain.
const DRAIN: Duration = Duration::from_secs(5);

/// An upgrade that has committed, and whose answer waits for the end of its probation.
#[derive(Debug)]
pub(super) struct Waiting {
    handoff: HandoffId,
    reply: Reply,
    done: Done,
}

impl World {
    /// The machine wants to go back: an upgrade that nobody has asked for.
    pub(super) fn turn_back(&mut self, previous: InstanceId) {
        tracing::warn!(build_of = %previous, "the new server did not stand its probation: going back");
        if self.ask.is_some() {
            self.refuse("the server that would be upgraded did not stand its probation".to_owned());
        }
        let (phases, _) = mpsc::unbounded_channel();
        let (reply, _) = oneshot::channel();
        self.take(SpawnSpec::new("").deadline(DEADLINE).drain_grace(DRAIN), Way::Back, phases, reply);
    }

    /// The preflight of the way back: which build, and whether it is there.
    pub(super) fn check_back(&self, place: Place) {
        let Some(ask) = &self.ask else { return };
        let (handoff, successor, tell) = (ask.handoff, ask.successor, self.tell.clone());
        let to = ask.to.clone();
        let (builds, claims) = (Arc::clone(&self.site.builds), self.site.claims.clone());
        let previous = self.window.look().previous;
        let known = previous.and_then(|id| self.builds.get(&id)).cloned();
        let serving = self.incumbent.as_ref().map(|slot| slot.id);
        tokio::task::spawn_blocking(move || {
            let (placed, warnings) = place.judged();
            let found = placed.and_then(|()| match (previous, known) {
                _ if to.is_some() => kept_builds::named(&builds, &claims, &to.unwrap_or_default()),
                (Some(_), Some(build)) if build.executable.unchanged().is_some() => {
                    let executable = build.executable.unchanged().ok_or("its program was written to")?;
                    Ok(Build { executable, spec: build.spec.clone() })
                }
                (Some(previous), _) => recall(&builds, previous),
                (None, _) => kept_builds::before(&builds, &claims, serving),
            });
            let checked = found.and_then(|build| keep(&builds, successor, &build)).map(Arc::new);
            let _ = tell.send(News::Checked(handoff, checked.clone(), warnings));
            if let Ok(build) = checked {
                sync(&builds, &build);
            }
        });
    }

    /// Answers who asked for a handoff that has ended, or lets it wait for the end of the probation.
    pub(super) fn answer(&mut self, ended: &Ended, ask: Option<Ask>, done: Done) {
        let view = self.window.look();
        // gone back, or the word that there is no way back; one that was aborted may be tried again
        let undone = self.waiting.take_if(|waiting| {
            let over = view.probation != Some(waiting.handoff);
            waiting.handoff == ended.handoff || (over && ended.outcome == Outcome::RolledBack)
        });
        if let Some(waiting) = undone {
            let report = done.report.clone();
            let _ = waiting.reply.send(Ok(Box::new(Done { report, child: None })));
        }
        let Some(ask) = ask else { return };
        if ask.spec.wait_probation && view.probation == Some(ended.handoff) {
            self.waiting = Some(Waiting { handoff: ended.handoff, reply: ask.reply, done });
        } else {
            let _ = ask.reply.send(Ok(Box::new(done)));
        }
    }

    /// A probation that has ended well, or by the next upgrade.
    pub(super) fn settle_probation(&mut self, view: &View) {
        let over = |waiting: &mut Waiting| view.probation != Some(waiting.handoff);
        if let Some(Waiting { reply, done, .. }) = self.waiting.take_if(over) {
            let _ = reply.send(Ok(Box::new(done)));
        }
    }
}
