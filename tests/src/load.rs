//! Clients in the background: busy, fresh, idle, subscribed, with half a command, with unread replies.
//!
//! Each keeps a ledger of what was acknowledged to it; [`Load::finish`] reads everything again and adds it up.

use crate::client::{Client, Fault, Reply, command};
use crate::history::{Ledger, Tally};
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How many clients of which kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plan {
    /// Kept-alive connections with one request after the other: INCR, SET, GET and pipelines.
    pub busy: usize,
    /// The same through the `redis` crate, which nobody here wrote.
    pub library: usize,
    /// A new connection for every request.
    pub fresh: usize,
    /// Connections that say nothing until the end.
    pub idle: usize,
    /// Subscribers; one more connection publishes.
    pub subscribers: usize,
    /// Connections on which half a command waits (see [`Load::hold_back`]).
    pub half: usize,
    /// Connections with many requests whose replies are not read (see [`Load::hold_back`]).
    pub unread: usize,
}

impl Plan {
    /// Some of every kind.
    #[must_use]
    pub fn everything() -> Plan {
        Plan { busy: 4, library: 2, fresh: 1, idle: 20, subscribers: 3, half: 8, unread: 2 }
    }
}

/// Running clients.
#[derive(Debug)]
pub struct Load {
    addr: SocketAddrV4,
    prefix: String,
    plan: Plan,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<(Tally, Ledger)>>,
    // dropped to stop the threads
    stop: Vec<mpsc::Sender<()>>,
    idle: Vec<Client>,
    held: Vec<Held>,
    tally: Tally,
}

#[derive(Debug, Default)]
struct Shared {
    answered: AtomicU64,
    changed: Condvar,
    lock: Mutex<()>,
}

impl Shared {
    fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_all();
    }
}

/// The pause between two requests of a client that is not to fill the machine.
const PACE: Duration = Duration::from_millis(1);

impl Load {
    /// Starts the clients and returns when each has had its first answer. Faults from here on count.
    #[must_use]
    pub fn start(addr: SocketAddrV4, plan: Plan) -> Load {
        // keys of its own: a second load on the same server knows nothing of the first one's counts
        static LOADS: AtomicU64 = AtomicU64::new(0);
        let prefix = format!("{}.{}", std::process::id(), LOADS.fetch_add(1, Ordering::Relaxed));
        let mut load = Load {
            addr,
            prefix,
            plan,
            shared: Arc::default(),
            threads: Vec::new(),
            stop: Vec::new(),
            idle: Vec::new(),
            held: Vec::new(),
            tally: Tally::default(),
        };
        let (began, begun) = mpsc::channel();
        for n in 0..plan.busy {
            load.spawn(&began, move |own| busy(own, n));
        }
        for n in 0..plan.library {
            load.spawn(&began, move |own| library(own, n));
        }
        for n in 0..plan.fresh {
            load.spawn(&began, move |own| fresh(own, n));
        }
        if plan.subscribers > 0 {
            let (done, published) = mpsc::channel();
            let published = Arc::new(Mutex::new(published));
            let (ready, subscribed) = mpsc::channel();
            for n in 0..plan.subscribers {
                let (ready, published) = (ready.clone(), Arc::clone(&published));
                load.spawn(&began, move |own| subscriber(own, n, &ready, &published));
            }
            let subscribers = plan.subscribers;
            load.spawn(&began, move |own| publisher(own, subscribers, &subscribed, &done));
        }
        for n in 0..plan.idle {
            match Client::connect(addr.into()).and_then(|mut c| c.ask("PING").map(|_| c)) {
                Ok(client) => load.idle.push(client),
                Err(fault) => load.tally.fault(&format!("idle {n}"), &fault),
            }
        }
        drop(began);
        for _ in 0..load.threads.len() {
            // a thread that ended without an answer has noted why
            let _ = begun.recv();
        }
        load
    }

    fn spawn<F>(&mut self, began: &mpsc::Sender<()>, body: F)
    where
        F: FnOnce(&mut Own) + Send + 'static,
    {
        let (stop, stopped) = mpsc::channel();
        self.stop.push(stop);
        let mut own = Own {
            addr: self.addr,
            prefix: self.prefix.clone(),
            shared: Arc::clone(&self.shared),
            stopped,
            began: Some(began.clone()),
            tally: Tally::default(),
            ledger: Ledger::default(),
        };
        self.threads.push(std::thread::spawn(move || {
            body(&mut own);
            (own.tally, own.ledger)
        }));
    }

