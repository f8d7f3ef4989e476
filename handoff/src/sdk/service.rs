//! What a service is, and what its hooks may say when they cannot do their work.

use crate::wire::{Formats, Strategy};
use std::error::Error;
use std::fmt;

/// Name, strategy and formats of a service: what two builds compare before one takes over from the other.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// The name: builds with different names never take over from each other. At most 64 bytes.
    pub name: &'static str,
    /// In which order it is handed over.
    pub strategy: Strategy,
    /// Every state format this build reads.
    pub state_reads: &'static [u32],
    /// The state format this build writes.
    pub state_writes: u32,
    /// Every format of parked connections this build reads; empty: connections are not handed over.
    pub connection_reads: &'static [u32],
    /// The format in which this build parks connections; 0 = none.
    pub connection_writes: u32,
}

impl Service {
    /// A service of this name with one writer, format 1 of everything. Change the fields where that is not so.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            strategy: Strategy::Exclusive,
            state_reads: &[1],
            state_writes: 1,
            connection_reads: &[1],
            connection_writes: 1,
        }
    }

    pub(super) fn state(&self) -> Formats {
        Formats { reads: self.state_reads.to_vec(), writes: self.state_writes }
    }

    pub(super) fn connections(&self) -> Formats {
        Formats { reads: self.connection_reads.to_vec(), writes: self.connection_writes }
    }
}

/// Why a hook could not do its work. Every error type converts into it, so `?` works in hooks.
pub struct HookError(Box<dyn Error + Send + Sync>);

/// What hooks return.
pub type HookResult<T> = Result<T, HookError>;

impl HookError {
    /// An error that is only a sentence.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into().into())
    }
}

// not `std::error::Error` itself: the conversion below would overlap with the reflexive one
impl<E: Error + Send + Sync + 'static> From<E> for HookError {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

impl fmt::Display for HookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for HookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_error_tells_its_whole_story() {
        #[derive(Debug, thiserror::Error)]
        #[error("the log cannot be read")]
        struct Outer(#[source] std::io::Error);
        let error = HookError::from(Outer(std::io::Error::other("bad sector")));
        assert_eq!(error.to_string(), "the log cannot be read: bad sector");
    }
}
