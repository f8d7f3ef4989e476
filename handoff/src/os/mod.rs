//! The one door to the kernel: channels with descriptors, listeners, files, locks, claims.

pub mod channel;
pub mod fds;
pub mod listeners;
pub mod queue;
pub mod timers;
