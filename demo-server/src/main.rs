//! A durable key-value server speaking RESP2, upgradable with handoff: the example to copy from.
//!
//! One request, from file to file: `connection` reads it, `protocol` finds the command, `command` looks it up,
//! `commands` decide what it does and make an `operation` of it, `ledger` applies that to the `store` and queues it,
//! `writer` puts it in the `log`, and then `connection` answers. `handoff` is all that upgrades need.

mod args;
mod command;
mod commands;
mod connection;
mod handoff;
mod ledger;
mod log;
mod operation;
mod plant;
#[cfg(test)]
mod properties;
mod protocol;
mod server;
mod store;
mod writer;

use ::handoff::sdk::{Launch, serve};
use args::Args;
use clap::Parser as _;
use std::path::PathBuf;
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let data_dir = match args.data_dir(std::env::var_os("HANDOFF_DATA_DIR").map(PathBuf::from)) {
        Ok(data_dir) => data_dir,
        Err(misuse) => {
            eprintln!("demo-server: {misuse}");
            return ExitCode::from(misuse.exit_code());
        }
    };
    let bind = args.bind.clone();
    match serve::<handoff::Warm>(Launch::new(args).data_dir(data_dir).bind("resp", bind)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo-server: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
