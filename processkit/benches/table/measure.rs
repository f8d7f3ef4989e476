//! Rounds and medians.

use crate::rivals::{Rivals, VERSIONS};
use std::time::{Duration, Instant};

pub(crate) use tokio::runtime::Runtime;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    pub(crate) spawns: u32,
    pub(crate) cycles: u32,
    pub(crate) capture: u32,
}

impl Effort {
    pub(crate) const FULL: Effort = Effort { rounds: 9, spawns: 150, cycles: 10_000, capture: 100_000_000 };
    pub(crate) const QUICK: Effort = Effort { rounds: 3, spawns: 20, cycles: 200, capture: 10_000_000 };
}

/// Who is measured, in the order of the table's columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    Ours,
    Std,
    Tokio,
    /// A version of the published crate.
    Rival(usize),
}

pub(crate) const CONTENDERS: [Contender; 5] =
    [Contender::Ours, Contender::Std, Contender::Tokio, Contender::Rival(0), Contender::Rival(1)];

/// The medians of one row; `None` for one that has no such thing, or failed.
#[derive(Clone, Debug)]
pub(crate) struct Medians(Vec<Option<Duration>>);

impl Medians {
    /// One round after the other, everyone in each. `local` measures those of this process: one piece of work, or `None`
    /// for a contender that cannot do it.
    pub(crate) fn take(
        rivals: &mut Rivals,
        rounds: usize,
        row: &str,
        count: u32,
        mut local: impl FnMut(Contender) -> Option<Duration>,
    ) -> Medians {
        let mut taken = vec![Vec::new(); CONTENDERS.len()];
        // one more for the caches, not counted
        for round in 0..=rounds {
            // nobody is always the first
            for turn in 0..CONTENDERS.len() {
                let index = (turn + round) % CONTENDERS.len();
                let time = match CONTENDERS[index] {
                    Contender::Rival(version) => {
                        rivals.ask(row, VERSIONS[version], count).map(Duration::from_nanos)
                    }
                    contender => local(contender),
                };
                if round > 0 {
                    taken[index].extend(time);
                }
            }
        }
        Medians(taken.into_iter().map(median).collect())
    }

    pub(crate) fn of(&self, contender: Contender) -> Option<Duration> {
        let index = CONTENDERS.iter().position(|other| *other == contender)?;
        self.0.get(index).copied().flatten()
    }

    /// Ours in terms of another's.
    pub(crate) fn ratio(&self, other: Contender) -> Option<f64> {
        ratio(self.of(Contender::Ours), self.of(other))
    }
}

pub(crate) fn ratio(one: Option<Duration>, other: Option<Duration>) -> Option<f64> {
    Some(one?.as_secs_f64() / other?.as_secs_f64())
}

fn median(mut times: Vec<Duration>) -> Option<Duration> {
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

/// How long one piece took, of so many.
pub(crate) fn each(count: u32, work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed() / count
}
