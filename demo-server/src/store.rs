//! The data: keys and their values, in memory. Pure: no clock, no disk.
//!
//! It changes only by [`Operation`]s, so that what a replay of the log makes is what was there. An expired key is
//! absent for every reader who says what time it is, and stays in memory until an operation deletes it.

use crate::operation::Operation;
use std::collections::{BTreeSet, HashMap};

/// Keys are spread over this many maps: a map that grows is a small one, and a bucket's number is a SCAN cursor that
/// stays good while keys come and go and while the program is replaced.
const BUCKETS: usize = 4096;

/// What a key costs besides its bytes, about.
const OVERHEAD: usize = 64;

/// All keys.
#[derive(Debug)]
pub(crate) struct Store {
    buckets: Vec<HashMap<Box<[u8]>, Entry>>,
    expiries: BTreeSet<(u64, Box<[u8]>)>,
    keys: usize,
    bytes: usize,
}

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) value: Vec<u8>,
    /// Unix milliseconds.
    pub(crate) expires: Option<u64>,
}

/// What an operation replaced, see [`Store::undo`].
#[derive(Debug)]
pub(crate) enum Prior {
    Entry(Option<Entry>),
    Entries(Vec<Option<Entry>>),
    Length(Option<usize>),
    Expiry(Option<Option<u64>>),
    Everything(Box<Store>),
}

impl Default for Store {
    fn default() -> Self {
        let buckets = (0..BUCKETS).map(|_| HashMap::new()).collect();
        Self { buckets, expiries: BTreeSet::new(), keys: 0, bytes: 0 }
    }
}

impl Entry {
    fn live(&self, now: u64) -> bool {
        self.expires.is_none_or(|at| now < at)
    }
}

impl Store {
    /// What the key holds at this time.
    pub(crate) fn get(&self, key: &[u8], now: u64) -> Option<&Entry> {
        self.buckets[bucket(key)].get(key).filter(|entry| entry.live(now))
    }

    /// Number of keys, expired ones that are still here included.
    pub(crate) fn len(&self) -> usize {
        self.keys
    }

    /// Number of keys that end some day.
    pub(crate) fn expiring(&self) -> usize {
        self.expiries.len()
    }

    /// Memory in use, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes + self.keys * OVERHEAD
    }

    /// Up to `limit` keys that have expired, earliest first.
    pub(crate) fn expired(&self, now: u64, limit: usize) -> Vec<Box<[u8]>> {
        self.expiries
            .iter()
            .take_while(|(at, _)| *at <= now)
            .take(limit)
            .map(|(_, key)| key.clone())
            .collect()
    }

    /// All keys at this time.
    pub(crate) fn keys(&self, now: u64) -> impl Iterator<Item = &[u8]> {
        self.entries().filter(move |(_, entry)| entry.live(now)).map(|(key, _)| key)
    }

    /// All keys with what they hold, expired ones too.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&[u8], &Entry)> {
        self.buckets.iter().flatten().map(|(key, entry)| (&key[..], entry))
    }

    /// Visits whole buckets from `cursor` on until at least `count` keys were seen; gives the next cursor, 0 at the
    /// end. A key that is there from the first call to the last is visited.
    pub(crate) fn scan<'a>(
        &'a self,
        cursor: u64,
        count: usize,
        now: u64,
        mut visit: impl FnMut(&'a [u8]),
    ) -> u64 {
        let start = usize::try_from(cursor).map_or(BUCKETS, |n| n.min(BUCKETS));
        let mut seen = 0;
        for (n, bucket) in self.buckets.iter().enumerate().skip(start) {
            bucket.iter().filter(|(_, entry)| entry.live(now)).for_each(|(key, _)| visit(key));
            seen += bucket.len();
            if seen >= count && n + 1 < BUCKETS {
                return n as u64 + 1;
            }
        }
        0
    }

    /// Makes the operation true and gives what it replaced.
    pub(crate) fn apply(&mut self, operation: &Operation<'_>) -> Prior {
        match operation {
            Operation::Set { key, value, expires } => {
                Prior::Entry(self.put(key, Entry { value: value.to_vec(), expires: *expires }))
            }
            Operation::SetMany(pairs) => Prior::Entries(
                pairs.iter().map(|(k, v)| self.put(k, Entry { value: v.to_vec(), expires: None })).collect(),
            ),
            Operation::Append { key, value } => {
                Prior::Length(self.buckets[bucket(key)].get_mut(*key).map(|entry| {
                    let before = entry.value.len();
                    entry.value.extend_from_slice(value);
                    self.bytes += value.len();
                    before
                }))
            }
            Operation::Expire { key, at } => Prior::Expiry(self.expire(key, *at)),
            Operation::Delete(keys) => Prior::Entries(keys.iter().map(|key| self.remove(key)).collect()),
            Operation::Clear => Prior::Everything(Box::new(std::mem::take(self))),
        }
    }

    /// Takes an operation back: the newest first, each with what [`Self::apply`] gave for it.
    pub(crate) fn undo(&mut self, operation: &Operation<'_>, prior: Prior) {
        match (operation, prior) {
            (Operation::Set { key, .. }, Prior::Entry(entry)) => self.restore(key, entry),
            (Operation::SetMany(pairs), Prior::Entries(entries)) => {
                for ((key, _), entry) in pairs.iter().zip(entries).rev() {
                    self.restore(key, entry);
                }
            }
            (Operation::Delete(keys), Prior::Entries(entries)) => {
                for (key, entry) in keys.iter().zip(entries).rev() {
                    self.restore(key, entry);
                }
            }
            (Operation::Append { key, .. }, Prior::Length(Some(before))) => {
                if let Some(entry) = self.buckets[bucket(key)].get_mut(*key) {
                    self.bytes -= entry.value.len() - before;
                    entry.value.truncate(before);
                }
            }
            (Operation::Expire { key, .. }, Prior::Expiry(Some(before))) => {
                self.expire(key, before);
            }
            (Operation::Clear, Prior::Everything(before)) => *self = *before,
            (Operation::Append { .. }, Prior::Length(None))
            | (Operation::Expire { .. }, Prior::Expiry(None)) => {}
            (operation, prior) => unreachable!("{prior:?} is not of {operation:?}"),
        }
    }

    fn restore(&mut self, key: &[u8], entry: Option<Entry>) {
        match entry {
            Some(entry) => self.put(key, entry),
            None => self.remove(key),
        };
    }

    fn put(&mut self, key: &[u8], entry: Entry) -> Option<Entry> {
        if let Some(at) = entry.expires {
            self.expiries.insert((at, key.into()));
        }
        self.bytes += entry.value.len();
        let expires = entry.expires;
        let bucket = &mut self.buckets[bucket(key)];
        let before = match bucket.get_mut(key) {
            Some(present) => Some(std::mem::replace(present, entry)),
            None => {
                self.keys += 1;
                self.bytes += key.len();
                bucket.insert(key.into(), entry)
            }
        };
        if let Some(before) = &before {
            self.bytes -= before.value.len();
            if before.expires != expires {
                self.forget(key, before.expires);
            }
        }
        before
    }

    fn remove(&mut self, key: &[u8]) -> Option<Entry> {
        let before = self.buckets[bucket(key)].remove(key)?;
        self.keys -= 1;
        self.bytes -= key.len() + before.value.len();
        self.forget(key, before.expires);
        Some(before)
    }

    fn expire(&mut self, key: &[u8], at: Option<u64>) -> Option<Option<u64>> {
        let before = std::mem::replace(&mut self.buckets[bucket(key)].get_mut(key)?.expires, at);
        self.forget(key, before);
        if let Some(at) = at {
            self.expiries.insert((at, key.into()));
        }
        Some(before)
    }

    fn forget(&mut self, key: &[u8], expires: Option<u64>) {
        if let Some(at) = expires {
            self.expiries.remove(&(at, Box::from(key)));
        }
    }
}

