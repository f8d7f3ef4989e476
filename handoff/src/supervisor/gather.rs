//! Everybody whom an earlier supervisor left running, and what they hold.

use super::adopt::{self, Adoptee, Met, Speaker};
use super::launch::control_name;
use super::salvage::{Salvaged, salvage};
use crate::ids::InstanceId;
use crate::machine::times;
use crate::os::files::Dir;
use crate::wire::Standing;
use std::time::Duration;

/// Time in which an instance that runs says Hello, and in which it answers Adopt.
const PATIENCE: Duration = Duration::from_millis(800);

/// What running instances brought.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) adoptees: Vec<Adoptee>,
    /// Alive, and not to be talked to.
    pub(super) mute: Vec<InstanceId>,
    /// What the mute ones held.
    pub(super) saved: Vec<Salvaged>,
    /// Sockets of the dead, which were removed.
    pub(super) removed: Vec<String>,
    /// Whose they were.
    pub(super) dead: Vec<InstanceId>,
    /// Somebody runs here as another user: why that cannot be.
    pub(super) foreign: Option<String>,
}

/// Everybody who runs. A generation higher than all they have seen makes this supervisor theirs.
pub(super) async fn gather(ctl: &Dir, past: u64) -> (u64, Gathered) {
    let (known, removed) = adopt::known(ctl);
    let mut gathered = Gathered { removed, ..Gathered::default() };
    let speakers = gathered.sort(adopt::meet(ctl, &known, PATIENCE).await);
    let mut generation = past.max(highest_seen(&speakers)) + 1;
    gathered.take(adopt::adopt(speakers, generation, PATIENCE).await);
    // nobody serves, but somebody holds what a server needs: it may have been stopped for a moment only
    if !gathered.mute.is_empty() && !gathered.serves() && gathered.foreign.is_none() {
        let patience = crate::crash::scaled(times::SILENT);
        tracing::warn!(?patience, "nobody serves, and an instance does not answer: waiting for it");
        let mute = std::mem::take(&mut gathered.mute);
        let speakers = gathered.sort(adopt::meet(ctl, &mute, patience).await);
        generation = generation.max(highest_seen(&speakers) + 1);
        gathered.take(adopt::adopt(speakers, generation, patience).await);
    }
    gathered.salvage();
    (generation, gathered)
}

fn highest_seen(speakers: &[Speaker]) -> u64 {
    speakers.iter().map(|speaker| speaker.hello.generation).max().unwrap_or(0)
}

impl Gathered {
    fn sort(&mut self, met: Vec<Met>) -> Vec<Speaker> {
        let mut speakers = Vec::new();
        for met in met {
            match met {
                Met::Speaks(speaker) => speakers.push(*speaker),
                Met::Silent(id) => self.mute.push(id),
                Met::Foreign(why) => self.foreign = Some(why),
                Met::Dead(id) => {
                    self.removed.push(control_name(id));
                    self.dead.push(id);
                }
            }
        }
        speakers
    }

    fn take(&mut self, answers: Vec<std::result::Result<Adoptee, InstanceId>>) {
        for answer in answers {
            match answer {
                Ok(adoptee) => self.adoptees.push(adoptee),
                Err(id) => self.mute.push(id),
            }
        }
    }

    pub(super) fn serves(&self) -> bool {
        let serves = |adoptee: &Adoptee| match adoptee.found.standing {
            Standing::Active | Standing::Draining | Standing::Sealed => true,
            Standing::Retiring
            | Standing::Warming
            | Standing::Opening
            | Standing::Claimed
            | Standing::Starting => false,
        };
        self.adoptees.iter().any(serves)
    }

    /// Ends who stayed mute, so that another server can have what it holds.
    pub(super) async fn end_mute(&mut self, ctl: &Dir) {
        for id in self.mute.drain(..) {
            if adopt::sweep(ctl, id, adopt::group_of(id, None)).await {
                tracing::warn!(instance = %id, "it stayed silent and was ended");
            }
        }
    }

    /// Who stays mute will be ended; what it holds must not end with it.
    fn salvage(&mut self) {
        for id in &self.mute {
            if let Some(group) = adopt::group_of(*id, None) {
                self.saved.push(salvage(&group));
            }
        }
    }
}
