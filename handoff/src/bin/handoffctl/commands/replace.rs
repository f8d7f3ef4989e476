//! `upgrade --supervisor`: asks the supervisor to become another program.

use super::upgrade::checked;
use crate::args::{Format, Upgrade};
use crate::client::{Client, NoAnswer};
use crate::exit::Exit;
use crate::output;
use handoff::supervisor::protocol::{Reply, Request};
use handoff::supervisor::replace::report::{Replacement, ReplacementReport};
use std::time::Duration;

/// The check of the new program is bounded by the supervisor, and so is its first step.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn main(args: &Upgrade) -> Exit {
    let (exit, report) = match ask(args) {
        Ok(report) => (of(report.outcome), report),
        Err(NoAnswer::NoSupervisor(why)) => {
            (Exit::NoSupervisor, ReplacementReport::not(Replacement::Refused, why))
        }
        Err(NoAnswer::NotAllowed(why)) => (Exit::Internal, ReplacementReport::not(Replacement::Refused, why)),
        Err(e @ (NoAnswer::Gone | NoAnswer::Silent(_) | NoAnswer::Garbage(_))) => {
            let why =
                format!("{e}; `handoffctl status --run-dir {}` tells who serves", args.run_dir.display());
            (Exit::Unknown, ReplacementReport::not(Replacement::Unknown, why))
        }
    };
    output::print(&match args.format {
        Format::Json => output::json(&report),
        Format::Human => output::replacement(&report),
    });
    if exit != Exit::Done && args.format == Format::Json {
        output::complain(report.reason.as_deref().unwrap_or("not replaced"));
    }
    exit
}

fn of(outcome: Replacement) -> Exit {
    match outcome {
        Replacement::Replaced => Exit::Done,
        Replacement::Busy => Exit::Busy,
        Replacement::Refused => Exit::Preflight,
        Replacement::Unknown => Exit::Unknown,
    }
}

fn ask(args: &Upgrade) -> Result<ReplacementReport, NoAnswer> {
    let mut client = Client::connect(&args.run_dir, PATIENCE)?;
    let binary = match args.binary.as_deref().map(|path| checked("--binary", path)).transpose() {
        Ok(binary) => binary,
        Err(why) => return Ok(ReplacementReport::not(Replacement::Refused, why)),
    };
    client.send(&Request::ReplaceSupervisor { binary })?;
    match client.next()? {
        Reply::Supervisor { report } => Ok(*report),
        Reply::Error { message } => Err(NoAnswer::Garbage(message)),
        other => Err(NoAnswer::Garbage(format!("not an answer to an upgrade of the supervisor: {other:?}"))),
    }
}
