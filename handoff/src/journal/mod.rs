//! The supervisor's memory: append-only, checked, and never on the critical path between seal and start.
//!
//! History and hints: where a claim says something else, the claim is right.

mod format;
mod log;
mod record;
mod replay;
mod state;
mod storage;

pub use log::{Journal, JournalError};
pub use record::Record;
pub use replay::{Replay, Torn, replay};
pub use state::{JournalState, OpenHandoff, Trial};
pub use storage::{MemoryStorage, Storage};
