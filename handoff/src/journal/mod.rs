//! The supervisor's memory: append-only, checked, and never on the critical path between seal and start.

mod record;

pub use record::Record;
