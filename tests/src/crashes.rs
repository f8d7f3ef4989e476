//! Crash points as a test sees them: found by a recording, armed in the middle of a run, and known to have struck.
//!
//! Every process of a rig shares one trace and one trigger (see [`handoff::crash`]). The trigger is a file: whoever
//! strikes removes it first, so one process dies once, and a trigger that is still there was never reached.

use crate::rig::ended_by;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A place in a process, by the name and how many times this process came by before.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Point {
    /// `<role>.<effect>.<before|after>`
    pub name: String,
    /// The first time is 1.
    pub hit: u32,
}

impl Point {
    /// `S`, `O`, `N` or `X`.
    #[must_use]
    pub fn role(&self) -> &str {
        self.name.split('.').next().unwrap_or_default()
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.hit {
            1 => f.write_str(&self.name),
            n => write!(f, "{}#{n}", self.name),
        }
    }
}

/// An upgrade ends in two processes at once: the old server leaves, and the new one tells the supervisor that it
/// serves. What the supervisor comes by depends on which it hears first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The old server leaves when the supervisor has heard.
    LeavesLast,
    /// The supervisor hears when the old server has left.
    HeardLast,
}

impl Order {
    fn slow(self) -> &'static str {
        match self {
            Order::LeavesLast => "O.close_parked.before/slow",
            Order::HeardLast => "O.send.Active.before/slow",
        }
    }
}

/// One line of the trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Who came by.
    pub pid: u32,
    /// When, on the machine's monotonic clock.
    pub at: Duration,
    /// Where.
    pub point: String,
    /// It was armed, and this process died or stopped here.
    pub struck: bool,
}

/// The trace and the trigger of one rig.
#[derive(Debug)]
pub struct Crashes {
    dir: tempfile::TempDir,
}

impl Crashes {
    /// Nothing is armed, nothing recorded.
    ///
    /// # Panics
    /// When there is no temporary directory.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it makes a directory")]
    pub fn new() -> Crashes {
        Crashes {
            dir: tempfile::Builder::new().prefix("handoff-crash-").tempdir().expect("a temporary directory"),
        }
    }

    /// What the processes need in their environment.
    #[must_use]
    pub fn env(&self) -> [(&'static str, String); 2] {
        [
            ("HANDOFF_CRASH", format!("@{}", self.trigger().display())),
            ("HANDOFF_CRASH_TRACE", self.trace_path().display().to_string()),
        ]
    }

    fn trigger(&self) -> PathBuf {
        self.dir.path().join("armed")
    }

    fn trace_path(&self) -> PathBuf {
        self.dir.path().join("trace")
    }

    /// From here on: who comes to `point` does `action` there. Hits count from here.
    ///
    /// # Panics
    /// When the file cannot be made.
    pub fn arm(&self, point: &Point, action: &str, order: Order) {
        self.arm_each(&[(point, action)], order);
    }

    /// From here on: the first of these strikes, then, with hits counted anew, the next.
    ///
    /// # Panics
    /// When the file cannot be made.
    pub fn arm_each(&self, strikes: &[(&Point, &str)], order: Order) {
        let stage = |(point, action): &(&Point, &str)| {
            format!("{},{}#{}/{action}", order.slow(), point.name, point.hit)
        };
        self.install(&strikes.iter().map(stage).collect::<Vec<_>>().join(";"));
    }

    /// Nothing is armed any more. Says whether something still was: it was never reached.
    #[must_use]
    pub fn disarm(&self) -> bool {
        std::fs::remove_file(self.trigger()).is_ok()
    }

    /// From here on nobody dies, and one of two comes last.
    ///
    /// # Panics
    /// When the file cannot be made.
    pub fn only(&self, order: Order) {
        self.install(order.slow());
    }

    fn install(&self, what: &str) {
        let new = self.dir.path().join("new");
        std::fs::write(&new, what).expect("a file of ours");
        // never seen half written
        std::fs::rename(&new, self.trigger()).expect("a file of ours");
    }

    /// Waits until what was armed struck, and says where; `None` when nobody came by in time, and then nobody will any
    /// more.
    ///
    /// # Panics
    /// When the directory cannot be watched.
    #[must_use]
    pub fn strike_within(&self, patience: Duration) -> Option<Hit> {
        let notify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).expect("inotify");
        let flags = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MODIFY;
        notify.add_watch(self.dir.path(), flags).expect("a directory of ours");
        let deadline = Instant::now() + patience;
        loop {
            // the trigger goes first, the line follows
            if let Some(strike) = self.strike() {
                return Some(strike);
            }
            if !ended_by(&notify, deadline) && std::fs::remove_file(self.trigger()).is_ok() {
                return None;
            }
            let _ = notify.read_events();
        }
    }

