//! The receiving half: bytes become frames, each with the descriptors that came with its first byte.

use super::sender::{Sender, Shared};
use super::{Closed, READ_DEADLINE};
use crate::ids::HandoffId;
use crate::os::fds::{self, Ancillary, Credentials};
use crate::wire::{Decoded, Decoder, MAX_FRAME, Message, Refused, Stamped};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use tokio::time::{Instant, sleep_until};

/// A frame with its descriptors; their number fits the message.
#[derive(Debug)]
pub struct Received {
    /// What was said.
    pub frame: Stamped,
    /// The descriptors it names.
    pub fds: Vec<OwnedFd>,
}

/// The receiving half of a channel.
#[derive(Debug)]
pub struct Receiver {
    shared: Arc<Shared>,
    sender: Sender,
    decoder: Decoder,
    buffer: Box<[u8]>,
    room: Ancillary,
    /// Descriptors of the frame that is being received.
    fds: Vec<OwnedFd>,
    /// When that frame has to be whole.
    deadline: Option<Instant>,
    first_sender: Option<Credentials>,
    to_eof: bool,
    closed: Option<Closed>,
    /// A type that this build does not know was spoken of.
    strange: bool,
    /// What was spoken of that only a later version says.
    #[cfg(feature = "crash-points")]
    heard: crate::wire::dialect::Heard,
}

enum Read {
    Some,
    Nothing,
}

impl Receiver {
    pub(super) fn new(shared: Arc<Shared>, sender: Sender, room: usize) -> Self {
        Self {
            shared,
            sender,
            decoder: Decoder::new(),
            buffer: vec![0; MAX_FRAME].into(),
            room: Ancillary::with_room_for(room),
            fds: Vec::new(),
            deadline: None,
            first_sender: None,
            to_eof: false,
            closed: None,
            strange: false,
            #[cfg(feature = "crash-points")]
            heard: Default::default(),
        }
    }

    /// From now on only what the peer does ends this half: a write that fails does not.
    pub fn read_to_eof(&mut self) {
        self.to_eof = true;
    }

    /// See [`super::Channel::first_sender`].
    #[must_use]
    pub fn first_sender(&self) -> Option<Credentials> {
        self.first_sender
    }

    /// See [`super::Channel::recv`].
    ///
    /// # Errors
    /// [`Closed`], after everything that arrived before; from then on always the same.
    pub async fn recv(&mut self) -> Result<Received, Closed> {
        if let Some(closed) = &self.closed {
            return Err(closed.clone());
        }
        match self.next().await {
            Ok(received) => Ok(received),
            Err(closed) => {
                self.fds.clear();
                self.closed = Some(closed.clone());
                Err(closed)
            }
        }
    }

    async fn next(&mut self) -> Result<Received, Closed> {
        loop {
            let pulled = self.decoder.pull();
            #[cfg(feature = "crash-points")]
            self.tell_what_was_heard();
            match pulled.map_err(|e| Closed::Protocol(e.to_string()))? {
                Some(Decoded::Frame(frame)) => return self.whole(frame),
                Some(Decoded::Unknown { kind, critical, handoff, .. }) => {
                    self.unknown(kind, critical, handoff)
                }
                None => {
                    while let Read::Nothing = self.read()? {
                        self.wait().await?;
                    }
                }
            }
        }
    }

    fn whole(&mut self, frame: Stamped) -> Result<Received, Closed> {
        self.deadline = None;
        let fds = std::mem::take(&mut self.fds);
        if frame.message.descriptors().contains(&fds.len()) {
            return Ok(Received { frame, fds });
        }
        let (name, count) = (frame.message.name(), fds.len());
        Err(Closed::Protocol(format!("{name} came with {count} descriptors")))
    }

    fn unknown(&mut self, kind: u16, critical: bool, handoff: HandoffId) {
        self.deadline = None;
        self.fds.clear();
        // a later version may say such things all the time: once a channel, it is worth knowing
        if critical || !std::mem::replace(&mut self.strange, true) {
            tracing::warn!(kind, critical, %handoff, "message of an unknown type");
        }
        if critical {
            let why = format!(
                "this build does not know message type {kind}, which may not be skipped; use a version in between"
            );
            let message = Message::Refused(Refused { what: kind, why });
            self.sender.send(&Stamped { handoff, epoch: crate::ids::Epoch::ZERO, message }, Vec::new());
        }
    }

    /// So that a test sees who understood whom.
    #[cfg(feature = "crash-points")]
    fn tell_what_was_heard(&mut self) {
        let heard = self.decoder.heard();
        if heard != self.heard {
            self.heard = heard;
            let crate::wire::dialect::Heard { field, note, skipped } = heard;
            tracing::info!(pid = std::process::id(), field, note, skipped, "heard of a later version");
        }
    }

    /// Reads at most to the end of the frame, so that descriptors and bytes of two frames never mix.
    fn read(&mut self) -> Result<Read, Closed> {
        let want = self.decoder.missing().clamp(1, self.buffer.len());
        let at_start = !self.decoder.mid_frame();
        let mut arrived =
            match fds::receive(self.shared.socket.as_fd(), &mut self.buffer[..want], &mut self.room) {
                Ok(arrived) => arrived,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Read::Nothing),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(Read::Some),
                // it closed without reading all we had sent: an end like any other
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Err(self.end()),
                Err(e) => return Err(Closed::Io(e.to_string())),
            };
        if arrived.truncated {
            let got = arrived.fds.len();
            let why = format!(
                "descriptors were lost, {got} arrived: too many came, or the limit of open files is too low"
            );
            return Err(Closed::Protocol(why));
        }
        if arrived.bytes == 0 {
            return Err(self.end());
        }
        if self.first_sender.is_none() {
            self.first_sender = arrived.sender;
        }
        if !arrived.fds.is_empty() {
            if !at_start || !self.fds.is_empty() {
                return Err(Closed::Protocol("descriptors came in the middle of a frame".to_owned()));
            }
            self.fds.append(&mut arrived.fds);
        }
        if at_start {
            self.deadline = Some(Instant::now() + READ_DEADLINE);
        }
        self.decoder.push(&self.buffer[..arrived.bytes]);
        Ok(Read::Some)
    }

    fn end(&self) -> Closed {
        if self.decoder.mid_frame() { Closed::Cut } else { Closed::Eof }
    }

    /// Waits until the socket is readable, the frame is late, or nothing can be written any more.
    async fn wait(&mut self) -> Result<(), Closed> {
        let late = async {
            match self.deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let broken = async {
            match self.to_eof {
                false => self.shared.until_broken().await,
                true => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            ready = self.shared.socket.readable() => {
                let mut ready = ready.map_err(|e| Closed::Io(e.to_string()))?;
                // asks the kernel once more: only what it denies may be forgotten
                let peek = ready.try_io(|socket| peek(socket.get_ref()));
                drop(peek);
                Ok(())
            }
            () = broken => Err(Closed::Stalled(self.shared.broken().unwrap_or_default())),
            () = late => {
                let why = format!("a frame was not whole {} s after its first byte", READ_DEADLINE.as_secs());
                Err(Closed::Protocol(why))
            }
        }
    }
}

/// Whether there is something to read: bytes, the end or an error.
fn peek(socket: &OwnedFd) -> io::Result<()> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::ZERO) {
        Ok(0) => Err(io::ErrorKind::WouldBlock.into()),
        Ok(_) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
