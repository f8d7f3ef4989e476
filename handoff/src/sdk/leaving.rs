//! How a server leaves: within a grace and, where a successor runs beside it, handing over connection by connection.

use super::parked::Parked;
use super::transfer::{Stamp, hand_over_one};
use crate::os::channel::Sender;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, watch};

/// What the retire hook is given. Cheap to clone: each connection's task may have one.
#[derive(Clone, Debug)]
pub struct Leaving {
    pub(super) grace: Duration,
    pub(super) successor: Option<Arc<Successor>>,
}

/// The way to a successor that serves already.
#[derive(Debug)]
pub(super) struct Successor {
    pub(super) stamp: Stamp,
    pub(super) channel: Sender,
    pub(super) acks: watch::Receiver<u64>,
    /// How many were sent; whoever holds it sends.
    pub(super) sent: Mutex<u64>,
    /// The format that the successor reads.
    pub(super) connection_format: u32,
}

impl Leaving {
    /// Time until this process ends, whatever is still open.
    #[must_use]
    pub fn grace(&self) -> Duration {
        self.grace
    }

    /// The format in which connections can be handed over now; `None` when nobody takes any: after the exclusive
    /// strategy's handover (they were parked at the seal), at a stop, or without a format in common.
    #[must_use]
    pub fn connection_format(&self) -> Option<u32> {
        self.successor.as_ref().map(|successor| successor.connection_format)
    }

    /// Hands a connection over that is idle now, and closes this process's copy once the successor has it. A dropped
    /// call goes on by itself: this copy is closed when it is settled, handed over or not.
    ///
    /// # Errors
    /// The connection, when the successor did not acknowledge it: it is still only ours, give it the protocol's goodbye.
    pub async fn hand_over(&self, parked: Parked) -> Result<(), Parked> {
        let Some(successor) = self.successor.clone() else { return Err(parked) };
        // half a connection on the channel would be the end of all that follow: a task of its own is not cancelled
        let copy = parked.clone();
        let taken = tokio::spawn(async move { successor.take(&copy).await }).await;
        if taken.unwrap_or(false) { Ok(()) } else { Err(parked) }
    }
}

impl Successor {
    /// Whether it acknowledged the connection.
    async fn take(&self, parked: &Parked) -> bool {
        let mut acks = self.acks.clone();
        let number = {
            let mut sent = self.sent.lock().await;
            if hand_over_one(self.stamp, &self.channel, *sent, parked).await.is_err() {
                return false;
            }
            *sent += 1;
            *sent
        };
        tokio::select! {
            acked = acks.wait_for(|acked| *acked >= number) => acked.is_ok(),
            _ = self.channel.until_broken() => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, HandoffId};
    use crate::os::channel::Channel;
    use crate::sdk::transfer::receive_each;
    use crate::wire::Message;
    use std::os::unix::net::UnixStream;
    use tokio::sync::mpsc;
    use tokio::time::timeout;

    const LIMIT: Duration = Duration::from_secs(20);
    const STAMP: Stamp = Stamp { handoff: HandoffId(9), epoch: Epoch(4) };

    fn parked(size: usize) -> Parked {
        let (ours, _) = UnixStream::pair().expect("a pair");
        Parked { fd: Arc::new(ours.into()), state: vec![7; size].into() }
    }

    /// With the successor's end of the channel, and acknowledgements that are passed on as the world does.
    fn leaving() -> (Leaving, Channel) {
        let (ours, theirs) = Channel::pair().expect("a pair");
        let (channel, mut receiver) = Channel::from_fd(ours).expect("a channel").split();
        let (tell, acks) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok(received) = receiver.recv().await {
                if let Message::ParkedAck { received } = received.frame.message {
                    tell.send_replace(received);
                }
            }
        });
        let sent = Mutex::new(0);
        let successor = Successor { stamp: STAMP, channel, acks, sent, connection_format: 1 };
        let leaving = Leaving { grace: LIMIT, successor: Some(Arc::new(successor)) };
        (leaving, Channel::from_fd(theirs).expect("a channel"))
    }

    // a server gave each connection a moment to go over; one was so large that the moment was over in the middle of
    // it, and no connection after it went over: they came with a number that was taken
    #[tokio::test]
    async fn a_call_that_was_dropped_spoils_nothing() {
        let (leaving, successor) = leaving();
        // more than the socket takes while nobody reads
        let large = leaving.hand_over(parked(Parked::MAX_STATE));
        assert!(timeout(Duration::ZERO, large).await.is_err(), "it waits for the successor");
        let (arrived, mut arrivals) = mpsc::unbounded_channel();
        let (answers, receiver) = successor.split();
        tokio::spawn(receive_each(STAMP, receiver, answers, arrived));
        let second = timeout(LIMIT, leaving.hand_over(parked(3))).await.expect("in time");
        assert!(second.is_ok(), "acknowledged");
        let sizes = [arrivals.recv().await, arrivals.recv().await].map(|p| p.map(|p| p.state.len()));
        assert_eq!(sizes, [Some(Parked::MAX_STATE), Some(3)]);
    }

    // a successor died when it had taken a connection off the channel and not acknowledged it: the incumbent waited
    // for the acknowledgement to the end of its grace, and the client never got a goodbye (the world lets go of the
    // acknowledgements when the channel ends, as the task here does)
    #[tokio::test]
    async fn a_dead_successor_is_not_waited_for() {
        let (leaving, mut successor) = leaving();
        let handed = tokio::spawn(async move { leaving.hand_over(parked(3)).await });
        successor.recv().await.expect("the connection");
        drop(successor);
        let kept = timeout(LIMIT, handed).await.expect("in time").expect("no panic");
        assert_eq!(kept.expect_err("nobody has it").state().len(), 3);
    }
}
