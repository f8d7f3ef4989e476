//! Replace the binary of a running, stateful server while clients keep their connections.

pub mod claim;
pub mod ids;
pub mod journal;
pub mod machine;
pub mod phase;
pub mod wire;

#[cfg(feature = "system")]
pub mod crash;
#[cfg(feature = "system")]
pub mod driver;
#[cfg(feature = "system")]
pub mod error;
#[cfg(feature = "system")]
pub mod os;
#[cfg(feature = "system")]
pub mod sdk;
#[cfg(feature = "system")]
pub mod supervisor;

#[cfg(feature = "system")]
pub use error::{Error, Result};
#[cfg(feature = "system")]
pub use supervisor::{HandoffOutcome, SpawnSpec, Supervisor};
