//! The two traits that make this server upgradable: everything it knows about handing over is here.

use crate::args::{Args, Connections};
use crate::command::Session;
use crate::connection::Conversation;
use crate::ledger::Ledger;
use crate::log::{Appender, FORMAT, Reader, Stamp};
use crate::operation::Operation;
use crate::server::{Client, Server, unix_ms};
use handoff::sdk::{
    AcceptGuard, Connection, Context, Digest, Disk, DrainReport, HookError, HookResult, Incumbent, Leaving,
    Listener, Opened, Parked, SealGuard, Sealed, Service, Strategy, Successor, Tenure,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Of the state of a parked connection, see [`AtRest`].
const CONNECTIONS: u32 = 1;

/// How often a successor looks for new records, and the incumbent for expired keys.
const FOLLOW: Duration = Duration::from_millis(20);
const SWEEP: Duration = Duration::from_millis(100);
const SWEEP_AT_ONCE: usize = 1000;

/// The server before it serves: the data, loaded by reading only.
#[derive(Debug)]
pub(crate) struct Warm {
    ctx: Context<Args>,
    reader: Reader,
}

/// The server while it serves.
#[derive(Debug)]
pub(crate) struct Serving {
    server: Arc<Server>,
    /// Accepting and sweeping.
    tasks: Vec<JoinHandle<()>>,
    /// Where a conversation goes that was told to stop. All ends of the senders are with tasks and here: when they are
    /// gone, every task has ended.
    stopped: (mpsc::UnboundedSender<Conversation>, mpsc::UnboundedReceiver<Conversation>),
    /// While no writer has it.
    log: Option<Appender>,
    /// Of a seal that failed.
    kept: Vec<Parked>,
}

/// What goes along with a connection's descriptor.
#[derive(Debug, Default, Serialize, Deserialize)]
struct AtRest {
    id: u64,
    since: u64,
    name: Box<[u8]>,
    library: [Box<[u8]>; 2],
    channels: BTreeSet<Box<[u8]>>,
    input: Vec<u8>,
    output: Vec<u8>,
    closing: bool,
}

impl Successor for Warm {
    type Config = Args;
    type Incumbent = Serving;
    const CANARY: bool = true;
    const SERVICE: Service = Service {
        name: "demo-server",
        strategy: Strategy::Exclusive,
        state_reads: &[FORMAT],
        state_writes: FORMAT,
        connection_reads: &[CONNECTIONS],
        connection_writes: CONNECTIONS,
    };

    async fn warm(ctx: Context<Args>) -> HookResult<Self> {
        let dir = ctx.data_dir().ok_or_else(|| HookError::new("no data directory: give --data DIR"))?;
        let mut warm = Self { reader: Reader::start(dir)?, ctx };
        warm.catch_up().await?;
        // now, where nobody waits for it; later records are synced by the writer before it seals
        warm.reader.settle()?;
        if handoff::crash::planted("O2-stale") {
            crate::plant::remember(&warm.reader.store);
        }
        Ok(warm)
    }

    fn loaded(&self) -> (String, u64) {
        (self.reader.summary(), self.reader.sequence)
    }

    async fn follow(&mut self) -> HookResult<()> {
        loop {
            self.catch_up().await?;
            tokio::time::sleep(FOLLOW).await;
        }
    }

    async fn open(&mut self, _: Disk) -> HookResult<Opened> {
        let digest = self.reader.finish()?;
        let data_epoch = handoff::ids::Epoch(self.reader.epoch);
        Ok(Opened { digest, data_epoch, healthy: true, loaded: self.reader.summary() })
    }

    async fn canary(&mut self, connection: Connection) -> HookResult<()> {
        let lent = Lent::new(&self.ctx, &mut self.reader);
        let conversation = register(connection, None, &lent.server);
        // nobody stops it: it ends with its client, or is dropped
        let (stopped, _) = mpsc::unbounded_channel();
        conversation.run(Arc::clone(&lent.server), stopped).await;
        Ok(())
    }

    async fn serve(self, tenure: Tenure, parked: Vec<Parked>) -> HookResult<Serving> {
        let (log, store, sequence) = Appender::open(self.reader)?;
        let server = server_of(&self.ctx, Ledger::new(store, sequence));
        let (tasks, kept) = (Vec::new(), Vec::new());
        let mut serving = Serving { server, tasks, stopped: mpsc::unbounded_channel(), log: Some(log), kept };
        serving.begin(&tenure, parked)?;
        Ok(serving)
    }
}

fn server_of(ctx: &Context<Args>, ledger: Ledger) -> Arc<Server> {
    let data_dir = ctx.data_dir().map(ToOwned::to_owned).unwrap_or_default();
    Server::new(ctx.config().clone(), data_dir, ctx.instance().to_string(), ledger)
}

/// What was loaded, lent to a server that is no writer: it refuses writes, and the store goes back as it came, however
/// that ends.
struct Lent<'a> {
    reader: &'a mut Reader,
    server: Arc<Server>,
}

