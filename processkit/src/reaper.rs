//! What happens after a drop: zombies are reaped, killed groups emptied and their directories removed, by one thread that
//! sleeps in epoll_wait(2) and is started when first needed.

use crate::containment::{Cgroup, Containment, Member, Tree, is_gone, is_populated, tidy};
use crate::guardian;
use crate::process::Child;
use crate::sys::{self, Waited};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::SigSet;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often an empty directory that is busy is tried again before it is left to the next sweep.
const REMOVAL_TRIES: usize = 100;

/// Take a child's status when it ends, for a handle that was dropped.
pub(crate) fn reap(child: Arc<Child>) {
    submit(Job::Reap(child));
}

/// Empty a group that was killed, and remove what is left of it.
pub(crate) fn bury(containment: Containment) {
    submit(match containment {
        Containment::Cgroup(cgroup) => Job::Cgroup(cgroup),
        Containment::Tree(tree) => Job::Tree(tree),
    });
}

/// Take the status of the guardian when it ends, and say that it did.
pub(crate) fn mourn(pid: u32, pidfd: Arc<OwnedFd>) {
    submit(Job::Guardian { pid, pidfd });
}

/// Do something that may take a while.
pub(crate) fn later(work: fn()) {
    submit(Job::Call(work));
}

/// Remove the directory of all groups if it is still empty when nothing happened for a while: programs that make one group
/// after the other should not make it each time.
pub(crate) fn tidy_later() {
    if !TIDYING.swap(true, Ordering::Relaxed) {
        submit(Job::Tidy);
    }
}

/// Whether the reaper knows that there may be something to tidy.
static TIDYING: AtomicBool = AtomicBool::new(false);
const UNTIDY: Duration = Duration::from_millis(200);

/// Wait until every group dropped so far is empty and its directory removed, and the directory of all groups with the last. For a program that is about to end: what the
/// background has not finished then is left to the sweep of a later one (the processes are dead in any case).
///
/// Cancel safe.
pub async fn settled() {
    if let Some(reaper) = REAPER.get() {
        let mut unfinished = reaper.unfinished.subscribe();
        let _ = unfinished.wait_for(|count| *count == 0).await; // the sender lives as long as the program
        later(tidy);
        let _ = unfinished.wait_for(|count| *count == 0).await;
    }
}

enum Job {
    Reap(Arc<Child>),
    Cgroup(Arc<Cgroup>),
    Tree(Arc<Tree>),
    Guardian { pid: u32, pidfd: Arc<OwnedFd> },
    Call(fn()),
    Tidy,
}

impl Job {
    /// A child may live on for as long as it likes, and so may the guardian; tidying has time.
    fn is_counted(&self) -> bool {
        !matches!(self, Job::Reap(_) | Job::Guardian { .. } | Job::Tidy)
    }
}

struct Reaper {
    inbox: Mutex<Vec<Job>>,
    bell: EventFd,
    unfinished: watch::Sender<usize>,
}

static REAPER: OnceLock<Reaper> = OnceLock::new();

/// The reaper, started with the first job. A start that fails, for want of a descriptor or a thread, is tried again with the
/// next.
fn reaper() -> io::Result<&'static Reaper> {
    static STARTING: Mutex<()> = Mutex::new(());
    let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(reaper) = REAPER.get() {
        return Ok(reaper);
    }
    let reaper = Reaper {
        inbox: Mutex::default(),
        bell: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
        unfinished: watch::Sender::new(0),
    };
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&reaper.bell, EpollEvent::new(EpollFlags::EPOLLIN, BELL))?;
    std::thread::Builder::new()
        .name("processkit-reaper".into())
        // it may run before the cell is filled
        .spawn(move || Table::new(epoll).run(REAPER.wait()))?;
    Ok(REAPER.get_or_init(|| reaper))
}

