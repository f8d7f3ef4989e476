//! A supervisor for the time of one upgrade: it takes over what serves, or does not begin, and leaves it to itself.

use super::adopt::Adoptee;
use super::world::World;
use crate::os::fds::copy_from;
use crate::wire::Standing;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Standard output and error of the servers that a guest starts: those of the server that serves. Its own end with it.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    pub(super) output: Arc<OwnedFd>,
    pub(super) error: Arc<OwnedFd>,
}

impl Streams {
    /// Where the server that serves writes to.
    pub(super) fn of(adoptees: &[Adoptee]) -> Option<Streams> {
        let serves = |adoptee: &&Adoptee| match adoptee.found.standing {
            Standing::Active | Standing::Draining | Standing::Sealed => true,
            Standing::Retiring
            | Standing::Warming
            | Standing::Opening
            | Standing::Claimed
            | Standing::Starting => false,
        };
        let pid = adoptees.iter().find(serves)?.speaker.pid;
        let [output, error] = [1, 2].map(|number| stream(pid, number));
        Some(Streams { output: Arc::new(output?), error: Arc::new(error?) })
    }
}

/// The kernel may forbid to look into a process that is not a child: then files and terminals are opened anew by
/// name, and what has none is lost.
fn stream(pid: u32, number: i32) -> Option<OwnedFd> {
    let copied = processkit::pidfd_open(pid).and_then(|process| copy_from(process.as_fd(), number));
    let stream = copied.or_else(|error| {
        tracing::debug!(pid, number, %error, "a stream is opened anew");
        // NONBLOCK: a fifo that nobody reads must not hold us. The server writes as it always did
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
        let opened = open(format!("/proc/{pid}/fd/{number}").as_str(), flags, Mode::empty())?;
        fcntl(&opened, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
        Ok::<_, std::io::Error>(opened)
    });
    let stream = stream.or_else(|error| {
        tracing::warn!(pid, number, %error, "the old server's stream cannot be had: the new one writes to /dev/null");
        open("/dev/null", OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())
    });
    stream.ok()
}

impl World {
    /// Answers once nothing is open and nobody is leaving any more.
    pub(super) fn when_quiet(&mut self, reply: oneshot::Sender<()>) {
        self.quiet.push(reply);
    }

    pub(super) fn settle_guest(&mut self) {
        if self.quiet.is_empty() || !self.retiring.is_empty() || !self.inputs.is_empty() || self.ask.is_some()
        {
            return;
        }
        let view = self.window.look();
        if view.upgrade_possible || view.failed.is_some() {
            self.quiet.drain(..).for_each(|reply| {
                // who waited may be gone
                let _ = reply.send(());
            });
        }
    }
}
