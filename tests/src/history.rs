//! What the clients saw, added up.

use crate::client::Fault;
use crate::linear::{self, Operation};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// The account of one client, or of many.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Requests that were answered as they should be.
    pub answered: u64,
    /// Connections that were made.
    pub connected: u64,
    /// Requests that were not answered, or wrongly.
    pub failed: u64,
    /// Connections that the server ended.
    pub closed: u64,
    /// Connections refused.
    pub refused: u64,
    /// Acknowledged writes that are not there.
    pub lost: u64,
    /// Acknowledged writes or messages that came twice or out of order.
    pub reordered: u64,
    /// Longest time from a request to its answer: what a client calls the pause.
    pub longest: Duration,
    /// Longest time to connect.
    pub longest_connect: Duration,
    /// The first faults, with who saw them.
    pub faults: Vec<String>,
    /// What was asked of keys that clients share, see [`crate::linear::contradictions`].
    pub operations: Vec<Operation>,
}

/// The most faults that are kept word by word.
const KEPT: usize = 20;

impl Tally {
    /// One more request was answered.
    pub fn answer(&mut self, took: Duration) {
        self.answered += 1;
        self.longest = self.longest.max(took);
    }

    /// One more connection was made.
    pub fn connect(&mut self, took: Duration) {
        self.connected += 1;
        self.longest_connect = self.longest_connect.max(took);
    }

    /// Something went wrong.
    pub fn fault(&mut self, who: &str, fault: &Fault) {
        self.failed += 1;
        match fault {
            Fault::Refused => self.refused += 1,
            fault if fault.lost_connection() => self.closed += 1,
            _ => {}
        }
        self.note(format!("{who}: {fault}"));
    }

    /// An acknowledged write is not there.
    pub fn lose(&mut self, count: u64, what: String) {
        self.lost += count;
        self.note(what);
    }

    /// Something came twice or out of order.
    pub fn reorder(&mut self, what: String) {
        self.reordered += 1;
        self.note(what);
    }

    fn note(&mut self, what: String) {
        if self.faults.len() < KEPT {
            self.faults.push(what);
        }
    }

    /// Adds another account.
    pub fn add(&mut self, other: Tally) {
        self.answered += other.answered;
        self.connected += other.connected;
        self.failed += other.failed;
        self.closed += other.closed;
        self.refused += other.refused;
        self.lost += other.lost;
        self.reordered += other.reordered;
        self.longest = self.longest.max(other.longest);
        self.longest_connect = self.longest_connect.max(other.longest_connect);
        for fault in other.faults {
            self.note(fault);
        }
        self.operations.extend(other.operations);
    }

    /// Whether no promise was broken.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.failed == 0 && self.closed == 0 && self.refused == 0 && self.lost == 0 && self.reordered == 0
    }

    /// # Panics
    /// When a promise was broken, with what the clients saw.
    pub fn assert_clean(&self) {
        assert!(self.is_clean(), "the clients noticed:\n{self}");
        self.assert_linearizable();
        assert!(self.answered > 0, "nothing was asked: the load was not there");
    }

    /// # Panics
    /// When an acknowledged write was lost, doubled or reordered. Failed requests are no matter here.
    pub fn assert_nothing_lost(&self) {
        assert!(self.lost == 0 && self.reordered == 0, "acknowledged writes are gone:\n{self}");
        self.assert_linearizable();
        assert!(self.answered > 0, "nothing was asked: the load was not there");
    }

    fn assert_linearizable(&self) {
        let wrong = linear::contradictions(&self.operations);
        assert!(wrong.is_empty(), "not linearizable:\n{}\n{self}", wrong.join("\n"));
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} answered, {} failed, {} connections closed, {} refused, {} writes lost, {} reordered, \
             longest pause {:.1} ms, longest connect {:.1} ms",
            self.answered,
            self.failed,
            self.closed,
            self.refused,
            self.lost,
            self.reordered,
            self.longest.as_secs_f64() * 1e3,
            self.longest_connect.as_secs_f64() * 1e3,
        )?;
        for fault in &self.faults {
            write!(f, "\n  {fault}")?;
        }
        Ok(())
    }
}

/// What one client was acknowledged, and what it must find again.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Counters: the last value that was acknowledged, and how many further increments have an unknown outcome.
    pub counters: BTreeMap<String, Counter>,
    /// Keys and the value that was acknowledged last; not there while the outcome of a write is unknown.
    pub values: BTreeMap<String, String>,
}

/// A counter that only one client increments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Last acknowledged value.
    pub acknowledged: i64,
    /// Increments that were sent and not answered.
    pub unknown: i64,
    /// Increments that nobody waits for any more: who reads them later may do them at any time.
    pub given_up: i64,
}

