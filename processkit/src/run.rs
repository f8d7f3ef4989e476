//! One run: a child and what may end it from outside.

use crate::command::Command;
use crate::containment::Containment;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::ladder::{Event, Ladder, Order};
use crate::process::{Child, send};
use crate::signal::Signal;
use crate::terms::Terms;
use crate::watch::{self, Watched};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::unix::AsyncFd;

/// A child, its limits, and what became of them. Shared by its handle and the task that enforces the limits.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) child: Arc<Child>,
    pub(crate) program: String,
    pub(crate) terms: Terms,
    /// The private group, which ends as a whole.
    pub(crate) group: Option<Containment>,
    fate: Mutex<Fate>,
    /// The child as the runtime watches it, once somebody waited.
    watched: Mutex<Option<Arc<AsyncFd<Watched>>>>,
}

/// Who ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It did, or nobody yet.
    Own,
    TimedOut(Duration),
    Cancelled,
}

impl Run {
    pub(crate) fn new(child: Arc<Child>, command: &Command, group: Option<Containment>) -> Self {
        Run {
            child,
            program: command.name(),
            terms: command.terms.clone(),
            group,
            fate: Mutex::new(Fate::Own),
            watched: Mutex::new(None),
        }
    }

    pub(crate) fn fate(&self) -> Fate {
        *self.fate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decide(&self, fate: Fate) {
        *self.fate.lock().unwrap_or_else(PoisonError::into_inner) = fate;
    }

    /// The error if it was cancelled.
    pub(crate) fn check_cancelled(&self) -> Result<()> {
        #[cfg(feature = "cancellation")]
        if self.fate() == Fate::Cancelled {
            return Err(Error::Cancelled { program: self.program.clone() });
        }
        Ok(())
    }

    /// Until it has ended and is reaped. Cancel safe; several may wait.
    pub(crate) async fn exit(&self) -> Result<Exit> {
        loop {
            if let Some(exit) = self.child.try_reap()? {
                return Ok(exit);
            }
            let watched = self.watched()?;
            let _ = watched.readable().await; // an error: registered with a runtime that is gone by now
            // Not watched any more when it is reaped, which is an event as well: a thread would wake for nothing.
            self.lock_watched().take_if(|known| Arc::ptr_eq(known, &watched));
        }
    }

    fn lock_watched(&self) -> MutexGuard<'_, Option<Arc<AsyncFd<Watched>>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watched(&self) -> io::Result<Arc<AsyncFd<Watched>>> {
        // One at a time: the kernel refuses to watch the same descriptor twice (epoll_ctl(2), EEXIST).
        let mut known = self.lock_watched();
        if let Some(watched) = &*known {
            return Ok(Arc::clone(watched));
        }
        Ok(Arc::clone(known.insert(Arc::new(watch::child(Arc::clone(&self.child))?))))
    }

    /// [`exit`](Run::exit), with the limits enforced. By one at a time.
    pub(crate) async fn guarded(&self) -> Result<Exit> {
        let fate = tokio::select! {
            biased;
            exit = self.exit() => return exit,
            fate = self.over() => fate,
        };
        // It may have ended while nobody looked: then it has its own end.
        if self.child.try_reap()?.is_none() {
            self.decide(fate);
            event!(debug, pid = self.child.pid(), fate = format_args!("{fate:?}"), "ending a process");
            match (fate, self.terms.grace) {
                (Fate::TimedOut(_), Some(grace)) => self.escalate(grace).await?,
                (Fate::TimedOut(_) | Fate::Cancelled | Fate::Own, _) => self.kill()?,
            }
        }
        self.exit().await
    }

    /// [`guarded`](Run::guarded), and then the end of what it leaves behind in its private group: a stream of its lines, or
    /// whoever waits for its outputs, would else be held up by a process in the background, whatever the limits say.
    pub(crate) async fn guarded_to_the_end(&self) {
        if let Err(error) = self.guarded().await {
            event!(warn, pid = self.child.pid(), error = error, "a process cannot be watched or ended");
        }
        if let Some(group) = &self.group {
            group.end_rest();
        }
    }

    /// Until a limit is reached.
    async fn over(&self) -> Fate {
        let timed_out = async {
            let limit = self.terms.timeout;
            match limit.and_then(|limit| Some((limit, self.child.born().at.checked_add(limit)?))) {
                Some((limit, end)) => {
                    tokio::time::sleep_until(end.into()).await;
                    limit
                }
                None => std::future::pending().await, // a limit beyond the clock is none
            }
        };
        tokio::select! {
            biased;
            () = self.terms.cancelled() => Fate::Cancelled,
            timeout = timed_out => Fate::TimedOut(timeout),
        }
    }

    /// The signal, the grace, the kill. A cancellation ends the grace, and so does the end of the process: what it started
    /// after the signal was out has never heard of it.
    async fn escalate(&self, grace: Duration) -> Result<()> {
        let mut ladder = Ladder::new(true);
        let mut event = Event::Begin;
        loop {
            let orders;
            (ladder, orders) = ladder.step(event);
            for order in orders {
                match order {
                    // Who cannot be asked is killed all the same, when the grace is over.
                    Order::Terminate => {
                        if let Err(error) = self.signal(self.terms.signal) {
                            event!(
                                warn,
                                pid = self.child.pid(),
                                error = error,
                                "not everybody can be asked to end"
                            );
                        }
                    }
                    Order::ArmGrace => {}
                    Order::Kill => {
                        event!(debug, pid = self.child.pid(), "grace is over, killing");
                        self.kill()?;
                    }
                }
            }
            event = match ladder {
                Ladder::Ground { .. } => Event::Begin,
                Ladder::Grace { .. } => tokio::select! {
                    biased;
                    exit = self.exit() => exit.map(|_| Event::Empty)?,
                    () = self.terms.cancelled() => {
                        self.decide(Fate::Cancelled);
                        Event::GraceOver
                    }
                    () = tokio::time::sleep(grace) => Event::GraceOver,
                },
                // what it leaves behind ends with it here as well
                Ladder::Gone { .. } if self.group.is_some() => return self.kill(),
                Ladder::Killing | Ladder::Gone { .. } | Ladder::Spared => return Ok(()),
            };
        }
    }

    /// To everything that is to end with it.
    fn signal(&self, signal: Signal) -> Result<()> {
        match &self.group {
            _ if signal == Signal::Kill => self.kill(),
            Some(group) => Ok(group.signal(signal.as_raw())?),
            None => send(self.child.pidfd(), signal),
        }
    }

    /// Kill everything that is to end with it.
    pub(crate) fn kill(&self) -> Result<()> {
        match &self.group {
            Some(group) => Ok(group.kill()?),
            None => send(self.child.pidfd(), Signal::Kill),
        }
    }

    pub(crate) fn not_ready(&self, timeout: Duration) -> Error {
        Error::NotReady { program: self.program.clone(), timeout }
    }
}

/// What is an error before anything is done.
pub(crate) fn check_begin(command: &Command) -> Result<()> {
    #[cfg(feature = "cancellation")]
    if command.terms.is_cancelled() {
        return Err(Error::Cancelled { program: command.name() });
    }
    let _ = command;
    Ok(())
}
