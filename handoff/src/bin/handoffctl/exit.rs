//! The exit codes: an interface, like the JSON.

use crate::args::Cli;
use clap::CommandFactory as _;
use clap::error::ErrorKind;
use handoff::machine::Outcome;
use std::process::ExitCode;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// As asked.
    Done,
    /// `status`: nothing serves.
    NothingServes,
    /// The command line is wrong.
    Usage,
    /// No supervisor answers.
    NoSupervisor,
    /// `upgrade`: the old server serves on.
    Aborted,
    /// `upgrade`: a server had to be started from disk.
    ColdStarted,
    /// The new server did not stand its probation: the build before serves again.
    RolledBack,
    /// `upgrade`: the claim files know.
    Unknown,
    /// Another upgrade or a recovery is open; `run`: directories in use.
    Busy,
    /// `upgrade`: the server was not touched; `run`: cannot start.
    Preflight,
    /// `abort`: nothing to abort, or too late.
    NothingToAbort,
    /// A bug, or a machine that does not do what every machine does.
    Internal,
}

impl Exit {
    /// Says what is wrong with the arguments of `command`, in the form of every other wrong argument.
    pub(crate) fn usage(command: &str, why: &str) -> Exit {
        let mut cli = Cli::command();
        cli.build();
        let error = match cli.find_subcommand_mut(command) {
            Some(command) => command.error(ErrorKind::ValueValidation, why),
            None => cli.error(ErrorKind::ValueValidation, why),
        };
        // nobody reads stderr: the code still tells
        let _ = error.print();
        Exit::Usage
    }

    /// The number that the shell sees.
    pub(crate) fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::NothingServes => 1,
            Exit::Usage => 2,
            Exit::NoSupervisor => 3,
            Exit::Aborted => 10,
            Exit::ColdStarted => 11,
            Exit::Unknown => 12,
            Exit::Busy => 13,
            Exit::Preflight => 14,
            Exit::RolledBack => 15,
            Exit::NothingToAbort => 16,
            Exit::Internal => 70,
        }
    }

    /// What an ended upgrade means for the one who asked.
    pub(crate) fn of_outcome(outcome: Outcome) -> Exit {
        match outcome {
            Outcome::Committed if handoff::crash::planted("O9") => Exit::Aborted,
            Outcome::Committed => Exit::Done,
            // taken back by the old server: for the operator the same as an abort
            Outcome::Aborted | Outcome::Reclaimed => Exit::Aborted,
            Outcome::ColdStarted => Exit::ColdStarted,
            Outcome::RolledBack => Exit::RolledBack,
            Outcome::PreflightFailed => Exit::Preflight,
            Outcome::Unknown => Exit::Unknown,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}