    /// Requests answered so far.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Waits until this many more requests were answered; false when that takes longer than `patience`.
    #[must_use]
    pub fn wait_for(&self, more: u64, patience: Duration) -> bool {
        let goal = self.answered() + more;
        let deadline = Instant::now() + patience;
        let mut guard = self.shared.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while self.answered() < goal {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            // the count is not under the lock: a lost wake-up is made good by the next answer
            let (again, _) =
                self.shared.changed.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner);
            guard = again;
        }
        true
    }

    /// Sends half commands and requests whose replies stay unread. Do this before an upgrade.
    pub fn hold_back(&mut self) {
        if self.held.is_empty() {
            let held = |n, kind| Held::new(self.addr, &self.prefix, n, kind);
            let half = (0..self.plan.half).map(|n| held(n, Kind::Half));
            let unread = (0..self.plan.unread).map(|n| held(n, Kind::Unread));
            self.held = half.chain(unread).collect();
        }
        for held in &mut self.held {
            held.begin(&mut self.tally);
        }
    }

    /// Sends the other halves, reads the replies, checks them. Do this after the upgrade.
    pub fn let_go(&mut self) {
        for held in &mut self.held {
            held.complete(&mut self.tally);
        }
    }

    /// Stops the clients, asks the idle ones, reads every ledger again from the server.
    #[must_use]
    pub fn finish(mut self) -> Tally {
        self.stop.clear();
        let mut tally = std::mem::take(&mut self.tally);
        for (n, mut client) in self.idle.drain(..).enumerate() {
            let who = format!("idle {n}");
            let began = Instant::now();
            match client.quiet().and_then(|()| client.ask("PING")) {
                Ok(_) => tally.answer(began.elapsed()),
                Err(fault) => tally.fault(&who, &fault),
            }
        }
        let ledgers: Vec<Ledger> = self
            .threads
            .drain(..)
            .map(|thread| {
                let (own, ledger) = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                tally.add(own);
                ledger
            })
            .chain(self.held.drain(..).map(|held| held.ledger))
            .collect();
        match Client::connect(self.addr.into()) {
            Ok(mut client) => {
                for ledger in &ledgers {
                    ledger.check(|key| client.call(&[b"GET", key.as_bytes()]).map(|r| r.text()), &mut tally);
                }
            }
            Err(fault) => tally.fault("final reader", &fault),
        }
        tally
    }
}

/// What one client thread owns.
struct Own {
    addr: SocketAddrV4,
    prefix: String,
    shared: Arc<Shared>,
    stopped: mpsc::Receiver<()>,
    began: Option<mpsc::Sender<()>>,
    tally: Tally,
    ledger: Ledger,
}

impl Own {
    fn running(&self) -> bool {
        matches!(self.stopped.try_recv(), Err(mpsc::TryRecvError::Empty))
    }

    /// Waits for the pace, or for the stop.
    fn pace(&self, time: Duration) {
        let _ = self.stopped.recv_timeout(time);
    }

    fn connect(&mut self, who: &str) -> Option<Client> {
        let began = Instant::now();
        match Client::connect(SocketAddr::V4(self.addr)) {
            Ok(client) => {
                self.tally.connect(began.elapsed());
                Some(client)
            }
            Err(fault) => {
                self.tally.fault(who, &fault);
                // nobody listens: asking again at once would only heat the machine
                self.pace(Duration::from_millis(20));
                None
            }
        }
    }

    fn answer(&mut self, took: Duration) {
        self.tally.answer(took);
        self.shared.answered();
        if let Some(began) = self.began.take() {
            let _ = began.send(());
        }
    }
}

fn busy(own: &mut Own, n: usize) {
    let who = format!("busy {n}");
    let me = format!("{}:busy:{n}", own.prefix);
    let (counter, piped) = (format!("{me}:count"), format!("{me}:piped"));
    let mut connection = None;
    let mut round = 0_u64;
    while own.running() {
        let Some(mut client) = connection.take().or_else(|| own.connect(&who)) else { continue };
        round += 1;
        match busy_round(own, &mut client, round, &me, &counter, &piped) {
            Ok(()) => connection = Some(client),
            Err(fault) => {
                own.tally.fault(&who, &fault);
                // replies may still be under way: only a new connection is in step
            }
        }
    }
}

