//! `status`: what the supervisor says, or, without one, what is left on disk.

use crate::args::{Format, Query};
use crate::client::{Client, NoAnswer};
use crate::exit::Exit;
use crate::{disk, output};
use handoff::supervisor::protocol::{Reply, Request};
use handoff::supervisor::report::{SCHEMA, StatusReport};
use std::path::Path;
use std::time::Duration;

/// A supervisor that lives answers at once.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn main(args: &Query) -> Exit {
    let (exit, status, why) = match ask(&args.run_dir) {
        Ok(status) => (verdict(&status), status, None),
        Err(NoAnswer::NotAllowed(why)) => {
            let mut status = nothing_known();
            status.reason = Some(why.clone());
            (Exit::Internal, status, Some(why))
        }
        Err(e @ NoAnswer::Garbage(_)) => {
            let mut status = nothing_known();
            status.reason = Some(e.to_string());
            (Exit::Internal, status, Some(e.to_string()))
        }
        Err(e @ (NoAnswer::NoSupervisor(_) | NoAnswer::Gone | NoAnswer::Silent(_))) => {
            (Exit::NoSupervisor, disk::status(&args.run_dir, &e.to_string()), Some(e.to_string()))
        }
    };
    output::print(&output::status(&status, args.format));
    if let (Some(why), Format::Json) = (why, args.format) {
        output::complain(&why);
    }
    exit
}

fn ask(run_dir: &Path) -> Result<StatusReport, NoAnswer> {
    let mut client = Client::connect(run_dir, PATIENCE)?;
    client.send(&Request::Status)?;
    match client.next()? {
        Reply::Status { status } => Ok(*status),
        Reply::Error { message } => Err(NoAnswer::Garbage(message)),
        other => Err(NoAnswer::Garbage(format!("not an answer to a status: {other:?}"))),
    }
}

fn verdict(status: &StatusReport) -> Exit {
    if status.handoff.is_some() || matches!(status.state.as_str(), "upgrading" | "recovering") {
        Exit::Busy
    } else if status.state == "serving" {
        Exit::Done
    } else {
        Exit::NothingServes
    }
}

fn nothing_known() -> StatusReport {
    StatusReport { schema: SCHEMA, state: "unknown".into(), ..StatusReport::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use handoff::supervisor::report::OpenHandoff;

    #[test]
    fn verdicts() {
        let of = |state: &str, open: bool| {
            let mut status = nothing_known();
            status.state = state.into();
            status.handoff = open.then(OpenHandoff::default);
            verdict(&status)
        };
        assert_eq!(of("serving", false), Exit::Done);
        assert_eq!(of("serving", true), Exit::Busy);
        assert_eq!(of("upgrading", true), Exit::Busy);
        assert_eq!(of("recovering", false), Exit::Busy);
        for state in ["starting", "failed", "stopped", "unknown"] {
            assert_eq!(of(state, false), Exit::NothingServes, "{state}");
        }
    }
}
