//! The only list of the phases of a handoff, and their order.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Where a handoff stands, as the supervisor sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The binary is checked and started; its Hello is awaited.
    Spawn,
    /// The successor loads the data while the incumbent serves.
    Warm,
    /// The incumbent writes its proposal and brings its dirty data down.
    Drain,
    /// The incumbent closes the accept gate, parks its connections and flushes: the freeze begins.
    Seal,
    /// The successor reads the tail of the log and takes the connections.
    Begin,
    /// A request is tried on the successor, where one was named; no client reaches it yet.
    Canary,
    /// The successor may claim: from here the claim decides.
    Commit,
    /// The successor serves; the handoff is committed.
    Active,
    /// Who owns the next epoch is being found out.
    Resolve,
}

impl Phase {
    /// Every phase, in the order of a handoff that commits; `Resolve` last.
    pub const ALL: [Phase; 9] = [
        Phase::Spawn,
        Phase::Warm,
        Phase::Drain,
        Phase::Seal,
        Phase::Begin,
        Phase::Canary,
        Phase::Commit,
        Phase::Active,
        Phase::Resolve,
    ];

    /// The name in reports, journals and on the screen.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Phase::Spawn => "spawn",
            Phase::Warm => "warm",
            Phase::Drain => "drain",
            Phase::Seal => "seal",
            Phase::Begin => "begin",
            Phase::Canary => "canary",
            Phase::Commit => "commit",
            Phase::Active => "active",
            Phase::Resolve => "resolve",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
