//! What is printed: data on stdout, talk on stderr. The human form carries the same facts as the JSON.

use crate::args::Format;
use handoff::machine::Outcome;
use handoff::supervisor::replace::report::{ImageReport, Replacement, ReplacementReport};
use handoff::supervisor::report::{
    ConnectionsReport, HandoffReport, InstanceReport, ListenerReport, SCHEMA, StatusReport,
};
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};

/// Prints data. A reader that went away (`| head`) is not our error.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Prints an error for people.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "handoffctl: {}", clean(text));
}

/// Progress of an upgrade: only for someone who looks at a terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    shown: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { shown: std::io::stderr().is_terminal() }
    }

    pub(crate) fn phase(&self, phase: &str, at_ms: f64, note: &str) {
        if self.shown {
            let _ = writeln!(std::io::stderr(), "{:>9}  {:<8} {}", ms(at_ms), clean(phase), clean(note));
        }
    }
}

/// One object on one line.
pub(crate) fn json<T: serde::Serialize>(value: &T) -> String {
    let mut line = serde_json::to_string(value).unwrap_or_else(|e| {
        // not reachable with the types of `report`; still an object on one line
        format!("{{\"schema\":{SCHEMA},\"outcome\":\"unknown\",\"reason\":{:?}}}", e.to_string())
    });
    line.push('\n');
    line
}

/// The result of an upgrade.
pub(crate) fn report(report: &HandoffReport, format: Format) -> String {
    match format {
        Format::Json => json(report),
        Format::Human => report_block(report),
    }
}

/// A result where no supervisor gave one.
pub(crate) fn no_report(outcome: Outcome, reason: String) -> HandoffReport {
    HandoffReport {
        schema: SCHEMA,
        handoff_id: None,
        outcome,
        reason: Some(reason),
        epoch: None,
        old: None,
        new: None,
        phases: Vec::new(),
        freeze_ms: None,
        canary_ms: None,
        connections: ConnectionsReport::default(),
        peak_queue: None,
        ended_unix_ms: None,
        warnings: Vec::new(),
    }
}

fn report_block(report: &HandoffReport) -> String {
    let mut out = String::new();
    line(&mut out, "outcome", &outcome(report));
    if let Some(reason) = &report.reason {
        line(&mut out, "reason", &clean(reason));
    }
    for warning in &report.warnings {
        line(&mut out, "warning", &clean(warning));
    }
    if let Some(id) = &report.handoff_id {
        line(&mut out, "handoff", &clean(id));
    }
    if let Some(epoch) = report.epoch {
        line(&mut out, "epoch", &epoch.to_string());
    }
    if let Some(old) = &report.old {
        line(&mut out, "old", &instance(old));
    }
    if let Some(new) = &report.new {
        line(&mut out, "new", &instance(new));
    }
    if !report.phases.is_empty() {
        let phases: Vec<String> =
            report.phases.iter().map(|p| format!("{} {}", clean(&p.name), ms(p.ms))).collect();
        line(&mut out, "phases", &phases.join(", "));
    }
    if let Some(freeze) = report.freeze_ms {
        line(&mut out, "freeze", &ms(freeze));
    }
    if let Some(canary) = report.canary_ms {
        line(&mut out, "canary", &ms(canary));
    }
    if let Some(text) = connections(&report.connections) {
        line(&mut out, "connections", &text);
    }
    if let Some(queue) = report.peak_queue {
        line(&mut out, "peak queue", &format!("{queue} waiting"));
    }
    out
}

fn outcome(report: &HandoffReport) -> String {
    match report.outcome {
        Outcome::Committed => "committed: the new server serves",
        Outcome::Aborted => "aborted: the old server serves on",
        Outcome::Reclaimed => "reclaimed: the new server died after its claim, the old one serves again",
        Outcome::ColdStarted => "cold started: neither server could serve on, one was started from disk",
        Outcome::RolledBack => "rolled back: the build before serves again",
        Outcome::PreflightFailed => "preflight failed: the old server was not touched",
        Outcome::Unknown => "unknown: ask `handoffctl status`, which reads the claim files",
    }
    .to_owned()
}

