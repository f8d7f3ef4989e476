//! One handoff as it happens: phases and counts, which become its report.

use super::report::{ConnectionsReport, HandoffReport, InstanceReport, PhaseReport, SCHEMA};
use crate::ids::HandoffId;
use crate::machine::{Ended, Outcome};
use crate::phase::Phase;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What is known of an open handoff. Times are the supervisor's own monotonic clock.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) handoff: HandoffId,
    pub(super) old: InstanceReport,
    pub(super) new: InstanceReport,
    began: Instant,
    current: Option<(Phase, Instant)>,
    phases: Vec<(Phase, Duration)>,
    seal: Option<Instant>,
    active: Option<Instant>,
    /// Open connections at the end of the drain.
    open: Option<u64>,
    /// Connections that the incumbent parked.
    parked: Option<u64>,
    /// Connections that the successor received whole.
    received: Option<u64>,
    peak_queue: Option<u64>,
    /// How the successor's process ended, when it ended by itself.
    exit: Option<String>,
    warnings: Vec<String>,
}

impl Progress {
    pub(super) fn new(handoff: HandoffId, old: InstanceReport, new: InstanceReport, began: Instant) -> Self {
        Self {
            handoff,
            old,
            new,
            began,
            current: None,
            phases: Vec::new(),
            seal: None,
            active: None,
            open: None,
            parked: None,
            received: None,
            peak_queue: None,
            exit: None,
            warnings: Vec::new(),
        }
    }

    /// With what the preflight did not like and yet let pass.
    pub(super) fn warned(self, warnings: Vec<String>) -> Self {
        Self { warnings, ..self }
    }

    /// The report of an upgrade that never became a handoff.
    pub(super) fn nothing(reason: impl Into<String>) -> HandoffReport {
        HandoffReport {
            schema: SCHEMA,
            handoff_id: None,
            outcome: Outcome::PreflightFailed,
            reason: Some(reason.into()),
            epoch: None,
            old: None,
            new: None,
            phases: Vec::new(),
            freeze_ms: None,
            canary_ms: None,
            connections: ConnectionsReport::default(),
            peak_queue: None,
            ended_unix_ms: unix_ms(),
            warnings: Vec::new(),
        }
    }

    /// The phase it is in.
    pub(super) fn phase(&self) -> Option<Phase> {
        self.current.map(|(phase, _)| phase)
    }

    /// Time since the upgrade was asked for.
    pub(super) fn at(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }

    /// Notes the phase; says whether it is a new one.
    pub(super) fn enter(&mut self, phase: Phase, now: Instant) -> bool {
        if self.phase() == Some(phase) {
            return false;
        }
        self.leave(now);
        self.current = Some((phase, now));
        true
    }

    fn leave(&mut self, now: Instant) {
        if let Some((phase, since)) = self.current.take() {
            self.phases.push((phase, now.saturating_duration_since(since)));
        }
    }

    pub(super) fn drained(&mut self, open: u64) {
        self.open = Some(open);
    }

    pub(super) fn seal_requested(&mut self, now: Instant) {
        self.seal = Some(now);
    }

    pub(super) fn sealed(&mut self, parked: u64) {
        self.parked = Some(parked);
    }

    pub(super) fn ready(&mut self, received: u64) {
        self.received = Some(received);
    }

    pub(super) fn active(&mut self, now: Instant) {
        self.active.get_or_insert(now);
    }

    pub(super) fn queue(&mut self, waiting: u64) {
        self.peak_queue = Some(self.peak_queue.map_or(waiting, |peak| peak.max(waiting)));
    }

    /// The successor's process ended by itself: the reason of a handoff that fails says how.
    pub(super) fn exited(&mut self, how: String) {
        self.exit.get_or_insert(how);
    }

    /// Whether the service stands still at this moment, as far as this side knows.
    pub(super) fn frozen(&self) -> bool {
        self.seal.is_some() && self.active.is_none()
    }

    /// The report.
    pub(super) fn end(mut self, ended: &Ended, now: Instant) -> HandoffReport {
        self.leave(now);
        let committed = matches!(ended.outcome, Outcome::Committed | Outcome::RolledBack);
        let canary = self.phases.iter().find(|(phase, _)| *phase == Phase::Canary);
        let freeze = self.seal.zip(self.active).filter(|_| committed);
        HandoffReport {
            schema: SCHEMA,
            handoff_id: Some(self.handoff.to_string()),
            outcome: ended.outcome,
            reason: self.reason(ended),
            epoch: Some(ended.epoch.0),
            connections: self.connections(ended.outcome),
            old: Some(self.old),
            new: Some(self.new),
            phases: self
                .phases
                .iter()
                .map(|(phase, took)| PhaseReport { name: phase.name().to_owned(), ms: ms(*took) })
                .collect(),
            freeze_ms: freeze.map(|(seal, active)| ms(active.saturating_duration_since(seal))),
            canary_ms: canary.map(|(_, took)| ms(*took)),
            peak_queue: self.peak_queue,
            ended_unix_ms: unix_ms(),
            warnings: self.warnings,
        }
    }

