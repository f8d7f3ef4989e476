//! Bugs on purpose: at least one for each oracle, which has to find it.

use crate::points::Points;
use crate::soak::Soak;
use crate::sweep::once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// A bug, and a cell that shows it.
#[derive(Clone, Copy, Debug)]
pub struct Plant {
    /// Named after the oracle that finds it; where one finds several, with a word behind a `-`.
    pub name: &'static str,
    /// What is wrong.
    pub bug: &'static str,
    /// Where it shows.
    pub cell: &'static str,
}

impl Plant {
    /// The oracle that has to find it.
    #[must_use]
    pub fn oracle(&self) -> &'static str {
        self.name.split('-').next().unwrap_or(self.name)
    }
}

const COMMITS: &str = "N.send.Started.after/slow/load/v1-1-1";

/// All of them. Each stands in the product, compiled only with crash points: `grep -rn 'crash::planted'`.
pub const PLANTS: [Plant; 14] = [
    Plant { name: "O1", bug: "a connection is cut off at the seal", cell: COMMITS },
    Plant { name: "O2", bug: "an append is applied twice", cell: COMMITS },
    Plant { name: "O2-stale", bug: "the first read of a key is as before the handoff", cell: COMMITS },
    Plant { name: "O2-order", bug: "every eighth INCR counts twice", cell: COMMITS },
    Plant { name: "O3", bug: "a new tenure writes under an old epoch", cell: COMMITS },
    Plant { name: "O4", bug: "counters are acknowledged and in no log", cell: COMMITS },
    Plant { name: "O5", bug: "claims are tidied away too early", cell: COMMITS },
    Plant { name: "O6", bug: "proposals are not tidied away", cell: COMMITS },
    Plant {
        name: "O6-leak",
        bug: "one descriptor stays of every eighth upgrade",
        cell: "soak.commits/load/v1-1-1",
    },
    Plant { name: "O7", bug: "the successor gets another listener", cell: COMMITS },
    Plant { name: "O8", bug: "the successor takes four seconds to serve", cell: COMMITS },
    Plant { name: "O9", bug: "a commit has the exit code of an abort", cell: COMMITS },
    Plant { name: "O10", bug: "the end of a handoff is not in the journal", cell: COMMITS },
    Plant { name: "O11", bug: "a supervisor can upgrade once", cell: COMMITS },
];

/// Tries each bug in the cell that shows it, `jobs` at once; which oracles found something.
///
/// # Panics
/// When the name of a cell is none.
#[must_use]
pub fn hunt(points: &Points, jobs: usize) -> Vec<(Plant, Vec<String>)> {
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(plant) = PLANTS.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let record = match plant.cell.parse::<Soak>() {
                        Ok(soak) => soak.run(Some(plant.name)),
                        Err(_) => {
                            let cell = plant.cell.parse().expect("the name of a cell");
                            once(&cell, points, Some(plant.name), false)
                        }
                    };
                    let mut by: Vec<String> = record.violations.into_iter().map(|v| v.oracle).collect();
                    by.dedup();
                    found.lock().unwrap_or_else(PoisonError::into_inner).push((*plant, by));
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_by_key(|(plant, _)| PLANTS.iter().position(|other| other.name == plant.name));
    found
}
