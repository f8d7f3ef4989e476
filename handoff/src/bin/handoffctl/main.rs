//! `handoffctl`: starts a server under a supervisor and talks to it.

mod args;
mod client;
mod commands {
    //! One command, one file.
    pub(crate) mod abort;
    pub(crate) mod history;
    pub(crate) mod run;
    pub(crate) mod status;
    pub(crate) mod upgrade;
}
mod disk;
mod exit;
mod output;
mod restarts;

use args::{Cli, Command};
use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    // wrong arguments end here, with 2
    let exit = match Cli::parse().command {
        Command::Run(run) => commands::run::main(run),
        Command::Upgrade(upgrade) => commands::upgrade::main(&upgrade),
        Command::Status(query) => commands::status::main(&query),
        Command::Abort(abort) => commands::abort::main(&abort),
        Command::History(query) => commands::history::main(&query),
    };
    exit.into()
}
