//! A tenure: the right to serve under one epoch, with the listeners that go with it.

use super::connection::Connection;
use super::gate::{AcceptGuard, Gate, Registration};
use super::parked::Parked;
use super::{HookError, HookResult};
use crate::ids::{Digest, Epoch, InstanceId, ListenerName};
use crate::os::fds::watch;
use crate::os::listeners::{Kind, validate};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

/// The right to serve under one epoch. Exists only after the claim of that epoch is durable.
#[derive(Debug)]
pub struct Tenure {
    pub(super) epoch: Epoch,
    pub(super) instance: InstanceId,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) listeners: Vec<(ListenerName, Arc<OwnedFd>)>,
    pub(super) connection_format: u32,
    pub(super) gate: Gate,
    pub(super) arrivals: Mutex<Option<mpsc::UnboundedReceiver<Parked>>>,
}

/// Connections that a retiring incumbent lets go of, one by one (overlap strategy).
#[derive(Debug)]
pub struct Arrivals(Option<mpsc::UnboundedReceiver<Parked>>);

impl Arrivals {
    /// The next one; `None` when no more will come. Cancel safe.
    pub async fn next(&mut self) -> Option<Parked> {
        self.0.as_mut()?.recv().await
    }
}

impl Tenure {
    /// The format of the parked connections that come with this tenure; 0 when there are none.
    #[must_use]
    pub fn connection_format(&self) -> u32 {
        self.connection_format
    }

    /// The epoch: the fencing token to write into each log record.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// This process's instance id.
    #[must_use]
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// The data directory; `None` for a stateless service.
    #[must_use]
    pub fn data_dir(&self) -> Option<&Path> {
        self.data_dir.as_deref()
    }

    /// The names of all listeners, inherited and bound.
    pub fn listener_names(&self) -> impl Iterator<Item = &ListenerName> {
        self.listeners.iter().map(|(name, _)| name)
    }

    /// The connections that the incumbent hands over after this tenure began: none under the exclusive strategy, whose
    /// connections all come at once. Call it once.
    #[must_use]
    pub fn arrivals(&self) -> Arrivals {
        Arrivals(self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).take())
    }

    /// A listener of this name of whatever kind, as a descriptor of its own: datagram and seqpacket sockets have no
    /// accept gate. The description is shared with every other instance: it is non-blocking, change no flag.
    ///
    /// # Errors
    /// When there is no listener of this name.
    pub fn socket(&self, name: &str) -> HookResult<OwnedFd> {
        Ok(self.find(name)?.try_clone()?)
    }

    fn find(&self, name: &str) -> HookResult<&Arc<OwnedFd>> {
        self.listeners.iter().find(|(n, _)| n.as_str() == name).map(|(_, fd)| fd).ok_or_else(|| {
            let names = self.listener_names().map(ListenerName::as_str).collect::<Vec<_>>().join(", ");
            HookError::new(format!("no listener {name:?}: there are [{names}]"))
        })
    }

    /// The listener of this name, to accept on. Call it once and clone the result.
    ///
    /// # Errors
    /// When there is no listener of this name, or it is none that accepts.
    pub fn listener(&self, name: &str) -> HookResult<Listener> {
        let fd = self.find(name)?;
        if matches!(validate(fd.as_fd())?, Kind::Udp | Kind::UnixDatagram) {
            let why = format!(
                "the listener {name:?} takes datagrams, nobody can connect to it: give a stream address"
            );
            return Err(HookError::new(why));
        }
        // a descriptor of its own: an earlier tenure's registration of the same one may not be gone yet
        let own = fd.try_clone()?;
        let source = if crate::os::listeners::is_unix(own.as_fd())? {
            Source::Unix(watch(own.into(), Interest::READABLE)?)
        } else {
            Source::Tcp(watch(own.into(), Interest::READABLE)?)
        };
        let slot = Arc::new(Slot(Mutex::new(Some(Arc::new(source)))));
        let weak: Weak<Slot> = Arc::downgrade(&slot);
        self.gate.register(weak);
        Ok(Listener { name: Arc::from(name), slot, gate: self.gate.clone() })
    }
}

/// A listener of one tenure.
#[derive(Clone, Debug)]
pub struct Listener {
    name: Arc<str>,
    slot: Arc<Slot>,
    gate: Gate,
}

/// Empty once the gate is closed; with the last accept that waits on it, the source leaves the event loop.
#[derive(Debug)]
struct Slot(Mutex<Option<Arc<Source>>>);

