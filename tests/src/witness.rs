//! One client that asks without a pause, and knows by whom each answer was given.

use crate::client::{Client, Fault};
use std::net::SocketAddr;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A running witness.
#[derive(Debug)]
pub struct Witness {
    shared: Arc<Shared>,
    // dropped to stop the thread
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<Seen>,
    changed: Condvar,
}

/// What a witness saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// From the last answer of one process to the first answer of the next one.
    pub pauses: Vec<Duration>,
    /// The process that answered last.
    pub server: Option<u64>,
    /// Answers.
    pub answers: u64,
    /// Requests that were not answered.
    pub failed: u64,
    /// Connections that ended.
    pub closed: u64,
    /// The longest time between two answers of the same process: what the machine itself does to a client.
    pub longest_otherwise: Duration,
}

/// How often somebody that listens nowhere is tried again.
const AGAIN: Duration = Duration::from_millis(1);

impl Witness {
    /// Starts asking.
    #[must_use]
    pub fn start(addr: SocketAddr) -> Witness {
        let shared: Arc<Shared> = Arc::default();
        let own = Arc::clone(&shared);
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::spawn(move || ask_on(addr, &own, &stopped));
        Witness { shared, stop: Some(stop), thread: Some(thread) }
    }

    /// Waits until another process than `server` answers; false when that takes longer than `patience`.
    #[must_use]
    pub fn wait_for_other(&self, server: Option<u64>, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut seen = self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        while seen.server.is_none() || seen.server == server {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            (seen, _) = self.shared.changed.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    /// What it saw so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops it.
    #[must_use]
    pub fn finish(mut self) -> Seen {
        self.stop();
        self.seen()
    }

    fn stop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.stop();
    }
}

fn ask_on(addr: SocketAddr, shared: &Shared, stopped: &mpsc::Receiver<()>) {
    let mut connection: Option<Client> = None;
    let mut last: Option<(u64, Instant)> = None;
    let mut pause = Duration::ZERO;
    while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        let asked = match connection.take() {
            Some(client) => Ok(client),
            None => Client::connect(addr),
        };
        let answered = asked.and_then(|mut client| ask(&mut client).map(|server| (client, server)));
        let now = Instant::now();
        let mut seen = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match answered {
            Ok((client, server)) => {
                connection = Some(client);
                pause = Duration::ZERO;
                seen.answers += 1;
                match last {
                    Some((before, at)) if before != server => seen.pauses.push(now - at),
                    Some((_, at)) => seen.longest_otherwise = seen.longest_otherwise.max(now - at),
                    None => {}
                }
                last = Some((server, now));
                if seen.server.replace(server) != Some(server) {
                    shared.changed.notify_all();
                }
            }
            Err(fault) => {
                seen.failed += 1;
                seen.closed += u64::from(fault.lost_connection());
                pause = AGAIN;
            }
        }
    }
}

/// A write that is durable when it is answered, and who answered it.
fn ask(client: &mut Client) -> Result<u64, Fault> {
    client.send(&[b"INCR", b"witness"])?;
    client.send(&[b"INFO", b"server"])?;
    client.reply()?;
    let text = client.reply()?.text().unwrap_or_default();
    let pid = text.lines().find_map(|line| line.strip_prefix("process_id:")?.trim().parse().ok());
    pid.ok_or_else(|| Fault::Wrong(format!("no process_id: {text}")))
}
