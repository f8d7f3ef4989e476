//! A child in the manner of vfork: shared memory, a stack of its own, in its cgroup and with a pidfd from the first
//! instruction.
//!
//! The child runs [`child`] while this thread waits for it. CLONE_VFORK would wait as well, but for ever if the child's cgroup
//! is frozen; so the kernel tells by CLONE_CHILD_CLEARTID, at the same moment (execve or the end), and the wait can look up.
//! The child makes raw syscalls only: no allocation, no lock, nothing that could unwind. Since memory is shared, an error is a
//! store into [`Child`], never a byte in a pipe.

use super::blocked_signals::BlockedSignals;
use super::check;
use super::child::{Child, Staged, child_entry};
use super::clone::{CloneArgs, WAIT, clone3_raw, wait_while_running};
use super::privileges::SharedWithOther;
use super::stack::Stack;
use crate::identity::Stat;
use crate::privileges::Privileges;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::ffi::{CString, c_char, c_int, c_long, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// One descriptor of the child: what is `source` here is `target` there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move {
    pub(crate) source: RawFd,
    pub(crate) target: RawFd,
    /// A source that is not open leaves the target closed instead of failing.
    pub(crate) optional: bool,
}

/// A process to start. All descriptors must stay open until [`spawn`] returns.
#[derive(Debug)]
pub(crate) struct Spawn<'a> {
    /// What to execute, unless `file` is given.
    pub(crate) path: CString,
    /// An opened file to execute.
    pub(crate) file: Option<BorrowedFd<'a>>,
    pub(crate) argv: Vec<CString>,
    /// `KEY=value`; private to this spawn, since the child writes its pid into it.
    pub(crate) envp: Vec<CString>,
    /// The variable that is to hold the child's pid.
    pub(crate) pid_variable: Option<Vec<u8>>,
    pub(crate) directory: Option<CString>,
    /// Exactly the descriptors that arrive. Targets are distinct and not negative.
    pub(crate) moves: Vec<Move>,
    pub(crate) setsid: bool,
    pub(crate) privileges: &'a Privileges,
    /// The cgroup to be born in.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
    /// Whether clone3 may be used; false only in tests of the older way.
    pub(crate) clone3: bool,
}

/// A process that has executed its program.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
}

/// How far a failed spawn came, and which step it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The process could not be made.
    Clone,
    /// It could not join its cgroup.
    Join,
    /// Its OOM score could not be set.
    OomScore,
    /// No session or process group.
    Session,
    /// A descriptor could not be put where it belongs.
    Descriptors,
    /// A limit could not be set.
    Limits,
    /// Its supplementary groups could not be set.
    Groups,
    /// Its gid could not be set.
    Gid,
    /// Its uid could not be set.
    Uid,
    /// The working directory could not be entered.
    Directory,
    /// It could not be bound to its parent's life.
    ParentDeath,
    /// It could not give up gaining privileges.
    NoNewPrivileges,
    /// The program could not be executed.
    Exec,
    /// Its cgroup is frozen, so it would not have come to its program.
    Frozen,
    /// Somebody stopped it before it came to its program.
    Stopped,
}

#[derive(Debug)]
pub(crate) struct SpawnFailure {
    pub(crate) stage: Stage,
    pub(crate) source: io::Error,
    /// Which of many: the target of a descriptor, or the resource of a limit.
    pub(crate) detail: i32,
}

impl SpawnFailure {
    fn of(stage: Stage) -> impl FnOnce(io::Error) -> SpawnFailure {
        move |source| SpawnFailure { stage, source, detail: -1 }
    }
}

