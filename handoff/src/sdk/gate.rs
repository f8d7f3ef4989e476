//! The accept gate: closes once, and knows when no accept is in flight any more. Canaries come in by it too.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::watch;

/// One per tenure. Nothing is accepted after [`Gate::close`] has returned.
#[derive(Clone, Debug)]
pub(super) struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Held over each accept(2), so that closing falls before or after it, never into it.
    state: Mutex<State>,
    closed: watch::Sender<bool>,
    in_flight: watch::Sender<usize>,
    /// How many connections were handed in.
    visited: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    closed: bool,
    /// Handed in by the supervisor for the listener of this name, and not accepted yet.
    visitors: VecDeque<(String, UnixStream)>,
    /// What stands in the event loop because of this gate.
    registrations: Vec<Weak<dyn Registration>>,
}

/// A listener's place in the event loop.
pub(super) trait Registration: Debug + Send + Sync {
    /// The gate is closed: leave the event loop.
    fn release(&self);
}

impl Gate {
    pub(super) fn open() -> Self {
        let inner = Inner {
            state: Mutex::new(State { closed: false, visitors: VecDeque::new(), registrations: Vec::new() }),
            closed: watch::Sender::new(false),
            in_flight: watch::Sender::new(0),
            visited: watch::Sender::new(0),
        };
        Self(Arc::new(inner))
    }

    /// Runs one accept(2) unless the gate is closed; a success counts as in flight until its guard is dropped.
    pub(super) fn pass<T, E>(
        &self,
        accept: impl FnOnce() -> Result<T, E>,
    ) -> Option<Result<(T, AcceptGuard), E>> {
        let state = self.lock();
        if state.closed {
            return None;
        }
        Some(accept().map(|accepted| {
            self.0.in_flight.send_modify(|n| *n += 1);
            (accepted, AcceptGuard(self.clone()))
        }))
    }

    /// Hands a connection in, to be accepted on the listener of this name. Closed, if the gate is.
    pub(super) fn visit(&self, listener: &str, connection: UnixStream) {
        let mut state = self.lock();
        if !state.closed {
            state.visitors.push_back((listener.to_owned(), connection));
            self.0.visited.send_modify(|n| *n += 1);
        }
    }

    /// Takes a connection that was handed in for this listener; it counts as in flight until its guard is dropped.
    pub(super) fn admit(&self, listener: &str) -> Option<(UnixStream, AcceptGuard)> {
        let mut state = self.lock();
        let at = state.visitors.iter().position(|(name, _)| name == listener)?;
        let (_, connection) = state.visitors.remove(at)?;
        self.0.in_flight.send_modify(|n| *n += 1);
        Some((connection, AcceptGuard(self.clone())))
    }

    /// Waits until one is there that was handed in for this listener. Cancel safe.
    pub(super) async fn visited(&self, listener: &str) {
        let waits = || self.lock().visitors.iter().any(|(name, _)| name == listener);
        // cannot fail: `self` holds the sender
        let _ = self.0.visited.subscribe().wait_for(|_| waits()).await;
    }

    /// Will be released when the gate closes (now, if it is closed).
    pub(super) fn register(&self, registration: Weak<dyn Registration>) {
        let mut state = self.lock();
        if !state.closed {
            state.registrations.push(registration);
        } else if let Some(registration) = registration.upgrade() {
            registration.release();
        }
    }

    /// Closes it, for ever, and wakes everybody who waits at it.
    pub(super) fn close(&self) {
        let registrations = {
            let mut state = self.lock();
            state.closed = true;
            state.visitors.clear();
            std::mem::take(&mut state.registrations)
        };
        for registration in registrations.iter().filter_map(Weak::upgrade) {
            registration.release();
        }
        self.0.closed.send_replace(true);
    }

