//! What a server author uses: two traits, one entry point.
//!
//! Implement [`Successor`] (load, open, begin to serve) and [`Incumbent`] (drain, seal, resume, retire), call
//! [`serve`] from `main`. The same program is then started by hand, by a service manager, cold by a supervisor, or as
//! the successor of a running server; each path is written once.

mod canary;
mod connection;
mod context;
mod control;
mod entry;
mod environment;
mod facts;
mod gate;
mod health;
mod host;
mod incumbent;
mod launch;
mod leaving;
mod parked;
mod service;
mod successor;
mod takeover;
mod tenure;
#[cfg(test)]
mod tests;
mod transfer;
mod world;

pub use crate::ids::{Digest, Epoch, InstanceId, ShardDigest};
pub use crate::wire::{Formats, Strategy};
pub use connection::Connection;
pub use context::{Context, Disk, DrainReport, Opened, Progress};
pub use entry::serve;
pub use gate::AcceptGuard;
pub use incumbent::Incumbent;
pub use launch::{Error, Launch};
pub use leaving::Leaving;
pub use parked::Parked;
pub use service::{HookError, HookResult, Service};
pub use successor::Successor;
pub use tenure::{Arrivals, Listener, SealGuard, Sealed, Tenure};
