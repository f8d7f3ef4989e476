//! `history`: the reports in the journal, newest first.

use crate::args::{Format, Query};
use crate::exit::Exit;
use crate::{disk, output};

pub(crate) fn main(args: &Query) -> Exit {
    if !args.run_dir.is_dir() {
        output::complain(&format!("{}: no such run dir; check --run-dir", args.run_dir.display()));
        return Exit::NoSupervisor;
    }
    let records = match disk::journal(&args.run_dir) {
        Ok(records) => records,
        Err(why) => {
            output::complain(&why);
            return Exit::Internal;
        }
    };
    let reports = disk::reports(&records);
    if reports.is_empty() && args.format == Format::Human {
        output::complain("no upgrade yet");
    }
    for report in reports.iter().rev() {
        match report {
            Ok(report) => output::print(&output::history_entry(report, args.format)),
            // a line that a later version wrote
            Err(why) => output::complain(why),
        }
    }
    Exit::Done
}
