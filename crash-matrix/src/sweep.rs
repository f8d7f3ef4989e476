//! Many cells at once.

use crate::cell::Cell;
use crate::points::Points;
use crate::record::{Record, Verdict};
use crate::trial::{self, How};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Who dies in an upgrade is seldom waited for: several at once keep the machine busy, and not so many that
/// waiting for a processor looks like waiting for a timer.
pub const JOBS: usize = 6;
/// On a busy machine somebody may be later than the one who is slowed down: then a point is tried again.
const TRIES: u32 = 4;
/// What was too slow is measured so often again, alone: a busy machine proves nothing about us.
const ALONE: u32 = 3;

/// Tries cells, `jobs` at once. Each result is given to `tell` as it comes; timing that failed is repeated alone at
/// the end.
#[must_use]
pub fn run(
    cells: &[Cell],
    points: &Points,
    plant: Option<&str>,
    jobs: usize,
    tell: impl Fn(&Record) + Sync,
) -> Vec<Record> {
    let how = How { plant: plant.map(str::to_owned), keep: false };
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let record = until_struck(cell, points, &how);
                    if !record.is_late() {
                        tell(&record);
                    }
                    results.lock().unwrap_or_else(PoisonError::into_inner).push((cell, record));
                }
            });
        }
    });
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.into_iter().map(|(cell, record)| in_time(cell, record, points, &how, &tell)).collect()
}

/// Processor time so far: of the harness with its clients, and of the programs that it waited for.
#[must_use]
pub fn processor() -> [Duration; 2] {
    [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN].map(|who| {
        // both are always there
        getrusage(who).map_or(Duration::ZERO, |used| time(used.user_time()) + time(used.system_time()))
    })
}

fn time(value: nix::sys::time::TimeVal) -> Duration {
    Duration::from_micros(u64::try_from(value.num_microseconds()).unwrap_or(0))
}

/// Tries one cell once.
#[must_use]
pub fn once(cell: &Cell, points: &Points, plant: Option<&str>, keep: bool) -> Record {
    attempt(cell, points, &How { plant: plant.map(str::to_owned), keep })
}

fn attempt(cell: &Cell, points: &Points, how: &How) -> Record {
    let began = Instant::now();
    let trial = catch_unwind(AssertUnwindSafe(|| trial::run(cell, points, how))).map_err(said);
    Record::of(cell, trial, began.elapsed())
}

fn until_struck(cell: &Cell, points: &Points, how: &How) -> Record {
    let mut tries = 1;
    loop {
        let record = Record { tries, ..attempt(cell, points, how) };
        if record.outcome != Verdict::Unreached || tries == TRIES {
            return record;
        }
        tries += 1;
    }
}

fn in_time(cell: &Cell, mut record: Record, points: &Points, how: &How, tell: &impl Fn(&Record)) -> Record {
    if !record.is_late() {
        return record;
    }
    let mut late = 1;
    for _ in 0..ALONE {
        let tries = record.tries + 1;
        record = Record { tries, ..until_struck(cell, points, how) };
        if !record.is_late() {
            break;
        }
        late += 1;
    }
    // alone, and late again before it was not
    if record.outcome == Verdict::Green && late > 2 {
        record.outcome = Verdict::Flaky;
    }
    tell(&record);
    record
}

pub(crate) fn said(panic: Box<dyn std::any::Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic.downcast::<&str>().map_or_else(|_| "a panic".into(), |text| (*text).into()),
    }
}
