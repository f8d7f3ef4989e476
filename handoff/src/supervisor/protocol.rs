//! The operator socket, `<run>/control.sock`: one JSON object a line, at most 64 KiB each way.
//!
//! A client sends one [`Request`] and reads [`Reply`] lines until the final one; then either side closes. The
//! socket is 0600 and peers are checked by uid. It is not a stable interface: programs use `handoffctl --format json`.

use super::canary::Canary;
use super::replace::report::ReplacementReport;
use super::report::{HandoffReport, StatusReport};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// The longest line either side accepts, in bytes.
pub const MAX_LINE: usize = 64 * 1024;

/// What an operator asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Replace the server. Phases follow as they happen, then the result.
    Upgrade {
        /// Absolute path of the new program; `None`: PROGRAM of `run`, resolved again.
        binary: Option<PathBuf>,
        /// Time for the drain hook.
        drain_grace_ms: u64,
        /// Longest time from seal to start.
        freeze_budget_ms: u64,
        /// Time for the whole handoff, waiting for an open recovery included.
        deadline_ms: u64,
        /// How long the new server has to prove itself.
        #[serde(default)]
        probation_ms: u64,
        /// There need not be a way back.
        #[serde(default)]
        one_way: bool,
        /// The result is given when the probation has ended.
        #[serde(default)]
        wait_probation: bool,
        /// What is tried on the new server. Ask [`Request::Status`] first whether this supervisor knows canaries:
        /// an older one would not see this.
        #[serde(default)]
        canary: Option<CanaryRequest>,
    },
    /// Go back to the build before. Phases follow as they happen, then the result.
    Rollback {
        /// Time for the drain hook.
        drain_grace_ms: u64,
        /// Longest time from seal to start.
        freeze_budget_ms: u64,
        /// Time for the whole handoff.
        deadline_ms: u64,
        /// To this kept build: an epoch, or a build, path or instance. Ask [`Request::Status`] first whether this
        /// supervisor knows it: an older one would not see this.
        #[serde(default)]
        to: Option<String>,
    },
    /// Replace the supervisor itself by another program. The answer comes from whoever supervises then.
    ReplaceSupervisor {
        /// Absolute path of the new program; `None`: the one that runs, opened again.
        binary: Option<PathBuf>,
    },
    /// Abort the open handoff.
    Abort,
    /// How everything stands.
    Status,
}

impl Request {
    /// The request in a line.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub fn read(line: &[u8]) -> Result<Request, String> {
        serde_json::from_slice(line).map_err(|error| {
            let why: String = error.to_string().escape_debug().take(200).collect();
            format!("this is no request: {why}; use handoffctl")
        })
    }
}

/// A canary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CanaryRequest {
    /// What is sent and what is expected, or a program.
    #[serde(flatten)]
    pub what: CanaryKind,
    /// Time for it.
    pub timeout_ms: u64,
}

/// What a canary is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CanaryKind {
    /// `SEND=>EXPECT`, with escapes.
    Exchange(String),
    /// Absolute path of a program.
    Program(PathBuf),
}

impl CanaryRequest {
    /// The canary.
    ///
    /// # Errors
    /// What is wrong with its text.
    pub fn parse(self) -> Result<Canary, String> {
        let canary = match self.what {
            CanaryKind::Exchange(text) => text.parse()?,
            CanaryKind::Program(path) => Canary::program(path),
        };
        Ok(canary.timeout(Duration::from_millis(self.timeout_ms)))
    }
}

/// What the supervisor answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// The upgrade entered a phase (not final).
    Phase {
        /// Its name.
        phase: String,
        /// Milliseconds since the request.
        at_ms: f64,
        /// What is going on, for people.
        note: String,
    },
    /// The upgrade ended (final).
    Result {
        /// The result.
        report: Box<HandoffReport>,
    },
    /// Another upgrade is running (final).
    Busy {
        /// The open handoff.
        handoff_id: String,
    },
    /// The abort was taken: the handoff will end aborted unless the successor claims first (final).
    Aborting {
        /// The handoff.
        handoff_id: String,
    },
    /// There is nothing to abort, or it is too late (final).
    NothingToAbort {
        /// Which of the two.
        why: String,
    },
    /// The supervisor was replaced, or was not (final).
    Supervisor {
        /// The result.
        report: Box<ReplacementReport>,
    },
    /// The status (final).
    Status {
        /// The status.
        status: Box<StatusReport>,
    },
    /// The request could not be read or carried out (final).
    Error {
        /// What is wrong and what to do.
        message: String,
    },
}
