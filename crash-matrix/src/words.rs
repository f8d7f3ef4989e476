//! What a cell means, in words.

use crate::allowed;
use crate::cell::{Cell, Policy, Strike, Workload};
use crate::oracle;
use std::fmt::Write as _;

fn role(letter: &str) -> &'static str {
    match letter {
        "S" => "the supervisor",
        "O" => "the server that serves (the incumbent)",
        "N" => "the new server (the successor)",
        _ => "a server that is started from disk",
    }
}

fn strike(strike: &Strike) -> String {
    let mut words = strike.point.name.splitn(2, '.');
    let (letter, rest) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (effect, side) = rest.rsplit_once('.').unwrap_or((rest, ""));
    let when = match strike.point.hit {
        1 => "the first time".to_owned(),
        n => format!("the {n}. time"),
    };
    format!("{} {} {side} `{effect}`, {when} that it comes there", role(letter), strike.fault.words())
}

/// What is done in a cell, and what must hold then.
#[must_use]
pub fn explain(cell: &Cell) -> String {
    let mut out = format!("{cell}\n\nDuring an upgrade {}.\n", strike(&cell.first));
    if let Some(second) = &cell.second {
        let _ = writeln!(out, "From then on, hits counted anew, {}.", strike(second));
    }
    out.push_str(match cell.workload {
        Workload::Load => "Clients: busy, idle and subscribed ones, and some with half a command sent.\n",
        Workload::Library => "Clients: as always, some of them through the `redis` crate.\n",
    });
    out.push_str(match cell.policy {
        Policy::Restarted => {
            "A supervisor that is dead is started again; one that stands still is ended first.\n"
        }
        Policy::Never => "A dead supervisor is not started again until the servers have decided.\n",
    });
    let _ = writeln!(out, "The protocol's timers run at {} percent.", cell.time_scale());
    out.push_str("\nWhat must hold:\n");
    for oracle in &oracle::ALL {
        let _ = writeln!(out, "  {:4} {}", oracle.name, oracle.holds);
    }
    let _ = writeln!(out, "\nAllowed outcomes (O9): {}.", allowed::rule(cell));
    out
}