impl Ledger {
    /// An increment was answered with `value`. Says what is wrong with it.
    pub fn incremented(&mut self, key: &str, value: i64, tally: &mut Tally) {
        let counter = self.counters.entry(key.to_owned()).or_default();
        let least = counter.acknowledged + 1;
        let surely = least + counter.unknown;
        let most = surely + counter.given_up;
        if value < least {
            let count = u64::try_from(least - value).unwrap_or(1);
            tally.lose(
                count,
                format!("{key}: INCR gave {value} after {} was acknowledged", counter.acknowledged),
            );
        } else if value > most {
            tally.reorder(format!("{key}: INCR gave {value}, at most {most} is possible"));
        }
        let given_up = counter.given_up - (value - surely).clamp(0, counter.given_up);
        *counter = Counter { acknowledged: value, unknown: 0, given_up };
    }

    /// An increment was sent and its answer did not come.
    pub fn increment_unknown(&mut self, key: &str) {
        self.counters.entry(key.to_owned()).or_default().unknown += 1;
    }

    /// An increment failed. A connection that its client leaves may still wait in a queue, with the request in it; one
    /// that its server ended is over.
    pub fn increment_failed(&mut self, key: &str, fault: &Fault) {
        match fault {
            Fault::Slow(_) => self.counters.entry(key.to_owned()).or_default().given_up += 1,
            _ => self.increment_unknown(key),
        }
    }

    /// Compares what is read at the end with what was acknowledged.
    pub fn check(&self, mut get: impl FnMut(&str) -> Result<Option<String>, Fault>, tally: &mut Tally) {
        for (key, counter) in &self.counters {
            match get(key) {
                Ok(found) => {
                    let value: i64 = found.as_deref().map_or(Some(0), |text| text.parse().ok()).unwrap_or(-1);
                    if value < counter.acknowledged {
                        let count = u64::try_from(counter.acknowledged - value).unwrap_or(1);
                        tally.lose(
                            count,
                            format!("{key}: {value} at the end, {} acknowledged", counter.acknowledged),
                        );
                    } else if value > counter.acknowledged + counter.unknown + counter.given_up {
                        tally.reorder(format!(
                            "{key}: {value} at the end, {} acknowledged",
                            counter.acknowledged
                        ));
                    }
                }
                Err(fault) => tally.fault(&format!("final GET {key}"), &fault),
            }
        }
        for (key, value) in &self.values {
            match get(key) {
                Ok(found) if found.as_ref() == Some(value) => {}
                Ok(found) => tally.lose(1, format!("{key}: {found:?} at the end, {value:?} acknowledged")),
                Err(fault) => tally.fault(&format!("final GET {key}"), &fault),
            }
        }
    }
}

/// The value below which `percent` of the sorted list lie.
#[must_use]
pub fn percentile(values: &[f64], percent: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    // nearest rank
    let rank = (percent / 100.0 * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_and_a_doubled_increment_are_seen() {
        let (mut ledger, mut tally) = (Ledger::default(), Tally::default());
        ledger.incremented("a", 1, &mut tally);
        ledger.incremented("a", 2, &mut tally);
        assert!(tally.is_clean());
        ledger.incremented("a", 2, &mut tally);
        assert_eq!((tally.lost, tally.reordered), (1, 0));
        ledger.incremented("a", 4, &mut tally);
        assert_eq!((tally.lost, tally.reordered), (1, 1));
        ledger.increment_unknown("a");
        ledger.incremented("a", 6, &mut tally);
        assert_eq!((tally.lost, tally.reordered), (1, 1));
    }

    /// A client gave up after 20 s and asked anew; the server that came then did the old request after the new one, and
    /// the next answer was called one too high (`O.unlock.after/kill9+X.claim.after/stop` of the crash matrix).
    #[test]
    fn a_request_that_was_given_up_may_be_done_after_later_ones() {
        let (mut ledger, mut tally) = (Ledger::default(), Tally::default());
        ledger.incremented("a", 1, &mut tally);
        ledger.increment_failed("a", &Fault::Slow(std::time::Duration::ZERO));
        ledger.incremented("a", 2, &mut tally);
        ledger.incremented("a", 4, &mut tally);
        assert!(tally.is_clean(), "{tally}");
        // and only once
        ledger.incremented("a", 6, &mut tally);
        assert_eq!(tally.reordered, 1);
        ledger.increment_failed("a", &Fault::Closed);
        ledger.incremented("a", 7, &mut tally);
        ledger.incremented("a", 9, &mut tally);
        assert_eq!(tally.reordered, 2);
    }

    #[test]
    fn a_write_that_is_gone_at_the_end_is_seen() {
        let (mut ledger, mut tally) = (Ledger::default(), Tally::default());
        ledger.incremented("a", 1, &mut tally);
        ledger.values.insert("k".into(), "v".into());
        ledger.check(|key| Ok((key == "a").then(|| "1".into())), &mut tally);
        assert_eq!(tally.lost, 1);
        assert!(!tally.is_clean());
    }

    #[test]
    fn percentiles() {
        assert_eq!(percentile(&[3.0, 1.0, 2.0], 50.0), Some(2.0));
        assert_eq!(percentile(&[3.0, 1.0, 2.0], 100.0), Some(3.0));
        assert_eq!(percentile(&[], 50.0), None);
    }
}
