//! The accept gate: closes once, and knows when no accept is in flight any more.

use std::fmt::Debug;
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
}

#[derive(Debug)]
struct State {
    closed: bool,
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
            state: Mutex::new(State { closed: false, registrations: Vec::new() }),
            closed: watch::Sender::new(false),
            in_flight: watch::Sender::new(0),
        };
        Self(Arc::new(inner))
    }

    /// Runs one accept(2) unless the gate is closed; a success counts as in flight until its guard is dropped.
    pub(super) fn pass<T, E>(&self, accept: impl FnOnce() -> Result<T, E>) -> Option<Result<(T, AcceptGuard), E>> {
        let state = self.lock();
        if state.closed {
            return None;
        }
        Some(accept().map(|accepted| {
            self.0.in_flight.send_modify(|n| *n += 1);
            (accepted, AcceptGuard(self.clone()))
        }))
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
