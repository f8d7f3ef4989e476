//! `rollback`: asks for the way back, shows it as an upgrade is shown.

use super::upgrade::{AFTERMATH, follow, millis, show};
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
    let mut client = Client::connect(&args.run_dir, args.deadline + AFTERMATH)?;
    client.send(&Request::Rollback {
        drain_grace_ms: millis(args.drain_grace),
        freeze_budget_ms: millis(args.freeze_budget),
        deadline_ms: millis(args.deadline),
    })?;
    follow(&mut client)
}
