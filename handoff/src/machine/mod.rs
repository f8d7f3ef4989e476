//! The three roles as pure state machines, and the one way to find out where everything stands.

// a new input or state must break the build in every row
#![cfg_attr(not(test), warn(clippy::wildcard_enum_match_arm))]

mod fit;
mod incumbent;
mod instance;
pub mod recovery;
mod restarts;
mod step;
mod successor;
mod supervisor;

pub use incumbent::Incumbent;
pub use instance::Instance;
pub use restarts::Restarts;
pub use step::{
    Command, Effect, Effects, Ended, Ending, Facts, Hook, Input, ListenerSet, Machine, Outcome, Peer, Report,
    Step, Timer, Upgrade, Violation, Way, Which, times,
};
pub use successor::Successor;
pub use supervisor::Supervisor;
