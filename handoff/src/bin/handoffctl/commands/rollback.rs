//! `rollback`: asks for the way back, shows it as an upgrade is shown.

use super::upgrade::{AFTERMATH, follow, millis, preflight, show, supervisor};
use crate::args::Rollback;
use crate::client::{Client, NoAnswer};
use crate::exit::Exit;
use handoff::supervisor::protocol::Request;
use handoff::supervisor::report::HandoffReport;

pub(crate) fn main(args: &Rollback) -> Exit {
    match show(ask(args), &args.run_dir, args.format) {
        // here that is what was wanted
        Exit::RolledBack => Exit::Done,
        other => other,
    }
}

fn ask(args: &Rollback) -> Result<(Exit, HandoffReport), NoAnswer> {
    if args.to.is_some() {
        // an older one would go to the build before, whichever was asked for
        let supervisor = supervisor(&args.run_dir)?;
        if !supervisor.rollback_to {
            return Ok(preflight(format!(
                "the supervisor that runs (version {}) does not know --to: upgrade it first with --supervisor, or \
                 `handoffctl upgrade --binary` to that build",
                supervisor.version
            )));
        }
    }
    let mut client = Client::connect(&args.run_dir, args.deadline + AFTERMATH)?;
    client.send(&Request::Rollback {
        drain_grace_ms: millis(args.drain_grace),
        freeze_budget_ms: millis(args.freeze_budget),
        deadline_ms: millis(args.deadline),
        to: args.to.clone(),
    })?;
    follow(&mut client)
}
