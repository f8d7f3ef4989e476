//! kill -9 of S, O or N at every crash point that an upgrade comes by.
//!
//! A recording finds the points; at each of them somebody dies once, under load, in a rig of its own. What must hold
//! afterwards is in `cell`. `HANDOFF_CRASH_CELLS=S.send` tries only the points that contain this text,
//! `HANDOFF_CRASH_JOBS` says how many are tried at once, `HANDOFF_CRASH_FAULT` is `kill9` or `exit`.

mod cell;
mod leftovers;

use cell::{End, Path, Report};
use handoff_tests::crashes::{Order, Point};
use handoff_tests::history::percentile;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Who dies in an upgrade is seldom waited for: several at once keep the machine busy, and not so many that
/// waiting for a processor looks like waiting for a timer.
const JOBS: usize = 6;
/// On a busy machine somebody may be later than the one who is slowed down: then a point is tried again.
const TRIES: usize = 4;
/// Protocol, L3: first answer after the death of one process, process start included. Longer is measured again,
/// alone; the shortest timer of the protocol that could be what we waited for is 2 s.
const ANSWER: Duration = Duration::from_millis(1500);
/// Protocol, L3.
const ADOPTED: Duration = Duration::from_secs(1);

/// A point and the order in which an upgrade always comes by it.
#[derive(Clone, Debug)]
struct Place {
    point: Point,
    order: Order,
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
    println!("{} points; by chance only, and left out: {chance:?}", places.len());
    for role in ["S", "O", "N"] {
        let points = places.iter().filter(|place| place.point.role() == role).count();
        assert!(points > 20, "{points} points of {role}: {places:?}");
    }
    places
}

#[test]
fn kill_9_at_every_point_of_an_upgrade() {
    let began = Instant::now();
    let places = places();
    let path: Vec<Point> = places.iter().map(|place| place.point.clone()).collect();
    let filter = std::env::var("HANDOFF_CRASH_CELLS").unwrap_or_default();
    let cells: Vec<&Place> =
        places.iter().filter(|place| place.point.to_string().contains(&filter)).collect();
    assert!(!cells.is_empty(), "no point contains {filter:?}");
    let jobs = std::env::var("HANDOFF_CRASH_JOBS").map_or(JOBS, |text| text.parse().expect("a number"));
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(place) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = tried(place, Path(&path));
                    results.lock().unwrap_or_else(PoisonError::into_inner).push((*place, result));
                }
            });
        }
    });
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut broken = Vec::new();
    let mut held = Vec::new();
    for (place, result) in results {
        let point = &place.point;
        match result {
            Ok(End::Held(report)) => match in_time(place, Path(&path), report) {
                Ok(report) => held.push((point, report)),
                Err(why) => broken.push((point, why)),
            },
            Ok(End::Unreached) => broken.push((point, format!("armed {TRIES} times and never reached"))),
            Err(why) => broken.push((point, why)),
        }
    }
    tell(&held, began);
    let list: Vec<String> =
        broken.iter().map(|(point, why)| format!("{point}: {}", first_lines(why))).collect();
    assert!(broken.is_empty(), "{} of {} cells are red:\n{}", broken.len(), cells.len(), list.join("\n"));
}

/// Tries a cell until it strikes.
fn tried(Place { point, order }: &Place, path: Path<'_>) -> Result<End, String> {
    let fault = std::env::var("HANDOFF_CRASH_FAULT").unwrap_or_else(|_| "kill9".into());
    for _ in 0..TRIES {
        let end = catch_unwind(AssertUnwindSafe(|| cell::run(point, &fault, *order, path))).map_err(said)?;
        if let End::Held(_) = end {
            return Ok(end);
        }
    }
    Ok(End::Unreached)
}

/// What took too long is measured again, alone: a busy machine proves nothing about us.
fn in_time(place: &Place, path: Path<'_>, mut report: Report) -> Result<Report, String> {
    for _ in 0..3 {
        if report.answer <= ANSWER && report.adopted.is_none_or(|time| time <= ADOPTED) {
            return Ok(report);
        }
        println!("{}: slow, once more alone: {report:?}", place.point);
        if let End::Held(again) = tried(place, path)? {
            report = again;
        }
    }
    Err(format!("too slow three times: {report:?}"))
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

fn tell(held: &[(&Point, Report)], began: Instant) {
    println!("{} cells held in {:.1} s", held.len(), began.elapsed().as_secs_f64());
    let mut answers: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
    for (point, report) in held {
        let ms = report.answer.as_secs_f64() * 1e3;
        answers.entry((point.role(), report.served_by)).or_default().push(ms);
        let adopted = report
            .adopted
            .map_or(String::new(), |time| format!(", adopted {:.0} ms", time.as_secs_f64() * 1e3));
        println!(
            "{point:40} exit {:?}, {} serves, first answer {ms:.1} ms{adopted}",
            report.code, report.served_by
        );
    }
    for ((died, serves), times) in &answers {
        row(&format!("{died} killed, {serves} serves: first good answer"), times);
    }
    let adopted: Vec<f64> =
        held.iter().filter_map(|(_, r)| r.adopted).map(|t| t.as_secs_f64() * 1e3).collect();
    row("S started again: adopted", &adopted);
}

fn row(what: &str, times: &[f64]) {
    let at = |percent| percentile(times, percent).unwrap_or(f64::NAN);
    println!(
        "{what}: {} cells, p50 {:.1} ms, p90 {:.1} ms, max {:.1} ms",
        times.len(),
        at(50.0),
        at(90.0),
        at(100.0)
    );
}
