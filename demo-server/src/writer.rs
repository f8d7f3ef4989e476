//! The one thread that writes the log: group commit.
//!
//! It takes what has collected while it wrote the last batch, writes that with one write and (`--fsync always`) one
//! fsync, and tells all who wait. With `everysec` it tells them after the write and fsyncs once a second.

use crate::args::Fsync;
use crate::ledger::{Batch, Ledger};
use crate::log::{Appender, Compaction, Refused};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// A log that is at least this long is compacted when it is also several times as long as the data.
const COMPACT_FROM: u64 = 256 << 20;
const COMPACT_FACTOR: u64 = 4;

/// How long a write waits for its fsync with `everysec`.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// `everysec` does not let more than this wait for the next fsync: a segment ends with one, and that one is waited for.
const SYNC_FROM: u64 = 2 << 20;

/// A segment that is longer is closed before a handoff: a successor has to read the last one twice.
const SHORT: u64 = 1 << 20;

/// What connections and the writer share.
#[derive(Debug)]
pub(crate) struct Books {
    shared: Mutex<Shared>,
    wake: Condvar,
    fsync: Fsync,
}

#[derive(Debug)]
struct Shared {
    ledger: Ledger,
    orders: Vec<Order>,
    asleep: bool,
}

#[derive(Debug)]
enum Order {
    Hold(oneshot::Sender<()>),
    Release,
    Stop(oneshot::Sender<Appender>),
}

/// The ledger, locked. Wakes the writer, if there is work for it, when it is dropped.
#[derive(Debug)]
pub(crate) struct Locked<'a>(MutexGuard<'a, Shared>, &'a Condvar);

impl std::ops::Deref for Locked<'_> {
    type Target = Ledger;

    fn deref(&self) -> &Ledger {
        &self.0.ledger
    }
}

impl std::ops::DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Ledger {
        &mut self.0.ledger
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if self.0.asleep && (self.0.ledger.has_work() || !self.0.orders.is_empty()) {
            self.0.asleep = false;
            self.1.notify_one();
        }
    }
}

impl Books {
    pub(crate) fn new(ledger: Ledger, fsync: Fsync) -> Arc<Self> {
        let shared = Mutex::new(Shared { ledger, orders: Vec::new(), asleep: false });
        Arc::new(Self { shared, wake: Condvar::new(), fsync })
    }

    pub(crate) fn lock(&self) -> Locked<'_> {
        // a panic in the middle of a change leaves a store that is not what the log says
        let shared = self.shared.lock().unwrap_or_else(|_| give_up("a command panicked"));
        Locked(shared, &self.wake)
    }

    /// Starts the thread.
    pub(crate) fn start(self: &Arc<Self>, appender: Appender) -> std::io::Result<()> {
        let writer = Writer {
            books: Arc::clone(self),
            appender,
            synced: Instant::now(),
            compaction: None,
            held: false,
        };
        std::thread::Builder::new().name("writer".into()).spawn(move || writer.run()).map(drop)
    }

    /// Puts off compaction until [`Self::release`], and leaves little that is dirty.
    pub(crate) async fn hold(&self) {
        let (sender, receiver) = oneshot::channel();
        self.lock().0.orders.push(Order::Hold(sender));
        let _ = receiver.await;
    }

    /// The opposite of [`Self::hold`].
    pub(crate) fn release(&self) {
        self.lock().0.orders.push(Order::Release);
    }

    /// Writes and fsyncs what there is, ends the thread and gives the log back. `None`: it had ended.
    pub(crate) async fn stop(&self) -> Option<Appender> {
        let (sender, receiver) = oneshot::channel();
        self.lock().0.orders.push(Order::Stop(sender));
        receiver.await.ok()
    }
}

#[derive(Debug)]
struct Writer {
    books: Arc<Books>,
    appender: Appender,
    synced: Instant,
    compaction: Option<Compaction>,
    held: bool,
}