fn connections(c: &ConnectionsReport) -> Option<String> {
    let parts = [(c.handed_over, "handed over"), (c.drained, "drained"), (c.lost, "lost")];
    let known: Vec<String> = parts.iter().filter_map(|(n, what)| n.map(|n| format!("{n} {what}"))).collect();
    (!known.is_empty()).then(|| known.join(", "))
}

fn instance(i: &InstanceReport) -> String {
    let mut parts = Vec::new();
    if let Some(pid) = i.pid {
        parts.push(format!("pid {pid}"));
    }
    if let Some(build) = &i.build {
        parts.push(format!("build {}", clean(build)));
    }
    if let Some(executable) = &i.executable {
        parts.push(clean(executable));
    }
    if parts.is_empty() { "unknown".into() } else { parts.join(", ") }
}

/// The state of a service.
pub(crate) fn status(status: &StatusReport, format: Format) -> String {
    if format == Format::Json {
        return json(status);
    }
    let mut out = String::new();
    line(&mut out, "state", &clean(&status.state));
    if let Some(reason) = &status.reason {
        line(&mut out, "reason", &clean(reason));
    }
    let supervisor = match &status.supervisor {
        Some(s) => {
            let name = s.name.as_ref().map_or(String::new(), |name| format!("{}, ", clean(name)));
            format!("{name}pid {}, version {}, generation {}", s.pid, clean(&s.version), s.generation)
        }
        None => "none answers".into(),
    };
    line(&mut out, "supervisor", &supervisor);
    if let Some(server) = &status.server {
        line(&mut out, "server", &instance(server));
    }
    if let Some(epoch) = status.epoch {
        line(&mut out, "epoch", &epoch.to_string());
    }
    if let Some(open) = &status.handoff {
        line(
            &mut out,
            "open",
            &format!("handoff {} in phase {}", clean(&open.handoff_id), clean(&open.phase)),
        );
    }
    for retiring in &status.retiring {
        line(&mut out, "retiring", &instance(retiring));
    }
    for ListenerReport { name, address } in &status.listeners {
        line(&mut out, "listener", &format!("{} {}", clean(name), clean(address)));
    }
    if let Some(claim) = &status.claim {
        let text = format!(
            "epoch {} by pid {}, build {}, {}",
            claim.epoch,
            claim.pid,
            clean(&claim.build),
            clean(&claim.executable)
        );
        line(&mut out, "claim", &text);
    }
    if let Some(last) = &status.last {
        let reason = last.reason.as_ref().map_or(String::new(), |r| format!(": {}", clean(r)));
        line(&mut out, "last", &format!("{} {}{reason}", clean(&last.handoff_id), word(last.outcome)));
    }
    if let Some(handoff) = &status.probation {
        line(&mut out, "probation", &format!("after {}; `handoffctl rollback` goes back", clean(handoff)));
    }
    if let Some(n) = status.cold_starts {
        line(&mut out, "cold starts", &n.to_string());
    }
    if let Some(containment) = &status.containment {
        line(&mut out, "containment", &clean(containment));
    }
    for cleaned in &status.cleaned {
        line(&mut out, "cleaned", &clean(cleaned));
    }
    out
}

/// The result of replacing the supervisor.
pub(crate) fn replacement(report: &ReplacementReport) -> String {
    let mut out = String::new();
    let outcome = match report.outcome {
        Replacement::Replaced => "replaced: the new supervisor supervises",
        Replacement::Busy => "busy: nothing was changed",
        Replacement::Refused => "refused: nothing was changed",
        Replacement::Unknown => "unknown: ask `handoffctl status`",
    };
    line(&mut out, "outcome", outcome);
    if let Some(reason) = &report.reason {
        line(&mut out, "reason", &clean(reason));
    }
    if let Some(pid) = report.pid {
        line(&mut out, "pid", &pid.to_string());
    }
    for (label, image) in [("old", &report.old), ("new", &report.new)] {
        if let Some(ImageReport { version, executable, generation }) = image {
            let text = format!("version {}, generation {generation}, {}", clean(version), clean(executable));
            line(&mut out, label, &text);
        }
    }
    for (label, time) in [("checked in", report.check_ms), ("took", report.took_ms)] {
        if let Some(time) = time {
            line(&mut out, label, &ms(time));
        }
    }
    out
}