/// Start a process. Returns once it has executed its program; a failed attempt leaves nothing behind.
pub(crate) fn spawn(mut request: Spawn<'_>) -> Result<Spawned, SpawnFailure> {
    let argv = pointers(&request.argv);
    let mut pid_entry = request.pid_variable.take().map(|mut entry| {
        entry.push(b'=');
        let digits_at = entry.len();
        entry.extend([0; 12]); // ten digits of u32, the end, one to spare
        (entry, digits_at)
    });
    let mut envp = pointers(&request.envp);
    let mut pid_digits = ptr::null_mut();
    if let Some((entry, digits_at)) = &mut pid_entry {
        let start = entry.as_mut_ptr();
        pid_digits = start.wrapping_add(*digits_at);
        let end = envp.len() - 1;
        envp.insert(end, start.cast_const().cast());
    }

    let is_replaced = |m: &Move| {
        let other = |o: &Move| o.target == m.source && o.source != o.target;
        m.source != m.target && request.moves.iter().any(other)
    };
    let mut moves: Vec<Staged> = request
        .moves
        .iter()
        .map(|m| Staged {
            source: m.source,
            target: m.target,
            optional: m.optional,
            park: is_replaced(m),
            closed: false,
        })
        .collect();
    moves.sort_by_key(|m| m.target);
    let gaps = gaps(moves.iter().map(|m| m.target as u32));

    let use_clone3 = request.clone3 && !CLONE3_MISSING.load(Ordering::Relaxed);
    let mut child = Child {
        path: request.path.as_ptr(),
        argv: argv.as_ptr(),
        envp: envp.as_ptr(),
        pid_digits,
        directory: request.directory.as_ref().map_or(ptr::null(), |d| d.as_ptr()),
        moves: moves.as_mut_ptr(),
        moves_len: moves.len(),
        gaps: gaps.as_ptr(),
        gaps_len: gaps.len(),
        file: request.file.map_or(-1, |f| f.as_raw_fd()),
        privileges: request.privileges,
        parent: std::process::id() as c_int,
        join: -1,
        reset_handlers: false,
        setsid: request.setsid,
        started: false,
        running: AtomicU32::new(0),
        halted: None,
        failed: None,
        errno: 0,
        detail: -1,
    };

    // Its OOM score becomes that of everybody who has the same memory, except after vfork (__set_oom_adj() of the kernel).
    let wait = if request.privileges.oom_score_adj.is_some() { libc::CLONE_VFORK } else { WAIT };
    if wait == libc::CLONE_VFORK && request.cgroup.is_some_and(is_frozen) {
        return Err(SpawnFailure::of(Stage::Frozen)(io::ErrorKind::ResourceBusy.into()));
    }
    let shared = request.privileges.change_credentials().then(SharedWithOther::begin);
    let stack = Stack::take().map_err(SpawnFailure::of(Stage::Clone))?;
    let result = {
        let _blocked = BlockedSignals::new();
        let mut born = Err(libc::ENOSYS);
        if use_clone3 {
            born = clone3(&mut child, &stack, request.cgroup, wait);
            if born.as_ref().is_err_and(|errno| *errno == libc::ENOSYS) {
                CLONE3_MISSING.store(true, Ordering::Relaxed);
            }
        }
        if let Ok(spawned) = &born
            && !was_started(&child)
            && child.halted.is_none()
        {
            // Killed before its first instruction. Linux since 6.14 (and stable ones with that change) does this to every
            // child cloned into a cgroup whose `cgroup.kill` was used (more often than our own cgroup's):
            // cgroup_css_set_fork() looks at the kill sequence of the caller's cgroup, cgroup_post_fork() compares it with
            // the target's. Joining by hand has no such check.
            let _ = super::wait_pidfd(spawned.pidfd.as_fd(), true); // no zombie stays; the status says nothing
            born = Err(libc::ENOSYS);
        }
        // A sandbox answers EPERM or EINVAL, an old kernel ENOSYS or E2BIG; a cgroup that may not be joined answers the
        // same way again, then from the write into cgroup.procs.
        match born {
            Err(libc::ENOSYS | libc::EPERM | libc::EINVAL | libc::E2BIG) => {
                clone(&mut child, &stack, request.cgroup, wait)
            }
            other => other.map_err(io::Error::from_raw_os_error).map_err(SpawnFailure::of(Stage::Clone)),
        }
    };
    // Whoever shared the stack has executed or ended by now.
    stack.give_back();
    if let Some(shared) = shared {
        shared.end(result.as_ref().ok().map(|spawned| spawned.pid));
    }
    let spawned = result?;
    if let Some(stage) = child.halted {
        super::wait_pidfd(spawned.pidfd.as_fd(), true).map_err(SpawnFailure::of(stage))?;
        return Err(SpawnFailure::of(stage)(io::ErrorKind::ResourceBusy.into()));
    }
    let child = &raw const child;
    // SAFETY: plain reads; the child wrote before this thread was resumed.
    let (failed, errno, detail) = unsafe {
        (
            ptr::read_volatile(&raw const (*child).failed),
            ptr::read_volatile(&raw const (*child).errno),
            ptr::read_volatile(&raw const (*child).detail),
        )
    };
    let Some(stage) = failed else { return Ok(spawned) };
    // It is ending or has ended: this wait is short, and leaves no zombie.
    super::wait_pidfd(spawned.pidfd.as_fd(), true).map_err(SpawnFailure::of(stage))?;
    Err(SpawnFailure { stage, source: io::Error::from_raw_os_error(errno), detail })
}

