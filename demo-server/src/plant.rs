//! A bug on purpose that takes more than a line, for the crash matrix (see `handoff::crash::planted`): a successor
//! answers the first read of a key with what it held before the handoff.

use crate::store::Store;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

static OLD: Mutex<BTreeMap<Box<[u8]>, Vec<u8>>> = Mutex::new(BTreeMap::new());

/// What the keys hold that many clients share.
pub(crate) fn remember(store: &Store) {
    let shared = store.entries().filter(|(key, _)| key.windows(8).any(|part| part == b":shared:"));
    let mut old = OLD.lock().unwrap_or_else(PoisonError::into_inner);
    old.extend(shared.map(|(key, entry)| (Box::from(key), entry.value.clone())));
}

/// What this key held, once.
pub(crate) fn recall(key: &[u8]) -> Option<Vec<u8>> {
    OLD.lock().unwrap_or_else(PoisonError::into_inner).remove(key)
}
