//! The way into a second fault: what whoever is left comes by after the first one, recorded.

use crate::cell::Cell;
use crate::evidence::Evidence;
use crate::points::Points;
use crate::trial::{self, How, Trial};
use handoff_tests::crashes::{Hit, Point, points as counted};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// What is not in all of these comes by chance.
const RECORDINGS: usize = 3;

/// For each first fault, the points that always follow it.
pub(crate) fn seconds(firsts: &[Cell], points: &Points, jobs: usize) -> Vec<Vec<Point>> {
    let work: Vec<usize> = (0..firsts.len()).flat_map(|n| [n; RECORDINGS]).collect();
    let (next, found) = (AtomicUsize::new(0), Mutex::new(vec![Vec::new(); firsts.len()]));
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(n) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // one that fails has a cell of its own, which says why
                    let way = recorded(&firsts[*n], points).unwrap_or_default();
                    found.lock().unwrap_or_else(PoisonError::into_inner)[*n].push(way);
                }
            });
        }
    });
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.into_iter().map(in_all).collect()
}

fn in_all(mut ways: Vec<Vec<Point>>) -> Vec<Point> {
    let Some(mut way) = ways.pop() else { return Vec::new() };
    way.retain(|point| ways.iter().all(|other| other.contains(point)));
    way
}

fn recorded(first: &Cell, points: &Points) -> Option<Vec<Point>> {
    for _ in 0..RECORDINGS {
        let tried = catch_unwind(AssertUnwindSafe(|| trial::run(first, points, &How::default())));
        if let Ok(Trial::Struck(seen)) = tried {
            return Some(follows(&seen));
        }
    }
    None
}

fn follows(seen: &Evidence) -> Vec<Point> {
    let of_chance = |hit: &Hit| hit.point.contains("Heartbeat");
    let after = |hit: &&Hit| {
        hit.at > seen.strike.at && hit.at < seen.settled && hit.pid != seen.strike.pid && !of_chance(hit)
    };
    let hits: Vec<Hit> = seen.trace.iter().filter(after).cloned().collect();
    counted(&hits)
}
