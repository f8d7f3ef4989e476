//! What happens after a drop: zombies are reaped, killed groups emptied and their directories removed, by one thread that
//! sleeps in epoll_wait(2) and is started when first needed.

use crate::containment::{Cgroup, Containment, Member, Tree, is_short, tidy};
use crate::guardian;
use crate::process::Child;
use crate::sys::{self, Waited};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::SigSet;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// When to tidy, and to try again what failed for want of descriptors or memory.
const LATER: Duration = Duration::from_millis(200);

/// Take a child's status when it ends, for a handle that was dropped.
pub(crate) fn reap(child: Arc<Child>) {
    submit(Task::Child(child));
}

/// When the child ends, end what is left in its group, unless the watch is dropped before.
pub(crate) fn watch_over(child: Arc<Child>, group: Containment) -> io::Result<Watch> {
    let key = reaper()?.watch(Task::Rest(child, group)).map_err(|(_, error)| error)?;
    Ok(Watch(key))
}

/// Empty a group that was killed, and remove what is left of it.
pub(crate) fn bury(containment: Containment) {
    submit(match containment {
        Containment::Cgroup(cgroup) => Task::Cgroup(cgroup, None),
        Containment::Tree(tree) => Task::Tree(tree, None),
    });
}

/// Take the status of the guardian when it ends, and say that it did.
pub(crate) fn mourn(pid: u32, pidfd: Arc<OwnedFd>) {
    submit(Task::Guardian(pid, pidfd));
}

/// Do something that may take a while.
pub(crate) fn later(work: impl FnOnce() + Send + 'static) {
    submit(Task::Call(Some(Box::new(work))));
}

/// Remove the directory of all groups if it is still empty when nothing happened for a while: programs that make one group
/// after the other should not make it each time.
pub(crate) fn tidy_later() {
    if !TIDYING.swap(true, Ordering::Relaxed) {
        submit(Task::Tidy);
    }
}

/// Whether the reaper knows that there may be something to tidy.
static TIDYING: AtomicBool = AtomicBool::new(false);

/// Wait until every group dropped so far is empty and its directory removed, and the directory of all groups with the last. For a program that is about to end: what the
/// background has not finished then is left to the sweep of a later one (the processes are dead in any case).
///
/// Cancel safe.
pub async fn settled() {
    let Some(reaper) = known().clone() else { return };
    let mut unfinished = reaper.unfinished.subscribe();
    let _ = unfinished.wait_for(|count| *count == 0).await; // the sender lives as long as the program
    later(tidy);
    let _ = unfinished.wait_for(|count| *count == 0).await;
}

/// What is to be done, now or after an event.
enum Task {
    Child(Arc<Child>),
    Rest(Arc<Child>, Containment),
    Cgroup(Arc<Cgroup>, Option<OwnedFd>),
    Tree(Arc<Tree>, Option<Member>),
    Guardian(u32, Arc<OwnedFd>),
    Call(Option<Box<dyn FnOnce() + Send>>),
    Tidy,
}

impl Task {
    /// A child may live on for as long as it likes, and so may the guardian; tidying has time.
    fn is_counted(&self) -> bool {
        matches!(self, Task::Cgroup(..) | Task::Tree(..) | Task::Call(_))
    }

    /// The directory it is about.
    fn group(&self) -> Option<&Path> {
        match self {
            Task::Cgroup(cgroup, _) => Some(cgroup.path()),
            _ => None,
        }
    }

    /// What to wait for before it goes on.
    fn awaited(&self) -> Option<(BorrowedFd<'_>, EpollFlags)> {
        match self {
            Task::Child(child) | Task::Rest(child, _) => Some((child.pidfd(), EpollFlags::EPOLLIN)),
            Task::Cgroup(_, events) => Some((events.as_ref()?.as_fd(), EpollFlags::EPOLLPRI)),
            Task::Tree(_, survivor) => Some((survivor.as_ref()?.pidfd.as_fd(), EpollFlags::EPOLLIN)),
            Task::Guardian(_, pidfd) => Some((pidfd.as_fd(), EpollFlags::EPOLLIN)),
            Task::Call(_) | Task::Tidy => None,
        }
    }

    /// Begin, or go on after the event: whether it is finished.
    fn step(&mut self) -> io::Result<bool> {
        match self {
            Task::Child(child) => Ok(!matches!(child.try_reap(), Ok(None))),
            Task::Rest(child, group) => {
                let ended = !matches!(child.try_reap(), Ok(None));
                if ended {
                    group.end_rest();
                }
                Ok(ended)
            }
            Task::Cgroup(cgroup, events) => {
                if events.is_none() {
                    *events = cgroup.events()?;
                }
                events.as_ref().map_or(Ok(true), |events| cgroup.clear_away(events.as_fd()))
            }
            Task::Tree(tree, survivor) => {
                *survivor = tree.survivor()?;
                if survivor.as_ref().is_some_and(|survivor| !survivor.killed) {
                    let _ = tree.kill(); // whoever was born meanwhile; asked again when the survivor has ended
                }
                Ok(survivor.is_none())
            }
            Task::Guardian(pid, pidfd) => {
                let ended = !matches!(sys::wait_pidfd(pidfd.as_fd(), false), Ok(Waited::Running));
                if ended {
                    guardian::ended(*pid);
                }
                Ok(ended)
            }
            Task::Call(work) => {
                work.take().into_iter().for_each(|work| work());
                Ok(true)
            }
            Task::Tidy => {
                TIDYING.store(false, Ordering::Relaxed); // before the look: whoever removes a group later asks again
                tidy();
                Ok(true)
            }
        }
    }
}

