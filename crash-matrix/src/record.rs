//! What is kept of a cell: one object a line of `matrix.jsonl`.

use crate::cell::Cell;
use crate::evidence::Evidence;
use crate::oracle::{self, Violation, violation};
use crate::trial::Trial;
use handoff_tests::crashes::Hit;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;
use std::time::Duration;

/// How a cell ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything held.
    Green,
    /// A promise was broken.
    Red,
    /// Nobody came by: nothing was tested.
    Unreached,
    /// Too slow, and measured again, alone, in time only once.
    Flaky,
}

/// The result of one cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub id: String,
    /// How it ended.
    pub outcome: Verdict,
    /// Exit code of the operator's command.
    pub code: Option<i32>,
    /// `O`, `N` or `X`.
    pub served_by: Option<String>,
    /// What was broken.
    pub violations: Vec<Violation>,
    /// The longest time that a client waited for an answer.
    pub pause_ms: Option<f64>,
    /// From the fault to the first good answer.
    pub answer_ms: Option<f64>,
    /// From the start of a new supervisor to its having adopted what runs.
    pub adopted_ms: Option<f64>,
    /// How long the cell took.
    pub duration_ms: f64,
    /// How often it was tried.
    pub tries: u32,
    /// Who came by where, in milliseconds from the fault: all of it when red, else what is near the fault.
    pub trace: Vec<String>,
}

fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}

/// Lines of the trace on both sides of the fault that are kept of a green cell.
const NEAR: usize = 8;

impl Record {
    /// Nothing is known of it yet but its name and how long it took.
    pub(crate) fn named(id: &str, took: Duration) -> Record {
        Record {
            id: id.into(),
            outcome: Verdict::Green,
            code: None,
            served_by: None,
            violations: Vec::new(),
            pause_ms: None,
            answer_ms: None,
            adopted_ms: None,
            duration_ms: ms(took),
            tries: 1,
            trace: Vec::new(),
        }
    }

    /// Of a soak: what was broken, and the longest pause of a client.
    pub(crate) fn soaked(
        id: &str,
        seen: Result<(Vec<Violation>, Duration), String>,
        took: Duration,
    ) -> Record {
        let mut record = Record::named(id, took);
        match seen {
            Ok((violations, pause)) => {
                record.violations = violations;
                record.pause_ms = Some(ms(pause));
            }
            Err(panic) => record.violations.push(violation("panic", panic)),
        }
        if !record.violations.is_empty() {
            record.outcome = Verdict::Red;
        }
        record
    }

    /// Of a trial that came to its end, or of what the harness said when it did not.
    pub(crate) fn of(cell: &Cell, trial: Result<Trial, String>, took: Duration) -> Record {
        let mut record = Record::named(&cell.to_string(), took);
        match trial {
            Ok(Trial::Struck(seen)) => record.fill(&seen),
            Ok(Trial::Unreached(instead)) => {
                record.outcome = Verdict::Unreached;
                record.trace.push(instead);
            }
            Err(panic) => {
                record.outcome = Verdict::Red;
                record.violations.push(violation("panic", panic));
            }
        }
        record
    }

    fn fill(&mut self, seen: &Evidence) {
        self.violations = oracle::judge(seen);
        if !self.violations.is_empty() {
            self.outcome = Verdict::Red;
        }
        self.code = seen.done.as_ref().and_then(|done| done.code);
        self.served_by = Some(seen.served_by.into());
        self.pause_ms = Some(ms(seen.tally.longest));
        self.answer_ms = seen.answer.map(ms);
        self.adopted_ms = seen.adopted.map(ms);
        let at = seen.trace.iter().position(|hit| hit.struck).unwrap_or(0);
        let kept = match self.outcome {
            Verdict::Red => &seen.trace[..],
            _ => &seen.trace[at.saturating_sub(NEAR)..(at + NEAR).min(seen.trace.len())],
        };
        self.trace = kept.iter().map(|hit| line(hit, seen.strike.at)).collect();
    }

    /// Whether only time was too short.
    pub(crate) fn is_late(&self) -> bool {
        self.outcome == Verdict::Red && self.violations.iter().all(|v| v.oracle == "O8")
    }
}

fn line(hit: &Hit, strike: Duration) -> String {
    let from = hit.at.as_secs_f64() - strike.as_secs_f64();
    let struck = if hit.struck { "  <== here" } else { "" };
    format!("{:+10.1} ms  {:<6} {}{struck}", from * 1e3, hit.pid, hit.point)
}

/// Reads `matrix.jsonl`.
///
/// # Errors
/// The file, and the line that is none.
pub fn read(path: &Path) -> io::Result<Vec<Record>> {
    let wrong = |e: &dyn std::fmt::Display| io::Error::other(format!("{}: {e}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| wrong(&e))?;
    text.lines().map(|line| serde_json::from_str(line).map_err(|e| wrong(&e))).collect()
}

/// Writes `matrix.jsonl`.
///
/// # Errors
/// What the kernel says.
pub fn write(path: &Path, records: &[Record]) -> io::Result<()> {
    let mut text = String::new();
    for record in records {
        text += &serde_json::to_string(record).map_err(io::Error::other)?;
        text.push('\n');
    }
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    std::fs::write(path, text).map_err(|e| io::Error::other(format!("{}: {e}", path.display())))
}
