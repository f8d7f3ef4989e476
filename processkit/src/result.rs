//! What a run left behind.

use crate::error::{Error, Result, diagnostic};
use crate::exit::Exit;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// By itself, with this code.
    Exited(i32),
    /// By a signal (see [`ProcessResult::signal`]).
    Signalled,
    /// It was ended because it took too long.
    TimedOut,
}

/// What a run left behind: how it ended and what it wrote.
#[derive(Debug, Clone)]
pub struct ProcessResult<T> {
    pub(crate) program: String,
    pub(crate) stdout: T,
    pub(crate) stderr: String,
    pub(crate) exit: Exit,
    /// The limit that ran out.
    pub(crate) timeout: Option<Duration>,
    pub(crate) duration: Duration,
    pub(crate) truncated: bool,
    pub(crate) left_open: bool,
    pub(crate) accepted: Arc<BTreeSet<i32>>,
}

impl<T> ProcessResult<T> {
    /// The program as it was asked for.
    pub fn program(&self) -> &str {
        &self.program
    }

    /// What it wrote to its standard output. A text is its lines joined by `\n`, without a `\r` or `\n` at the end of the
    /// last; bytes are as they came.
    pub fn stdout(&self) -> &T {
        &self.stdout
    }

    /// What it wrote to its standard output.
    pub fn into_stdout(self) -> T {
        self.stdout
    }

    /// What it wrote to its standard error, as a text.
    pub fn stderr(&self) -> &str {
        &self.stderr
    }

    /// Its exit code; `None` if it was ended by a signal or because it took too long.
    pub fn code(&self) -> Option<i32> {
        if self.timed_out() { None } else { self.exit.code }
    }

    /// How it ended.
    pub fn outcome(&self) -> Outcome {
        match self.code() {
            _ if self.timed_out() => Outcome::TimedOut,
            Some(code) => Outcome::Exited(code),
            None => Outcome::Signalled,
        }
    }

    /// The signal that ended it, after a timeout too.
    pub fn signal(&self) -> Option<i32> {
        self.exit.signal
    }

    /// How it ended as the kernel told it.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// Whether it was ended because it took too long.
    pub fn timed_out(&self) -> bool {
        self.timeout.is_some()
    }

    /// Whether it ended by itself with an accepted code (0, or [`ok_codes`](crate::Command::ok_codes)).
    pub fn is_success(&self) -> bool {
        self.code().is_some_and(|code| self.accepted.contains(&code))
    }

    /// From the spawn to the end.
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// Whether output is missing: dropped by the [policy](crate::OutputBufferPolicy),
    /// [not awaited](ProcessResult::left_open), or not read to its end because it could not be (an event says why).
    pub fn truncated(&self) -> bool {
        self.truncated
    }

    /// Whether a process outside of the run's own group still held an output open when the result was made. Everything the
    /// program itself wrote is there.
    pub fn left_open(&self) -> bool {
        self.left_open
    }

    /// The error for a run that has no code to judge.
    pub(crate) fn check_ended(&self) -> Result<i32> {
        if let Some(timeout) = self.timeout {
            return Err(Error::Timeout { program: self.program.clone(), timeout });
        }
        self.exit.code.ok_or_else(|| {
            io::Error::other(format!("`{}` {}, without an exit code", self.program, self.exit)).into()
        })
    }

    /// The error for an end that is none of the accepted ones.
    pub(crate) fn error(&self, code: i32, stdout: String) -> Error {
        Error::Exit { program: self.program.clone(), code, stdout, stderr: self.stderr.clone() }
    }
}

impl<T: AsRef<[u8]>> ProcessResult<T> {
    /// This, if it is a success.
    ///
    /// # Errors
    /// [`Error::Exit`] for another code, [`Error::Timeout`] after a timeout, [`Error::Io`] for the end by a signal.
    pub fn ensure_success(self) -> Result<Self> {
        let code = self.check_ended()?;
        if self.accepted.contains(&code) {
            return Ok(self);
        }
        Err(self.error(code, String::from_utf8_lossy(self.stdout.as_ref()).into_owned()))
    }
}

impl ProcessResult<String> {
    /// The output of a success without the white space at its end.
    pub(crate) fn into_trimmed(self) -> Result<String> {
        let mut text = self.ensure_success()?.into_stdout();
        text.truncate(text.trim_end().len());
        Ok(text)
    }

    /// 0 is yes, 1 is no.
    pub(crate) fn into_answer(self) -> Result<bool> {
        match self.check_ended()? {
            0 => Ok(true),
            1 => Ok(false),
            code => Err(self.error(code, self.stdout.clone())),
        }
    }

    /// Standard output, and standard error behind it.
    pub fn combined(&self) -> String {
        [self.stdout.as_str(), &self.stderr].concat()
    }

    /// What it said about itself: its standard error, or its standard output if that is blank, without the white space
    /// around it.
    pub fn diagnostic(&self) -> &str {
        diagnostic(&self.stderr, &self.stdout)
    }
}
