//! SIGTERM and SIGINT of a program that may become another one in place: each is obeyed by one of the two.
//!
//! A handler would lose what comes right before the exec: it has run, or its thread was about to run it, and the exec
//! ends all threads. So the signals are blocked everywhere and read from a descriptor (signalfd(2)). What was not read
//! is pending, and what is pending goes through an exec (execve(2)). What was read forbids the exec.

use super::fds::watch;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Whether one was read. Held while one is read, and over the exec.
static READ: Mutex<bool> = Mutex::new(false);

/// The signals that ask this process to stop.
#[derive(Debug)]
pub struct StopSignals {
    fd: AsyncFd<SignalFd>,
}

impl StopSignals {
    /// From here on they wait until somebody reads them: in this thread, and in those that it starts.
    ///
    /// # Errors
    /// None that the kernel has.
    pub fn hold_back() -> io::Result<()> {
        Ok(stop_signals().thread_block()?)
    }

    /// Reads what [`Self::hold_back`] holds back.
    ///
    /// # Errors
    /// No descriptor, no runtime.
    pub fn listen() -> io::Result<StopSignals> {
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let fd = SignalFd::with_flags(&stop_signals(), flags)?;
        Ok(StopSignals { fd: watch(fd, Interest::READABLE)? })
    }

    /// The next one. Dropping this loses none.
    ///
    /// # Errors
    /// The descriptor cannot be read.
    pub async fn next(&self) -> io::Result<()> {
        loop {
            let mut ready = self.fd.readable().await?;
            let mut read = lock();
            if ready.get_inner().read_signal()?.is_some() {
                *read = true;
                return Ok(());
            }
            drop(read);
            ready.clear_ready();
        }
    }
}

/// As long as this lives no signal is read. None if one was.
pub(super) fn none_was_read() -> Option<MutexGuard<'static, bool>> {
    Some(lock()).filter(|read| !**read)
}

/// Blocks them in this thread; its signal mask before. For a program that has not called [`StopSignals::hold_back`]:
/// where nobody handles them yet they would end the new one.
pub(super) fn block() -> io::Result<SigSet> {
    Ok(stop_signals().thread_swap_mask(SigmaskHow::SIG_BLOCK)?)
}

fn lock() -> MutexGuard<'static, bool> {
    READ.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stop_signals() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT].into_iter().collect()
}
