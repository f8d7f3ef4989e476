//! A stream socket that carries frames and descriptors.
//!
//! Descriptors go with the first byte of the frame that names them, one frame a `sendmsg`. Sending never blocks: what
//! the socket does not take at once waits in a bounded queue, and a peer that does not read ends the channel. What a
//! peer had sent before it died is still received, then the end.

mod receiver;
mod sender;
#[cfg(test)]
mod tests;

pub use receiver::{Received, Receiver};
pub use sender::Sender;

use super::fds::{self, Credentials};
use super::listeners::set_nonblocking;
use crate::wire::Stamped;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, sockopt};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;

/// A frame has to be whole this long after its first byte.
pub const READ_DEADLINE: Duration = Duration::from_secs(5);
/// A peer has to take something within this while frames wait for it.
pub const WRITE_DEADLINE: Duration = Duration::from_secs(10);
/// The most bytes that wait for a peer.
pub const QUEUE_BYTES: usize = 4 << 20;
/// The most frames that wait for a peer.
pub const QUEUE_FRAMES: usize = 4096;

/// Why a channel ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Closed {
    /// The peer closed it or died.
    #[error("the peer closed the connection")]
    Eof,
    /// The peer died in the middle of a frame.
    #[error("the peer closed the connection in the middle of a frame")]
    Cut,
    /// The peer does not speak the protocol.
    #[error("protocol error: {0}")]
    Protocol(String),
    /// The peer does not read what it is sent.
    #[error("the peer does not read: {0}")]
    Stalled(String),
    /// The kernel says.
    #[error("{0}")]
    Io(String),
}

/// Both directions of one connection. [`Self::split`] it to send and receive in different places.
#[derive(Debug)]
pub struct Channel {
    sender: Sender,
    receiver: Receiver,
}

impl Channel {
    /// Makes a channel of a connected Unix stream socket. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// `InvalidInput` when it is something else; else what the kernel says.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        Self::with_room(fd, fds::MAX_FDS)
    }

    /// With room for fewer descriptors than may come.
    fn with_room(fd: OwnedFd, room: usize) -> io::Result<Self> {
        let not_a_stream =
            || io::Error::new(io::ErrorKind::InvalidInput, "not a connected unix stream socket");
        let kind = socket::getsockopt(&fd, sockopt::SockType).map_err(|_| not_a_stream())?;
        if kind != SockType::Stream || !super::listeners::is_unix(fd.as_fd())? {
            return Err(not_a_stream());
        }
        set_nonblocking(&fd)?;
        let shared = Arc::new(sender::Shared::new(fds::watch(fd, Interest::READABLE | Interest::WRITABLE)?));
        let sender = Sender::new(Arc::clone(&shared));
        let weak = Arc::downgrade(&shared);
        crate::crash::channel(move || {
            if let Some(shared) = weak.upgrade() {
                // broken already is broken
                let _ = socket::shutdown(shared.socket.as_raw_fd(), socket::Shutdown::Both);
            }
        });
        Ok(Self { receiver: Receiver::new(shared, sender.clone(), room), sender })
    }

    /// A connected pair, close-on-exec: [`Self::from_fd`] for one's own end, the other to be passed on.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
        Ok(socket::socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?)
    }

    /// Queues a frame with its descriptors and writes as much as the socket takes right now. Never blocks and never
    /// fails: a channel that has ended drops it, and [`Self::recv`] says why.
    pub fn send(&self, frame: &Stamped, fds: Vec<Arc<OwnedFd>>) {
        self.sender.send(frame, fds);
    }

    /// The next frame. Cancel safe.
    ///
    /// # Errors
    /// [`Closed`], after everything that arrived before; from then on always the same.
    pub async fn recv(&mut self) -> Result<Received, Closed> {
        self.receiver.recv().await
    }

    /// Waits until everything queued is written to the socket, or the channel has ended. Cancel safe.
    pub async fn flush(&self) {
        self.sender.flush().await;
    }

    /// The wire version frames are written in; the lowest until this is called.
    pub fn set_version(&self, version: u16) {
        self.sender.set_version(version);
    }

    /// Another handle to send with.
    #[must_use]
    pub fn sender(&self) -> Sender {
        self.sender.clone()
    }

    /// The two directions.
    #[must_use]
    pub fn split(self) -> (Sender, Receiver) {
        (self.sender, self.receiver)
    }

    /// Who connected, as the kernel knows it (`SO_PEERCRED`). On a socketpair that is its creator.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn peer(&self) -> io::Result<Credentials> {
        let c = socket::getsockopt(self.sender.socket(), sockopt::PeerCredentials)?;
        Ok(Credentials { pid: c.pid(), uid: c.uid(), gid: c.gid() })
    }

    /// A pidfd of who connected (`SO_PEERPIDFD`, Linux 6.5).
    ///
    /// # Errors
    /// `ENOPROTOOPT` where the kernel has none.
    pub fn peer_pidfd(&self) -> io::Result<OwnedFd> {
        Ok(socket::getsockopt(self.sender.socket(), sockopt::PeerPidfd)?)
    }

    /// From now on the kernel says who sends (`SCM_CREDENTIALS`). Call it before the peer can send.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn want_credentials(&self) -> io::Result<()> {
        Ok(socket::setsockopt(self.sender.socket(), sockopt::PassCred, &true)?)
    }

    /// Who sent the first frame, after [`Self::want_credentials`].
    #[must_use]
    pub fn first_sender(&self) -> Option<Credentials> {
        self.receiver.first_sender()
    }
}
