//! `self-check`: asked by a supervisor that this program shall replace, with the arguments it would be called with.

use crate::args::{Cli, Command, Run, SelfCheck};
use crate::exit::Exit;
use crate::output;
use clap::Parser as _;
use handoff::supervisor::Carried;
use std::ffi::OsString;

pub(crate) fn main(args: &SelfCheck) -> Exit {
    let understood = understood(args);
    let run_dir = understood.as_ref().ok().map(|run| run.run_dir.as_path());
    let ability = Carried::check(concat!("handoffctl ", env!("CARGO_PKG_VERSION")), run_dir);
    let ability = ability.and(understood.map(drop));
    output::print(&output::json(&ability));
    if ability.takes_over { Exit::Done } else { Exit::Preflight }
}

/// After the exec a command line that means nothing to this version would be the end of the supervisor.
fn understood(args: &SelfCheck) -> Result<Run, String> {
    let words = std::iter::once(OsString::from("handoffctl")).chain(args.arguments.iter().cloned());
    match Cli::try_parse_from(words) {
        Ok(Cli { command: Command::Run(run) }) => run.check().map(|()| run),
        Ok(_) => Err("these are not the arguments of a supervisor".to_owned()),
        Err(e) => {
            let text = e.to_string();
            let first = text.lines().next().unwrap_or_default();
            Err(format!("it does not understand the arguments of the old one: {first}"))
        }
    }
}
