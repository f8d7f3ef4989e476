//! What can keep a question from being answered. An upgrade that ends in an abort is an outcome, not an error.

use crate::ids::InvalidName;
use std::io;
use std::path::{Path, PathBuf};

/// The result of the library face.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of the library face: it names who is at fault and what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The peer was silent: what was awaited and from whom.
    #[error("timed out: {0}")]
    Timeout(String),

    /// The peer misbehaved: it said something that its state does not allow.
    #[error("{peer} sent {got} where {expected} was expected")]
    UnexpectedMessage {
        /// Who.
        peer: String,
        /// What would have been right.
        expected: String,
        /// What came.
        got: String,
    },

    /// The process behind a channel is not the one that was started.
    #[error(
        "process {announced} speaks where process {expected} was started: is its launcher one that forks?"
    )]
    PidMismatch {
        /// The process that was started.
        expected: u32,
        /// The process that speaks.
        announced: u32,
    },

    /// The peer is incompatible: no wire version in common.
    #[error("{peer} speaks wire versions {theirs}, this side {ours}: upgrade by way of a version in between")]
    VersionMismatch {
        /// Who.
        peer: String,
        /// What this side speaks.
        ours: String,
        /// What the peer speaks.
        theirs: String,
    },

    /// The peer misbehaved: its bytes are no frame, or the frame no message.
    #[error("protocol: {0}")]
    Protocol(String),

    /// Another handoff is open; wait for its end or abort it.
    #[error("a handoff is in progress: wait for its end, or abort it")]
    HandoffInProgress,

    /// Somebody else uses the directory.
    #[error("{} is in use{}: stop it or use another directory", path.display(), by_pid(*pid))]
    InUse {
        /// The directory or lock.
        path: PathBuf,
        /// Who, if it is known.
        pid: Option<u32>,
    },

    /// The environment: a file, directory or socket.
    #[error("{what}: {source}")]
    Io {
        /// The path or the peer.
        what: String,
        /// The kernel's word.
        source: io::Error,
    },

    /// Misuse: an option that cannot work.
    #[error("{0}")]
    Invalid(String),

    /// Misuse: a name outside the limits.
    #[error(transparent)]
    Name(#[from] InvalidName),

    /// The server did not come up.
    #[error("{program} does not serve: {why}", program = program.display())]
    NotServing {
        /// The program.
        program: PathBuf,
        /// Why: its exit code, or what was awaited.
        why: String,
    },

    /// The supervisor has stopped; make a new one.
    #[error("the supervisor has stopped")]
    Stopped,
}

fn by_pid(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" by process {pid}"))
}

impl Error {
    /// An error of the environment about this path.
    #[must_use]
    pub fn path(path: &Path, source: io::Error) -> Self {
        Error::Io { what: path.display().to_string(), source }
    }

    /// An error of the environment about this peer or thing.
    #[must_use]
    pub fn io(what: impl Into<String>, source: io::Error) -> Self {
        Error::Io { what: what.into(), source }
    }
}
