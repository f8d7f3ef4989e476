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

    /// Hands a connection over that is idle now, and closes this process's copy once the successor has it. Not cancel
    /// safe: a dropped call may or may not have handed it over; either way this copy is closed.
    ///
    /// # Errors
    /// The connection, when the successor did not acknowledge it: it is still only ours, give it the protocol's goodbye.
    pub async fn hand_over(&self, parked: Parked) -> Result<(), Parked> {
        let Some(successor) = &self.successor else { return Err(parked) };
        let mut acks = successor.acks.clone();
        let number = {
            let mut sent = successor.sent.lock().await;
            if hand_over_one(successor.stamp, &successor.channel, *sent, &parked).await.is_err() {
                return Err(parked);
            }
            *sent += 1;
            *sent
        };
        tokio::select! {
            acked = acks.wait_for(|acked| *acked >= number) => acked.map(drop).map_err(|_| parked),
            _ = successor.channel.until_broken() => Err(parked),
        }
    }
}
