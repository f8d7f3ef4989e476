//! What a process writes: drained always, kept by a policy, cut into lines for whoever wants lines.

mod buffer;
mod lines;
mod pump;

pub use buffer::{OutputBufferPolicy, OverflowMode};
pub use pump::StdoutLines;
pub(crate) use pump::{LineCallback, Sink};
