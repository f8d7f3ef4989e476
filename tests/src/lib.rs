//! Rig, clients and histories for the cross-crate tests and the demo.

pub mod arrivals;
pub mod bins;
pub mod client;
pub mod crashes;
pub mod fill;
pub mod history;
pub mod linear;
pub mod load;
pub mod prober;
pub mod records;
pub mod redis_benchmark;
pub mod rig;
pub mod service_manager;
pub mod strace;
pub mod systemd;
pub mod witness;
