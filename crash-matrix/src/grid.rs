//! Results on a terminal: points x faults, one glyph a cell; totals; what was slowest; what is red, and why.

use crate::cell::{Cell, Fault};
use crate::record::{Record, Verdict};
use crate::soak::Soak;
use handoff_tests::history::percentile;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// One row of the grid: a point, or a first fault with the point of the second one.
#[derive(Debug)]
pub(crate) struct Row<'a> {
    pub(crate) name: String,
    pub(crate) cells: BTreeMap<String, &'a Record>,
}

/// Points x faults, in the order of the records.
pub(crate) fn rows(records: &[Record]) -> (Vec<String>, Vec<Row<'_>>) {
    let (mut columns, mut rows): (Vec<String>, Vec<Row<'_>>) = (Vec::new(), Vec::new());
    for record in records {
        let (name, column) = place(&record.id);
        if !columns.contains(&column) {
            columns.push(column.clone());
        }
        match rows.iter_mut().find(|row| row.name == name) {
            Some(row) => drop(row.cells.insert(column, record)),
            None => rows.push(Row { name, cells: BTreeMap::from([(column, record)]) }),
        }
    }
    let known = |column: &String| {
        let fault = column.trim_start_matches('+').split(' ').next();
        Fault::ALL.iter().position(|known| Some(known.name()) == fault)
    };
    columns.sort_by_key(|column| (column.starts_with('+'), column.contains(' '), known(column)));
    (columns, rows)
}

/// Row and column of a cell.
fn place(id: &str) -> (String, String) {
    let Ok(cell) = id.parse::<Cell>() else {
        let (what, how) = id.split_once('/').unwrap_or((id, "?"));
        return (what.to_owned(), how.trim_end_matches("/v1-1-1").to_owned());
    };
    match &cell.second {
        Some(second) => (format!("{} + {}", cell.first, second.point), format!("+{}", second.fault.name())),
        None => {
            let circumstances = id.splitn(3, '/').nth(2).unwrap_or_default();
            let more = circumstances.trim_start_matches("load/v1-1-1").replace("library/v1-1-1", "lib");
            let more = more.trim_start_matches("load/").trim_matches('/');
            let column = [cell.first.fault.name(), more].join(" ").trim().to_owned();
            (cell.first.point.to_string(), column)
        }
    }
}

pub(crate) fn glyph(record: &Record) -> char {
    match record.outcome {
        Verdict::Green => '.',
        Verdict::Red => '#',
        Verdict::Unreached => '?',
        Verdict::Flaky => '~',
    }
}

/// How many ended how: green, red, unreached, flaky.
#[must_use]
pub fn totals(records: &[Record]) -> [usize; 4] {
    [Verdict::Green, Verdict::Red, Verdict::Unreached, Verdict::Flaky]
        .map(|verdict| records.iter().filter(|record| record.outcome == verdict).count())
}

/// Everything worth saying about a run.
#[must_use]
pub fn text(records: &[Record], seconds: f64) -> String {
    let mut out = String::new();
    let (columns, rows) = rows(records);
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    for (n, column) in columns.iter().enumerate() {
        let _ = writeln!(out, "{:width$} {}{column}", "", "| ".repeat(n));
    }
    for row in &rows {
        let glyphs = columns.iter().map(|column| row.cells.get(column).map_or(' ', |record| glyph(record)));
        let glyphs: Vec<String> = glyphs.map(String::from).collect();
        let _ = writeln!(out, "{:width$} {}", row.name, glyphs.join(" "));
    }
    out.push_str("\n. green   # red   ? nobody came by   ~ in time only alone\n\n");
    for record in records.iter().filter(|record| record.outcome != Verdict::Green) {
        out += &explained(record);
    }
    let mut slowest: Vec<&Record> = records.iter().collect();
    slowest.sort_by(|a, b| b.duration_ms.total_cmp(&a.duration_ms));
    out.push_str("slowest:\n");
    for record in slowest.iter().take(10) {
        let _ = writeln!(out, "{:8.1} s  {}", record.duration_ms / 1e3, record.id);
    }
    out.push('\n');
    for (what, times) in figures(records) {
        let at = |percent| percentile(&times, percent).unwrap_or(f64::NAN);
        let (p50, p99, max) = (at(50.0), at(99.0), at(100.0));
        let cells = times.len();
        let _ = writeln!(out, "{what}: {cells} cells, p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms");
    }
    let [green, red, unreached, flaky] = totals(records);
    let cells = records.len();
    let _ = writeln!(
        out,
        "\n{cells} cells: {green} green, {red} red, {unreached} unreached, {flaky} flaky, in {seconds:.1} s"
    );
    out
}

/// What was measured: the headline first.
pub(crate) fn figures(records: &[Record]) -> Vec<(String, Vec<f64>)> {
    let green = || records.iter().filter(|record| record.outcome == Verdict::Green);
    let committed = green().filter(|record| record.code == Some(0)).filter_map(|record| record.pause_ms);
    let mut figures = vec![("longest client pause of a committed upgrade".to_owned(), committed.collect())];
    let mut answers: BTreeMap<(String, &str), Vec<f64>> = BTreeMap::new();
    for record in green() {
        let (Some(answer), Some(serves)) = (record.answer_ms, &record.served_by) else { continue };
        let Ok(cell) = record.id.parse::<Cell>() else { continue };
        if cell.first.fault.is_death() && cell.second.is_none() && cell.time_scale() == 100 {
            answers.entry((cell.first.point.role().to_owned(), serves)).or_default().push(answer);
        }
    }
    for ((died, serves), times) in answers {
        figures.push((format!("{died} dies, {serves} serves: first good answer"), times));
    }
    figures.push(("a new supervisor: adopted".into(), green().filter_map(|r| r.adopted_ms).collect()));
    figures.retain(|(_, times): &(String, Vec<f64>)| !times.is_empty());
    figures
}

/// One cell that is not green: what was broken, who came by where, and how to see it again.
#[must_use]
pub fn explained(record: &Record) -> String {
    let mut out = format!("{:?} {}\n", record.outcome, record.id);
    for violation in &record.violations {
        let what: Vec<&str> = violation.what.lines().take(8).collect();
        let _ = writeln!(out, "  {}: {}", violation.oracle, what.join("\n    "));
    }
    let at = record.trace.iter().position(|line| line.contains("<==")).unwrap_or(0);
    for line in record.trace.iter().skip(at.saturating_sub(10)).take(40) {
        let _ = writeln!(out, "    {line}");
    }
    let how = if record.id.parse::<Soak>().is_ok() { "" } else { " --trace" };
    let _ = writeln!(out, "  again: crash-matrix repro '{}'{how}\n", record.id);
    out
}