/// The same in every process: SCAN cursors depend on it.
fn bucket(key: &[u8]) -> usize {
    crc32c::crc32c(key) as usize % BUCKETS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::tests::any_operation;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    type Content = (BTreeMap<Vec<u8>, Entry>, BTreeSet<(u64, Box<[u8]>)>, usize, usize);

    fn content(store: &Store) -> Content {
        let entries = store.entries().map(|(k, e)| (k.to_vec(), e.clone())).collect();
        (entries, store.expiries.clone(), store.keys, store.bytes)
    }

    proptest! {
        #[test]
        fn undo_takes_back(base in prop::collection::vec(any_operation(), 0..20), ops in prop::collection::vec(any_operation(), 0..20)) {
            let mut store = Store::default();
            for op in &base {
                store.apply(&op.borrow());
            }
            let before = content(&store);
            let priors: Vec<_> = ops.iter().map(|op| store.apply(&op.borrow())).collect();
            for (op, prior) in ops.iter().zip(priors).rev() {
                store.undo(&op.borrow(), prior);
            }
            prop_assert_eq!(content(&store), before);
        }

        #[test]
        fn the_counts_are_those_of_the_content(ops in prop::collection::vec(any_operation(), 0..40)) {
            let mut store = Store::default();
            for op in &ops {
                store.apply(&op.borrow());
            }
            let (entries, expiries, keys, bytes) = content(&store);
            prop_assert_eq!(keys, entries.len());
            prop_assert_eq!(bytes, entries.iter().map(|(k, e)| k.len() + e.value.len()).sum::<usize>());
            let expected: BTreeSet<_> = entries.iter().filter_map(|(k, e)| Some((e.expires?, k.clone().into()))).collect();
            prop_assert_eq!(expiries, expected);
        }
    }

    #[test]
    fn expiry_is_decided_by_the_given_time() {
        let mut store = Store::default();
        store.apply(&Operation::Set { key: b"k", value: b"v", expires: Some(10) });
        assert!(store.get(b"k", 9).is_some());
        assert!(store.get(b"k", 10).is_none());
        assert_eq!(store.expired(9, 5).len(), 0);
        assert_eq!(store.expired(10, 5), [Box::from(&b"k"[..])]);
        assert_eq!((store.keys(9).count(), store.keys(10).count()), (1, 0));
    }

    #[test]
    fn a_scan_sees_what_stays() {
        let mut store = Store::default();
        let name = |n: u32| n.to_string().into_bytes();
        for n in 0..5000 {
            store.apply(&Operation::Set { key: &name(n), value: b"", expires: None });
        }
        let (mut cursor, mut seen, mut calls) = (0, BTreeSet::new(), 0);
        loop {
            cursor = store.scan(cursor, 10, 0, |key| {
                seen.insert(key.to_vec());
            });
            // what comes and goes meanwhile does not disturb
            store.apply(&Operation::Set { key: &name(10_000 + calls), value: b"", expires: None });
            calls += 1;
            if cursor == 0 {
                break;
            }
        }
        assert!(calls > 100);
        assert!((0..5000).all(|n| seen.contains(&name(n))));
    }
}
