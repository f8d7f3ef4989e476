//! What can go wrong, and who is at fault.

use std::io;
use std::time::Duration;

/// The result of every fallible operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An operation that could not be done. How a process ended is never an error here: see [`Exit`](crate::Exit).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The program could not be started. Nothing of the attempt is left: no process, no descriptor, no directory.
    #[error("cannot start `{program}`: {source}")]
    Spawn {
        /// The program as it was asked for.
        program: String,
        /// The cause; a program that was searched for names the path searched.
        source: io::Error,
    },
    /// A time limit ran out.
    #[error("`{program}` did not end within {timeout:?}")]
    Timeout {
        /// The program as it was asked for.
        program: String,
        /// The limit.
        timeout: Duration,
    },
    /// The mechanism in force, or the kernel, cannot do this.
    #[error("not supported here: {operation}")]
    Unsupported {
        /// What was asked for, and what is missing.
        operation: String,
    },
    /// The kernel refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Error {
    /// Whether the program (or the working directory, or the group to reopen) does not exist.
    pub fn is_not_found(&self) -> bool {
        self.kind() == Some(io::ErrorKind::NotFound)
    }

    /// Whether permission was denied.
    pub fn is_permission_denied(&self) -> bool {
        self.kind() == Some(io::ErrorKind::PermissionDenied)
    }

    fn kind(&self) -> Option<io::ErrorKind> {
        match self {
            Error::Spawn { source, .. } | Error::Io(source) => Some(source.kind()),
            Error::Timeout { .. } | Error::Unsupported { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_comes_from_the_source() {
        let spawn = |kind| Error::Spawn { program: "x".into(), source: io::Error::from(kind) };
        assert!(spawn(io::ErrorKind::NotFound).is_not_found());
        assert!(spawn(io::ErrorKind::PermissionDenied).is_permission_denied());
        assert!(!spawn(io::ErrorKind::PermissionDenied).is_not_found());
        assert!(!Error::Unsupported { operation: "x".into() }.is_not_found());
    }
}