/// One ended handoff among others.
pub(crate) fn history_entry(report: &HandoffReport, format: Format) -> String {
    if format == Format::Json {
        return json(report);
    }
    let when = report.ended_unix_ms.map_or_else(|| "-".into(), utc);
    let freeze = report.freeze_ms.map_or_else(|| "-".into(), |f| format!("freeze {}", ms(f)));
    let epoch = report.epoch.map_or_else(|| "-".into(), |e| format!("epoch {e}"));
    let id = report.handoff_id.as_deref().map_or_else(|| "-".into(), clean);
    let reason = report.reason.as_ref().map_or(String::new(), |r| format!("  {}", clean(r)));
    format!("{when}  {id}  {:<16} {epoch:<10} {freeze}{reason}\n", word(report.outcome))
}

/// The outcome as JSON says it.
pub(crate) fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Committed => "committed",
        Outcome::Aborted => "aborted",
        Outcome::Reclaimed => "reclaimed",
        Outcome::ColdStarted => "cold_started",
        Outcome::RolledBack => "rolled_back",
        Outcome::PreflightFailed => "preflight_failed",
        Outcome::Unknown => "unknown",
    }
}

fn line(out: &mut String, label: &str, text: &str) {
    let _ = writeln!(out, "{label:<12} {text}");
}

fn ms(value: f64) -> String {
    if value < 10.0 {
        format!("{value:.1} ms")
    } else if value < 10_000.0 {
        format!("{value:.0} ms")
    } else {
        format!("{:.1} s", value / 1000.0)
    }
}

/// `2026-01-31 23:59:58Z` from milliseconds since the epoch.
fn utc(unix_ms: u64) -> String {
    let secs = unix_ms / 1000;
    let (days, rest) = (secs / 86_400, secs % 86_400);
    // days to a date in the proleptic Gregorian calendar, counted in years that begin in March
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let m = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * m + 2) / 5 + 1;
    let month = if m < 10 { m + 3 } else { m - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Text from peers and files on a terminal: no control characters.
fn clean(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use handoff::supervisor::report::PhaseReport;

    #[test]
    fn unknown_values_are_null() {
        let line = json(&no_report(Outcome::PreflightFailed, "no".into()));
        let value: serde_json::Value = serde_json::from_str(&line).expect("an object");
        for key in
            ["handoff_id", "epoch", "old", "new", "freeze_ms", "canary_ms", "peak_queue", "ended_unix_ms"]
        {
            assert!(value[key].is_null(), "{key}: {value}");
        }
        for key in ["handed_over", "drained", "lost"] {
            assert!(value["connections"][key].is_null(), "{key}: {value}");
        }
        assert_eq!(value["schema"], 1);
        assert_eq!(value["outcome"], "preflight_failed");
        assert_eq!(line.matches('\n').count(), 1);
    }

    #[test]
    fn the_words_are_those_of_the_json() {
        for outcome in [
            Outcome::Committed,
            Outcome::Aborted,
            Outcome::Reclaimed,
            Outcome::ColdStarted,
            Outcome::RolledBack,
            Outcome::PreflightFailed,
            Outcome::Unknown,
        ] {
            assert_eq!(serde_json::to_value(outcome).expect("a word"), word(outcome));
        }
    }

    #[test]
    fn people_see_phases_freeze_and_no_control_characters() {
        let mut r = no_report(Outcome::Aborted, "bad \x1b[31m".into());
        r.phases = vec![PhaseReport { name: "warm".into(), ms: 12.345 }];
        r.freeze_ms = Some(3.21);
        let text = report(&r, Format::Human);
        assert!(text.contains("warm 12 ms") && text.contains("3.2 ms"), "{text}");
        assert!(!text.contains('\x1b'), "{text}");
    }

    #[test]
    fn dates() {
        assert_eq!(utc(0), "1970-01-01 00:00:00Z");
        assert_eq!(utc(951_782_400_000), "2000-02-29 00:00:00Z");
        assert_eq!(utc(1_767_225_599_000), "2025-12-31 23:59:59Z");
    }
}
