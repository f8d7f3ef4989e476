//! `crash-matrix`: the cells, by name.

use clap::{Parser, Subcommand, ValueEnum};
use crash_matrix::{JOBS, Matrix};
use std::process::ExitCode;

/// Kills every role of a handoff at every step and checks what clients and disk saw
#[derive(Debug, Parser)]
#[command(
    after_help = "Exit codes:\n  0  all green\n  1  red: a promise was broken\n  2  usage, or a cell that nobody reached\n  3  the harness is broken: an upgrade without faults does not commit"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Record a few upgrades and print the cells, one a line
    List {
        /// How somebody dies
        #[arg(long, value_enum, default_value_t = Fault::Kill9)]
        fault: Fault,
    },
    /// Try the cells and print how each ended
    Run {
        /// Only cells whose name contains this, e.g. `S.send` or `N.claim.after`
        #[arg(long, default_value = "")]
        filter: String,
        /// How somebody dies
        #[arg(long, value_enum, default_value_t = Fault::Kill9)]
        fault: Fault,
        /// How many cells at once
        #[arg(long, default_value_t = JOBS)]
        jobs: usize,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Fault {
    /// SIGKILL
    Kill9,
    /// exit(1)
    Exit,
}

impl From<Fault> for crash_matrix::Fault {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Kill9 => crash_matrix::Fault::Kill9,
            Fault::Exit => crash_matrix::Fault::Exit,
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let Ok(matrix) = std::panic::catch_unwind(Matrix::record) else { return ExitCode::from(3) };
    match cli.command {
        Command::List { fault } => {
            for cell in matrix.cells(fault.into()) {
                println!("{cell}");
            }
            ExitCode::SUCCESS
        }
        Command::Run { filter, fault, jobs } => {
            let outcome = matrix.run(&filter, fault.into(), jobs);
            println!("{outcome}");
            match (outcome.red.len(), outcome.unreached.len() + usize::from(outcome.green.is_empty())) {
                (0, 0) => ExitCode::SUCCESS,
                (0, _) => ExitCode::from(2),
                _ => ExitCode::from(1),
            }
        }
    }
}
