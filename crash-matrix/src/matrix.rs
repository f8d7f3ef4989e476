//! The matrix: every place of an upgrade, one cell each, many at once.

use crate::cell::{self, End, Path, Report};
use handoff_tests::crashes::{Order, Point};
use handoff_tests::history::percentile;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Who dies in an upgrade is seldom waited for: several at once keep the machine busy, and not so many that
/// waiting for a processor looks like waiting for a timer.
pub const JOBS: usize = 6;
/// On a busy machine somebody may be later than the one who is slowed down: then a point is tried again.
const TRIES: usize = 4;
/// Protocol, L3: first answer after the death of one process, process start included. Longer is measured again,
/// alone; the shortest timer of the protocol that could be what we waited for is 2 s.
const ANSWER: Duration = Duration::from_millis(1500);
/// Protocol, L3.
const ADOPTED: Duration = Duration::from_secs(1);

/// How somebody dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL.
    Kill9,
    /// `exit(1)`: destructors do not run, but the C library's handlers do.
    Exit,
}

impl Fault {
    /// Its name in cells and in `HANDOFF_CRASH`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Fault::Kill9 => "kill9",
            Fault::Exit => "exit",
        }
    }
}

/// The places of an upgrade, found by recording runs.
#[derive(Clone, Debug)]
pub struct Matrix {
    places: Vec<Place>,
}

/// How the cells that were tried ended.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Everything held.
    pub green: Vec<(String, Report)>,
    /// A promise was broken: the cell and the first lines of why.
    pub red: Vec<(String, String)>,
    /// Armed, and nobody came by: nothing was tested.
    pub unreached: Vec<String>,
    /// How long all of it took.
    pub took: Duration,
}

/// A point and the order in which an upgrade always comes by it.
#[derive(Clone, Debug)]
struct Place {
    point: Point,
    order: Order,
}

impl Matrix {
    /// Records a few upgrades, in both orders in which the old server's end can be heard.
    ///
    /// # Panics
    /// When an upgrade without faults does not commit, or a role has hardly any points: the harness is broken.
    #[must_use]
    pub fn record() -> Matrix {
        Matrix { places: places() }
    }

    /// The cells, one name each: `<role>.<effect>.<side>[#n]/<fault>`.
    #[must_use]
    pub fn cells(&self, fault: Fault) -> Vec<String> {
        self.places.iter().map(|place| name(place, fault)).collect()
    }

    /// Tries the cells whose name contains `filter`, `jobs` at once.
    #[must_use]
    pub fn run(&self, filter: &str, fault: Fault, jobs: usize) -> Outcome {
        let began = Instant::now();
        let path: Vec<Point> = self.places.iter().map(|place| place.point.clone()).collect();
        let path = Path(&path);
        let cells: Vec<&Place> =
            self.places.iter().filter(|place| name(place, fault).contains(filter)).collect();
        let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..jobs.max(1) {
                scope.spawn(|| {
                    while let Some(place) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let result = tried(place, fault, path);
                        results.lock().unwrap_or_else(PoisonError::into_inner).push((*place, result));
                    }
                });
            }
        });
        let mut outcome = Outcome::default();
        for (place, result) in results.into_inner().unwrap_or_else(PoisonError::into_inner) {
            let cell = name(place, fault);
            match result {
                Ok(End::Held(report)) => match in_time(place, fault, path, report) {
                    Ok(report) => outcome.green.push((cell, report)),
                    Err(why) => outcome.red.push((cell, why)),
                },
                Ok(End::Unreached) => outcome.unreached.push(cell),
                Err(why) => outcome.red.push((cell, first_lines(&why))),
            }
        }
        outcome.took = began.elapsed();
        outcome
    }
}

fn name(place: &Place, fault: Fault) -> String {
    format!("{}/{}", place.point, fault.name())
}

/// Tries a cell until it strikes.
fn tried(Place { point, order }: &Place, fault: Fault, path: Path<'_>) -> Result<End, String> {
    for _ in 0..TRIES {
        let end = catch_unwind(AssertUnwindSafe(|| cell::run(point, fault, *order, path))).map_err(said)?;
        if let End::Held(_) = end {
            return Ok(end);
        }
    }
    Ok(End::Unreached)
}

