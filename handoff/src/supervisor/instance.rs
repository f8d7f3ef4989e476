//! One process of the service, from the supervisor's side: its channel, its process, its container.

use super::preflight::Executable;
use super::report::InstanceReport;
use super::spawn::Build;
use crate::ids::{Epoch, HandoffId, InstanceId};
use crate::os::channel::Channel;
use crate::wire::Hello;
use processkit::{Adopted, Exit, ProcessGroup, RunningProcess, Signal};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// Pause before the kernel is asked again what it refused.
const AGAIN: Duration = Duration::from_millis(100);

/// What a task of the supervisor has found out.
#[derive(Debug)]
pub(super) enum News {
    /// This process of the instance ended.
    Exited { instance: InstanceId, pid: u32, exit: Exit },
    /// Nothing lives in the instance's container any more, which is removed.
    Gone(InstanceId),
    /// The instance's control socket answered.
    Connected(InstanceId, Box<Channel>),
    /// An upgrade's preflight is done.
    Checked(HandoffId, Result<Arc<Build>, String>, Vec<String>),
    /// The configured program was read: it can be started.
    Configured(Result<Arc<Build>, String>),
    /// The build of an instance is kept.
    Kept(InstanceId, Arc<Build>),
    /// The epoch that was watched is claimed.
    Claimed(Epoch, InstanceId),
    /// How the canary of this number went.
    Tried(u64, Result<(), String>),
    /// The program that shall replace this supervisor was checked.
    Reviewed(Result<Executable, String>),
}

/// Where the tasks say it.
pub(super) type Tell = mpsc::UnboundedSender<News>;

/// A slot of the world.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) id: InstanceId,
    pub(super) channel: Option<Channel>,
    /// Its main process; `None` when nothing but its container is known.
    pub(super) pid: Option<u32>,
    pub(super) pidfd: Option<Arc<OwnedFd>>,
    pub(super) exit: Option<Exit>,
    pub(super) hello: Option<Hello>,
    /// What it runs; `None` for an adopted one.
    pub(super) build: Option<Arc<Build>>,
    pub(super) executable: Option<String>,
    container: Container,
}

/// What holds its tree.
#[derive(Debug)]
enum Container {
    Group(ProcessGroup),
    /// An adopted process without a group: the process alone can be ended.
    Process(Adopted),
    /// A task ends it; the signal means: now.
    Ending(Arc<Notify>),
    Gone,
}

impl Instance {
    /// A process that was started now, in a group of its own, and a pidfd of it to pass on.
    pub(super) fn started(
        id: InstanceId,
        channel: Channel,
        process: RunningProcess,
        pidfd: OwnedFd,
        group: ProcessGroup,
        build: Arc<Build>,
        tell: &Tell,
    ) -> Self {
        let pid = process.identity().pid;
        let pidfd = Some(Arc::new(pidfd));
        watch_child(id, pid, process, tell.clone());
        let pid = Some(pid);
        let executable = Some(build.executable.path.display().to_string());
        let container = Container::Group(group);
        let build = Some(build);
        Self { id, channel: Some(channel), pid, pidfd, exit: None, hello: None, build, executable, container }
    }

    /// A process that an earlier supervisor started. Without a group only the process itself can be ended.
    ///
    /// # Errors
    /// The process is gone.
    pub(super) fn adopted(
        id: InstanceId,
        channel: Channel,
        hello: Hello,
        pidfd: OwnedFd,
        group: Option<ProcessGroup>,
        tell: &Tell,
    ) -> io::Result<Self> {
        let pidfd = Arc::new(pidfd);
        let alone = || Adopted::from_pidfd(pidfd.try_clone()?).map_err(io::Error::other);
        let process = alone()?;
        let pid = process.pid();
        let container = match group {
            Some(group) => Container::Group(group),
            None => Container::Process(alone()?),
        };
        watch_stranger(id, process, tell.clone());
        let executable = executable_of(pid);
        let (channel, hello, pid, pidfd) = (Some(channel), Some(hello), Some(pid), Some(pidfd));
        Ok(Self { id, channel, pid, pidfd, exit: None, hello, build: None, executable, container })
    }

    /// A container whose processes do not speak: it can be ended, and nothing else.
    pub(super) fn contained(id: InstanceId, group: ProcessGroup) -> Self {
        let container = Container::Group(group);
        let (channel, pid, pidfd, exit, hello, build, executable) =
            (None, None, None, None, None, None, None);
        Self { id, channel, pid, pidfd, exit, hello, build, executable, container }
    }

