//! `handoffctl`: starts a server under a supervisor and talks to it.

mod args;
mod canary;
mod client;
mod commands {
    //! One command, one file.
    pub(crate) mod abort;
    pub(crate) mod alone;
    pub(crate) mod history;
    pub(crate) mod replace;
    pub(crate) mod rollback;
    pub(crate) mod run;
    pub(crate) mod self_check;
    pub(crate) mod status;
    pub(crate) mod upgrade;
}
mod disk;
mod exit;
mod help;
mod output;
mod probe;
mod restarts;

use args::{Cli, Command};
use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    // wrong arguments end here, with 2
    let exit = match Cli::parse().command {
        Command::Run(run) => commands::run::main(run),
        Command::Upgrade(upgrade) if upgrade.supervisor => commands::replace::main(&upgrade),
        Command::Upgrade(upgrade) => commands::upgrade::main(&upgrade),
        Command::Rollback(rollback) => commands::rollback::main(&rollback),
        Command::Status(query) => commands::status::main(&query),
        Command::Abort(abort) => commands::abort::main(&abort),
        Command::SelfCheck(args) => commands::self_check::main(&args),
        Command::History(query) => commands::history::main(&query),
    };
    exit.into()
}
