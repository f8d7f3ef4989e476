//! What operators see: the result of an upgrade, the status, one line of history.
//!
//! These are the JSON of `--format json` and of the operator socket. Unknown values are null, never 0.

use crate::machine::{Ended, Outcome};
use serde::{Deserialize, Serialize};

/// The version of every JSON object here.
pub const SCHEMA: u32 = 1;

/// The result of one upgrade.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HandoffReport {
    /// [`SCHEMA`]
    pub schema: u32,
    /// The handoff; null when none was begun (no supervisor, missing binary).
    pub handoff_id: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// Why: what was awaited and from whom; null for a commit.
    pub reason: Option<String>,
    /// The epoch under which somebody serves now.
    pub epoch: Option<u64>,
    /// Who served before.
    pub old: Option<InstanceReport>,
    /// Who was to serve.
    pub new: Option<InstanceReport>,
    /// How long each phase took, in order.
    pub phases: Vec<PhaseReport>,
    /// SealRequest sent to Active received, on the supervisor's clock, in milliseconds.
    pub freeze_ms: Option<f64>,
    /// How long the canary took before the commit; part of `freeze_ms`. Null when none was tried.
    #[serde(default)]
    pub canary_ms: Option<f64>,
    /// What became of the connections.
    pub connections: ConnectionsReport,
    /// Longest accept queue seen over the freeze.
    pub peak_queue: Option<u64>,
    /// When it ended, milliseconds since the Unix epoch.
    pub ended_unix_ms: Option<u64>,
    /// What the preflight did not like and yet let pass.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// One instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InstanceReport {
    /// Process id.
    pub pid: Option<u32>,
    /// Build id it gave in Hello.
    pub build: Option<String>,
    /// The executable.
    pub executable: Option<String>,
    /// Instance id.
    pub instance: Option<String>,
}

/// One phase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhaseReport {
    /// Its name (see [`crate::phase::Phase`]).
    pub name: String,
    /// How long it took, in milliseconds.
    pub ms: f64,
}

/// What became of the connections.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConnectionsReport {
    /// Handed over and alive.
    pub handed_over: Option<u64>,
    /// Ended by the protocol's goodbye.
    pub drained: Option<u64>,
    /// Lost.
    pub lost: Option<u64>,
}

/// The state of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// [`SCHEMA`]
    pub schema: u32,
    /// The supervisor; null when none answers.
    pub supervisor: Option<SupervisorReport>,
    /// `serving`, `starting`, `upgrading`, `recovering`, `failed`, `stopped`, `unknown`.
    pub state: String,
    /// What it waits for or why it failed.
    pub reason: Option<String>,
    /// The epoch under which somebody serves.
    pub epoch: Option<u64>,
    /// Who serves.
    pub server: Option<InstanceReport>,
    /// The open handoff.
    pub handoff: Option<OpenHandoff>,
    /// Former incumbents that are leaving.
    pub retiring: Vec<InstanceReport>,
    /// The listeners: name and address.
    pub listeners: Vec<ListenerReport>,
    /// The highest claim on disk.
    pub claim: Option<ClaimReport>,
    /// Outcome and id of the last ended handoff.
    pub last: Option<LastHandoff>,
    /// The handoff whose server is on probation, or is being undone.
    #[serde(default)]
    pub probation: Option<String>,
    /// Cold starts since the supervisor began, the first one not counted.
    pub cold_starts: Option<u64>,
    /// How processes are contained (`CgroupV2`, `ProcessGroup`), and why not better.
    pub containment: Option<String>,
    /// What runs that were never ended had left, and this supervisor removed when it began.
    #[serde(default)]
    pub cleaned: Vec<String>,
}

/// The supervisor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SupervisorReport {
    /// Process id.
    pub pid: u32,
    /// Generation.
    pub generation: u64,
    /// Version of the program.
    pub version: String,
    /// The name given by `--name`.
    pub name: Option<String>,
    /// It knows canaries.
    #[serde(default)]
    pub canary: bool,
    /// It knows rollbacks to a build that is named.
    #[serde(default)]
    pub rollback_to: bool,
}

/// A handoff that has not ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OpenHandoff {
    /// Its id.
    pub handoff_id: String,
    /// The phase it is in.
    pub phase: String,
    /// Who shall serve.
    pub new: Option<InstanceReport>,
}

/// One listener.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ListenerReport {
    /// Its name.
    pub name: String,
    /// Its address, in the form of `--listen`.
    pub address: String,
}

/// The highest claim on disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClaimReport {
    /// Its epoch.
    pub epoch: u64,
    /// The instance it names.
    pub instance: String,
    /// Its build.
    pub build: String,
    /// Its pid when it proposed.
    pub pid: u32,
    /// Its executable.
    pub executable: String,
}

/// The last ended handoff.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastHandoff {
    /// Its id.
    pub handoff_id: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Why.
    pub reason: Option<String>,
}

impl LastHandoff {
    pub(super) fn of(ended: &Ended) -> LastHandoff {
        let (handoff_id, outcome, reason) = (ended.handoff.to_string(), ended.outcome, ended.reason.clone());
        LastHandoff { handoff_id, outcome, reason }
    }
}
