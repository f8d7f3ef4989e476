//! How a server that dies is started again: a budget of restarts, pauses that grow, dice that are an argument.

use std::time::Duration;

/// How often, and after which pauses, a server that died or did not start is started again.
///
/// The first failure is answered at once: most crashes are single ones. Each further one waits twice as long as the one
/// before, and where half of the budget is used up, once for the storm to pass: what is broken may be beside the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Restarts {
    /// Restarts within the window after which nothing is started any more. 0: never started again.
    pub budget: u32,
    /// A failure is forgotten this long after it. One of a server that never came to serve is not forgotten before one
    /// serves: a start that fails slowly would go on for ever.
    pub window: Duration,
    /// The pause after the second failure.
    pub backoff: Duration,
    /// The longest pause by doubling.
    pub backoff_max: Duration,
    /// The least pause after the failure that used up half of the budget.
    pub storm_pause: Duration,
}

impl Default for Restarts {
    fn default() -> Self {
        Self {
            budget: 10,
            window: Duration::from_secs(300),
            backoff: Duration::from_millis(50),
            backoff_max: Duration::from_secs(10),
            storm_pause: Duration::from_secs(5),
        }
    }
}

impl Restarts {
    /// The pause after so many failures in the window; `None` when the budget is over. `dice` is any random number:
    /// servers that died of one thing do not come back at one moment.
    #[must_use]
    pub fn pause(&self, failures: u32, dice: u64) -> Option<Duration> {
        if failures > self.budget {
            return None;
        }
        let doublings = match failures {
            0 | 1 => return Some(Duration::ZERO),
            more => (more - 2).min(31),
        };
        let growing = self.backoff.saturating_mul(1 << doublings).min(self.backoff_max);
        let storm = self.budget >= 4 && failures == self.budget.div_ceil(2);
        let pause = if storm { growing.max(self.storm_pause) } else { growing };
        Some(jittered(pause, dice))
    }
}

/// From a half of the time up to one and a half.
fn jittered(time: Duration, dice: u64) -> Duration {
    const STEPS: u32 = 1024;
    let step = u32::try_from(mix(dice) % u64::from(STEPS)).unwrap_or(0);
    (time / 2).saturating_add((time / STEPS).saturating_mul(step))
}

/// Spreads numbers that are near to each other (splitmix64).
fn mix(dice: u64) -> u64 {
    let x = dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The failures that count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Failures {
    /// All since somebody asked for a start.
    total: u32,
    /// Of these, the ones not forgotten.
    recent: u32,
    /// Starts in a row that never came to serve.
    unserved: u32,
}

impl Failures {
    /// So many failures, none of them forgotten, of a supervisor whose server serves.
    pub(super) fn carried(count: u32) -> Self {
        Self { total: count, recent: count, unserved: 0 }
    }

    /// A server that had served died. Gives the number under which the failure is forgotten.
    pub(super) fn died(&mut self) -> u32 {
        self.total += 1;
        self.recent += 1;
        self.total
    }

    /// A start did not come to serve.
    pub(super) fn unserved(&mut self) -> u32 {
        self.unserved += 1;
        self.died()
    }

    pub(super) fn serves(&mut self) {
        self.unserved = 0;
    }

    /// The oldest one is a window old.
    pub(super) fn forgive(&mut self) {
        self.recent = self.recent.saturating_sub(1);
    }

    /// Forgets all; gives the numbers that were still to be forgotten one by one.
    pub(super) fn clear(&mut self) -> impl Iterator<Item = u32> + use<> {
        let Self { total, recent, .. } = std::mem::take(self);
        total.saturating_sub(recent) + 1..=total
    }

    pub(super) fn count(&self) -> u32 {
        self.recent.max(self.unserved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STILL: Duration = Duration::ZERO;

    fn within(pause: Option<Duration>, about: Duration) {
        let pause = pause.expect("within the budget");
        assert!(pause >= about / 2 && pause <= about * 3 / 2, "{pause:?} is not about {about:?}");
    }

    #[test]
    fn the_first_restart_is_at_once_and_pauses_double_up_to_the_longest() {
        let ms = Duration::from_millis;
        let rules = Restarts { budget: 20, storm_pause: STILL, ..Restarts::default() };
        assert_eq!(rules.pause(1, 7), Some(STILL));
        for dice in 0..200 {
            for (failures, about) in
                [(2, ms(50)), (3, ms(100)), (6, ms(800)), (12, ms(10_000)), (20, ms(10_000))]
            {
                within(rules.pause(failures, dice), about);
            }
        }
    }

    #[test]
    fn after_the_budget_nothing_is_started_any_more() {
        let rules = Restarts { budget: 3, ..Restarts::default() };
        assert!(rules.pause(3, 0).is_some());
        assert_eq!(rules.pause(4, 0), None);
        assert_eq!(Restarts { budget: 0, ..rules }.pause(1, 0), None);
    }

    #[test]
    fn half_way_there_is_one_longer_pause() {
        let rules = Restarts::default();
        within(rules.pause(5, 3), rules.storm_pause);
        for calm in [4, 6] {
            assert!(rules.pause(calm, 3).is_some_and(|pause| pause < rules.storm_pause / 2));
        }
    }

    #[test]
    fn dice_spread_the_pauses() {
        let rules = Restarts::default();
        let all: std::collections::BTreeSet<_> = (0..100).map(|dice| rules.pause(8, dice)).collect();
        assert!(all.len() > 80, "{} different pauses of 100", all.len());
    }

    #[test]
    fn no_option_overflows() {
        let day = Duration::from_secs(86_400);
        let rules =
            Restarts { budget: u32::MAX, window: day, backoff: day, backoff_max: day, storm_pause: day };
        within(rules.pause(u32::MAX, u64::MAX), day);
    }

    #[test]
    fn a_failure_is_forgotten_alone_and_a_start_that_never_serves_is_not() {
        let mut failures = Failures::default();
        assert_eq!([failures.died(), failures.died(), failures.unserved()], [1, 2, 3]);
        assert_eq!(failures.count(), 3);
        failures.forgive();
        failures.forgive();
        assert_eq!((failures.count(), failures.unserved()), (1, 4));
        failures.forgive();
        failures.forgive();
        assert_eq!(failures.count(), 2, "two starts in a row have failed");
        failures.serves();
        assert_eq!(failures.count(), 0);
        failures.died();
        assert_eq!(failures.clear().collect::<Vec<_>>(), [5]);
        assert_eq!(failures.clear().count(), 0);
    }
}
