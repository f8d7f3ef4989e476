//! Replace the binary of a running, stateful server while clients keep their connections.

pub mod claim;
pub mod ids;
pub mod journal;
pub mod machine;
pub mod phase;
pub mod wire;