impl Slot {
    fn source(&self) -> Option<Arc<Source>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Registration for Slot {
    fn release(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

#[derive(Debug)]
enum Source {
    Tcp(AsyncFd<std::net::TcpListener>),
    Unix(AsyncFd<std::os::unix::net::UnixListener>),
}

impl Listener {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next connection; `None` when the gate is closed: this tenure accepts no more. Cancel safe.
    ///
    /// # Errors
    /// What accept(2) says, other than errors of a connection that died in the queue. After `EMFILE` and the like
    /// wait a moment before the next call.
    pub async fn accept(&self) -> io::Result<Option<(Connection, AcceptGuard)>> {
        loop {
            let Some(source) = self.slot.source() else { return Ok(None) };
            tokio::select! {
                biased;
                () = self.gate.closed() => return Ok(None),
                () = self.gate.visited(&self.name) => {}
                ready = source.ready() => ready?,
            }
            if let Some((visitor, guard)) = self.gate.admit(&self.name) {
                match Connection::from_unix(visitor) {
                    Ok(connection) => return Ok(Some((connection, guard))),
                    Err(_) => continue,
                }
            }
            match self.gate.pass(|| source.accept()) {
                None => return Ok(None),
                Some(Ok((accepted, guard))) => match accepted.into_connection() {
                    Ok(connection) => return Ok(Some((connection, guard))),
                    // it died between the queue and here
                    Err(_) => continue,
                },
                Some(Err(e)) if is_transient(&e) => continue,
                Some(Err(e)) => return Err(e),
            }
        }
    }
}

enum Accepted {
    Tcp(std::net::TcpStream, String),
    Unix(std::os::unix::net::UnixStream),
}

impl Accepted {
    fn into_connection(self) -> io::Result<Connection> {
        match self {
            Accepted::Tcp(stream, peer) => Connection::from_tcp(stream, peer),
            Accepted::Unix(stream) => Connection::from_unix(stream),
        }
    }
}

impl Source {
    async fn ready(&self) -> io::Result<()> {
        // the guard is dropped with the readiness kept: `accept` clears it when the queue turns out empty
        match self {
            Source::Tcp(fd) => drop(fd.readable().await?),
            Source::Unix(fd) => drop(fd.readable().await?),
        }
        Ok(())
    }

    fn accept(&self) -> io::Result<Accepted> {
        match self {
            Source::Tcp(fd) => fd
                .try_io(Interest::READABLE, |l| l.accept())
                .map(|(stream, peer)| Accepted::Tcp(stream, peer.to_string())),
            Source::Unix(fd) => {
                fd.try_io(Interest::READABLE, |l| l.accept()).map(|(stream, _)| Accepted::Unix(stream))
            }
        }
    }
}

/// Errors that belong to one connection in the queue, not to the listener.
fn is_transient(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::WouldBlock
            | K::Interrupted
            | K::ConnectionAborted
            | K::ConnectionReset
            | K::TimedOut
            | K::HostUnreachable
    )
}

/// The listener that canaries are for.
pub(super) fn first_stream<F: AsFd>(listeners: &[(ListenerName, F)]) -> Option<&ListenerName> {
    let stream = |fd: &F| matches!(validate(fd.as_fd()), Ok(Kind::Tcp | Kind::Unix));
    listeners.iter().find(|(_, fd)| stream(fd)).map(|(name, _)| name)
}

/// What the seal hook is given: the accept gate is closed and no accept is in flight.
#[derive(Debug)]
pub struct SealGuard {
    pub(super) connection_format: Option<u32>,
    pub(super) budget: std::time::Duration,
}

impl SealGuard {
    /// The format in which connections are to be parked; `None`: the successor reads none that this build writes,
    /// so every connection gets the protocol's goodbye.
    #[must_use]
    pub fn connection_format(&self) -> Option<u32> {
        self.connection_format
    }

    /// Longest time from here to the successor's start.
    #[must_use]
    pub fn budget(&self) -> std::time::Duration {
        self.budget
    }

    /// The state is durable and will not change any more; these connections can be handed over.
    #[must_use]
    pub fn complete(self, digest: Digest, parked: Vec<Parked>) -> Sealed {
        Sealed { digest, parked }
    }
}

/// Proof that the seal was completed.
#[derive(Debug)]
pub struct Sealed {
    pub(super) digest: Digest,
    pub(super) parked: Vec<Parked>,
}
