//! A connection at rest: its descriptor and what the server knew about it.

use super::connection::Connection;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A connection that nobody reads or writes, with the state that goes with it: bytes consumed but not processed,
/// output not yet sent, what the protocol remembers (database, subscriptions, names).
///
/// Dropping it closes this process's copy, without a word on the wire.
#[derive(Clone, Debug)]
pub struct Parked {
    pub(super) fd: Arc<OwnedFd>,
    pub(super) state: Arc<[u8]>,
}

impl Parked {
    /// The most bytes of state a connection may have: 1 MiB. One with more gets the protocol's goodbye.
    pub const MAX_STATE: usize = 1 << 20;

    /// Takes the connection off the event loop and puts it to rest.
    ///
    /// # Errors
    /// `InvalidInput` when the state is longer than [`Self::MAX_STATE`]; else what the kernel says.
    pub fn park(connection: Connection, state: Vec<u8>) -> io::Result<Self> {
        if state.len() > Self::MAX_STATE {
            let why = format!(
                "connection {} has {} bytes of state, at most {} can be handed over: say goodbye to it",
                connection.peer(),
                state.len(),
                Self::MAX_STATE
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        Ok(Self { fd: Arc::new(connection.into_fd()?), state: state.into() })
    }

    /// Wakes it up.
    ///
    /// # Errors
    /// What the kernel says; the copy is closed then.
    pub fn take(self) -> io::Result<(Connection, Vec<u8>)> {
        let state = self.state.to_vec();
        // a second handle is there only while the same process resumes: it keeps its own copy until then
        let fd = match Arc::try_unwrap(self.fd) {
            Ok(fd) => fd,
            Err(shared) => shared.try_clone()?,
        };
        Ok((Connection::adopt(fd)?, state))
    }

    /// The state, without waking the connection up.
    #[must_use]
    pub fn state(&self) -> &[u8] {
        &self.state
    }
}
