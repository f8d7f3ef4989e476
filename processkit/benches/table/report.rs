//! The table, in Markdown.

use crate::measure::{CONTENDERS, Contender, Medians};
use crate::rivals::{Rivals, VERSIONS};
use std::fmt::Write;
use std::time::Duration;

pub(crate) struct Table {
    missed: usize,
}

/// A figure and the most, or the least, it may be.
pub(crate) enum Goal {
    AtMost(f64, &'static str),
    AtLeast(f64, &'static str),
}

impl Table {
    pub(crate) fn begin(_: &Rivals) -> Table {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let group = processkit::ProcessGroup::new().expect("a group");
        println!("{cores} cores, Linux {}, {:?}\n", kernel.trim(), group.mechanism());
        println!("| work | ours | std | tokio | {} | {} | figure | goal | |", VERSIONS[0], VERSIONS[1]);
        println!("|---|--:|--:|--:|--:|--:|--:|--:|---|");
        Table { missed: 0 }
    }

    /// A row of times.
    pub(crate) fn times(&mut self, work: &str, medians: &Medians, figure: Option<f64>, goal: Goal) {
        let cells = CONTENDERS.map(|contender| medians.of(contender).map(show));
        self.row(work, cells, figure, goal);
    }

    /// A row of anything.
    pub(crate) fn row(
        &mut self,
        work: &str,
        cells: [Option<String>; CONTENDERS.len()],
        figure: Option<f64>,
        goal: Goal,
    ) {
        let (text, bound, met) = match goal {
            Goal::AtMost(most, unit) => (unit, format!("<= {most}"), figure.map(|figure| figure <= most)),
            Goal::AtLeast(least, unit) => (unit, format!(">= {least}"), figure.map(|figure| figure >= least)),
        };
        let mut line = format!("| {work} |");
        for cell in cells {
            let _ = write!(line, " {} |", cell.as_deref().unwrap_or("-")); // a String takes everything
        }
        let figure = figure.map_or("-".to_owned(), |figure| format!("{figure:.2}{text}"));
        let verdict = match met {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "not measured",
        };
        self.missed += usize::from(met != Some(true));
        println!("{line} {figure} | {bound}{text} | {verdict} |");
    }

    pub(crate) fn end(self) {
        println!("\n{}", if self.missed == 0 { "every goal is met" } else { "not every goal is met" });
    }
}

pub(crate) fn show(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 0.01 => format!("{:.0} us", seconds * 1e6),
        seconds => format!("{:.1} ms", seconds * 1e3),
    }
}

/// What each contender has in its column, if it is measured.
pub(crate) fn cells(of: impl Fn(Contender) -> Option<String>) -> [Option<String>; CONTENDERS.len()] {
    CONTENDERS.map(of)
}