    /// All hits so far.
    ///
    /// # Panics
    /// When a line of the trace is none.
    #[must_use]
    pub fn trace(&self) -> Vec<Hit> {
        let text = std::fs::read_to_string(self.trace_path()).unwrap_or_default();
        // the last line may be in the making
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole
            .lines()
            // the way on, a moment later: the hit itself has a line of its own
            .filter(|line| !line.ends_with(" slow"))
            .map(|line| hit(line).unwrap_or_else(|| panic!("no line of a trace: {line:?}")))
            .collect()
    }

    /// Where and when the trigger struck.
    #[must_use]
    pub fn strike(&self) -> Option<Hit> {
        self.strikes().into_iter().next()
    }

    /// All that struck, in order.
    #[must_use]
    pub fn strikes(&self) -> Vec<Hit> {
        // asked all the time: the other lines need not be read
        let text = std::fs::read(self.trace_path()).unwrap_or_default();
        let struck = text.split_inclusive(|b| *b == b'\n').filter(|line| line.ends_with(b"\n"));
        let struck = struck.filter(|line| line.iter().filter(|b| **b == b' ').count() == 5);
        let lines = struck.filter_map(|line| std::str::from_utf8(line).ok());
        let hits = lines
            .map(str::trim_end)
            .map(|line| hit(line).unwrap_or_else(|| panic!("no line of a trace: {line:?}")));
        hits.filter(|hit| hit.struck).collect()
    }
}

fn hit(line: &str) -> Option<Hit> {
    let mut words = line.split(' ');
    let (_role, pid, at) = (words.next()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let (point, _epoch) = (words.next()?.to_owned(), words.next()?);
    Some(Hit {
        pid,
        at: Duration::from_nanos(at),
        point,
        struck: words.next().is_some_and(|action| action != "slow"),
    })
}

/// The points that these hits came by, in order, counted for each process by itself.
#[must_use]
pub fn points(hits: &[Hit]) -> Vec<Point> {
    let mut counts: BTreeMap<(u32, &str), u32> = BTreeMap::new();
    let mut points = Vec::new();
    for hit in hits {
        let count = counts.entry((hit.pid, &hit.point)).or_default();
        *count += 1;
        let point = Point { name: hit.point.clone(), hit: *count };
        if !points.contains(&point) {
            points.push(point);
        }
    }
    points
}

/// Now, on the clock of the trace.
#[must_use]
pub fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_are_counted_for_each_process_by_itself() {
        let lines =
            ["S 1 5 S.a.before 0", "S 1 6 S.a.before 0", "O 2 7 O.b.after 1", "O 3 8 O.b.after 1 kill9"];
        let hits: Vec<Hit> = lines.iter().map(|line| hit(line).expect("a line")).collect();
        assert!(hits[3].struck && !hits[2].struck);
        let names: Vec<String> = points(&hits).iter().map(Point::to_string).collect();
        assert_eq!(names, ["S.a.before", "S.a.before#2", "O.b.after"]);
    }

    #[test]
    fn what_nobody_reaches_is_noticed() {
        let crashes = Crashes::new();
        crashes.arm(&Point { name: "S.nowhere.before".into(), hit: 1 }, "kill9", Order::LeavesLast);
        assert!(crashes.trigger().exists());
        assert_eq!(crashes.strike_within(Duration::ZERO), None);
        // and it is not armed any more
        assert!(!crashes.trigger().exists());
    }
}
