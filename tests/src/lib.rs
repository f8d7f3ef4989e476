//! Rig, clients and histories for the cross-crate tests and the demo.

pub mod bins;
pub mod client;
pub mod crashes;
pub mod history;
pub mod load;
pub mod prober;
pub mod records;
pub mod rig;
