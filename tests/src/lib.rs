//! Rig, clients and histories for the cross-crate tests and the demo.

pub mod bins;
pub mod client;
pub mod history;
pub mod load;
pub mod rig;
