//! Waiting for the kernel without a clock, and the two acts that need nothing but a descriptor.

use crate::containment::is_populated;
use crate::process::Child;
use crate::sys;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Until the process behind the pidfd has ended. Cancel safe.
pub(crate) async fn ended(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    sys::watched(pidfd, Interest::READABLE)?.readable().await?.retain_ready();
    Ok(())
}

/// Whether it has ended by now.
pub(crate) fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    // an error is no end: whoever waits then is told by the runtime
    poll(&mut [PollFd::new(pidfd, PollFlags::POLLIN)], PollTimeout::ZERO).is_ok_and(|count| count > 0)
}

/// A child as the runtime watches it: registered once, for as many as wait.
#[derive(Debug)]
pub(crate) struct Watched(Arc<Child>);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.pidfd().as_raw_fd()
    }
}

impl sys::Owned for Watched {}

/// Watch a child's end.
pub(crate) fn child(child: Arc<Child>) -> io::Result<AsyncFd<Watched>> {
    sys::watched(Watched(child), Interest::READABLE)
}

/// Until `cgroup.events` says `populated 0`, or the cgroup is removed. Cancel safe.
///
/// The open file must be nobody else's: a read by one poller takes the event from the others.
pub(crate) async fn emptied(events: OwnedFd) -> io::Result<()> {
    let events = sys::watched(events, Interest::PRIORITY)?;
    // A change between the read and the wait is not lost: poll(2) reports every change since the last read.
    while is_populated(events.get_ref().as_fd())? {
        events.ready(Interest::PRIORITY).await?.clear_ready();
    }
    Ok(())
}

/// End everything in a group whose `cgroup.kill` was opened for writing (see
/// [`ProcessGroup::kill_fd`](crate::ProcessGroup::kill_fd)), in whichever process. Whoever holds the descriptor may do
/// this, under any uid. A group that is gone already is a success.
///
/// # Errors
/// What write(2) says, for a descriptor of something else.
pub fn kill_by_fd(kill_fd: BorrowedFd<'_>) -> io::Result<()> {
    // through the descriptor itself: whoever is out of descriptors must still be able to kill
    loop {
        match nix::unistd::write(kill_fd, b"1") {
            Ok(_) | Err(nix::Error::ENODEV) => return Ok(()),
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Wait until the group is empty whose `cgroup.events` was opened for reading (see
/// [`ProcessGroup::events_fd`](crate::ProcessGroup::events_fd)), in whichever process. A group that is removed is empty.
///
/// Cancel safe. Needs a tokio runtime with I/O enabled.
///
/// # Errors
/// `InvalidInput` for a descriptor of something else.
pub async fn wait_empty_by_fd(events_fd: OwnedFd) -> io::Result<()> {
    // A descriptor that came over a socket shares its open file with its sender, and so the events. Have our own, if we may.
    let own = File::open(format!("/proc/self/fd/{}", events_fd.as_raw_fd())).map_or(events_fd, OwnedFd::from);
    emptied(own).await
}