fn was_started(child: &Child) -> bool {
    // SAFETY: a plain read; the child wrote it before this thread was resumed.
    unsafe { ptr::read_volatile(&raw const child.started) }
}

/// clone3(2) answered ENOSYS once.
static CLONE3_MISSING: AtomicBool = AtomicBool::new(false);

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
}

/// Until the child shares nothing with us any more.
fn until_executed(child: &mut Child, spawned: &Spawned, cgroup: Option<BorrowedFd<'_>>) {
    const LOOK_UP: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    while child.running.load(Ordering::Acquire) != 0 {
        let result = wait_while_running(&child.running, &LOOK_UP);
        if result == -c_long::from(libc::ETIMEDOUT) && child.halted.is_none() {
            child.halted = end_if_halted(spawned, cgroup);
        }
    }
}

/// Kill a child that cannot get to its program, because its cgroup is frozen or somebody stopped it, and say why: SIGKILL
/// ends frozen and stopped processes, too.
fn end_if_halted(spawned: &Spawned, cgroup: Option<BorrowedFd<'_>>) -> Option<Stage> {
    let stage = if cgroup.is_some_and(is_frozen) {
        Stage::Frozen
    } else if Stat::read(spawned.pid).is_ok_and(|stat| stat.is_stopped()) {
        Stage::Stopped
    } else {
        return None;
    };
    // one that is refused is tried again at the next look
    super::pidfd_send_signal(spawned.pidfd.as_fd(), libc::SIGKILL).ok().map(|()| stage)
}

/// Whether the cgroup stands still, by its own setting or by that of one above. What cannot be read now can at the next look.
fn is_frozen(cgroup: BorrowedFd<'_>) -> bool {
    let mut text = [0; 256];
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let length = nix::fcntl::openat(cgroup, "cgroup.events", flags, Mode::empty())
        .and_then(|events| nix::unistd::read(&events, &mut text))
        .unwrap_or(0);
    text[..length].split(|b| *b == b'\n').any(|line| line == b"frozen 1")
}

/// The inclusive ranges around sorted, distinct targets.
fn gaps(targets: impl Iterator<Item = u32>) -> Vec<(u32, u32)> {
    let mut gaps = Vec::new();
    let mut next = 0;
    for target in targets {
        if target > next {
            gaps.push((next, target - 1));
        }
        next = target + 1;
    }
    gaps.push((next, u32::MAX));
    gaps
}

