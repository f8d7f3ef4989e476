//! The control socket: where a supervisor that was restarted finds this instance.

use crate::ids::HandoffId;
use crate::os::channel::{Channel, Received, Sender};
use crate::os::fds::watch;
use crate::wire::{Hello, Message, Refused, Stamped};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Connections that have not said Adopt yet.
const PENDING: usize = 8;
/// They have to within this.
const PATIENCE: Duration = Duration::from_secs(5);

/// A supervisor that asks to take this instance over.
#[derive(Debug)]
pub(super) struct Adopter {
    pub(super) channel: Channel,
    pub(super) generation: u64,
    /// Its first frame.
    pub(super) frame: Stamped,
}

/// The listener. Garbage and silence on it never disturb the server.
#[derive(Debug)]
pub(super) struct Control {
    listener: AsyncFd<UnixListener>,
    pending: Arc<Semaphore>,
}

/// Somebody connected.
#[derive(Debug)]
pub(super) struct Caller {
    stream: UnixStream,
    permit: OwnedSemaphorePermit,
}

impl Control {
    pub(super) fn new(listener: OwnedFd) -> io::Result<Self> {
        let listener = watch(UnixListener::from(listener), Interest::READABLE)?;
        Ok(Self { listener, pending: Arc::new(Semaphore::new(PENDING)) })
    }

    /// The next connection, while there are not too many already. Cancel safe.
    pub(super) async fn accept(&self) -> Caller {
        let Ok(permit) = Arc::clone(&self.pending).acquire_owned().await else {
            return std::future::pending().await;
        };
        loop {
            let Ok(mut ready) = self.listener.readable().await else { return std::future::pending().await };
            match ready.try_io(|listener| listener.get_ref().accept()) {
                Ok(Ok((stream, _))) => return Caller { stream, permit },
                Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(e)) => {
                    tracing::warn!(error = %e, "control socket");
                    // out of descriptors, most likely: not in a tight loop
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(_would_block) => {}
            }
        }
    }
}

/// Says Hello and waits for Adopt.
pub(super) async fn greet(caller: Caller, hello: Hello, adopters: mpsc::UnboundedSender<Adopter>) {
    let talked = tokio::time::timeout(PATIENCE, talk(caller.stream, hello)).await;
    match talked {
        Ok(Ok(adopter)) => {
            // fails only when the instance leaves
            let _ = adopters.send(adopter);
        }
        Ok(Err(why)) => tracing::debug!(why, "a connection on the control socket was turned away"),
        Err(_) => tracing::info!("a connection on the control socket was silent"),
    }
    drop(caller.permit);
}

async fn talk(stream: UnixStream, hello: Hello) -> Result<Adopter, String> {
    let mut channel = Channel::from_fd(stream.into()).map_err(|e| e.to_string())?;
    let uid = channel.peer().map_err(|e| e.to_string())?.uid;
    if uid != 0 && uid != nix::unistd::geteuid().as_raw() {
        return Err(format!("uid {uid} may not take this instance over"));
    }
    let epoch = hello.epoch;
    let hello = Message::Hello(Box::new(hello));
    channel.send(&Stamped { handoff: HandoffId::NIL, epoch, message: hello }, Vec::new());
    let Received { frame, .. } = channel.recv().await.map_err(|e| e.to_string())?;
    if let Message::Adopt { generation } = frame.message {
        return Ok(Adopter { channel, generation, frame });
    }
    let (what, name) = (frame.message.kind(), frame.message.name());
    refuse(&channel.sender(), what, "the first word on a control socket is Adopt").await;
    Err(format!("{name} came where Adopt was expected"))
}

/// Refuses and lets the refusal be read before the connection goes.
pub(super) async fn refuse(channel: &Sender, what: u16, why: &str) {
    let message = Message::Refused(Refused { what, why: why.to_owned() });
    channel.send(&Stamped { handoff: HandoffId::NIL, epoch: crate::ids::Epoch::ZERO, message }, Vec::new());
    channel.flush().await;
}