/// What took too long is measured again, alone: a busy machine proves nothing about us.
fn in_time(place: &Place, fault: Fault, path: Path<'_>, mut report: Report) -> Result<Report, String> {
    for _ in 0..3 {
        if report.answer <= ANSWER && report.adopted.is_none_or(|time| time <= ADOPTED) {
            return Ok(report);
        }
        eprintln!("{}: slow, once more alone: {report:?}", place.point);
        if let End::Held(again) = tried(place, fault, path)? {
            report = again;
        }
    }
    Err(format!("too slow three times: {report:?}"))
}

/// The points that every recording has, in their order; those of the other order where they belong.
fn places() -> Vec<Place> {
    let orders = [Order::LeavesLast, Order::HeardLast];
    let recordings: Vec<(Order, Vec<Point>)> = std::thread::scope(|scope| {
        let all = orders.iter().flat_map(|order| [*order; 3]);
        let threads: Vec<_> = all.map(|order| (order, scope.spawn(move || cell::recording(order)))).collect();
        threads.into_iter().map(|(order, thread)| (order, thread.join().expect("a recording"))).collect()
    });
    let mut places: Vec<Place> = Vec::new();
    let mut chance = BTreeSet::new();
    for order in orders {
        let of_order: Vec<&Vec<Point>> =
            recordings.iter().filter(|(o, _)| *o == order).map(|(_, r)| r).collect();
        for recording in &of_order {
            let mut at = 0;
            for point in *recording {
                if let Some(known) = places.iter().position(|place| place.point == *point) {
                    at = known + 1;
                } else if of_order.iter().all(|other| other.contains(point)) {
                    places.insert(at, Place { point: point.clone(), order });
                    at += 1;
                } else {
                    // one more heartbeat, or three processes in a rare order
                    chance.insert(point.to_string());
                }
            }
        }
    }
    for place in &places {
        chance.remove(&place.point.to_string());
    }
    eprintln!("{} points; by chance only, and left out: {chance:?}", places.len());
    for role in ["S", "O", "N"] {
        let points = places.iter().filter(|place| place.point.role() == role).count();
        assert!(points > 20, "{points} points of {role}: {places:?}");
    }
    places
}

fn said(panic: Box<dyn std::any::Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic.downcast::<&str>().map_or_else(|_| "a panic".into(), |text| (*text).into()),
    }
}

fn first_lines(text: &str) -> String {
    text.lines().take(6).collect::<Vec<_>>().join("\n    ")
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let mut answers: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
        for (cell, report) in &self.green {
            let died = cell.split('.').next().unwrap_or_default();
            answers.entry((died, report.served_by)).or_default().push(ms(report.answer));
            let adopted =
                report.adopted.map_or(String::new(), |time| format!(", adopted {:.0} ms", ms(time)));
            let (code, serves) = (report.code, report.served_by);
            writeln!(
                f,
                "green      {cell:46} exit {code:?}, {serves} serves, first answer {:.1} ms{adopted}",
                ms(report.answer)
            )?;
        }
        for cell in &self.unreached {
            writeln!(f, "unreached  {cell}")?;
        }
        for (cell, why) in &self.red {
            writeln!(f, "RED        {cell}: {why}")?;
        }
        for ((died, serves), times) in &answers {
            row(f, &format!("{died} dies, {serves} serves: first good answer"), times)?;
        }
        let adopted: Vec<f64> = self.green.iter().filter_map(|(_, report)| report.adopted).map(ms).collect();
        if !adopted.is_empty() {
            row(f, "S started again: adopted", &adopted)?;
        }
        let (green, red, unreached) = (self.green.len(), self.red.len(), self.unreached.len());
        write!(f, "{green} green, {red} red, {unreached} unreached in {:.1} s", self.took.as_secs_f64())
    }
}

fn row(f: &mut fmt::Formatter<'_>, what: &str, times: &[f64]) -> fmt::Result {
    let at = |percent| percentile(times, percent).unwrap_or(f64::NAN);
    let (cells, p50, p90, max) = (times.len(), at(50.0), at(90.0), at(100.0));
    writeln!(f, "{what}: {cells} cells, p50 {p50:.1} ms, p90 {p90:.1} ms, max {max:.1} ms")
}