fn clone3(
    child: &mut Child,
    stack: &Stack,
    cgroup: Option<BorrowedFd<'_>>,
    wait: c_int,
) -> Result<Spawned, c_int> {
    let mut pidfd: c_int = -1;
    let into = if cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 };
    let flags = (libc::CLONE_VM | libc::CLONE_PIDFD | wait) as u64 | CLONE_CLEAR_SIGHAND | into;
    child.running.store((wait == libc::CLONE_CHILD_CLEARTID).into(), Ordering::Release);
    let args = CloneArgs {
        flags,
        pidfd: (&raw mut pidfd) as u64,
        child_tid: child.running.as_ptr() as u64,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: stack.low() as u64,
        stack_size: Stack::SIZE as u64,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    // SAFETY: `args` is a complete clone_args of the size given. The child starts on a stack nobody else uses, runs
    // `child`, which never returns, and this thread does not go on until it has executed or ended, so that everything
    // `child` points to outlives its use.
    let result = unsafe { clone3_raw(&raw const args, child_entry, (child as *mut Child).cast()) };
    if result < 0 {
        return Err(-result as c_int);
    }
    // SAFETY: the kernel stored a fresh descriptor there.
    let spawned = Spawned { pid: result as u32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } };
    until_executed(child, &spawned, cgroup);
    Ok(spawned)
}

/// The older way: clone(2), and the child writes itself into `cgroup.procs` before anything else.
fn clone(
    record: &mut Child,
    stack: &Stack,
    cgroup: Option<BorrowedFd<'_>>,
    wait: c_int,
) -> Result<Spawned, SpawnFailure> {
    let procs = cgroup.map(open_procs).transpose().map_err(SpawnFailure::of(Stage::Join))?;
    record.join = procs.as_ref().map_or(-1, |fd| fd.as_raw_fd());
    record.reset_handlers = true;
    let mut pidfd: c_int = -1;
    let flags = libc::CLONE_VM | libc::CLONE_PIDFD | wait | libc::SIGCHLD;
    record.running.store((wait == libc::CLONE_CHILD_CLEARTID).into(), Ordering::Release);
    let (running, no_tls) = (record.running.as_ptr(), ptr::null_mut::<c_void>());
    // SAFETY: as for clone3: a stack of its own, a function that never returns, and the wait keeps everything alive.
    let pid = unsafe {
        let data = (record as *mut Child).cast();
        libc::clone(clone_entry, stack.high(), flags, data, &raw mut pidfd, no_tls, running)
    };
    check(pid.into()).map_err(SpawnFailure::of(Stage::Clone))?;
    // SAFETY: the kernel stored a fresh descriptor there.
    let spawned = Spawned { pid: pid as u32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } };
    until_executed(record, &spawned, cgroup);
    Ok(spawned)
}

fn open_procs(cgroup: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: the name is a C string, and no mode is needed without O_CREAT.
    let fd = unsafe {
        libc::openat(cgroup.as_raw_fd(), c"cgroup.procs".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC)
    };
    check(fd.into())?;
    // SAFETY: just opened, and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

extern "C" fn clone_entry(data: *mut c_void) -> c_int {
    // SAFETY: called in the child of `clone`, with the record it was given.
    unsafe { child_entry(data) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A user who stops whatever is theirs, a child on its way to its program too, does not make us wait for ever.
    #[test]
    fn a_stopped_child_is_ended() {
        use crate::sys::{pidfd_open, pidfd_send_signal};
        let mut sleeper = std::process::Command::new("sleep").arg("1000").spawn().expect("started");
        let pidfd = pidfd_open(sleeper.id()).expect("a pidfd");
        let spawned = Spawned { pid: sleeper.id(), pidfd };
        assert_eq!(end_if_halted(&spawned, None), None, "control: it runs");
        pidfd_send_signal(spawned.pidfd.as_fd(), libc::SIGSTOP).expect("stopped");
        while !Stat::read(spawned.pid).expect("alive").is_stopped() {
            std::thread::yield_now();
        }
        assert_eq!(end_if_halted(&spawned, None), Some(Stage::Stopped));
        let status = sleeper.wait().expect("reaped");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL));
    }

    #[test]
    fn gaps_surround_the_targets() {
        assert_eq!(gaps([].into_iter()), [(0, u32::MAX)]);
        assert_eq!(gaps([0, 1, 2].into_iter()), [(3, u32::MAX)]);
        assert_eq!(gaps([1, 5].into_iter()), [(0, 0), (2, 4), (6, u32::MAX)]);
    }
}
