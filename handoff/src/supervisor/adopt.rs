//! Finding the instances that an earlier supervisor left running, and talking to them again.

use super::instance::{Instance, News};
use super::launch::{control_name, group_name};
use super::world::World;
use crate::ids::{Epoch, HandoffId, InstanceId, ListenerName};
use crate::machine::Peer;
use crate::machine::recovery::FoundInstance;
use crate::os::channel::{Channel, Closed, Received};
use crate::os::files::Dir;
use crate::os::listeners::{connect_unix, validate};
use crate::os::lock::LineageLock;
use crate::wire::{Hello, Message, Stamped, version};
use nix::sys::socket::{getsockopt, sockopt};
use processkit::ProcessGroup;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Time for each of the two answers: both come within a second from an instance that runs.
const PATIENCE: Duration = Duration::from_millis(800);
/// How often a broken channel is tried to be replaced without a pause to speak of.
const TRIES: u32 = 20;
/// The pause after that.
const LATER: Duration = Duration::from_secs(5);

/// An instance behind a control socket.
#[derive(Debug)]
pub(super) enum Met {
    /// It said Hello.
    Speaks(Box<Speaker>),
    /// Somebody holds its listener and says nothing.
    Silent(InstanceId),
    /// Nobody listens there any more.
    Dead(InstanceId),
    /// It is of a user whose word does not count here: why.
    Foreign(String),
}

/// An instance that said Hello on a connection of ours.
#[derive(Debug)]
pub(super) struct Speaker {
    pub(super) id: InstanceId,
    pub(super) channel: Channel,
    pub(super) hello: Hello,
    pub(super) pid: u32,
}

/// One that answered Adopt.
#[derive(Debug)]
pub(super) struct Adoptee {
    pub(super) speaker: Speaker,
    pub(super) found: FoundInstance,
    pub(super) listeners: Vec<(ListenerName, Arc<OwnedFd>)>,
    pub(super) lineage: Option<LineageLock>,
}

/// Whose control sockets there are. What else a supervisor that died left, half-bound sockets, is removed and named.
pub(super) fn known(ctl: &Dir) -> (Vec<InstanceId>, Vec<String>) {
    let names = ctl.list().unwrap_or_else(|error| {
        tracing::warn!(%error, "control sockets");
        Vec::new()
    });
    let (mut ids, mut removed) = (Vec::new(), Vec::new());
    for name in names {
        match name.strip_suffix(".sock").and_then(InstanceId::parse) {
            Some(id) => ids.push(id),
            None if ctl.unlink_if_there(&name).unwrap_or(false) => removed.push(name),
            None => {}
        }
    }
    (ids, removed)
}

/// Connects to these instances; the sockets of the dead are removed.
pub(super) async fn meet(ctl: &Dir, ids: &[InstanceId], patience: Duration) -> Vec<Met> {
    let mut visits = JoinSet::new();
    for id in ids.iter().copied() {
        let path = ctl.join(&control_name(id));
        visits.spawn(async move { (id, visit(id, &path, patience).await) });
    }
    let mut met = Vec::new();
    while let Some(visit) = visits.join_next().await {
        match visit {
            Ok((_, Ok(speaker))) => met.push(Met::Speaks(Box::new(speaker))),
            Ok((id, Err(error))) if error.kind() == io::ErrorKind::ConnectionRefused => {
                drop(ctl.unlink_if_there(&control_name(id)));
                met.push(Met::Dead(id));
            }
            Ok((id, Err(error))) if error.kind() == io::ErrorKind::PermissionDenied => {
                met.push(Met::Foreign(format!("{}: {error}", ctl.join(&control_name(id)).display())));
            }
            Ok((id, Err(error))) => {
                tracing::warn!(instance = %id, %error, "an instance does not answer");
                met.push(Met::Silent(id));
            }
            Err(error) => tracing::error!(%error, "visit"),
        }
    }
    met
}

async fn visit(id: InstanceId, path: &Path, patience: Duration) -> io::Result<Speaker> {
    let connected = connect_unix(path)?;
    // whoever made the listener: a supervisor of another user, whose server will not speak to us
    let maker = getsockopt(&connected, sockopt::PeerCredentials)?;
    trusted(maker.uid(), || "it was made".to_owned())?;
    let mut channel = Channel::from_fd(connected)?;
    channel.want_credentials()?;
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no Hello within {patience:?}"));
    let received = timeout(patience, channel.recv()).await.map_err(|_| late())?.map_err(io::Error::other)?;
    let Message::Hello(hello) = received.frame.message else {
        return Err(io::Error::other(format!(
            "{} came where Hello was expected",
            received.frame.message.name()
        )));
    };
    if hello.instance != id {
        return Err(io::Error::other(format!("it calls itself {}", hello.instance)));
    }
    let version = version::choose(hello.wire_min, hello.wire_max).map_err(io::Error::other)?;
    channel.set_version(version);
    // what was sent before the kernel was asked carries no sender: then its own word counts
    let kernel =
        channel.first_sender().and_then(|sender| u32::try_from(sender.pid).ok()).filter(|pid| *pid > 0);
    let pid = kernel.unwrap_or(hello.pid);
    if let Some(sender) = channel.first_sender() {
        trusted(sender.uid, || format!("process {pid} runs"))?;
    }
    Ok(Speaker { id, channel, hello: *hello, pid })
}