/// A task that waits for its event. Dropping this gives it up.
#[derive(Debug)]
pub(crate) struct Watch(u64);

impl Drop for Watch {
    fn drop(&mut self) {
        let reaper = known().clone();
        if let Some(reaper) = reaper {
            reaper.take(self.0);
        }
    }
}

struct Reaper {
    /// The process it was started in.
    owner: u32,
    epoll: Epoll,
    bell: EventFd,
    tasks: Mutex<Tasks>,
    unfinished: watch::Sender<usize>,
}

#[derive(Default)]
struct Tasks {
    inbox: Vec<Task>,
    /// By the key of their event.
    watched: BTreeMap<u64, Task>,
    last: u64,
}

/// The key of the bell; tasks have the others.
const BELL: u64 = 0;

/// The reaper of this process, if it has one. A fork of who had one has not: threads are not copied, and the other's epoll is
/// not its own.
fn known() -> MutexGuard<'static, Option<Arc<Reaper>>> {
    static REAPER: Mutex<Option<Arc<Reaper>>> = Mutex::new(None);
    let mut known = REAPER.lock().unwrap_or_else(PoisonError::into_inner);
    if known.as_ref().is_some_and(|reaper| reaper.owner != std::process::id()) {
        *known = None;
    }
    known
}

/// The reaper, started with the first job. A start that fails, for want of a descriptor or a thread, is tried again with the
/// next.
fn reaper() -> io::Result<Arc<Reaper>> {
    let mut known = known();
    if let Some(reaper) = &*known {
        return Ok(Arc::clone(reaper));
    }
    let reaper = Arc::new(Reaper {
        owner: std::process::id(),
        epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
        bell: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
        tasks: Mutex::default(),
        unfinished: watch::Sender::new(0),
    });
    reaper.epoll.add(&reaper.bell, EpollEvent::new(EpollFlags::EPOLLIN, BELL))?;
    let own = Arc::clone(&reaper);
    std::thread::Builder::new().name("processkit-reaper".into()).spawn(move || own.run())?;
    Ok(Arc::clone(known.insert(reaper)))
}

fn submit(task: Task) {
    match reaper() {
        Ok(reaper) => {
            if task.is_counted() {
                reaper.unfinished.send_modify(|count| *count += 1);
            }
            reaper.tasks().inbox.push(task);
            let _ = reaper.bell.write(1); // full means it is rung already
        }
        Err(error) => {
            event!(
                warn,
                error = error,
                "no reaper thread: a zombie or a directory stays until this process ends"
            )
        }
    }
}

impl Reaper {
    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        // The program's signals are for the program's threads.
        let _ = SigSet::all().thread_block();
        let mut events = [EpollEvent::empty(); 64];
        // in the order of their time, since all wait as long
        let mut late: VecDeque<(Instant, Task)> = VecDeque::new();
        loop {
            let until = late.front().map_or(EpollTimeout::NONE, |(due, _)| {
                let left = due.saturating_duration_since(Instant::now()).as_millis();
                // one more, since a part of a millisecond is cut off
                u16::try_from(left + 1).map_or(EpollTimeout::MAX, EpollTimeout::from)
            });
            let count = match self.epoll.wait(&mut events, until) {
                Ok(count) => count,
                Err(nix::Error::EINTR) => continue,
                Err(error) => {
                    event!(error, error = error, "the reaper cannot wait");
                    return;
                }
            };
            let mut ready: Vec<Task> =
                events[..count].iter().filter_map(|event| self.take(event.data())).collect();
            let now = Instant::now();
            let due = late.partition_point(|(due, _)| *due <= now);
            ready.extend(late.drain(..due).map(|(_, task)| task));
            if events[..count].iter().any(|event| event.data() == BELL) {
                let _ = self.bell.read(); // only to silence it
                let inbox = std::mem::take(&mut self.tasks().inbox);
                for task in inbox {
                    match task {
                        Task::Tidy => late.push_back((now + LATER, task)),
                        other => ready.push(other),
                    }
                }
            }
            late.extend(
                ready.into_iter().filter_map(|task| self.go_on(task)).map(|task| (now + LATER, task)),
            );
        }
    }

    /// Go on with a task; what is to be tried again later.
    fn go_on(&self, mut task: Task) -> Option<Task> {
        let counted = task.is_counted();
        let tried = match task.step() {
            Ok(true) => Ok(()),
            Ok(false) => match self.watch(task) {
                Ok(_) => return None,
                Err(failed) => Err(failed),
            },
            Err(error) => Err((task, error)),
        };
        if let Err((task, error)) = tried {
            event!(
                warn,
                error = error,
                group = format_args!("{:?}", task.group()),
                "cannot reap, empty or remove"
            );
            if is_short(&error) {
                return Some(task);
            }
        }
        if counted {
            self.unfinished.send_modify(|count| *count -= 1);
        }
        None
    }

    /// Let a task wait for its event. One that has come already is reported as well.
    fn watch(&self, task: Task) -> Result<u64, (Task, io::Error)> {
        let mut tasks = self.tasks();
        tasks.last += 1;
        let key = tasks.last;
        let added =
            task.awaited().map_or(Ok(()), |(fd, flags)| self.epoll.add(fd, EpollEvent::new(flags, key)));
        if let Err(error) = added {
            return Err((task, error.into()));
        }
        tasks.watched.insert(key, task);
        Ok(key)
    }

    /// Take a task back, unless somebody has.
    fn take(&self, key: u64) -> Option<Task> {
        let task = self.tasks().watched.remove(&key)?;
        if let Some((fd, _)) = task.awaited() {
            let _ = self.epoll.delete(fd); // it was added
        }
        Some(task)
    }
}
