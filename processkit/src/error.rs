//! What can go wrong, and who is at fault.

use std::io;
use std::time::Duration;

/// The result of every fallible operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An operation that could not be done. How a process ended is an error only for the verbs that ask for success: see
/// [`Outcome`](crate::Outcome) and [`Exit`](crate::Exit).
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
    /// It ended, but not with an accepted code. Displayed in one line, with the last line of what it said.
    #[error("`{program}` exited with code {code}{}", last_line(stderr, stdout))]
    Exit {
        /// The program as it was asked for.
        program: String,
        /// Its exit code. (The end by a signal is [`Error::Io`].)
        code: i32,
        /// What it wrote to its standard output, as far as it was captured.
        stdout: String,
        /// What it wrote to its standard error, as far as it was captured.
        stderr: String,
    },
    /// A time limit ran out.
    #[error("`{program}` did not end within {timeout:?}")]
    Timeout {
        /// The program as it was asked for.
        program: String,
        /// The limit.
        timeout: Duration,
    },
    /// What was waited for did not happen in time, or cannot happen any more because the process ended.
    #[error("`{program}` was not ready within {timeout:?}, or ended before")]
    NotReady {
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
    /// A limit of a group that cannot be enforced.
    #[cfg(feature = "limits")]
    #[error("limit cannot be enforced: {0}")]
    ResourceLimit(String),
    /// The token of [`Command::cancel_on`](crate::Command::cancel_on) fired before it ended.
    #[cfg(feature = "cancellation")]
    #[error("`{program}` was cancelled")]
    Cancelled {
        /// The program as it was asked for.
        program: String,
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

    /// Whether the same may work a moment later: the system was short of something, or busy. A timeout is not, nor is what a
    /// program makes of its own end.
    pub fn is_transient(&self) -> bool {
        let (Error::Spawn { source, .. } | Error::Io(source)) = self else { return false };
        matches!(
            source.raw_os_error(),
            Some(
                libc::EAGAIN
                    | libc::EINTR
                    | libc::EMFILE
                    | libc::ENFILE
                    | libc::ENOMEM
                    | libc::ETXTBSY
                    | libc::EBUSY
            )
        ) || matches!(
            source.kind(),
            io::ErrorKind::Interrupted
                | io::ErrorKind::WouldBlock
                | io::ErrorKind::ResourceBusy
                | io::ErrorKind::ExecutableFileBusy
        )
    }

    /// What a program that ended said about it: its standard error, or its standard output if that is blank.
    pub fn diagnostic(&self) -> Option<&str> {
        match self {
            Error::Exit { stdout, stderr, .. } => {
                Some(diagnostic(stderr, stdout)).filter(|said| !said.is_empty())
            }
            _ => None,
        }
    }

    fn kind(&self) -> Option<io::ErrorKind> {
        match self {
            Error::Spawn { source, .. } | Error::Io(source) => Some(source.kind()),
            _ => None,
        }
    }
}

/// What was said on standard error, or else on standard output, without the white space around it.
pub(crate) fn diagnostic<'a>(stderr: &'a str, stdout: &'a str) -> &'a str {
    match stderr.trim() {
        "" => stdout.trim(),
        said => said,
    }
}

fn last_line(stderr: &str, stdout: &str) -> String {
    match diagnostic(stderr, stdout).lines().next_back() {
        Some(line) => format!(": {}", line.trim()),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_is_one_line() {
        let exit = |code, stdout: &str, stderr: &str| Error::Exit {
            program: "x".into(),
            code,
            stdout: stdout.into(),
            stderr: stderr.into(),
        };
        assert_eq!(exit(3, "", "").to_string(), "`x` exited with code 3");
        assert_eq!(exit(1, "out\n", "one\ntwo\n\n").to_string(), "`x` exited with code 1: two");
        assert_eq!(exit(1, "out\n", " \n").diagnostic(), Some("out"));
        assert_eq!(exit(1, "", "").diagnostic(), None);
    }
}