fn busy_round(own: &mut Own, c: &mut Client, round: u64, me: &str, counter: &str, piped: &str) -> Result<(), Fault> {
    let began = Instant::now();
    match c.call(&[b"INCR", counter.as_bytes()]) {
        Ok(reply) => own.ledger.incremented(counter, int(&reply)?, &mut own.tally),
        Err(fault) => {
            own.ledger.increment_unknown(counter);
            return Err(fault);
        }
    }
    own.answer(began.elapsed());

    let (key, value) = (format!("{me}:{}", round % 64), format!("value-{round}"));
    let began = Instant::now();
    own.ledger.values.remove(&key);
    expect(c.call(&[b"SET", key.as_bytes(), value.as_bytes()])?, "OK")?;
    own.ledger.values.insert(key.clone(), value.clone());
    own.answer(began.elapsed());

    let began = Instant::now();
    match c.call(&[b"GET", key.as_bytes()])?.text() {
        Some(found) if found == value => {}
        found => own.tally.lose(1, format!("{key}: {found:?} read, {value:?} acknowledged")),
    }
    own.answer(began.elapsed());

    if round.is_multiple_of(16) {
        let began = Instant::now();
        for _ in 0..8 {
            own.ledger.increment_unknown(piped);
            c.send(&[b"INCR", piped.as_bytes()])?;
        }
        for left in (0..8).rev() {
            let value = int(&c.reply()?)?;
            own.ledger.incremented(piped, value, &mut own.tally);
            for _ in 0..left {
                own.ledger.increment_unknown(piped);
            }
            own.answer(began.elapsed());
        }
    }
    Ok(())
}

fn library(own: &mut Own, n: usize) {
    let who = format!("library {n}");
    let counter = format!("{}:library:{n}:count", own.prefix);
    let mut connection = None;
    while own.running() {
        let Some(mut client) = connection.take().or_else(|| library_connect(own, &who)) else { continue };
        let began = Instant::now();
        match redis::cmd("INCR").arg(&counter).query::<i64>(&mut client) {
            Ok(value) => {
                own.ledger.incremented(&counter, value, &mut own.tally);
                own.answer(began.elapsed());
                connection = Some(client);
            }
            Err(e) => {
                own.ledger.increment_unknown(&counter);
                own.tally.fault(&who, &library_fault(&e));
            }
        }
    }
}

fn library_connect(own: &mut Own, who: &str) -> Option<redis::Connection> {
    let began = Instant::now();
    match redis::Client::open(format!("redis://{}/", own.addr)).and_then(|client| client.get_connection()) {
        Ok(connection) => {
            own.tally.connect(began.elapsed());
            Some(connection)
        }
        Err(e) => {
            own.tally.fault(who, &library_fault(&e));
            own.pace(Duration::from_millis(20));
            None
        }
    }
}

fn library_fault(e: &redis::RedisError) -> Fault {
    if e.is_connection_refusal() {
        Fault::Refused
    } else if e.is_connection_dropped() || e.is_io_error() {
        Fault::Reset
    } else {
        Fault::ErrorReply(e.to_string())
    }
}

fn fresh(own: &mut Own, n: usize) {
    let who = format!("fresh {n}");
    let counter = format!("{}:fresh:{n}:count", own.prefix);
    while own.running() {
        let began = Instant::now();
        let Some(mut client) = own.connect(&who) else { continue };
        match client.call(&[b"INCR", counter.as_bytes()]).and_then(|reply| int(&reply)) {
            Ok(value) => {
                own.ledger.incremented(&counter, value, &mut own.tally);
                own.answer(began.elapsed());
            }
            Err(fault) => {
                own.ledger.increment_unknown(&counter);
                own.tally.fault(&who, &fault);
            }
        }
        own.pace(PACE);
    }
}

const CHANNEL: &str = "news";

