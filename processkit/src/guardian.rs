//! Ending a group for an owner that cannot do it any more.

use crate::containment::{Cgroup, Containment};
use crate::error::Result;
use crate::reaper;
use crate::sys::{self, FORGET, MARK_BYTES, Message, SLOTS, WATCH_CGROUP, WATCH_TREE};
use nix::sys::socket::{ControlMessage, MsgFlags, recv, sendmsg, setsockopt, sockopt};
use nix::sys::time::TimeVal;
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How long the guardian may take for an answer: it has only to be scheduled.
const PATIENCE_S: i64 = 10;

/// The watch over one group: when its owner ends in whatever way (SIGKILL, the OOM killer, `abort`), the group is killed and
/// its directory removed. Asked for by [`ProcessGroupOptions::guardian`](crate::ProcessGroupOptions::guardian).
///
/// All groups of one process share one guardian process, `pk-guardian` in `ps`: a fork of the owner, made when it is first
/// needed, that keeps nothing of the owner's memory and descriptors. It lives in the owner's cgroup, so in none of the groups
/// that it guards, leads a session of its own, obeys no signal but KILL and STOP, and ends when it guards nothing any more.
/// The fork copies the owner's page tables, about 50 ms for each GiB resident.
///
/// The owner's end is what its pidfd says (pidfd_open(2)), and the end of a socket that only the owner holds: an owner that
/// executes another program has ended, too. No child inherits the socket.
///
/// With [`Mechanism::CgroupV2`](crate::Mechanism::CgroupV2) the whole tree is ended, by `cgroup.kill`. With
/// [`Mechanism::ProcessGroup`](crate::Mechanism::ProcessGroup) it is whatever started with the group's mark in its
/// environment: leaders always, what they started unless it cleared its environment, and nothing that was
/// [adopted](crate::ProcessGroup::adopt).
///
/// A guardian that is stopped is given 10 s for an answer, and then replaced. One that is killed is an error event, and is
/// made again with the next group that asks for one; until then [`pid`](Guardian::pid) is `None`.
#[derive(Debug)]
pub struct Guardian {
    slot: u32,
}

impl Guardian {
    pub(crate) fn watch(containment: &Containment) -> Result<Guardian> {
        let ward = match containment {
            Containment::Cgroup(cgroup) => Ward::Cgroup(Arc::clone(cgroup)),
            Containment::Tree(tree) => Ward::Tree(tree.mark().1.into_encoded_bytes()),
        };
        let mut post = post();
        let slot = post.free_slot()?;
        post.wards.insert(slot, ward);
        if let Err(error) = post.tell(slot) {
            post.wards.remove(&slot);
            post.dismiss_if_idle();
            return Err(io::Error::new(error.kind(), format!("no guardian for the group: {error}")).into());
        }
        Ok(Guardian { slot })
    }

    /// The pid of the guardian process; `None` if somebody ended it.
    pub fn pid(&self) -> Option<u32> {
        post().link.as_ref().map(|link| link.pid)
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        let mut post = post();
        post.wards.remove(&self.slot);
        let forget = Message { act: FORGET, slot: self.slot, mark_len: 0, mark: [0; MARK_BYTES] };
        // One that does not answer must not act on what it still knows.
        if post.link.as_ref().is_some_and(|link| link.ask(&forget, None).is_err()) {
            post.lose();
        }
        post.dismiss_if_idle();
    }
}

/// The guardian process with this pid has ended.
pub(crate) fn ended(pid: u32) {
    let mut post = post();
    if post.link.as_ref().is_some_and(|link| link.pid == pid) {
        post.link = None;
        event!(
            error,
            pid = pid,
            groups = post.wards.len(),
            "the guardian was ended: its groups are not guarded"
        );
    }
}

/// What is guarded, and by whom.
struct Post {
    owner: u32,
    link: Option<Link>,
    wards: BTreeMap<u32, Ward>,
    next: u32,
}

enum Ward {
    Cgroup(Arc<Cgroup>),
    Tree(Vec<u8>),
}

struct Link {
    pid: u32,
    pidfd: Arc<OwnedFd>,
    socket: OwnedFd,
}

fn post() -> MutexGuard<'static, Post> {
    static POST: Mutex<Post> = Mutex::new(Post { owner: 0, link: None, wards: BTreeMap::new(), next: 0 });
    let mut post = POST.lock().unwrap_or_else(PoisonError::into_inner);
    let this = std::process::id();
    if post.owner != this {
        // also in a fork of the owner, which has a copy: the guardian and what it guards are not its own
        *post = Post { owner: this, link: None, wards: BTreeMap::new(), next: 0 };
    }
    post
}

