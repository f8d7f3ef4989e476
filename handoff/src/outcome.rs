//! How a handoff can end: a word that machines, journal and reports share.

use crate::ids::{Epoch, HandoffId};
use serde::{Deserialize, Serialize};

/// How a handoff ended. An abort is an outcome, not an error.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ended {
    /// Which one.
    pub handoff: HandoffId,
    /// How.
    pub outcome: Outcome,
    /// Why: what was awaited, and from whom. `None` for a commit.
    pub reason: Option<String>,
    /// The epoch under which somebody serves now.
    pub epoch: Epoch,
}

/// The ways a handoff can end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The successor serves.
    Committed,
    /// The incumbent serves on.
    Aborted,
    /// The successor had claimed and died; the incumbent took the tenure back.
    Reclaimed,
    /// Neither served on; a server was started from disk.
    ColdStarted,
    /// The new server did not stand its probation, or an operator wanted it: a build that served before serves.
    RolledBack,
    /// Ended before the incumbent was touched.
    PreflightFailed,
    /// Not known here: the claim files say it.
    Unknown,
}
