//! Armed timers of one role, on the monotonic clock.

use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// What runs out when. Each key has at most one deadline: arming it again starts it anew.
#[derive(Clone, Debug)]
pub struct Timers<K> {
    armed: BTreeMap<K, Instant>,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Self { armed: BTreeMap::new() }
    }
}

impl<K: Ord + Copy> Timers<K> {
    /// Starts a timer, anew if it ran. The duration counts as it is: scale it before.
    pub fn arm(&mut self, key: K, after: Duration) {
        let now = Instant::now();
        // longer than the clock can count: in thirty years
        let at = now.checked_add(after).unwrap_or_else(|| now + Duration::from_secs(86_400 * 365 * 30));
        self.armed.insert(key, at);
    }

    /// Stops a timer.
    pub fn disarm(&mut self, key: K) {
        self.armed.remove(&key);
    }

    /// What is armed, and the time left to each.
    pub fn left(&self) -> impl Iterator<Item = (K, Duration)> + '_ {
        let now = Instant::now();
        self.armed.iter().map(move |(&key, &at)| (key, at.saturating_duration_since(now)))
    }

    /// When the next one runs out.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.armed.values().min().copied()
    }

    /// Takes the one that ran out first, if any did.
    pub fn take_expired(&mut self) -> Option<K> {
        let (&key, &at) = self.armed.iter().min_by_key(|&(_, at)| at)?;
        if at > Instant::now() {
            return None;
        }
        self.armed.remove(&key);
        Some(key)
    }

    /// Waits until one runs out, for ever if none is armed. Cancel safe.
    pub async fn expired(&self) {
        match self.next() {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_run_out_in_order_and_once() {
        let mut timers = Timers::default();
        timers.arm('b', Duration::from_nanos(2));
        timers.arm('a', Duration::ZERO);
        timers.arm('c', Duration::from_secs(3600));
        while timers.next().is_some_and(|at| at > Instant::now()) {}
        let mut out = Vec::new();
        while out.len() < 2 {
            out.extend(timers.take_expired());
        }
        out.sort_unstable();
        assert_eq!(out, ['a', 'b']);
        assert_eq!(timers.take_expired(), None);
    }

    #[test]
    fn arming_again_starts_anew_and_disarming_stops() {
        let mut timers = Timers::default();
        timers.arm('a', Duration::ZERO);
        timers.arm('a', Duration::MAX);
        assert_eq!(timers.take_expired(), None);
        timers.arm('a', Duration::ZERO);
        timers.disarm('a');
        assert_eq!(timers.take_expired(), None);
        assert_eq!(timers.next(), None);
    }
}