    /// Its container, while it is neither being ended nor gone.
    pub(super) fn group(&self) -> Option<&ProcessGroup> {
        match &self.container {
            Container::Group(group) => Some(group),
            Container::Process(_) | Container::Ending(_) | Container::Gone => None,
        }
    }

    /// The process that speaks is another one than was started: a launcher forked. It has to be in the container.
    ///
    /// # Errors
    /// It is not, or it is gone.
    pub(super) fn speaks_as(&mut self, pid: u32, tell: &Tell) -> io::Result<()> {
        if self.pid == Some(pid) {
            return Ok(());
        }
        let pidfd = processkit::pidfd_open(pid)?;
        if let Some(group) = self.group()
            && !group.members().map_err(io::Error::other)?.contains(&pid)
        {
            let error = crate::Error::PidMismatch { expected: self.pid.unwrap_or(0), announced: pid };
            return Err(io::Error::other(error));
        }
        self.pidfd = Some(Arc::new(pidfd.try_clone()?));
        self.pid = Some(pid);
        self.exit = None;
        watch_stranger(self.id, Adopted::from_pidfd(pidfd).map_err(io::Error::other)?, tell.clone());
        Ok(())
    }

    /// Ends the whole tree: with a grace by TERM first, else by KILL, which is out when this returns.
    /// [`News::Gone`] follows.
    pub(super) fn end(&mut self, grace: Option<Duration>, tell: &Tell) {
        let id = self.id;
        match std::mem::replace(&mut self.container, Container::Gone) {
            Container::Gone => drop(tell.send(News::Gone(id))),
            Container::Ending(now) => {
                if grace.is_none() {
                    now.notify_one();
                }
                self.container = Container::Ending(now);
            }
            Container::Group(group) => {
                let now = self.ending();
                let sent = if grace.is_some() { group.terminate_all() } else { group.kill() };
                if let Err(error) = sent {
                    tracing::warn!(instance = %id, %error, "signal to the container");
                }
                let tell = tell.clone();
                tokio::spawn(async move {
                    if let Some(grace) = grace {
                        tokio::select! {
                            _ = group.wait_empty() => {}
                            () = tokio::time::sleep(grace) => {}
                            () = now.notified() => {}
                        }
                    }
                    // another server may start on its data when this is told: it has to be true
                    let mut insist = Insist::on(id);
                    while insist.answer(empty(&group).await).await.is_none() {}
                    if let Err(error) = group.remove().await {
                        tracing::warn!(instance = %id, %error, "container is not removed");
                    }
                    let _ = tell.send(News::Gone(id));
                });
            }
            Container::Process(process) => {
                let now = self.ending();
                let signal = if grace.is_some() { Signal::Term } else { Signal::Kill };
                if let Err(error) = process.signal(signal) {
                    tracing::warn!(instance = %id, %error, "signal to the process");
                }
                let tell = tell.clone();
                tokio::spawn(async move {
                    if let Some(grace) = grace {
                        tokio::select! {
                            _ = process.gone() => {}
                            () = tokio::time::sleep(grace) => {}
                            () = now.notified() => {}
                        }
                        drop(process.signal(Signal::Kill));
                    }
                    let mut insist = Insist::on(id);
                    while insist.answer(process.gone().await).await.is_none() {}
                    let _ = tell.send(News::Gone(id));
                });
            }
        }
    }

    /// Shortens the grace of an end that is under way.
    pub(super) fn hurry(&self, grace: Duration) {
        if let Container::Ending(now) = &self.container {
            let now = Arc::clone(now);
            tokio::spawn(async move {
                tokio::time::sleep(grace).await;
                now.notify_one();
            });
        }
    }

    /// Its process has ended, and that was not told yet.
    pub(super) fn died_unheard(&self) -> bool {
        self.exit.is_none() && self.pidfd.as_ref().is_some_and(crate::os::identity::has_ended)
    }

    /// Notes that its container is gone: whoever ends it again hears so at once.
    pub(super) fn is_gone(&mut self) {
        self.container = Container::Gone;
    }

    fn ending(&mut self) -> Arc<Notify> {
        let now = Arc::new(Notify::new());
        self.container = Container::Ending(Arc::clone(&now));
        now
    }

    /// The launcher ended before the server spoke: says so again once nothing is left of it. False when nothing is.
    pub(super) fn outlives(&self, pid: u32, exit: Exit, tell: &Tell) -> bool {
        let Some(group) = self.group() else { return false };
        let (Ok(false), Ok(events)) = (group.is_empty(), group.events_fd()) else { return false };
        let (id, tell) = (self.id, tell.clone());
        tokio::spawn(async move {
            if let Err(error) = processkit::wait_empty_by_fd(events).await {
                tracing::warn!(instance = %id, %error, "watching the container");
            }
            let _ = tell.send(News::Exited { instance: id, pid, exit });
        });
        true
    }