fn subscriber(own: &mut Own, n: usize, ready: &mpsc::Sender<()>, published: &Mutex<mpsc::Receiver<i64>>) {
    let who = format!("subscriber {n}");
    let Some(mut client) = own.connect(&who) else { return };
    if let Err(fault) = client.ask(&format!("SUBSCRIBE {CHANNEL}")) {
        own.tally.fault(&who, &fault);
        return;
    }
    own.answer(Duration::ZERO);
    let _ = ready.send(());
    let mut last = 0_i64;
    loop {
        match client.reply() {
            Ok(message) => {
                let Some(text) = payload(&message) else {
                    own.tally.fault(&who, &Fault::Wrong(format!("{message:?}")));
                    continue;
                };
                if text == "end" {
                    break;
                }
                let number = text.parse().unwrap_or(-1);
                if number <= last {
                    own.tally.reorder(format!("{who}: message {number} after {last}"));
                } else if number != last + 1 {
                    let count = u64::try_from(number - last - 1).unwrap_or(1);
                    own.tally.lose(count, format!("{who}: message {number} after {last}"));
                }
                last = number.max(last);
                own.answer(Duration::ZERO);
            }
            Err(fault) => {
                own.tally.fault(&who, &fault);
                return;
            }
        }
    }
    let published = published.lock().unwrap_or_else(PoisonError::into_inner).recv().unwrap_or(0);
    if last < published {
        let count = u64::try_from(published - last).unwrap_or(1);
        own.tally.lose(count, format!("{who}: {last} messages, {published} published"));
    }
}

fn payload(message: &Reply) -> Option<String> {
    match message {
        Reply::Array(items) if items.first().and_then(Reply::text).as_deref() == Some("message") => {
            items.get(2).and_then(Reply::text)
        }
        Reply::Array(_) | Reply::Simple(_) | Reply::Int(_) | Reply::Bulk(_) => None,
    }
}

