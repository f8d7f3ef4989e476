//! What a service manager (systemd) hears, and what it keeps for the next supervisor: the listeners and lineage.lock.
//!
//! | fact | word |
//! |---|---|
//! | a server serves | READY=1, MAINPID |
//! | a handoff opens; this program is replaced | RELOADING=1, MONOTONIC_USEC; READY=1 at the end |
//! | the loop runs | WATCHDOG=1, three times within the limit |
//! | the loop was told to stop | STOPPING=1 |
//! | a listener, lineage.lock | FDSTORE=1, under a name of ours |

use super::salvage::Salvaged;
use super::view::View;
use super::world::{Beat, World};
use crate::ids::ListenerName;
use crate::os::listeners::{Address, address_of};
use crate::os::lock::LineageLock;
use crate::os::service_manager::{ServiceManager, Word, stored, watchdog};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Names in the store begin so: beside ours there may be sockets of a socket unit.
const LISTENER: &str = "handoff-listen-";
const LINEAGE: &str = "handoff-lineage";

/// Time for the last words of a program before it is replaced.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// The same before it ends: what was not to be kept must not be found by the next one.
const FAREWELL: Duration = Duration::from_secs(2);

/// The service manager that started this process, and what it kept for it.
#[derive(Debug)]
pub struct Manager {
    way: ServiceManager,
    kept: Vec<(String, OwnedFd)>,
    told: Stage,
    status: String,
    limit: Option<Duration>,
}

impl Manager {
    /// None without one. Call it once, before anything else opens descriptors.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn connect() -> io::Result<Option<Manager>> {
        let Some(way) = ServiceManager::connect()? else { return Ok(None) };
        let (kept, limit) = (stored(), watchdog());
        Ok(Some(Manager { way, kept, told: Stage::Starting, status: String::new(), limit }))
    }

    /// What it kept of ours. A listener that nobody asks for any more, or that listens elsewhere, is forgotten.
    pub(super) fn take_kept(&mut self, wanted: &[(ListenerName, Address)]) -> Salvaged {
        let mut held = Salvaged::default();
        for (stored, fd) in self.kept.drain(..) {
            let ours = stored.strip_prefix(LISTENER);
            if stored == LINEAGE {
                match LineageLock::from_fd(fd) {
                    Ok(lock) => held.lineage = Some(lock),
                    Err(error) => tracing::warn!(%error, "lineage.lock from the service manager"),
                }
            } else if let Ok(name) = ListenerName::new(ours.unwrap_or(&stored)) {
                let fits = |(other, address): &&(ListenerName, Address)| {
                    *other == name && address_of(fd.as_fd()).is_ok_and(|bound| fits(address, &bound))
                };
                if wanted.iter().find(fits).is_some() {
                    held.listeners.push((name, Arc::new(fd)));
                } else if ours.is_some() {
                    tracing::info!(%name, "the listener that the service manager kept is not asked for any more");
                    self.way.say(Word::Forget(stored));
                }
            }
        }
        held
    }
}

/// Port 0 asks for any port.
fn fits(wanted: &Address, bound: &Address) -> bool {
    match (wanted, bound) {
        (Address::Tcp(wanted), Address::Tcp(bound)) | (Address::Udp(wanted), Address::Udp(bound)) => {
            wanted == bound || (wanted.port() == 0 && wanted.ip() == bound.ip())
        }
        _ => wanted == bound,
    }
}

/// How far the service is in the eyes of its manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Starting,
    Ready,
    Reloading,
    Stopping,
}

impl Stage {
    fn next(self, view: &View, stopping: bool) -> Stage {
        if stopping || self == Stage::Stopping {
            Stage::Stopping
        } else if view.handoff.is_some() {
            // before it was ever ready there is nothing to reload
            if self == Stage::Starting { Stage::Starting } else { Stage::Reloading }
        } else if view.upgrade_possible {
            Stage::Ready
        } else {
            self
        }
    }
}

impl World {
    /// Gives away copies of what must outlive a SIGKILL.
    pub(super) fn store_descriptors(&mut self) {
        let Some(manager) = &self.manager else { return };
        let named = self
            .site
            .listeners
            .iter()
            .map(|shared| (format!("{LISTENER}{}", shared.name), shared.fd.try_clone()));
        for (name, copy) in named.chain([(LINEAGE.to_owned(), self.site.lineage.try_clone())]) {
            match copy {
                Ok(fd) => manager.way.say(Word::Store(name, fd)),
                Err(error) => tracing::warn!(name, %error, "not stored with the service manager"),
            }
        }
        self.pat();
    }

