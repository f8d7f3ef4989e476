//! Clients in the background: busy, fresh, idle, subscribed, on shared keys, with half a command, with unread replies.
//!
//! Each keeps a ledger of what was acknowledged to it; [`Load::finish`] reads everything again and adds it up.

mod held;
mod news;
mod own;
mod requests;
mod shared;

use crate::client::Client;
use crate::history::{Ledger, Tally};
use held::{Held, Kind};
use own::Own;
use std::net::SocketAddrV4;
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
    /// Clients that share keys; what they were told is judged as one history (see [`crate::linear`]).
    pub shared: usize,
    /// Connections that say nothing until the end.
    pub idle: usize,
    /// Subscribers; one more connection publishes.
    pub subscribers: usize,
    /// Connections on which half a command waits (see [`Load::hold_back`]).
    pub half: usize,
    /// Connections with many requests whose replies are not read (see [`Load::hold_back`]).
    pub unread: usize,
    /// Between two rounds of a busy client: where many loads share a machine, none is to fill it.
    pub pause: Duration,
}

impl Plan {
    /// Some of every kind.
    #[must_use]
    pub fn everything() -> Plan {
        Plan {
            busy: 4,
            library: 2,
            fresh: 1,
            shared: 4,
            idle: 20,
            subscribers: 3,
            half: 8,
            unread: 2,
            pause: Duration::ZERO,
        }
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
    refused: AtomicU64,
    turns: AtomicU64,
    changed: Condvar,
    lock: Mutex<()>,
}

impl Shared {
    fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_all();
    }

    fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// One more operation on shared keys; how many there were before.
    fn turn(&self) -> u64 {
        self.turns.fetch_add(1, Ordering::Relaxed)
    }

    /// Waits until the count is at least this; false at the deadline.
    fn wait(&self, count: &AtomicU64, goal: u64, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while count.load(Ordering::Relaxed) < goal {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            // the count is not under the lock: a lost wake-up is made good by the next one, or by the deadline
            let (again, _) = self.changed.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner);
            guard = again;
        }
        true
    }
}

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
            load.spawn(&began, move |own| requests::busy(own, n));
        }
        for n in 0..plan.library {
            load.spawn(&began, move |own| requests::library(own, n));
        }
        for n in 0..plan.shared {
            load.spawn(&began, move |own| shared::shared(own, n));
        }
        for n in 0..plan.fresh {
            load.spawn(&began, move |own| requests::fresh(own, n));
        }
        if plan.subscribers > 0 {
            let (done, published) = mpsc::channel();
            let published = Arc::new(Mutex::new(published));
            let (ready, subscribed) = mpsc::channel();
            for n in 0..plan.subscribers {
                let (ready, published) = (ready.clone(), Arc::clone(&published));
                load.spawn(&began, move |own| news::subscriber(own, n, &ready, &published));
            }
            let subscribers = plan.subscribers;
            load.spawn(&began, move |own| news::publisher(own, subscribers, &subscribed, &done));
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
            pause: self.plan.pause,
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
        self.shared.wait(&self.shared.answered, self.answered() + more, patience)
    }

    /// Waits until somebody was refused a connection since the start; false when that takes longer than `patience`.
    #[must_use]
    pub fn wait_for_refusal(&self, patience: Duration) -> bool {
        self.shared.wait(&self.shared.refused, 1, patience)
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
                if let Err(fault) = shared::last_words(&mut client, &mut tally.operations) {
                    tally.fault("final reader", &fault);
                }
            }
            Err(fault) => tally.fault("final reader", &fault),
        }
        tally
    }
}
