//! One client thread and its account.

use super::Shared;
use crate::client::{Client, Fault, Reply};
use crate::history::{Ledger, Tally};
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// The pause between two requests of a client that is not to fill the machine.
pub(super) const PACE: Duration = Duration::from_millis(1);

/// What one client thread owns.
pub(super) struct Own {
    pub(super) addr: SocketAddrV4,
    pub(super) pause: Duration,
    pub(super) prefix: String,
    pub(super) shared: Arc<Shared>,
    pub(super) stopped: mpsc::Receiver<()>,
    pub(super) began: Option<mpsc::Sender<()>>,
    pub(super) tally: Tally,
    pub(super) ledger: Ledger,
}

impl Own {
    pub(super) fn running(&self) -> bool {
        matches!(self.stopped.try_recv(), Err(mpsc::TryRecvError::Empty))
    }

    /// Between two rounds of a busy client.
    pub(super) fn rest(&self) {
        if !self.pause.is_zero() {
            self.pace(self.pause);
        }
    }

    /// Waits for the pace, or for the stop.
    pub(super) fn pace(&self, time: Duration) {
        let _ = self.stopped.recv_timeout(time);
    }

    pub(super) fn connect(&mut self, who: &str) -> Option<Client> {
        let began = Instant::now();
        match Client::connect(SocketAddr::V4(self.addr)) {
            Ok(client) => {
                self.tally.connect(began.elapsed());
                Some(client)
            }
            Err(fault) => {
                self.not_connected(who, &fault);
                None
            }
        }
    }

    pub(super) fn not_connected(&mut self, who: &str, fault: &Fault) {
        self.tally.fault(who, fault);
        if matches!(fault, Fault::Refused) {
            self.shared.refused();
        }
        // nobody listens: asking again at once would only heat the machine
        self.pace(Duration::from_millis(20));
    }

    pub(super) fn answer(&mut self, took: Duration) {
        self.tally.answer(took);
        self.shared.answered();
        if let Some(began) = self.began.take() {
            let _ = began.send(());
        }
    }
}

pub(super) fn int(reply: &Reply) -> Result<i64, Fault> {
    match reply {
        Reply::Int(n) => Ok(*n),
        other => Err(Fault::Wrong(format!("a number was expected: {other:?}"))),
    }
}

pub(super) fn expect(reply: Reply, wanted: &str) -> Result<(), Fault> {
    match reply {
        Reply::Simple(text) if text == wanted => Ok(()),
        other => Err(Fault::Wrong(format!("{wanted} was expected: {other:?}"))),
    }
}