fn submit(job: Job) {
    match REAPER.get().map_or_else(reaper, Ok) {
        Ok(reaper) => {
            if job.is_counted() {
                reaper.unfinished.send_modify(|count| *count += 1);
            }
            reaper.inbox.lock().unwrap_or_else(PoisonError::into_inner).push(job);
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

/// The key of the bell; tasks have the others.
const BELL: u64 = 0;

/// What the thread waits for.
struct Table {
    epoll: Epoll,
    tasks: HashMap<u64, Task>,
    next: u64,
    tidy_at: Option<Instant>,
}

enum Task {
    Child(Arc<Child>),
    Cgroup { cgroup: Arc<Cgroup>, events: OwnedFd },
    Tree { tree: Arc<Tree>, survivor: Member },
    Guardian { pid: u32, pidfd: Arc<OwnedFd> },
}

impl Task {
    fn watched(&self) -> (BorrowedFd<'_>, EpollFlags) {
        match self {
            Task::Child(child) => (child.pidfd(), EpollFlags::EPOLLIN),
            Task::Cgroup { events, .. } => (events.as_fd(), EpollFlags::EPOLLPRI),
            Task::Tree { survivor, .. } => (survivor.pidfd.as_fd(), EpollFlags::EPOLLIN),
            Task::Guardian { pidfd, .. } => (pidfd.as_fd(), EpollFlags::EPOLLIN),
        }
    }
}

impl Table {
    fn new(epoll: Epoll) -> Self {
        Table { epoll, tasks: HashMap::new(), next: BELL + 1, tidy_at: None }
    }

    fn run(mut self, reaper: &Reaper) {
        // The program's signals are for the program's threads.
        let _ = SigSet::all().thread_block();
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let until = self.until_tidy();
            let count = match self.epoll.wait(&mut events, until) {
                Ok(count) => count,
                Err(nix::Error::EINTR) => continue,
                Err(error) => {
                    event!(error, error = error, "the reaper cannot wait");
                    return;
                }
            };
            for event in &events[..count] {
                match event.data() {
                    BELL => {
                        let _ = reaper.bell.read(); // only to silence it
                        let jobs =
                            std::mem::take(&mut *reaper.inbox.lock().unwrap_or_else(PoisonError::into_inner));
                        for job in jobs {
                            let counted = job.is_counted();
                            let finished = self.begin(job);
                            if finished && counted {
                                reaper.unfinished.send_modify(|count| *count -= 1);
                            }
                        }
                    }
                    key => {
                        let Some(task) = self.tasks.remove(&key) else { continue };
                        let _ = self.epoll.delete(task.watched().0); // it was added
                        let counted = !matches!(task, Task::Child(_) | Task::Guardian { .. });
                        let finished = self.resume(task);
                        if finished && counted {
                            reaper.unfinished.send_modify(|count| *count -= 1);
                        }
                    }
                }
            }
        }
    }

    /// Tidy if it is time, or until when to wait for more to do.
    fn until_tidy(&mut self) -> EpollTimeout {
        let Some(at) = self.tidy_at else { return EpollTimeout::NONE };
        let left = at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            self.tidy_at = None;
            TIDYING.store(false, Ordering::Relaxed); // before the look: whoever removes a group later asks again
            tidy();
            return EpollTimeout::NONE;
        }
        // one more, since a part of a millisecond is cut off
        u16::try_from(left.as_millis() + 1).map_or(EpollTimeout::MAX, EpollTimeout::from)
    }

    /// Whether the job is finished already.
    fn begin(&mut self, job: Job) -> bool {
        match job {
            Job::Reap(child) => self.resume(Task::Child(child)),
            Job::Guardian { pid, pidfd } => self.resume(Task::Guardian { pid, pidfd }),
            Job::Call(work) => {
                work();
                true
            }
            Job::Tree(tree) => self.tree(tree),
            Job::Tidy => {
                self.tidy_at = Some(Instant::now() + UNTIDY);
                true
            }
            Job::Cgroup(cgroup) => match cgroup.events_file() {
                Ok(events) => self.resume(Task::Cgroup { cgroup, events }),
                Err(error) if is_gone(&error) => true,
                Err(error) => {
                    event!(
                        warn,
                        error = error,
                        path = cgroup.path().display(),
                        "cannot watch a killed group"
                    );
                    true
                }
            },
        }
    }

    /// Go on with a task after its event; whether it is finished.
    fn resume(&mut self, task: Task) -> bool {
        match task {
            Task::Child(child) => match child.try_reap() {
                Ok(None) => self.watch(Task::Child(child)),
                _ => true,
            },
            Task::Tree { tree, .. } => self.tree(tree),
            Task::Guardian { pid, pidfd } => match sys::wait_pidfd(pidfd.as_fd(), false) {
                Ok(Waited::Running) => self.watch(Task::Guardian { pid, pidfd }),
                _ => {
                    guardian::ended(pid);
                    true
                }
            },
            Task::Cgroup { cgroup, events } => match clear_away(&cgroup, events.as_fd()) {
                Ok(true) => true,
                Ok(false) => self.watch(Task::Cgroup { cgroup, events }),
                Err(error) => {
                    event!(
                        warn,
                        error = error,
                        path = cgroup.path().display(),
                        "cannot remove a killed group"
                    );
                    true
                }
            },
        }
    }

    fn tree(&mut self, tree: Arc<Tree>) -> bool {
        match tree.survivor() {
            Ok(None) => true,
            Ok(Some(survivor)) => {
                if !survivor.killed {
                    let _ = tree.kill(); // whoever was born meanwhile; asked again when the survivor has ended
                }
                self.watch(Task::Tree { tree, survivor })
            }
            Err(error) => {
                event!(warn, error = error, "cannot look for the members of a killed group");
                true
            }
        }
    }

    fn watch(&mut self, task: Task) -> bool {
        let key = self.next;
        self.next += 1;
        let (fd, flags) = task.watched();
        // Level-triggered: what happened before this call is reported as well.
        match self.epoll.add(fd, EpollEvent::new(flags, key)) {
            Ok(()) => {
                self.tasks.insert(key, task);
                false
            }
            Err(error) => {
                event!(warn, error = error, "the reaper cannot watch");
                true
            }
        }
    }
}

/// Remove a killed group if it is empty. `Ok(false)`: not yet, an event will come.
fn clear_away(cgroup: &Cgroup, events: BorrowedFd<'_>) -> io::Result<bool> {
    for _ in 0..REMOVAL_TRIES {
        if is_populated(events)? {
            return Ok(false);
        }
        if cgroup.try_remove()? {
            event!(debug, path = cgroup.path().display(), "group removed");
            return Ok(true);
        }
        cgroup.kill()?; // something was born into it
    }
    Err(io::Error::from(io::ErrorKind::ResourceBusy))
}