impl Writer {
    fn run(mut self) {
        let books = Arc::clone(&self.books);
        let mut spare = Batch::default();
        loop {
            let (batch, orders, live) = {
                let mut shared = books.shared.lock().unwrap_or_else(|_| give_up("a command panicked"));
                while !shared.ledger.has_work() && shared.orders.is_empty() && !self.is_due() {
                    // nothing is under way any more
                    spare = shared.ledger.take(spare);
                    shared.asleep = true;
                    shared = self.sleep(&books, shared);
                    shared.asleep = false;
                }
                let live = shared.ledger.store().bytes() as u64;
                (shared.ledger.take(spare), std::mem::take(&mut shared.orders), live)
            };
            spare = self.write(batch, live);
            if self.is_due() {
                self.check(|appender| appender.sync_behind());
                self.synced = Instant::now();
            }
            for order in orders {
                match order {
                    Order::Hold(done) => {
                        (self.held, self.compaction) = (true, None);
                        if self.appender.is_longer(SHORT) {
                            self.rotate(live);
                        }
                        self.sync();
                        let _ = done.send(());
                    }
                    Order::Release => self.held = false,
                    Order::Stop(done) => {
                        self.compaction = None;
                        self.sync();
                        let _ = done.send(self.appender);
                        return;
                    }
                }
            }
        }
    }

    fn write(&mut self, mut batch: Batch, live: u64) -> Batch {
        if !batch.is_empty() {
            if self.appender.is_full() {
                self.rotate(live);
            }
            match self.appender.append(&batch.bytes, batch.sum, batch.sequence) {
                Ok(()) => {}
                Err(Refused::Undone(error)) => {
                    tracing::error!(%error, "the log takes no more; writes are refused until there is room");
                    self.books.lock().refuse(batch, &error.to_string().into());
                    return Batch::default();
                }
                Err(Refused::Unknown(error)) => give_up(&error.to_string()),
            }
            if self.books.fsync == Fsync::Always {
                self.sync();
            }
        }
        batch.settle(&Ok(()));
        batch
    }

    fn sync(&mut self) {
        self.check(Appender::sync);
        self.synced = Instant::now();
    }

    fn check(&mut self, sync: impl FnOnce(&mut Appender) -> crate::log::Result<()>) {
        if let Err(error) = sync(&mut self.appender) {
            give_up(&with_sources(&error));
        }
    }

    fn is_due(&self) -> bool {
        let (dirty, late) = (self.appender.dirty(), self.synced.elapsed() >= SYNC_EVERY);
        (dirty >= SYNC_FROM || (dirty > 0 && late)) && !self.appender.is_syncing()
    }

    fn sleep<'a>(&self, books: &'a Books, shared: MutexGuard<'a, Shared>) -> MutexGuard<'a, Shared> {
        if self.appender.dirty() > 0 {
            // an fsync that takes longer is looked after again
            let left = SYNC_EVERY.saturating_sub(self.synced.elapsed()).max(SYNC_EVERY / 100);
            books
                .wake
                .wait_timeout(shared, left)
                .map_or_else(|_| give_up("a command panicked"), |(shared, _)| shared)
        } else {
            books.wake.wait(shared).unwrap_or_else(|_| give_up("a command panicked"))
        }
    }

    /// Begins a new segment; compacts the closed ones when it pays.
    fn rotate(&mut self, live: u64) {
        self.sync();
        match self.appender.rotate() {
            Ok(()) => {}
            Err(Refused::Undone(error)) => {
                return tracing::warn!(%error, "no new log segment can be made, the current one grows on");
            }
            Err(Refused::Unknown(error)) => give_up(&with_sources(&error)),
        }
        match self.compaction.take_if(|c| c.is_finished()).map(|c| c.install(&mut self.appender)) {
            Some(Ok(())) => tracing::info!(log_bytes = self.appender.log_bytes(), "compacted"),
            Some(Err(error)) => tracing::warn!(error = with_sources(&error), "the log was not compacted"),
            None => {}
        }
        let long = self.appender.log_bytes() > COMPACT_FROM.max(live.saturating_mul(COMPACT_FACTOR));
        if long && !self.held && self.compaction.is_none() {
            self.compaction = Some(Compaction::start(&self.appender));
        }
    }
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

/// Leaves at once: what is durable is not known any more. Whoever was not answered was promised nothing; the
/// supervisor starts a server from disk.
fn give_up(why: &str) -> ! {
    tracing::error!(why, "giving up the tenure: start again from what is on disk");
    std::process::exit(1)
}
