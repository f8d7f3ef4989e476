//! Which cells a tier has.

use crate::cell::{Cell, Fault, Policy, Strike, Workload, fits};
use crate::lead;
use crate::points::Points;
use handoff_tests::crashes::Point;

/// How much is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// Seconds: part of `cargo test`.
    Smoke,
    /// A death at every point, everything else at key points: part of CI.
    Single,
    /// Every fault at every point, and a second one at key points.
    Full,
    /// Upgrades of one service again and again: no cells, see [`crate::Soak`].
    Soak,
}

/// Where something is decided or changes hands.
const KEY: [&str; 14] = [
    "S.persist.intent.after",
    "S.send.PrepareHandoff.after",
    "S.send.SealRequest.after",
    "S.send.Begin.after",
    "S.send.Commit.before",
    "S.send.Commit.after",
    "O.propose.after",
    "O.unlock.after",
    "O.send.SealComplete.after",
    "N.send.Ready.after",
    "N.claim.before",
    "N.claim.after",
    "N.sync_claim.after",
    "N.send.Started.after",
];

/// What was red once: each is the regression test of a bug (docs/testing.md tells the stories).
const FOUND: [&str; 6] = [
    // looked alive, and supervised nobody
    "S.send.Begin.after/panic/load/v1-1-1",
    // the proposal of an incumbent that died after it had survived an abort
    "O.propose.after/stop/load/v1-1-1",
    // the journal missed one record, and said until the next upgrade that this one is open
    "S.persist.ended.before/enospc/load/v1-1-1",
    // the half-written proposal of a successor that was ended
    "N.propose.before/drop/load/v1-1-1",
    // the proposals of both, where the next supervisor found the handoff open and nobody to ask
    "O.unlock.after/kill9/load/v1-1-1+S.persist.ended.after/kill9",
    "S.send.PrepareHandoff.after/kill9/load/v1-1-1+O.cancel.Drain.after/stop",
];

fn found() -> Vec<Cell> {
    FOUND.iter().map(|id| id.parse().expect("the name of a cell")).collect()
}

/// The cells of a tier, in the order of an upgrade. Where there are second faults, what comes after each first one is
/// recorded, `jobs` at once; that takes a while, so a pattern that names no second fault (`+`) has none.
#[must_use]
pub fn cells(tier: Tier, points: &Points, jobs: usize, pattern: &str) -> Vec<Cell> {
    let seconds = if pattern.is_empty() { Some("") } else { pattern.split_once('+').map(|(first, _)| first) };
    let mut cells = of_tier(tier, points, jobs, seconds);
    cells.retain(|cell| fits(pattern, &cell.to_string()));
    cells
}

fn of_tier(tier: Tier, points: &Points, jobs: usize, seconds: Option<&str>) -> Vec<Cell> {
    let key: Vec<&Point> = points.all().filter(|p| p.hit == 1 && KEY.contains(&p.name.as_str())).collect();
    match tier {
        Tier::Soak => Vec::new(),
        Tier::Smoke => {
            let deaths = key.iter().map(|point| Cell::of((*point).clone(), Fault::Kill9));
            deaths.chain(found()).collect()
        }
        Tier::Single => {
            let mut cells: Vec<Cell> =
                points.all().map(|point| Cell::of(point.clone(), Fault::Kill9)).collect();
            // two of the others at each key point, so that each comes by several
            let others: Vec<Fault> =
                Fault::ALL.into_iter().filter(|fault| *fault != Fault::Kill9 && !fault.is_disk()).collect();
            for (n, point) in key.iter().enumerate() {
                let two = [others[2 * n % others.len()], others[(2 * n + 1) % others.len()]];
                cells.extend(two.map(|fault| Cell::of((*point).clone(), fault)));
            }
            let key: Vec<Point> = key.into_iter().cloned().collect();
            cells.extend([Fault::Eio, Fault::Enospc].into_iter().flat_map(|fault| with(fault, &key)));
            cells.extend(key.iter().filter(|point| point.role() == "S").map(never));
            cells.extend(found().into_iter().filter(|cell| !cells.contains(cell)).collect::<Vec<_>>());
            cells
        }
        Tier::Full => {
            let all: Vec<Point> = points.all().cloned().collect();
            let mut cells: Vec<Cell> = Fault::ALL.into_iter().flat_map(|fault| with(fault, &all)).collect();
            cells.extend(all.iter().filter(|point| point.role() == "S").map(never));
            cells.extend(key.iter().map(|point| Cell {
                workload: Workload::Library,
                ..Cell::of((*point).clone(), Fault::Kill9)
            }));
            cells.extend(of_versions(&key));
            if let Some(firsts) = seconds {
                cells.extend(pairs(&key, points, jobs, firsts));
            }
            cells
        }
    }
}

fn with(fault: Fault, points: &[Point]) -> Vec<Cell> {
    let here = points.iter().filter(|point| !fault.is_disk() || touches_disk(fault, &point.name));
    here.map(|point| Cell::of(point.clone(), fault)).collect()
}

/// Deaths at key points among three who all speak differently, in every way to do so.
const DIFFERENT: [[u8; 3]; 6] = [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]];

fn of_versions(key: &[&Point]) -> Vec<Cell> {
    let all = key.iter().zip(DIFFERENT.into_iter().cycle());
    all.map(|(point, versions)| Cell { versions, ..Cell::of((*point).clone(), Fault::Kill9) }).collect()
}

fn never(point: &Point) -> Cell {
    Cell { policy: Policy::Never, ..Cell::of(point.clone(), Fault::Kill9) }
}

/// Whether a disk that fails or is full is noticed in this effect.
fn touches_disk(fault: Fault, point: &str) -> bool {
    let Some(effect) =
        point.strip_suffix(".before").and_then(|p| p.split_once('.')).map(|(_, effect)| effect)
    else {
        return false;
    };
    let writes = effect.starts_with("persist.") || matches!(effect, "propose" | "claim" | "report");
    writes || fault == Fault::Eio && matches!(effect, "sync_claim" | "tidy")
}

/// A second fault, killing or stopping, at every point that whoever is left always comes by after the first.
fn pairs(key: &[&Point], points: &Points, jobs: usize, pattern: &str) -> Vec<Cell> {
    let mut firsts: Vec<Cell> = key.iter().map(|point| Cell::of((*point).clone(), Fault::Kill9)).collect();
    firsts.retain(|first| fits(pattern, &first.to_string()));
    let mut cells = Vec::new();
    for (first, seconds) in firsts.iter().zip(lead::seconds(&firsts, points, jobs)) {
        for point in seconds {
            for fault in [Fault::Kill9, Fault::Stop] {
                let second = Some(Strike { point: point.clone(), fault });
                cells.push(Cell { second, ..first.clone() });
            }
        }
    }
    cells
}
