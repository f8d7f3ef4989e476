//! What an operator sees of a supervisor that replaced itself.

use crate::supervisor::report::SCHEMA;
use serde::{Deserialize, Serialize};

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Replacement {
    /// The new program supervises.
    Replaced,
    /// Something is open; the old program supervises on.
    Busy,
    /// The new program cannot take over; the old one supervises on.
    Refused,
    /// Nobody answered: ask `status`.
    Unknown,
}

/// One program that supervises or did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageReport {
    /// Version and build id.
    pub version: String,
    /// The file that is executed.
    pub executable: String,
    /// Generation.
    pub generation: u64,
}

/// The result of replacing a supervisor by another program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplacementReport {
    /// [`SCHEMA`]
    pub schema: u32,
    /// How it ended.
    pub outcome: Replacement,
    /// Why; null when it was replaced.
    pub reason: Option<String>,
    /// The supervisor's process, before and after.
    pub pid: Option<u32>,
    /// What supervised before.
    pub old: Option<ImageReport>,
    /// What supervises now; null when nothing changed.
    pub new: Option<ImageReport>,
    /// How long the new program was checked, while the old one supervised, in milliseconds.
    pub check_ms: Option<f64>,
    /// From the last moment of the old program to the first answer of the new one, all servers adopted.
    pub took_ms: Option<f64>,
}

impl ReplacementReport {
    /// One that did not happen.
    #[must_use]
    pub fn not(outcome: Replacement, reason: impl Into<String>) -> Self {
        Self {
            schema: SCHEMA,
            outcome,
            reason: Some(reason.into()),
            pid: None,
            old: None,
            new: None,
            check_ms: None,
            took_ms: None,
        }
    }
}