/// Publishes numbers; each must reach every subscriber.
fn publisher(own: &mut Own, subscribers: usize, subscribed: &mpsc::Receiver<()>, done: &mpsc::Sender<i64>) {
    let who = "publisher";
    for _ in 0..subscribers {
        if subscribed.recv_timeout(crate::client::PATIENCE).is_err() {
            break;
        }
    }
    let mut number = 0_i64;
    if let Some(mut client) = own.connect(who) {
        while own.running() {
            let began = Instant::now();
            let sent = client.ask(&format!("PUBLISH {CHANNEL} {}", number + 1)).and_then(|reply| int(&reply));
            match sent {
                Ok(reached) if usize::try_from(reached) == Ok(subscribers) => {}
                Ok(reached) => {
                    own.tally.fault(who, &Fault::Wrong(format!("{reached} of {subscribers} subscribers reached")));
                }
                Err(fault) => {
                    own.tally.fault(who, &fault);
                    break;
                }
            }
            number += 1;
            own.answer(began.elapsed());
            own.pace(PACE);
        }
    }
    for _ in 0..subscribers {
        let _ = done.send(number);
    }
    // on a connection of its own: the subscribers are to end, whatever became of the first one
    let end = Client::connect(SocketAddr::V4(own.addr)).and_then(|mut c| c.ask(&format!("PUBLISH {CHANNEL} end")));
    if let Err(fault) = end {
        own.tally.fault(who, &fault);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Half,
    Unread,
}

/// A connection that has an upgrade happen in the middle of its talk.
#[derive(Debug)]
struct Held {
    who: String,
    key: String,
    addr: SocketAddrV4,
    n: usize,
    kind: Kind,
    client: Option<Client>,
    round: u64,
    rest: Vec<u8>,
    ledger: Ledger,
}

/// Requests on a connection whose replies stay unread, and the size of every eighth of those replies.
const UNREAD: u64 = 256;
const LARGE: usize = 16 * 1024;

impl Held {
    fn new(addr: SocketAddrV4, prefix: &str, n: usize, kind: Kind) -> Held {
        let who = match kind {
            Kind::Half => format!("half {n}"),
            Kind::Unread => format!("unread {n}"),
        };
        let key = format!("{prefix}:{}", who.replace(' ', ":"));
        Held { who, key, addr, n, kind, client: None, round: 0, rest: Vec::new(), ledger: Ledger::default() }
    }

    /// The connection is gone, and with it the word on what was done of what was asked.
    fn lose(&mut self, fault: &Fault, tally: &mut Tally) {
        tally.fault(&self.who, fault);
        self.client = None;
        match self.kind {
            Kind::Half => drop(self.ledger.values.remove(&self.key)),
            Kind::Unread => (0..UNREAD).for_each(|_| self.ledger.increment_unknown(&self.key)),
        }
    }

    fn begin(&mut self, tally: &mut Tally) {
        self.round += 1;
        if let Err(fault) = self.try_begin() {
            self.lose(&fault, tally);
        }
    }

    fn try_begin(&mut self) -> Result<(), Fault> {
        if self.client.is_none() {
            let mut client = match self.kind {
                Kind::Half => Client::connect(self.addr.into())?,
                Kind::Unread => Client::connect_narrow(self.addr)?,
            };
            // answered once, so that it is an established connection and not one in the backlog
            client.ask("PING")?;
            self.client = Some(client);
        }
        let (key, round, n) = (self.key.clone(), self.round, self.n);
        let Some(client) = self.client.as_mut() else { return Err(Fault::Closed) };
        match self.kind {
            Kind::Half => {
                let bytes = command(&[b"SET", key.as_bytes(), format!("round-{round}").as_bytes()]);
                // every client cuts elsewhere: in the header, in a length, in a word, in a line end
                let cut = 1 + (n * 7 + 2) % (bytes.len() - 1);
                client.send_raw(&bytes[..cut])?;
                self.rest = bytes[cut..].to_vec();
            }
            Kind::Unread => {
                let mut bytes = Vec::new();
                let large = vec![b'x'; LARGE];
                for i in 0..UNREAD {
                    if i.is_multiple_of(8) {
                        bytes.extend_from_slice(&command(&[b"ECHO", &large]));
                    } else {
                        bytes.extend_from_slice(&command(&[b"INCR", key.as_bytes()]));
                    }
                }
                // the server may stop reading while nobody reads its replies: the rest is sent when they are read
                self.rest = send_what_fits(client, &bytes)?;
                client.awaits(UNREAD);
            }
        }
        Ok(())
    }

    fn complete(&mut self, tally: &mut Tally) {
        if self.client.is_none() {
            return;
        }
        let began = Instant::now();
        match self.try_complete(tally) {
            Ok(answers) => (0..answers).for_each(|_| tally.answer(began.elapsed())),
            Err(fault) => self.lose(&fault, tally),
        }
    }

    fn try_complete(&mut self, tally: &mut Tally) -> Result<u64, Fault> {
        let key = self.key.clone();
        let Some(client) = self.client.as_mut() else { return Ok(0) };
        let rest = std::mem::take(&mut self.rest);
        match self.kind {
            Kind::Half => {
                client.quiet()?;
                client.send_raw(&rest)?;
                client.awaits(1);
                expect(client.reply()?, "OK")?;
                self.ledger.values.insert(key, format!("round-{}", self.round));
                Ok(1)
            }
            Kind::Unread => {
                // one thread writes what is left while this one reads
                let mut writer = client.writer()?;
                let sent = std::thread::spawn(move || writer.send_raw(&rest));
                for i in 0..UNREAD {
                    let reply = client.reply()?;
                    if i.is_multiple_of(8) {
                        if reply.text().map(|t| t.len()) != Some(LARGE) {
                            return Err(Fault::Wrong(format!("reply {i} is not the echo")));
                        }
                    } else {
                        self.ledger.incremented(&key, int(&reply)?, tally);
                    }
                }
                sent.join().map_err(|_| Fault::Other("the writer panicked".into()))??;
                Ok(UNREAD)
            }
        }
    }
}

/// Sends until the kernel takes no more; what is left.
fn send_what_fits(client: &mut Client, bytes: &[u8]) -> Result<Vec<u8>, Fault> {
    let sent = client.send_some(bytes)?;
    Ok(bytes[sent..].to_vec())
}

fn int(reply: &Reply) -> Result<i64, Fault> {
    match reply {
        Reply::Int(n) => Ok(*n),
        other => Err(Fault::Wrong(format!("a number was expected: {other:?}"))),
    }
}

fn expect(reply: Reply, wanted: &str) -> Result<(), Fault> {
    match reply {
        Reply::Simple(text) if text == wanted => Ok(()),
        other => Err(Fault::Wrong(format!("{wanted} was expected: {other:?}"))),
    }
}
