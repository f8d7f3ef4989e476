//! The commands, by what they are about.

pub(crate) mod connection;
pub(crate) mod keys;
pub(crate) mod pubsub;
pub(crate) mod server;
pub(crate) mod strings;
#[cfg(test)]
mod tests;
