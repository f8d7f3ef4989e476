//! The service manager's side channel: sd_notify(3), sd_listen_fds(3), the descriptor store.
//!
//! A thread of its own speaks: a service manager that does not read must not hold a supervisor.

use super::fds::take_inherited;
use sd_notify::NotifyState;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// What waits to be said; what is beyond that is dropped.
const QUEUE: usize = 256;
/// The longest status that is shown.
const STATUS: usize = 200;
/// The most descriptors that are taken back.
const MOST: i32 = 512;

/// One word.
#[derive(Debug)]
pub enum Word {
    /// Served. Also after [`Word::Reloading`].
    Ready(String),
    /// Something is being replaced.
    Reloading(String),
    /// What goes on, for people.
    Status(String),
    /// The loop runs.
    Watchdog,
    /// The end has begun.
    Stopping(String),
    /// Keep this descriptor for whoever is started after us.
    Store(String, OwnedFd),
    /// Forget the descriptors of this name.
    Forget(String),
    /// All before this was said.
    Flush(SyncSender<()>),
}

/// The way to the service manager that started this process.
#[derive(Debug)]
pub struct ServiceManager {
    queue: SyncSender<Word>,
}

impl ServiceManager {
    /// None where no service manager wants to hear anything (`NOTIFY_SOCKET`).
    ///
    /// # Errors
    /// No thread can be had.
    pub fn connect() -> io::Result<Option<ServiceManager>> {
        if std::env::var_os("NOTIFY_SOCKET").is_none_or(|path| path.is_empty()) {
            return Ok(None);
        }
        let (queue, words) = sync_channel(QUEUE);
        std::thread::Builder::new().name("handoff-notify".into()).spawn(move || speak(&words))?;
        Ok(Some(ServiceManager { queue }))
    }

    /// Says it, soon. Never blocks and never fails: nothing depends on a service manager that listens.
    pub fn say(&self, word: Word) {
        if self.queue.try_send(word).is_err() {
            tracing::warn!("the service manager does not read");
        }
    }

    /// Waits until everything was said, at most so long.
    pub fn flush(&self, patience: Duration) {
        let (done, said) = sync_channel(1);
        self.say(Word::Flush(done));
        // too late is too late
        let _ = said.recv_timeout(patience);
    }
}

/// How often the service manager wants a sign of life: the limit, not the pause between two.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero())
}

/// The descriptors that the service manager kept or opened for this process, by name, close-on-exec. Call it once,
/// before anything else opens descriptors. What cannot be taken is left out.
#[must_use]
pub fn stored() -> Vec<(String, OwnedFd)> {
    let var = |name: &str| std::env::var(name).unwrap_or_default();
    if var("LISTEN_PID") != std::process::id().to_string() {
        return Vec::new();
    }
    let count = var("LISTEN_FDS").parse().unwrap_or(0).clamp(0, MOST);
    let names = var("LISTEN_FDNAMES");
    let names = names.split(':').chain(std::iter::repeat("unknown"));
    let taken =
        (3..3 + count).zip(names).filter_map(|(number, name)| match take_inherited(number, |_| Ok(())) {
            Ok((fd, ())) => Some((name.to_owned(), fd)),
            Err(error) => {
                tracing::warn!(number, name, %error, "a descriptor of the service manager");
                None
            }
        });
    taken.collect()
}

fn speak(words: &Receiver<Word>) {
    for word in words {
        if let Err(error) = send(word) {
            tracing::warn!(%error, "the service manager does not hear");
        }
    }
}

fn send(word: Word) -> io::Result<()> {
    match word {
        Word::Ready(status) => {
            let pid = NotifyState::MainPid(std::process::id());
            sd_notify::notify(&[NotifyState::Ready, pid, NotifyState::Status(&line(&status))])
        }
        Word::Reloading(status) => {
            let now = NotifyState::monotonic_usec_now()?;
            sd_notify::notify(&[NotifyState::Reloading, now, NotifyState::Status(&line(&status))])
        }
        Word::Status(status) => sd_notify::notify(&[NotifyState::Status(&line(&status))]),
        Word::Watchdog => sd_notify::notify(&[NotifyState::Watchdog]),
        Word::Stopping(status) => {
            sd_notify::notify(&[NotifyState::Stopping, NotifyState::Status(&line(&status))])
        }
        Word::Store(name, fd) => {
            // not polled: a lock file cannot be, and an error on a datagram socket must not throw it away
            let states = [NotifyState::FdStore, NotifyState::FdName(&name), NotifyState::Custom("FDPOLL=0")];
            sd_notify::notify_with_fds(&states, &[fd.as_fd()])
        }
        Word::Forget(name) => sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)]),
        Word::Flush(done) => {
            // who waited may have given up
            let _ = done.send(());
            Ok(())
        }
    }
}

/// A state is one line.
fn line(text: &str) -> String {
    text.escape_debug().take(STATUS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_line_and_short() {
        assert_eq!(line("a\nREADY=1"), "a\\nREADY=1");
        assert_eq!(line(&"x".repeat(1000)).len(), STATUS);
    }
}