    /// Waits until it is closed. Cancel safe.
    pub(super) async fn closed(&self) {
        // cannot fail: `self` holds the sender
        let _ = self.0.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// Waits until no accept is in flight. Cancel safe.
    pub(super) async fn idle(&self) {
        let _ = self.0.in_flight.subscribe().wait_for(|n| *n == 0).await;
    }

    pub(super) fn in_flight(&self) -> usize {
        *self.0.in_flight.borrow()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection was accepted and the server does not know it yet. Keep it until the connection stands in the table
/// that `seal` walks, then drop it; the seal waits for it.
#[derive(Debug)]
#[must_use = "drop it when the connection is where the seal finds it"]
pub struct AcceptGuard(Gate);

impl Drop for AcceptGuard {
    fn drop(&mut self) {
        self.0.0.in_flight.send_modify(|n| *n -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, InstanceId, ListenerName};
    use crate::os::listeners::{Address, address_of, bind};
    use crate::sdk::Tenure;
    use std::os::fd::AsFd as _;

    fn tenure(gate: &Gate) -> (Tenure, std::net::SocketAddr) {
        let fd = Arc::new(bind(&"127.0.0.1:0".parse().expect("address")).expect("bind"));
        let Address::Tcp(address) = address_of(fd.as_fd()).expect("address") else { panic!("tcp") };
        let listeners = vec![(ListenerName::new("a").expect("name"), fd)];
        let (epoch, instance, gate) = (Epoch(1), InstanceId::NIL, gate.clone());
        (
            Tenure {
                epoch,
                instance,
                data_dir: None,
                listeners,
                connection_format: 0,
                gate,
                arrivals: std::sync::Mutex::default(),
            },
            address,
        )
    }

    #[tokio::test]
    async fn an_accept_in_flight_is_waited_for() {
        let gate = Gate::open();
        let (tenure, address) = tenure(&gate);
        let listener = tenure.listener("a").expect("there");
        let _client = tokio::net::TcpStream::connect(address).await.expect("connected");
        let (_connection, guard) = listener.accept().await.expect("accepts").expect("open");
        gate.close();
        let idle = gate.idle();
        tokio::pin!(idle);
        tokio::select! {
            biased;
            () = &mut idle => panic!("the server does not know the connection yet"),
            () = tokio::task::yield_now() => {}
        }
        drop(guard);
        idle.await;
    }

    #[tokio::test]
    async fn nothing_is_accepted_after_it_closed() {
        let gate = Gate::open();
        let (tenure, address) = tenure(&gate);
        let listener = tenure.listener("a").expect("there");
        let waiting = tokio::spawn({
            let listener = listener.clone();
            async move { listener.accept().await.map(|accepted| accepted.is_some()) }
        });
        tokio::task::yield_now().await;
        gate.close();
        assert!(!waiting.await.expect("task").expect("no error"), "whoever waits is told");
        let _client = tokio::net::TcpStream::connect(address).await.expect("queued by the kernel");
        assert!(listener.accept().await.expect("no error").is_none());
        let late = tenure.listener("a").expect("there");
        assert!(late.accept().await.expect("no error").is_none());
        // it still waits for whoever serves next
        let (next, accepted) = (Gate::open(), &tenure.listeners[0].1);
        let next = Tenure {
            gate: next,
            listeners: vec![(tenure.listeners[0].0.clone(), accepted.clone())],
            ..tenure
        };
        let listener = next.listener("a").expect("there");
        assert!(listener.accept().await.expect("accepts").is_some());
    }

    #[tokio::test]
    async fn who_is_handed_in_is_accepted_on_that_listener_alone() {
        let gate = Gate::open();
        let (mut tenure, _) = tenure(&gate);
        let fd = Arc::new(bind(&"127.0.0.1:0".parse().expect("address")).expect("bind"));
        tenure.listeners.push((ListenerName::new("b").expect("name"), fd));
        let (first, other) = (tenure.listener("a").expect("there"), tenure.listener("b").expect("there"));
        let elsewhere = tokio::spawn(async move { other.accept().await.map(|accepted| accepted.is_some()) });
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        gate.visit("a", theirs);
        let (connection, guard) = first.accept().await.expect("accepts").expect("open");
        assert_eq!(connection.peer(), "unix");
        assert_eq!(gate.in_flight(), 1);
        drop((connection, guard, ours));
        gate.close();
        assert!(!elsewhere.await.expect("task").expect("no error"), "it was none of its own");
        let (mut ours, theirs) = UnixStream::pair().expect("a pair");
        gate.visit("a", theirs);
        assert!(first.accept().await.expect("no error").is_none());
        assert_eq!(std::io::Read::read(&mut ours, &mut [0]).expect("the end"), 0, "closed at once");
    }

    #[tokio::test]
    async fn an_unknown_listener_names_those_there_are() {
        let (tenure, _) = tenure(&Gate::open());
        let error = tenure.listener("b").expect_err("unknown").to_string();
        assert_eq!(error, "no listener \"b\": there are [a]");
    }
}
