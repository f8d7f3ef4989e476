//! What all connections share: the data, who is connected, who listens to which channel.

use crate::args::Args;
use crate::ledger::Ledger;
use crate::writer::Books;
use handoff::sdk::Parked;
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, watch};

/// The server of one process, for all its tenures.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) args: Args,
    pub(crate) data_dir: PathBuf,
    pub(crate) instance: String,
    pub(crate) books: Arc<Books>,
    clients: Mutex<Clients>,
    pub(crate) large: Large,
    /// Of this tenure.
    pub(crate) epoch: AtomicU64,
    next_client: AtomicU64,
    pub(crate) started: Instant,
    pub(crate) commands: AtomicU64,
    pub(crate) connections: AtomicU64,
}

/// How many conversations are too large to be parked right now.
#[derive(Debug, Default)]
pub(crate) struct Large {
    count: watch::Sender<usize>,
    watched: AtomicBool,
}

impl Large {
    /// A conversation that is as large as this now.
    pub(crate) fn count(&self, counted: &mut bool, bytes: usize) {
        let is_large = bytes > Parked::MAX_STATE;
        if is_large != *counted {
            *counted = is_large;
            self.count.send_modify(|n| if is_large { *n += 1 } else { *n -= 1 });
        }
    }

    /// Waits until there is none; until [`Self::unwatch`] all are asked to stay small. Cancel safe.
    pub(crate) async fn none(&self) {
        self.watched.store(true, Ordering::Relaxed);
        // cannot fail: `self` holds the sender
        let _ = self.count.subscribe().wait_for(|n| *n == 0).await;
    }

    pub(crate) fn unwatch(&self) {
        self.watched.store(false, Ordering::Relaxed);
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Relaxed)
    }
}

/// Who is connected, and the subscriptions.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    table: HashMap<u64, Client>,
    channels: HashMap<Box<[u8]>, BTreeSet<u64>>,
}

/// What is known of a client besides its input and output.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) peer: String,
    /// Unix milliseconds.
    pub(crate) since: u64,
    pub(crate) name: Box<[u8]>,
    /// Name and version of its library.
    pub(crate) library: [Box<[u8]>; 2],
    pub(crate) channels: BTreeSet<Box<[u8]>>,
    mailbox: mpsc::UnboundedSender<Mail>,
}

/// What others tell a connection's task.
#[derive(Debug)]
pub(crate) enum Mail {
    /// Of a subscription, as it goes to the client.
    Message(Arc<[u8]>),
    /// Stop at the next message boundary.
    Stop,
}

/// Where a connection's task gets its mail.
#[derive(Debug)]
pub(crate) struct Mailbox {
    receiver: mpsc::UnboundedReceiver<Mail>,
    /// Met while messages were taken.
    held: Option<Mail>,
}

impl Server {
    pub(crate) fn new(args: Args, data_dir: PathBuf, instance: String, ledger: Ledger) -> Arc<Self> {
        let books = Books::new(ledger, args.fsync);
        let clients = Mutex::default();
        let started = Instant::now();
        let [epoch, next_client, commands, connections] = [const { AtomicU64::new(0) }; 4];
        Arc::new(Self {
            args,
            data_dir,
            instance,
            books,
            clients,
            large: Large::default(),
            epoch,
            next_client,
            started,
            commands,
            connections,
        })
    }

    pub(crate) fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Client ids are never given twice: each tenure has its own range, and one that goes on after a handoff that
    /// was aborted before the seal goes on counting.
    pub(crate) fn tenure(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Relaxed);
        self.next_client.fetch_max(epoch << 32 | 1, Ordering::Relaxed);
    }

    pub(crate) fn next_client(&self) -> u64 {
        self.next_client.fetch_add(1, Ordering::Relaxed)
    }
}

impl Client {
    pub(crate) fn new(peer: String) -> (Self, Mailbox) {
        let (mailbox, receiver) = mpsc::unbounded_channel();
        let client = Self {
            peer,
            since: unix_ms(),
            name: Box::default(),
            library: [Box::default(), Box::default()],
            channels: BTreeSet::new(),
            mailbox,
        };
        (client, Mailbox { receiver, held: None })
    }
}

