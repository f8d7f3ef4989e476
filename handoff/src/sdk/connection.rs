//! An established connection, TCP or Unix.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connection: read it, write it, [park](super::Parked::park) it.
///
/// Dropping it closes it. One that was taken over is shut down for writing first: another process may still hold a
/// copy, and the client must see the end nevertheless.
pub struct Connection {
    stream: Option<Stream>,
    peer: String,
    adopted: bool,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Connection {
    pub(super) fn from_tcp(stream: std::net::TcpStream, peer: String) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        // requests are answered one by one: waiting for more to send only adds latency
        stream.set_nodelay(true)?;
        let stream = Some(Stream::Tcp(TcpStream::from_std(stream)?));
        Ok(Self { stream, peer, adopted: false })
    }

    pub(super) fn from_unix(stream: std::os::unix::net::UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let stream = Some(Stream::Unix(UnixStream::from_std(stream)?));
        Ok(Self { stream, peer: "unix".to_owned(), adopted: false })
    }

    /// A connection that another process may hold too: no flag or option of it is changed.
    pub(super) fn adopt(fd: OwnedFd) -> io::Result<Self> {
        let (stream, peer) = match family(fd.as_fd())? {
            nix::sys::socket::AddressFamily::Unix => {
                (Stream::Unix(UnixStream::from_std(fd.into())?), "unix".to_owned())
            }
            _ => {
                let stream = TcpStream::from_std(fd.into())?;
                // a connection that was reset meanwhile has no peer any more; reading it will say so
                let peer = stream.peer_addr().map_or_else(|_| "gone".to_owned(), |a| a.to_string());
                (Stream::Tcp(stream), peer)
            }
        };
        Ok(Self { stream: Some(stream), peer, adopted: true })
    }

    /// Takes it off the event loop.
    pub(super) fn into_fd(mut self) -> io::Result<OwnedFd> {
        match self.stream.take() {
            Some(Stream::Tcp(stream)) => stream.into_std().map(OwnedFd::from),
            Some(Stream::Unix(stream)) => stream.into_std().map(OwnedFd::from),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn stream(&self) -> &Stream {
        self.stream.as_ref().expect("only into_fd and drop take the stream, and both consume the connection")
    }

    fn stream_mut(&mut self) -> &mut Stream {
        self.stream.as_mut().expect("only into_fd and drop take the stream, and both consume the connection")
    }

    /// The other side's address, `unix` for a Unix socket.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Whether it came from an earlier tenure.
    #[must_use]
    pub fn is_adopted(&self) -> bool {
        self.adopted
    }

    /// Waits until there is something to read (or the end). Cancel safe.
    ///
    /// # Errors
    /// When the runtime shuts down.
    pub async fn readable(&self) -> io::Result<()> {
        match self.stream() {
            Stream::Tcp(s) => s.readable().await,
            Stream::Unix(s) => s.readable().await,
        }
    }

    /// Waits until something can be written. Cancel safe.
    ///
    /// # Errors
    /// When the runtime shuts down.
    pub async fn writable(&self) -> io::Result<()> {
        match self.stream() {
            Stream::Tcp(s) => s.writable().await,
            Stream::Unix(s) => s.writable().await,
        }
    }

    /// Reads what is there.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; else what the kernel says.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.stream() {
            Stream::Tcp(s) => s.try_read(buffer),
            Stream::Unix(s) => s.try_read(buffer),
        }
    }

    /// Writes what fits.
    ///
    /// # Errors
    /// `WouldBlock` when nothing fits; else what the kernel says.
    pub fn try_write(&self, buffer: &[u8]) -> io::Result<usize> {
        match self.stream() {
            Stream::Tcp(s) => s.try_write(buffer),
            Stream::Unix(s) => s.try_write(buffer),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let (true, Some(stream)) = (self.adopted, &self.stream) {
            let fd = match stream {
                Stream::Tcp(s) => s.as_raw_fd(),
                Stream::Unix(s) => s.as_raw_fd(),
            };
            // fails only when the connection is already gone
            let _ = nix::sys::socket::shutdown(fd, nix::sys::socket::Shutdown::Write);
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).field("adopted", &self.adopted).finish()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.stream_mut() {
            Stream::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Stream::Unix(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.stream_mut() {
            Stream::Tcp(s) => Pin::new(s).poll_write(cx, buf),
            Stream::Unix(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.stream_mut() {
            Stream::Tcp(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Stream::Unix(s) => Pin::new(s).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.stream_mut() {
            Stream::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Stream::Unix(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}

/// The address family of a socket.
fn family(fd: BorrowedFd<'_>) -> io::Result<nix::sys::socket::AddressFamily> {
    use nix::sys::socket::{SockaddrLike as _, SockaddrStorage, getsockname};
    let address: SockaddrStorage = getsockname(fd.as_raw_fd())?;
    address.family().ok_or_else(|| io::Error::other("a socket of an unknown family"))
}