/// The word of another user does not count, unless we are root or that one is.
fn trusted(uid: u32, what: impl Fn() -> String) -> io::Result<()> {
    let me = nix::unistd::geteuid();
    if me.is_root() || [0, me.as_raw()].contains(&uid) {
        return Ok(());
    }
    let what = what();
    let why = format!(
        "{what} as uid {uid}, this supervisor runs as uid {me}; next: run it as that user, or as root"
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

/// Takes everybody over, all at the same time.
pub(super) async fn adopt(
    speakers: Vec<Speaker>,
    generation: u64,
    patience: Duration,
) -> Vec<Result<Adoptee, InstanceId>> {
    let mut asked = JoinSet::new();
    for speaker in speakers {
        asked.spawn(async move {
            let id = speaker.id;
            take_over(speaker, generation, patience).await.map_err(|error| {
                tracing::warn!(instance = %id, %error, "not adopted");
                id
            })
        });
    }
    asked.join_all().await
}

fn ask(generation: u64) -> Stamped {
    Stamped { handoff: HandoffId::NIL, epoch: Epoch::ZERO, message: Message::Adopt { generation } }
}

async fn take_over(mut speaker: Speaker, generation: u64, patience: Duration) -> io::Result<Adoptee> {
    speaker.channel.send(&ask(generation), Vec::new());
    let answer = timeout(patience, adopted(&mut speaker.channel)).await;
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no Adopted within {patience:?}"));
    let Received { frame, mut fds } = answer.map_err(|_| late())?.map_err(io::Error::other)?;
    let Message::Adopted { standing, epoch, handoff, peer } = frame.message else {
        return Err(io::Error::other("not an answer to Adopt"));
    };
    let found = FoundInstance { hello: speaker.hello.clone(), standing, epoch, handoff, peer };
    let names = &found.hello.listeners;
    let lineage = match fds.len().checked_sub(names.len()) {
        Some(0) => None,
        Some(1) => fds.pop().map(LineageLock::from_fd).transpose().map_err(io::Error::other)?,
        // a retiring instance may have let go of what it had
        _ if fds.is_empty() => None,
        _ => {
            return Err(io::Error::other(format!("{} descriptors for {} listeners", fds.len(), names.len())));
        }
    };
    for fd in &fds {
        validate(fd.as_fd())?;
    }
    let listeners = names.iter().cloned().zip(fds.into_iter().map(Arc::new)).collect();
    Ok(Adoptee { speaker, found, listeners, lineage })
}

/// The answer; what else it says in between is older than the question.
async fn adopted(channel: &mut Channel) -> Result<Received, Closed> {
    loop {
        let received = channel.recv().await?;
        if matches!(received.frame.message, Message::Adopted { .. }) {
            return Ok(received);
        }
    }
}

/// The container of an instance, whatever cgroup this supervisor runs in.
pub(super) fn group_of(id: InstanceId, pid: Option<u32>) -> Option<ProcessGroup> {
    let name = group_name(id);
    if let Ok(group) = ProcessGroup::reopen(&name) {
        return Some(group);
    }
    let memberships = std::fs::read_to_string(format!("/proc/{}/cgroup", pid?)).ok()?;
    let path = memberships.lines().find_map(|line| line.strip_prefix("0::"))?;
    // the server may have made groups below its own
    let end = path.find(&name)? + name.len();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        right.starts_with("cgroup2 ").then(|| left.split(' ').nth(4).map(PathBuf::from))?
    })?;
    ProcessGroup::reopen_by_path(mount.join(path[..end].trim_start_matches('/'))).ok()
}

/// Ends what is left of an instance that has no name any more, and removes its container and its socket. Says whether
/// there was a container, and is not any more.
pub(super) async fn sweep(ctl: &Dir, id: InstanceId, group: Option<ProcessGroup>) -> bool {
    drop(ctl.unlink_if_there(&control_name(id)));
    let Some(group) = group else { return false };
    let removed = group.remove().await;
    if let Err(error) = &removed {
        tracing::warn!(instance = %id, %error, "container is not removed");
    }
    removed.is_ok()
}

impl World {
    /// Connects anew to an instance whose channel broke; its answer to Adopt comes as a frame.
    pub(super) fn reconnect(&mut self, peer: Peer) {
        let Some(id) = self.slot(peer).map(|slot| slot.id) else { return };
        let (path, tell) = (self.site.ctl.join(&control_name(id)), self.tell.clone());
        tokio::spawn(async move {
            // for as long as it takes: a server that was stopped for minutes and goes on is to be upgraded later
            for tried in 0_u32.. {
                match visit(id, &path, PATIENCE).await {
                    Ok(speaker) => {
                        let _ = tell.send(News::Connected(id, Box::new(speaker.channel)));
                        return;
                    }
                    // it is gone, and its socket was removed
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return,
                    Err(error) => tracing::debug!(instance = %id, %error, "reconnect"),
                }
                if tell.is_closed() {
                    return;
                }
                tokio::time::sleep(if tried < TRIES { PATIENCE / 8 } else { LATER }).await;
            }
        });
    }

    pub(super) fn connected(&mut self, id: InstanceId, channel: Channel) {
        let connected = |slot: &mut Instance| slot.channel.is_some();
        if self.peer_of(id).and_then(|peer| self.slot(peer)).is_none_or(connected) {
            return;
        }
        // a generation belongs to a connection: the one that broke is over for the instance
        self.site.generation += 1;
        let generation = self.site.generation;
        let Some(slot) = self.peer_of(id).and_then(|peer| self.slot(peer)) else { return };
        channel.send(&ask(generation), Vec::new());
        slot.channel = Some(channel);
    }
}
