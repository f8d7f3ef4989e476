//! One descriptor in reserve: a tree is ended by opening a file, and whoever is out of descriptors must still be able to.

use std::fs::File;
use std::sync::{Mutex, PoisonError};

static SPARE: Mutex<Option<File>> = Mutex::new(None);

/// Have one from now on, if there is one to be had.
pub(super) fn keep() {
    let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    if spare.is_none() {
        *spare = File::open("/dev/null").ok();
    }
}

/// Do something with the room of one descriptor more. Another thread may be faster to take it.
pub(super) fn given_up<T>(work: impl FnOnce() -> T) -> T {
    let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    drop(spare.take());
    let done = work();
    *spare = File::open("/dev/null").ok();
    done
}
