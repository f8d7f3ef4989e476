//! The sending half: a bounded queue in front of a socket.

use super::{QUEUE_BYTES, QUEUE_FRAMES, WRITE_DEADLINE};
use crate::os::fds::MAX_FDS;
use crate::wire::{Frame, Stamped, version};
use nix::sys::socket::{ControlMessage, MsgFlags, Shutdown, sendmsg, shutdown};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// What both halves share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) socket: AsyncFd<OwnedFd>,
    version: AtomicU16,
    queue: Mutex<Queue>,
    /// The queue is empty, or nothing more can be written.
    settled: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Outgoing>,
    bytes: usize,
    /// A task writes on as soon as the socket takes more.
    writing: bool,
    broken: Option<String>,
}

#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    written: usize,
    fds: Vec<Arc<OwnedFd>>,
}

impl Shared {
    pub(super) fn new(socket: AsyncFd<OwnedFd>) -> Self {
        Self {
            socket,
            version: AtomicU16::new(version::MIN),
            queue: Mutex::default(),
            settled: Notify::new(),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nothing more can be written, once that is so.
    pub(super) fn broken(&self) -> Option<String> {
        self.queue().broken.clone()
    }

    /// Waits until nothing more can be written. Cancel safe.
    pub(super) async fn until_broken(&self) {
        self.until(|queue| queue.broken.is_some()).await;
    }

    async fn until(&self, condition: impl Fn(&Queue) -> bool) {
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            if condition(&self.queue()) {
                return;
            }
            settled.await;
        }
    }

    fn break_off(&self, queue: &mut Queue, why: String) {
        tracing::debug!(why, "channel cannot be written any more");
        queue.broken.get_or_insert(why);
        queue.frames.clear();
        queue.bytes = 0;
        self.settled.notify_waiters();
    }

    /// Writes what the socket takes. `WouldBlock` when something is left.
    fn write(&self, queue: &mut Queue) -> io::Result<()> {
        while let Some(frame) = queue.frames.front_mut() {
            let fds: Vec<RawFd> = frame.fds.iter().map(|fd| fd.as_raw_fd()).collect();
            let rights = [ControlMessage::ScmRights(&fds)];
            // with the first byte, and only with it
            let ancillary = if frame.written == 0 && !fds.is_empty() { &rights[..] } else { &[] };
            let iov = [IoSlice::new(&frame.bytes[frame.written..])];
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match sendmsg::<()>(self.socket.as_raw_fd(), &iov, ancillary, flags, None) {
                Ok(n) => {
                    frame.written += n;
                    queue.bytes = queue.bytes.saturating_sub(n);
                    if frame.written == frame.bytes.len() {
                        queue.frames.pop_front();
                    }
                }
                Err(nix::errno::Errno::EINTR) => {}
                // too many descriptors are under way: like a full socket, it passes when the peer reads
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::ETOOMANYREFS) => {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Err(e) => {
                    self.break_off(queue, e.desc().to_lowercase());
                    return Ok(());
                }
            }
        }
        self.settled.notify_waiters();
        Ok(())
    }

    /// Writes on until the queue is empty.
    async fn drain(self: Arc<Self>) {
        let mut deadline = Instant::now() + WRITE_DEADLINE;
        loop {
            let Ok(ready) = timeout_at(deadline, self.socket.writable()).await else {
                let mut queue = self.queue();
                let why = format!("took nothing for {} s", WRITE_DEADLINE.as_secs());
                return self.break_off(&mut queue, why);
            };
            let mut queue = self.queue();
            let Ok(mut ready) = ready else {
                return self.break_off(&mut queue, "the runtime ends".to_owned());
            };
            let before = queue.bytes;
            let wrote = ready.try_io(|_| self.write(&mut queue));
            if queue.bytes < before {
                deadline = Instant::now() + WRITE_DEADLINE;
            }
            if wrote.is_ok() {
                queue.writing = false;
                return;
            }
        }
    }
}

/// The sending half of a channel. Clones send into the same queue.
///
/// What is queued when the last handle is dropped is still written, until the peer stops reading.
#[derive(Clone, Debug)]
pub struct Sender(Arc<Shared>);

impl Sender {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    pub(super) fn socket(&self) -> &OwnedFd {
        self.0.socket.get_ref()
    }

    /// See [`super::Channel::send`].
    pub fn send(&self, frame: &Stamped, fds: Vec<Arc<OwnedFd>>) {
        let mut queue = self.0.queue();
        if queue.broken.is_some() {
            return;
        }
        let name = frame.message.name();
        if fds.len() > MAX_FDS || !frame.message.descriptors().contains(&fds.len()) {
            let why = format!("{name} cannot be sent with {} descriptors", fds.len());
            return self.0.break_off(&mut queue, why);
        }
        let bytes = match Frame::encode(frame, self.0.version.load(Ordering::Relaxed)) {
            Ok(bytes) => bytes,
            Err(e) => return self.0.break_off(&mut queue, e.to_string()),
        };
        if queue.frames.len() >= QUEUE_FRAMES || queue.bytes + bytes.len() > QUEUE_BYTES {
            let why = format!("{} frames wait for it", queue.frames.len());
            return self.0.break_off(&mut queue, why);
        }
        queue.bytes += bytes.len();
        queue.frames.push_back(Outgoing { bytes, written: 0, fds });
        // at once, so that a frame is in the socket when this returns, whatever happens to the process next
        if !queue.writing && self.0.write(&mut queue).is_err() {
            queue.writing = true;
            tokio::spawn(Arc::clone(&self.0).drain());
        }
    }

    /// See [`super::Channel::flush`].
    pub async fn flush(&self) {
        self.0.until(|queue| queue.frames.is_empty() || queue.broken.is_some()).await;
    }

    /// See [`super::Channel::set_version`].
    pub fn set_version(&self, version: u16) {
        self.0.version.store(version, Ordering::Relaxed);
    }

    /// Why nothing more can be sent, once that is so.
    #[must_use]
    pub fn broken(&self) -> Option<String> {
        self.0.broken()
    }

    /// Waits until nothing more can be sent, and says why. Cancel safe.
    pub async fn until_broken(&self) -> String {
        self.0.until_broken().await;
        self.0.broken().unwrap_or_default()
    }

    /// Ends both directions now; what is queued is dropped.
    pub fn close(&self) {
        let mut queue = self.0.queue();
        self.0.break_off(&mut queue, "closed here".to_owned());
        let _ = shutdown(self.0.socket.as_raw_fd(), Shutdown::Both);
    }
}
