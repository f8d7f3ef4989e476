//! What the journal says: one record a decision or a fact worth telling, phases by name.

use crate::ids::{Epoch, HandoffId, InstanceId};
use crate::outcome::{Ended, Outcome};
use serde::{Deserialize, Serialize};

/// One entry of the journal. History and hints: the claims always beat it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Record {
    /// A supervisor took the run dir.
    Generation {
        /// Its generation.
        generation: u64,
    },
    /// A successor will be started in its own container: authorises every later kill of that container.
    Intent {
        /// The handoff.
        handoff: HandoffId,
        /// Who serves.
        incumbent: InstanceId,
        /// Who shall serve.
        successor: InstanceId,
        /// The epoch under which the incumbent serves.
        epoch: Epoch,
    },
    /// On what terms: follows the intent where the new server will be on probation.
    Terms {
        /// The handoff.
        handoff: HandoffId,
        /// How long.
        probation_ms: u64,
    },
    /// The server of this handoff has not stood its probation: it is gone back from, whoever supervises it.
    TurnedDown {
        /// The handoff.
        handoff: HandoffId,
        /// Why.
        reason: String,
        /// How many ways back have come to nothing.
        failed: u32,
    },
    /// The probation after this handoff has ended, and its server serves on.
    ProbationOver {
        /// The handoff.
        handoff: HandoffId,
    },
    /// A build that served before serves again. The handoff is the one that went back or, where a server was started
    /// from disk, the one that was undone.
    RolledBack {
        /// The handoff.
        handoff: HandoffId,
        /// Why.
        reason: String,
        /// The epoch under which somebody serves.
        epoch: Epoch,
    },
    /// SealRequest will be sent. Its absence after a restart proves nothing.
    SealRequested {
        /// The handoff.
        handoff: HandoffId,
    },
    /// Who owns the next epoch is being found out.
    Resolving {
        /// The handoff.
        handoff: HandoffId,
        /// What was awaited, from whom.
        reason: String,
    },
    /// The handoff ended.
    Ended {
        /// The handoff.
        handoff: HandoffId,
        /// How.
        outcome: Outcome,
        /// Why; `None` for a commit.
        reason: Option<String>,
        /// The epoch under which somebody serves.
        epoch: Epoch,
    },
    /// A server will be started from disk in its own container.
    ColdStart {
        /// The instance.
        instance: InstanceId,
        /// Why.
        reason: String,
    },
    /// An instance serves.
    Serving {
        /// The instance.
        instance: InstanceId,
        /// Its epoch.
        epoch: Epoch,
    },
    /// The supervisor stopped and left nothing behind.
    Stopped,
    /// The full report of an ended handoff, as `history` shows it (one JSON object).
    Report {
        /// The handoff.
        handoff: HandoffId,
        /// The report.
        json: String,
    },
}

impl Record {
    /// Whether the step after it may not be taken when it could not be written. The others are history: a full disk
    /// under the run dir must not stop a service, it is logged and shown by `status`.
    #[must_use]
    pub fn is_essential(&self) -> bool {
        matches!(self, Record::Intent { .. })
    }

    /// How a handoff ended, where that is what it says.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        match self {
            Record::Ended { handoff, outcome, reason, epoch } => {
                Some(Ended { handoff: *handoff, outcome: *outcome, reason: reason.clone(), epoch: *epoch })
            }
            _ => None,
        }
    }

    /// The name in crash points and on the screen.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Record::Generation { .. } => "generation",
            Record::Intent { .. } => "intent",
            Record::Terms { .. } => "terms",
            Record::TurnedDown { .. } => "turned_down",
            Record::ProbationOver { .. } => "probation_over",
            Record::RolledBack { .. } => "rolled_back",
            Record::SealRequested { .. } => "seal_requested",
            Record::Resolving { .. } => "resolving",
            Record::Ended { .. } => "ended",
            Record::ColdStart { .. } => "cold_start",
            Record::Serving { .. } => "serving",
            Record::Stopped => "stopped",
            Record::Report { .. } => "report",
        }
    }
}
