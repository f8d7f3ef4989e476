//! `abort`: asks the supervisor to end the open handoff.

use crate::args::Abort;
use crate::client::{Client, NoAnswer};
use crate::exit::Exit;
use crate::output;
use handoff::supervisor::protocol::{Reply, Request};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn main(args: &Abort) -> Exit {
    match ask(args) {
        Ok(Reply::Aborting { handoff_id }) => {
            output::print(&format!(
                "aborting handoff {handoff_id}: the waiting `upgrade` says how it ends\n"
            ));
            Exit::Done
        }
        Ok(Reply::NothingToAbort { why }) => {
            output::complain(&why);
            Exit::NothingToAbort
        }
        Ok(Reply::Error { message }) => {
            output::complain(&message);
            Exit::Internal
        }
        Ok(other) => {
            output::complain(&NoAnswer::Garbage(format!("not an answer to an abort: {other:?}")).to_string());
            Exit::Internal
        }
        Err(e) => {
            output::complain(&e.to_string());
            if matches!(e, NoAnswer::NoSupervisor(_)) { Exit::NoSupervisor } else { Exit::Internal }
        }
    }
}

fn ask(args: &Abort) -> Result<Reply, NoAnswer> {
    let mut client = Client::connect(&args.run_dir, PATIENCE)?;
    client.send(&Request::Abort)?;
    client.next()
}
