//! Somebody who asks again and again on new connections and notes when an answer came: how long a server was away.

use crate::client::{Client, Fault};
use crate::crashes::monotonic;
use std::net::SocketAddrV4;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

/// The pause between two questions.
const PACE: Duration = Duration::from_millis(4);

/// A running prober.
#[derive(Debug)]
pub struct Prober {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<Probes>,
}

/// What it saw.
#[derive(Clone, Debug, Default)]
pub struct Probes {
    /// When each good answer was asked for and when it came, on the machine's monotonic clock.
    pub answers: Vec<(Duration, Duration)>,
    /// Connections that could not be made.
    pub unconnected: Vec<String>,
    /// Connections that were made and not answered.
    pub unanswered: Vec<String>,
}

impl Prober {
    /// Starts asking.
    #[must_use]
    pub fn start(addr: SocketAddrV4) -> Prober {
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let mut probes = Probes::default();
            while stopped.recv_timeout(PACE) == Err(RecvTimeoutError::Timeout) {
                probes.ask(addr);
            }
            probes
        });
        Prober { stop, thread }
    }

    /// Stops asking.
    #[must_use]
    pub fn finish(self) -> Probes {
        drop(self.stop);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Probes {
    fn ask(&mut self, addr: SocketAddrV4) {
        let asked = monotonic();
        let mut client = match Client::connect(addr.into()) {
            Ok(client) => client,
            Err(fault) => return self.unconnected.push(fault.to_string()),
        };
        // a read: answered by the owner of the data only
        match client.ask("GET probe") {
            Ok(_) => self.answers.push((asked, monotonic())),
            Err(fault @ Fault::ErrorReply(_)) => self.unconnected.push(fault.to_string()),
            Err(fault) => self.unanswered.push(fault.to_string()),
        }
    }

    /// From that moment to the first good answer to a question that was asked later.
    #[must_use]
    pub fn first_after(&self, moment: Duration) -> Option<Duration> {
        let later = self.answers.iter().filter(|(asked, _)| *asked >= moment);
        later.map(|(_, answered)| *answered - moment).min()
    }
}
