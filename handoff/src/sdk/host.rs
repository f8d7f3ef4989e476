//! The task that owns the server author's value and runs its hooks, one at a time.
//!
//! A hook that panics is a hook that failed, and the value stays; a hook that is cancelled is dropped at its await.

use super::connection::Connection;
use super::context::{Context, Disk, DrainReport, Opened};
use super::gate::Gate;
use super::incumbent::Incumbent;
use super::leaving::Leaving;
use super::parked::Parked;
use super::successor::Successor;
use super::tenure::{SealGuard, Sealed, Tenure};
use super::{Digest, HookResult};
use crate::machine::Hook;
use std::any::Any;
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Accepts that are in flight end within this, or the seal fails: a guard is kept where it should not be.
const IN_FLIGHT: Duration = Duration::from_secs(1);

/// One hook with what it is given.
#[derive(Debug)]
pub(super) enum Order {
    Warm,
    Open(Disk),
    Serve(Tenure, Vec<Parked>),
    Drain(Duration),
    Seal(Gate, SealGuard),
    Verify(Disk),
    Resume(Tenure, Vec<Parked>),
    Retire(Gate, Leaving),
    Health,
    Canary(Connection),
}

impl Order {
    fn hook(&self) -> Hook {
        match self {
            Order::Warm => Hook::Warm,
            Order::Open(_) => Hook::Open,
            Order::Serve(..) => Hook::Serve,
            Order::Drain(_) => Hook::Drain,
            Order::Seal(..) => Hook::Seal,
            Order::Verify(_) => Hook::Verify,
            Order::Resume(..) => Hook::Resume,
            Order::Retire(..) => Hook::Retire,
            Order::Health => Hook::Health,
            Order::Canary(_) => Hook::Canary,
        }
    }
}

/// What a hook gave back.
#[derive(Debug)]
pub(super) enum Output {
    Nothing,
    Warmed { loaded: String, revision: u64 },
    Opened(Opened),
    Drained(DrainReport),
    Sealed(Sealed),
    Verified(Digest),
}

/// The world's handle on the task.
#[derive(Debug)]
pub(super) struct Host {
    orders: mpsc::UnboundedSender<Call>,
    done: mpsc::UnboundedReceiver<Finished>,
    running: BTreeMap<Hook, (u64, oneshot::Sender<()>)>,
    calls: u64,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Call {
    id: u64,
    order: Order,
    cancel: oneshot::Receiver<()>,
}

#[derive(Debug)]
struct Finished {
    id: u64,
    hook: Hook,
    result: Result<Output, String>,
}

impl Host {
    pub(super) fn spawn<S: Successor>(context: Context<S::Config>) -> Self {
        let (orders, calls) = mpsc::unbounded_channel();
        let (finished, done) = mpsc::unbounded_channel();
        let task = tokio::spawn(Tenant::<S>::Nothing.run(context, calls, finished));
        Self { orders, done, running: BTreeMap::new(), calls: 0, task }
    }

    /// Begins a hook; those before it are finished first.
    pub(super) fn call(&mut self, order: Order) {
        self.calls += 1;
        let (cancel_by, cancel) = oneshot::channel();
        self.running.insert(order.hook(), (self.calls, cancel_by));
        // fails only when the task is gone, and it ends only with this handle
        let _ = self.orders.send(Call { id: self.calls, order, cancel });
    }

    /// Whether no hook runs or waits.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// Drops a hook at its next await. It gives no result any more.
    pub(super) fn cancel(&mut self, hook: Hook) {
        self.running.remove(&hook);
    }