    /// Lets go: an empty container is removed, a living one is left.
    pub(super) fn forget(self) {
        if let Container::Group(group) = self.container
            && group.is_empty().unwrap_or(false)
        {
            tokio::spawn(async move {
                if let Err(error) = group.remove().await {
                    tracing::warn!(%error, "empty container is not removed");
                }
            });
        }
    }

    pub(super) fn report(&self) -> InstanceReport {
        InstanceReport {
            pid: self.pid,
            build: self.hello.as_ref().map(|hello| hello.build.0.clone()),
            executable: self.executable.clone(),
            instance: Some(self.id.to_string()),
        }
    }
}

fn watch_child(id: InstanceId, pid: u32, mut process: RunningProcess, tell: Tell) {
    tokio::spawn(async move {
        let mut insist = Insist::on(id);
        let exit = loop {
            if let Some(exit) = insist.answer(process.exit().await).await {
                break exit;
            }
        };
        let _ = tell.send(News::Exited { instance: id, pid, exit });
    });
}

fn watch_stranger(id: InstanceId, process: Adopted, tell: Tell) {
    tokio::spawn(async move {
        let mut insist = Insist::on(id);
        let exit = loop {
            if let Some(exit) = insist.answer(process.exit().await).await {
                break exit;
            }
        };
        let _ = tell.send(News::Exited { instance: id, pid: process.pid(), exit });
    });
}

/// Lets the kernel be asked again what it refused (descriptors used up). That a process cannot be watched says nothing
/// of its end: a server that serves would be ended for it.
#[derive(Debug)]
struct Insist {
    id: InstanceId,
    warned: bool,
}

impl Insist {
    fn on(id: InstanceId) -> Self {
        Self { id, warned: false }
    }

    /// The answer; after a refusal `None`, and a pause.
    async fn answer<T>(&mut self, asked: processkit::Result<T>) -> Option<T> {
        let error = match asked {
            Ok(answer) => return Some(answer),
            Err(error) => error,
        };
        if !std::mem::replace(&mut self.warned, true) {
            tracing::error!(instance = %self.id, %error, "cannot be watched; tried again until it can");
        }
        tokio::time::sleep(AGAIN).await;
        None
    }
}

async fn empty(group: &ProcessGroup) -> processkit::Result<()> {
    group.kill()?;
    group.wait_empty().await
}

/// Where the program of a process lies, as far as the kernel tells.
fn executable_of(pid: u32) -> Option<String> {
    let path = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    Some(path.display().to_string().trim_end_matches(" (deleted)").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use processkit::{Command, ProcessGroupOptions};

    async fn gone(news: &mut mpsc::UnboundedReceiver<News>) -> InstanceId {
        loop {
            let heard = tokio::time::timeout(Duration::from_secs(20), news.recv()).await.expect("in time");
            if let News::Gone(id) = heard.expect("tasks live") {
                return id;
            }
        }
    }

    // a supervisor ran out of descriptors: the watch on a server that served failed, that was told as the server's
    // exit, and the server was ended and started again
    #[tokio::test]
    async fn what_cannot_be_watched_is_not_taken_for_ended() {
        let mut insist = Insist::on(InstanceId(7));
        let refused = || Err::<Exit, _>(io::Error::from_raw_os_error(nix::libc::EMFILE).into());
        assert_eq!(insist.answer(refused()).await, None);
        assert_eq!(insist.answer(refused()).await, None);
        assert_eq!(insist.answer(Ok(Exit::UNKNOWN)).await, Some(Exit::UNKNOWN));
    }

    #[tokio::test]
    async fn every_end_is_answered_once_it_is_true() {
        let (tell, mut news) = mpsc::unbounded_channel();
        let group = ProcessGroup::with_options(ProcessGroupOptions::default()).expect("a group");
        // obeys no TERM: only haste ends the grace
        let stubborn = Command::new("sh").arg("-c").arg("trap '' TERM; while :; do sleep 1000; done");
        let process = group.start(&stubborn).await.expect("started");
        let mut instance = Instance::contained(InstanceId(7), group);
        instance.end(Some(Duration::from_secs(3600)), &tell);
        assert!(process.pid().is_some());
        instance.hurry(Duration::ZERO);
        assert_eq!(gone(&mut news).await, InstanceId(7));
        instance.is_gone();
        instance.end(None, &tell);
        assert_eq!(gone(&mut news).await, InstanceId(7));
    }
}