impl<'a> Lent<'a> {
    fn new(ctx: &Context<Args>, reader: &'a mut Reader) -> Self {
        let store = std::mem::take(&mut reader.store);
        Self { server: server_of(ctx, Ledger::new(store, reader.sequence)), reader }
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.reader.store = self.server.books.lock().take_store();
    }
}

impl Warm {
    /// In small steps, so that heartbeats go on. Cancel safe: each step is whole.
    async fn catch_up(&mut self) -> HookResult<()> {
        while self.reader.catch_up()? {
            self.ctx.progress().tick();
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

impl Incumbent for Serving {
    async fn drain(&mut self, grace: Duration) -> HookResult<DrainReport> {
        self.server.books.hold().await;
        // what can be parked is not waited for; the rest gets the time, and its goodbye at the seal
        let _ = tokio::time::timeout(grace, self.server.large.none()).await;
        Ok(DrainReport { open_connections: self.server.clients().len() as u64 })
    }

    async fn seal(&mut self, guard: SealGuard) -> HookResult<Sealed> {
        let stopped = self.stop_connections().await;
        let mut parked = Vec::with_capacity(stopped.len());
        for conversation in stopped {
            parked.extend(self.park(conversation, guard.connection_format()));
        }
        let Some(log) = self.stop_writing().await else {
            self.kept = parked;
            return Err(HookError::new("the writer has ended"));
        };
        let digest = log.digest();
        self.log = Some(log);
        Ok(guard.complete(digest, parked))
    }

    async fn verify(&mut self, _: Disk) -> HookResult<Digest> {
        let log = self.log.as_ref().ok_or_else(|| HookError::new("not sealed"))?;
        Ok(log.verify()?)
    }

    async fn resume(&mut self, tenure: Tenure, mut parked: Vec<Parked>) -> HookResult<()> {
        parked.append(&mut self.kept);
        self.begin(&tenure, parked)
    }

    async fn retire(mut self, leaving: Leaving) -> HookResult<()> {
        // after a handover there are none left here
        let finish = async {
            for conversation in self.stop_connections().await {
                let _ = conversation.finish().await;
            }
        };
        let _ = tokio::time::timeout(leaving.grace(), finish).await;
        // after a handover the writer has stopped already
        if self.log.is_none() {
            self.stop_writing().await;
        }
        Ok(())
    }
}

impl Serving {
    /// Begins a tenure, or goes on with one.
    fn begin(&mut self, tenure: &Tenure, parked: Vec<Parked>) -> HookResult<()> {
        self.stop_tasks();
        let listener = tenure.listener("resp")?;
        let (mut epoch, instance) = (tenure.epoch().0, tenure.instance().0);
        self.server.tenure(epoch);
        // a bug that an oracle of the crash matrix has to find: two writers in one epoch
        if handoff::crash::planted("O3") {
            epoch = 1;
        }
        self.server.large.unwatch();
        self.server.books.lock().tenure(Some(Stamp { epoch, instance }));
        match self.log.take() {
            Some(log) => self.server.books.start(log)?,
            None => self.server.books.release(),
        }
        // all are back before the first goes on: who publishes meets all who subscribed
        let woken: Vec<_> = parked.into_iter().filter_map(|parked| self.wake(parked)).collect();
        for conversation in woken {
            tokio::spawn(conversation.run(Arc::clone(&self.server), self.stopped.0.clone()));
        }
        let (server, stopped) = (Arc::clone(&self.server), self.stopped.0.clone());
        self.tasks.push(tokio::spawn(accept(listener, server, stopped)));
        self.tasks.push(tokio::spawn(sweep(Arc::clone(&self.server))));
        Ok(())
    }

    fn stop_tasks(&mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
        }
    }

    /// Tells all connections at once to stop, then waits for each: they stop where they are.
    async fn stop_connections(&mut self) -> Vec<Conversation> {
        self.stop_tasks();
        self.server.clients().stop_all();
        let (sender, mut receiver) = std::mem::replace(&mut self.stopped, mpsc::unbounded_channel());
        drop(sender);
        let mut stopped = Vec::with_capacity(self.server.clients().len());
        while receiver.recv_many(&mut stopped, usize::MAX).await > 0 {}
        stopped
    }

    /// Everything that was acknowledged is durable, and nothing is written any more.
    async fn stop_writing(&mut self) -> Option<Appender> {
        self.server.books.lock().tenure(None);
        self.server.books.stop().await
    }

    /// `None`: it cannot be handed over, and was told so.
    fn park(&self, mut conversation: Conversation, format: Option<u32>) -> Option<Parked> {
        // what others published before they stopped
        for message in conversation.mailbox.messages() {
            conversation.output.raw(&message);
        }
        let id = conversation.session.id;
        let Client { since, name, library, channels, .. } = self.server.clients().remove(id)?;
        let input = std::mem::take(&mut conversation.input);
        let output = conversation.output.unsent().to_vec();
        let closing = conversation.session.closing;
        let at_rest = AtRest { id, since, name, library, channels, input, output, closing };
        let state = bincode::serde::encode_to_vec(&at_rest, bincode::config::standard()).ok()?;
        let keep = self.server.args.connections == Connections::Keep && format == Some(CONNECTIONS);
        if !keep || state.len() > Parked::MAX_STATE {
            let _ =
                conversation.goodbye("ERR the server is being replaced and cannot hand this connection over");
            return None;
        }
        Parked::park(conversation.connection, state).ok()
    }

    /// A connection where it was left.
    fn wake(&self, parked: Parked) -> Option<Conversation> {
        let taken = parked.take().map_err(HookError::from).and_then(|(connection, state)| {
            Ok((
                connection,
                bincode::serde::decode_from_slice::<AtRest, _>(&state, bincode::config::standard())?.0,
            ))
        });
        match taken {
            Ok((connection, at_rest)) => Some(register(connection, Some(at_rest), &self.server)),
            // the client is gone, or its connection is closed by this
            Err(error) => {
                tracing::warn!(%error, "a connection was lost in the handoff");
                None
            }
        }
    }
}

/// Accepts until the gate closes.
async fn accept(listener: Listener, server: Arc<Server>, stopped: mpsc::UnboundedSender<Conversation>) {
    loop {
        match listener.accept().await {
            Ok(None) => return,
            Ok(Some((connection, guard))) => admit(connection, guard, &server, &stopped),
            Err(error) => {
                // out of descriptors, most likely: room comes with time
                tracing::warn!(%error, "accept");
                tokio::time::sleep(SWEEP).await;
            }
        }
    }
}

fn admit(
    connection: Connection,
    guard: AcceptGuard,
    server: &Arc<Server>,
    stopped: &mpsc::UnboundedSender<Conversation>,
) {
    server.connections.fetch_add(1, Ordering::Relaxed);
    if server.clients().len() >= server.args.max_clients {
        let _ = connection.try_write(b"-ERR max number of clients reached\r\n");
        return;
    }
    let conversation = register(connection, None, server);
    tokio::spawn(conversation.run(Arc::clone(server), stopped.clone()));
    // the seal waits for this: now it finds the connection
    drop(guard);
}

/// Lets others find a connection.
fn register(connection: Connection, at_rest: Option<AtRest>, server: &Server) -> Conversation {
    let (mut client, mailbox) = Client::new(connection.peer().to_owned());
    let session = Session { id: 0, channels: 0, closing: false };
    let mut conversation = Conversation::new(session, connection, mailbox);
    match at_rest {
        Some(at_rest) => {
            conversation.output.raw(&at_rest.output);
            conversation.input = at_rest.input;
            conversation.session =
                Session { id: at_rest.id, channels: at_rest.channels.len(), closing: at_rest.closing };
            (client.since, client.name, client.library) = (at_rest.since, at_rest.name, at_rest.library);
            client.channels = at_rest.channels;
        }
        None => conversation.session.id = server.next_client(),
    }
    server.clients().add(conversation.session.id, client);
    conversation
}

/// Deletes what has expired, as an operation of the log: a replay must not depend on when it happens.
async fn sweep(server: Arc<Server>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let mut ledger = server.books.lock();
        let expired = ledger.store().expired(unix_ms(), SWEEP_AT_ONCE);
        if !expired.is_empty() && ledger.is_writer() {
            ledger.commit(&Operation::Delete(expired.iter().map(|key| &key[..]).collect()));
        }
    }
}