    /// The next hook that returned. Cancel safe.
    pub(super) async fn done(&mut self) -> (Hook, Result<Output, String>) {
        loop {
            let Some(Finished { id, hook, result }) = self.done.recv().await else {
                return std::future::pending().await;
            };
            // the result of a cancelled one may have been on its way
            if self.running.get(&hook).is_some_and(|(running, _)| *running == id) {
                self.running.remove(&hook);
                return (hook, result);
            }
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The user's value, as far as it has come.
enum Tenant<S: Successor> {
    Nothing,
    Before { value: S, following: bool },
    During(S::Incumbent),
}

impl<S: Successor> Tenant<S> {
    async fn run(
        mut self,
        context: Context<S::Config>,
        mut calls: mpsc::UnboundedReceiver<Call>,
        finished: mpsc::UnboundedSender<Finished>,
    ) {
        while let Some(Call { id, order, cancel }) = self.next_call(&mut calls).await {
            let hook = order.hook();
            let result = tokio::select! {
                biased;
                // the handle lets go of its end, with or without a word
                _ = cancel => continue,
                result = self.perform(&context, order) => result,
            };
            if let Err(why) = &result {
                tracing::warn!(?hook, why, "hook");
            }
            if finished.send(Finished { id, hook, result }).is_err() {
                return;
            }
        }
    }

    /// Waits for the next call; a successor that was warmed follows the log meanwhile.
    async fn next_call(&mut self, calls: &mut mpsc::UnboundedReceiver<Call>) -> Option<Call> {
        if let Tenant::Before { value, following } = self
            && *following
        {
            tokio::select! {
                biased;
                call = calls.recv() => return call,
                followed = guarded(async { value.follow().await }) => {
                    // `open` reads whatever is left
                    *following = false;
                    if let Err(why) = followed {
                        tracing::warn!(why, "following the log");
                    }
                }
            }
        }
        calls.recv().await
    }

    async fn perform(&mut self, context: &Context<S::Config>, order: Order) -> Result<Output, String> {
        let hook = order.hook();
        match (order, &mut *self) {
            (Order::Warm, Tenant::Nothing) => {
                let value = guarded(async { S::warm(context.clone()).await }).await?;
                let (loaded, revision) = value.loaded();
                *self = Tenant::Before { value, following: true };
                Ok(Output::Warmed { loaded, revision })
            }
            (Order::Open(disk), Tenant::Before { value, following }) => {
                *following = false;
                guarded(async { value.open(disk).await }).await.map(Output::Opened)
            }
            (Order::Canary(connection), Tenant::Before { value, .. }) => {
                guarded(async { value.canary(connection).await }).await.map(|()| Output::Nothing)
            }
            (Order::Serve(tenure, parked), tenant @ Tenant::Before { .. }) => {
                let Tenant::Before { value, .. } = std::mem::replace(tenant, Tenant::Nothing) else {
                    return Err("no value".to_owned());
                };
                *self = Tenant::During(guarded(async { value.serve(tenure, parked).await }).await?);
                Ok(Output::Nothing)
            }
            (Order::Drain(grace), Tenant::During(value)) => {
                guarded(async { value.drain(grace).await }).await.map(Output::Drained)
            }
            (Order::Seal(gate, guard), Tenant::During(value)) => {
                close(&gate).await?;
                guarded(async { value.seal(guard).await }).await.map(Output::Sealed)
            }
            (Order::Health, Tenant::During(value)) => {
                guarded(async { value.health().await }).await.map(|()| Output::Nothing)
            }
            (Order::Verify(disk), Tenant::During(value)) => {
                guarded(async { value.verify(disk).await }).await.map(Output::Verified)
            }
            (Order::Resume(tenure, parked), Tenant::During(value)) => {
                guarded(async { value.resume(tenure, parked).await }).await.map(|()| Output::Nothing)
            }
            (Order::Retire(gate, leaving), tenant @ Tenant::During(_)) => {
                let Tenant::During(value) = std::mem::replace(tenant, Tenant::Nothing) else {
                    return Err("no value".to_owned());
                };
                if let Err(why) = close(&gate).await {
                    tracing::warn!(why, "retiring nevertheless");
                }
                guarded(async { value.retire(leaving).await }).await.map(|()| Output::Nothing)
            }
            (_, Tenant::Nothing | Tenant::Before { .. } | Tenant::During(_)) => {
                Err(format!("{hook:?} was called out of order: this is a bug of the framework"))
            }
        }
    }
}

/// Closes the accept gate and waits for the accepts in flight.
async fn close(gate: &Gate) -> Result<(), String> {
    gate.close();
    match tokio::time::timeout(crate::crash::scaled(IN_FLIGHT), gate.idle()).await {
        Ok(()) => Ok(()),
        Err(_) => Err(format!(
            "{} accepts are still in flight after {} s: drop the AcceptGuard as soon as the connection is registered",
            gate.in_flight(),
            IN_FLIGHT.as_secs()
        )),
    }
}

/// Runs a hook; a panic becomes its error.
async fn guarded<T>(hook: impl Future<Output = HookResult<T>>) -> Result<T, String> {
    let mut hook = pin!(hook);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| hook.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(result)) => Poll::Ready(result.map_err(|e| e.to_string())),
        Err(panic) => Poll::Ready(Err(format!("the hook panicked: {}", text(panic.as_ref())))),
    })
    .await
}

fn text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a word")
}
