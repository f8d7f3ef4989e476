//! The one door to the kernel: channels with descriptors, listeners, files, locks, claims, kept builds.

pub mod builds;
pub mod channel;
pub mod claims;
pub mod exec;
pub mod fds;
pub mod files;
pub mod identity;
pub mod journal_file;
pub mod listeners;
pub mod lock;
pub mod queue;
pub mod service_manager;
pub mod stop_signals;
pub mod timers;

#[cfg(test)]
pub(crate) mod test;