    fn reason(&self, ended: &Ended) -> Option<String> {
        let reason = ended.reason.as_ref()?;
        Some(match &self.exit {
            Some(exit) => format!("{reason} ({exit})"),
            None => reason.clone(),
        })
    }

    /// Before the seal no connection was touched; after it an abort gives the incumbent all of them back.
    fn connections(&self, outcome: Outcome) -> ConnectionsReport {
        match outcome {
            Outcome::Committed | Outcome::RolledBack => ConnectionsReport {
                handed_over: self.received,
                drained: self.open.zip(self.parked).map(|(open, parked)| open.saturating_sub(parked)),
                lost: self
                    .parked
                    .zip(self.received)
                    .map(|(parked, received)| parked.saturating_sub(received)),
            },
            Outcome::PreflightFailed => {
                ConnectionsReport { handed_over: Some(0), drained: Some(0), lost: Some(0) }
            }
            Outcome::Aborted | Outcome::Reclaimed => {
                ConnectionsReport { handed_over: Some(0), drained: None, lost: Some(0) }
            }
            Outcome::ColdStarted | Outcome::Unknown => ConnectionsReport::default(),
        }
    }
}

fn ms(time: Duration) -> f64 {
    // microseconds are what the clock is good for
    (time.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

fn unix_ms() -> Option<u64> {
    SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|t| u64::try_from(t.as_millis()).ok())
}

/// What goes on in a phase, for people.
pub(super) fn note(phase: Phase) -> &'static str {
    match phase {
        Phase::Spawn => "starting the successor",
        Phase::Warm => "the successor loads the data, the incumbent serves",
        Phase::Drain => "the incumbent brings its unsaved data down and serves on",
        Phase::Seal => "the incumbent stops writing and parks its connections",
        Phase::Begin => "the successor reads the rest and takes the connections",
        Phase::Canary => "a request is tried on the successor, clients wait",
        Phase::Commit => "the successor claims the next epoch",
        Phase::Active => "the successor serves",
        Phase::Resolve => "finding out who owns the next epoch",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Epoch;

    fn after(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    fn ended(outcome: Outcome) -> Ended {
        let reason = (outcome != Outcome::Committed).then(|| "why".to_owned());
        Ended { handoff: HandoffId(1), outcome, reason, epoch: Epoch(2) }
    }

    fn walked(start: Instant) -> Progress {
        let mut p = Progress::new(HandoffId(1), InstanceReport::default(), InstanceReport::default(), start);
        assert!(p.enter(Phase::Spawn, start));
        assert!(!p.enter(Phase::Spawn, after(start, 1)));
        assert!(p.enter(Phase::Drain, after(start, 10)));
        p.drained(7);
        assert!(p.enter(Phase::Seal, after(start, 12)));
        p.seal_requested(after(start, 12));
        assert!(p.frozen());
        p.queue(3);
        p.queue(1);
        p.sealed(6);
        p.ready(5);
        p.active(after(start, 15));
        assert!(!p.frozen());
        p
    }

    #[test]
    fn a_commit_has_its_freeze_and_its_counts() {
        let start = Instant::now();
        let report = walked(start).end(&ended(Outcome::Committed), after(start, 16));
        assert_eq!(report.freeze_ms, Some(3.0));
        assert_eq!(report.peak_queue, Some(3));
        let ConnectionsReport { handed_over, drained, lost } = report.connections;
        assert_eq!((handed_over, drained, lost), (Some(5), Some(1), Some(1)));
        let phases: Vec<_> = report.phases.iter().map(|p| (p.name.as_str(), p.ms)).collect();
        assert_eq!(phases, [("spawn", 10.0), ("drain", 2.0), ("seal", 4.0)]);
        assert_eq!(report.canary_ms, None);
    }

    #[test]
    fn an_abort_has_no_freeze_and_hands_nothing_over() {
        let start = Instant::now();
        let report = walked(start).end(&ended(Outcome::Aborted), after(start, 16));
        assert_eq!(report.freeze_ms, None);
        assert_eq!(report.connections.handed_over, Some(0));
        assert_eq!(report.connections.lost, Some(0));
        assert_eq!(report.reason.as_deref(), Some("why"));

        let mut died = walked(start);
        died.exited("process 7 exited with code 3".to_owned());
        let report = died.end(&ended(Outcome::Aborted), after(start, 16));
        assert_eq!(report.reason.as_deref(), Some("why (process 7 exited with code 3)"));
    }

    #[test]
    fn the_canary_has_its_time() {
        let start = Instant::now();
        let mut p = walked(start);
        assert!(p.enter(Phase::Canary, after(start, 13)));
        assert!(p.enter(Phase::Commit, after(start, 14)));
        assert_eq!(p.end(&ended(Outcome::Committed), after(start, 16)).canary_ms, Some(1.0));
    }

    #[test]
    fn what_is_unknown_is_null() {
        let json = serde_json::to_value(Progress::nothing("no such file")).expect("json");
        for key in ["handoff_id", "epoch", "old", "new", "freeze_ms", "canary_ms", "peak_queue"] {
            assert!(json[key].is_null(), "{key}");
        }
        assert_eq!(json["schema"], 1);
        assert_eq!(json["outcome"], "preflight_failed");
    }
}