    /// Tells the service manager that the loop runs.
    pub(super) fn pat(&mut self) {
        let Some(manager) = &self.manager else { return };
        if let Some(limit) = manager.limit {
            manager.way.say(Word::Watchdog);
            self.beats.arm(Beat::Watchdog, limit / 3);
        }
    }

    /// Tells what has changed since it was told last.
    pub(super) fn tell_manager(&mut self) {
        if self.manager.is_none() {
            return;
        }
        let view = self.window.look();
        let stopping = !self.stop.is_empty() || matches!(view.state, "Stopping" | "Stopped");
        let status = self.line_of(&view);
        let Some(manager) = &mut self.manager else { return };
        let stage = manager.told.next(&view, stopping);
        if stage == manager.told && status == manager.status {
            return;
        }
        manager.way.say(match stage {
            same if same == manager.told => Word::Status(status.clone()),
            Stage::Starting => Word::Status(status.clone()),
            Stage::Ready => Word::Ready(status.clone()),
            Stage::Reloading => Word::Reloading(status.clone()),
            Stage::Stopping => Word::Stopping(status.clone()),
        });
        if stage == Stage::Stopping && manager.told != stage {
            // the next one starts its own lineage; the listeners stay, so that clients queue over a restart
            manager.way.say(Word::Forget(LINEAGE.to_owned()));
        }
        (manager.told, manager.status) = (stage, status);
    }

    /// Waits until all was said: words that are still queued would end with this process.
    pub(super) fn tell_the_rest(&self) {
        if let Some(manager) = &self.manager {
            manager.way.flush(FAREWELL);
        }
    }

    /// The last words of this program before another one has its place; [`Self::tell_manager`] takes them back.
    pub(super) fn tell_replacement(&mut self) {
        if let Some(manager) = &mut self.manager {
            "the supervisor is being replaced".clone_into(&mut manager.status);
            manager.told = Stage::Reloading;
            manager.way.say(Word::Reloading(manager.status.clone()));
            manager.way.flush(LAST_WORDS);
        }
    }

    fn line_of(&self, view: &View) -> String {
        let (state, reason) = self.state(view);
        let server = self.incumbent.as_ref().and_then(|instance| instance.pid);
        let mut line = state.to_owned();
        if let (Some((_, epoch)), Some(pid)) = (view.serving, server) {
            line.push_str(&format!(": epoch {epoch}, process {pid}"));
        }
        if let Some(phase) = view.phase {
            line.push_str(&format!(", phase {}", phase.name()));
        } else if let Some(reason) = reason {
            line.push_str(&format!(" ({reason})"));
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::HandoffId;
    use std::time::Instant;

    fn view(idle: bool, open: bool) -> View {
        View {
            state: "x",
            phase: None,
            since: Instant::now(),
            handoff: open.then_some(HandoffId(1)),
            serving: None,
            upgrade_possible: idle,
            abort_possible: false,
            failed: None,
            cold_starts: 0,
            failures: (0, 10),
            probation: None,
            previous: None,
            turning: false,
        }
    }

    #[test]
    fn ready_comes_before_reloading_and_nothing_after_stopping() {
        use Stage::{Ready, Reloading, Starting, Stopping};
        let (nothing, idle, open) = (view(false, false), view(true, false), view(false, true));
        for (from, seen, to) in [
            (Starting, &nothing, Starting),
            (Starting, &open, Starting),
            (Starting, &idle, Ready),
            (Ready, &open, Reloading),
            (Ready, &nothing, Ready),
            (Reloading, &nothing, Reloading),
            (Reloading, &idle, Ready),
            (Stopping, &idle, Stopping),
        ] {
            assert_eq!(from.next(seen, false), to, "{from:?} {seen:?}");
            assert_eq!(from.next(seen, true), Stopping);
        }
    }

    #[test]
    fn a_listener_elsewhere_is_another_one() {
        let address = |text: &str| text.parse::<Address>().expect("an address");
        assert!(fits(&address("127.0.0.1:0"), &address("127.0.0.1:7")));
        assert!(fits(&address("unix:/x"), &address("unix:/x")));
        for (wanted, bound) in
            [("127.0.0.1:8", "127.0.0.1:7"), ("0.0.0.0:0", "127.0.0.1:7"), ("udp:127.0.0.1:7", "127.0.0.1:7")]
        {
            assert!(!fits(&address(wanted), &address(bound)), "{wanted} {bound}");
        }
    }
}