impl Mailbox {
    /// The next mail. Cancel safe.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Mail>> {
        match self.held.take() {
            Some(mail) => Poll::Ready(Some(mail)),
            None => self.receiver.poll_recv(cx),
        }
    }

    /// Takes the messages that are there; anything else stays.
    pub(crate) fn messages(&mut self) -> impl Iterator<Item = Arc<[u8]>> {
        std::iter::from_fn(|| {
            let mail = self.held.take().or_else(|| self.receiver.try_recv().ok())?;
            match mail {
                Mail::Message(message) => Some(message),
                Mail::Stop => {
                    self.held = Some(mail);
                    None
                }
            }
        })
    }
}

impl Clients {
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn add(&mut self, id: u64, client: Client) {
        for channel in &client.channels {
            self.channels.entry(channel.clone()).or_default().insert(id);
        }
        self.table.insert(id, client);
    }

    pub(crate) fn remove(&mut self, id: u64) -> Option<Client> {
        let client = self.table.remove(&id)?;
        for channel in &client.channels {
            self.leave(channel, id);
        }
        Some(client)
    }

    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut Client> {
        self.table.get_mut(&id)
    }

    /// All clients, oldest first.
    pub(crate) fn sorted(&self) -> Vec<(u64, &Client)> {
        let mut all: Vec<_> = self.table.iter().map(|(id, client)| (*id, client)).collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    }

    pub(crate) fn channel_count(&self) -> usize {
        self.channels.len()
    }

    /// Gives the number of the client's channels.
    pub(crate) fn subscribe(&mut self, id: u64, channel: &[u8]) -> usize {
        let Some(client) = self.table.get_mut(&id) else { return 0 };
        if client.channels.insert(channel.into()) {
            self.channels.entry(channel.into()).or_default().insert(id);
        }
        client.channels.len()
    }

    /// Gives the number of channels that are left to the client.
    pub(crate) fn unsubscribe(&mut self, id: u64, channel: &[u8]) -> usize {
        let Some(client) = self.table.get_mut(&id) else { return 0 };
        client.channels.remove(channel);
        let left = client.channels.len();
        self.leave(channel, id);
        left
    }

    /// Gives the message to all subscribers and says how many there are.
    pub(crate) fn publish(&self, channel: &[u8], message: &Arc<[u8]>) -> usize {
        let Some(subscribers) = self.channels.get(channel) else { return 0 };
        for client in subscribers.iter().filter_map(|id| self.table.get(id)) {
            // its task may be ending right now
            let _ = client.mailbox.send(Mail::Message(Arc::clone(message)));
        }
        subscribers.len()
    }

    /// Tells every connection to stop.
    pub(crate) fn stop_all(&self) {
        for client in self.table.values() {
            let _ = client.mailbox.send(Mail::Stop);
        }
    }

    fn leave(&mut self, channel: &[u8], id: u64) {
        if let Some(subscribers) = self.channels.get_mut(channel) {
            subscribers.remove(&id);
            if subscribers.is_empty() {
                self.channels.remove(channel);
            }
        }
    }
}

/// The time that decides what has expired.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    // a supervisor was killed between Drained and SealRequest: the server went on under its epoch and gave the ids of
    // its first clients again; the newcomers took the places of those, who could not be told to stop, were not
    // parked, and were closed by the next upgrade
    #[test]
    fn a_tenure_that_goes_on_gives_no_id_twice() {
        let ledger = Ledger::new(Store::default(), 0);
        let args = <Args as clap::Parser>::parse_from(["demo-server", "--data", "/nowhere"]);
        let server = Server::new(args, "/nowhere".into(), "test".into(), ledger);
        server.tenure(1);
        let first = [server.next_client(), server.next_client()];
        server.tenure(1);
        let later = server.next_client();
        assert!(!first.contains(&later), "{later} again");
        server.tenure(2);
        assert!(server.next_client() > later);
    }
}