impl Post {
    fn free_slot(&mut self) -> io::Result<u32> {
        for _ in 0..SLOTS {
            let slot = self.next;
            self.next = (slot + 1) % SLOTS;
            if !self.wards.contains_key(&slot) {
                return Ok(slot);
            }
        }
        Err(io::Error::other(format!("the guardian has room for {SLOTS} groups")))
    }

    /// Tell the guardian of one group, or a new guardian of all.
    fn tell(&mut self, slot: u32) -> io::Result<()> {
        if let Some(link) = &self.link {
            match link.watch(slot, &self.wards[&slot]) {
                Err(error) if is_broken(&error) => self.lose(),
                other => return other,
            }
        }
        let started = sys::start_guardian()?;
        event!(debug, pid = started.pid, "guardian started");
        let pidfd = Arc::new(started.pidfd);
        reaper::mourn(started.pid, Arc::clone(&pidfd));
        let link = self.link.insert(Link { pid: started.pid, pidfd, socket: started.socket });
        setsockopt(&link.socket, sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE_S, 0))?;
        setsockopt(&link.socket, sockopt::SendTimeout, &TimeVal::new(PATIENCE_S, 0))?;
        let told = self.wards.iter().try_for_each(|(slot, ward)| link.watch(*slot, ward));
        if told.is_err() {
            self.lose();
        }
        told
    }

    /// End a guardian that cannot be relied on: it must not take the closed socket for our end.
    fn lose(&mut self) {
        if let Some(link) = self.link.take() {
            if !self.wards.is_empty() {
                event!(error, pid = link.pid, "the guardian does not answer: its groups are not guarded");
            }
            let _ = sys::pidfd_send_signal(link.pidfd.as_fd(), libc::SIGKILL); // gone is what we want
        }
    }

    fn dismiss_if_idle(&mut self) {
        if self.wards.is_empty() {
            self.lose(); // it ends by itself, but a refused first group leaves it waiting
        }
    }
}

impl Link {
    fn watch(&self, slot: u32, ward: &Ward) -> io::Result<()> {
        let mut message = Message { act: WATCH_TREE, slot, mark_len: 0, mark: [0; MARK_BYTES] };
        match ward {
            Ward::Cgroup(cgroup) => {
                message.act = WATCH_CGROUP;
                match cgroup.kill_file() {
                    Err(error) if crate::containment::is_gone(&error) => Ok(()), // nothing to guard any more
                    other => self.ask(&message, Some(other?)),
                }
            }
            Ward::Tree(mark) => {
                message.mark_len = mark.len() as u32;
                let room = message.mark.get_mut(..mark.len());
                room.ok_or_else(|| io::Error::other("a mark too long"))?.copy_from_slice(mark);
                self.ask(&message, None)
            }
        }
    }

    /// Send a message and wait for the answer, an errno.
    fn ask(&self, message: &Message, passed: Option<OwnedFd>) -> io::Result<()> {
        let passed = passed.as_ref().map(|fd| [fd.as_raw_fd()]);
        let control: Vec<ControlMessage<'_>> =
            passed.iter().map(|fds| ControlMessage::ScmRights(fds)).collect();
        let socket = self.socket.as_raw_fd();
        let parts = [IoSlice::new(message.bytes())];
        while let Err(error) = sendmsg::<()>(socket, &parts, &control, MsgFlags::MSG_NOSIGNAL, None) {
            if error != nix::Error::EINTR {
                return Err(error.into());
            }
        }
        let mut answer = [0u8; 4];
        loop {
            return match recv(socket, &mut answer, MsgFlags::empty()) {
                Err(nix::Error::EINTR) => continue,
                Err(nix::Error::EAGAIN) => Err(io::ErrorKind::TimedOut.into()),
                Err(error) => Err(error.into()),
                Ok(4) => match i32::from_ne_bytes(answer) {
                    0 => Ok(()),
                    errno => Err(io::Error::from_raw_os_error(errno)),
                },
                Ok(_) => Err(io::ErrorKind::BrokenPipe.into()),
            };
        }
    }
}

/// Whether the guardian is gone, or as good as gone.
fn is_broken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::NotConnected
            | io::ErrorKind::TimedOut
    )
}
