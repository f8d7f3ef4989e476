//! What ends a run from outside, which codes are a success, and when it is tried again.

use crate::command::Command;
use crate::error::Error;
use crate::signal::Signal;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
#[cfg(feature = "cancellation")]
use tokio_util::sync::CancellationToken;

/// When a run is over although it has not ended, and what is made of its end.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) timeout: Option<Duration>,
    pub(crate) grace: Option<Duration>,
    pub(crate) signal: Signal,
    #[cfg(feature = "cancellation")]
    pub(crate) cancel: Option<CancellationToken>,
    pub(crate) accepted: Arc<BTreeSet<i32>>,
    pub(crate) retry: Option<Retry>,
}

impl Default for Terms {
    fn default() -> Self {
        Terms {
            timeout: None,
            grace: None,
            signal: Signal::Term,
            #[cfg(feature = "cancellation")]
            cancel: None,
            accepted: Arc::new(BTreeSet::from([0])),
            retry: None,
        }
    }
}

impl Terms {
    /// Whether somebody has to watch the run.
    pub(crate) fn are_set(&self) -> bool {
        #[cfg(feature = "cancellation")]
        if self.cancel.is_some() {
            return true;
        }
        self.timeout.is_some()
    }

    /// Whether it is cancelled already.
    #[cfg(feature = "cancellation")]
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancel.as_ref().is_some_and(CancellationToken::is_cancelled)
    }

    /// Until it is cancelled; forever where it cannot be. Cancel safe.
    pub(crate) async fn cancelled(&self) {
        #[cfg(feature = "cancellation")]
        if let Some(token) = &self.cancel {
            return token.cancelled().await;
        }
        std::future::pending().await
    }
}

/// When to try again.
#[derive(Clone)]
pub(crate) struct Retry {
    pub(crate) max: u32,
    pub(crate) backoff: Duration,
    pub(crate) predicate: Arc<dyn Fn(&Error) -> bool + Send + Sync>,
}

impl fmt::Debug for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("max", &self.max)
            .field("backoff", &self.backoff)
            .finish_non_exhaustive()
    }
}

impl Command {
    /// End the run if it takes longer than this, counted from the spawn. A private group is ended whole, in a shared one
    /// only this process. For `output_string`, `output_bytes` and `wait` that is an outcome, for `run`, `exit_code`, `probe`
    /// and `first_line` it is [`Error::Timeout`].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.terms.timeout = Some(timeout);
        self
    }

    /// After the timeout, ask it to end and wait for this long before the kill. No grace by default.
    pub fn timeout_grace(mut self, grace: Duration) -> Self {
        self.terms.grace = Some(grace);
        self
    }

    /// How it is asked during the grace; [`Signal::Term`] by default.
    #[cfg(feature = "process-control")]
    pub fn timeout_signal(mut self, signal: Signal) -> Self {
        self.terms.signal = signal;
        self
    }

    /// End the run when this token fires: killed without grace, and [`Error::Cancelled`] whatever the verb. A run that had
    /// ended by then keeps its result; one that has not begun does not begin.
    #[cfg(feature = "cancellation")]
    pub fn cancel_on(mut self, token: CancellationToken) -> Self {
        self.terms.cancel = Some(token);
        self
    }

    /// The exit codes that are a success, instead of 0 alone.
    pub fn ok_codes(mut self, codes: impl IntoIterator<Item = i32>) -> Self {
        self.terms.accepted = Arc::new(codes.into_iter().collect());
        self
    }

    /// Try up to `max` times in all, with this pause in between, as long as the predicate says so of the error. For the verbs
    /// that make an end into an error ([`run`](Command::run), [`exit_code`](Command::exit_code),
    /// [`probe`](Command::probe)), and for failed starts of the others. A cancellation is never tried again.
    pub fn retry(
        mut self,
        max: u32,
        backoff: Duration,
        predicate: impl Fn(&Error) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.terms.retry = Some(Retry { max, backoff, predicate: Arc::new(predicate) });
        self
    }
}
