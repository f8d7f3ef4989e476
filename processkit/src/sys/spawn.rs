//! A child by way of vfork: shared memory, a stack of its own, in its cgroup and with a pidfd from the first instruction.
//!
//! The child runs [`child`] while this thread is suspended. It makes raw syscalls only: no allocation, no lock, nothing
//! that could unwind. Since memory is shared, an error is a store into [`Child`], never a byte in a pipe.

use super::blocked_signals::BlockedSignals;
use super::check;
use super::child::{Child, Staged, child_entry};
use super::stack::Stack;
use std::ffi::{CString, c_char, c_int, c_long, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

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

/// How far a failed spawn came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Stage {
    /// The process could not be made.
    Clone = 1,
    /// It could not join its cgroup.
    Join = 2,
    /// No session or process group.
    Session = 3,
    /// The working directory could not be entered.
    Directory = 4,
    /// A descriptor could not be put where it belongs.
    Descriptors = 5,
    /// The program could not be executed.
    Exec = 6,
}

#[derive(Debug)]
pub(crate) struct SpawnFailure {
    pub(crate) stage: Stage,
    pub(crate) source: io::Error,
}

impl SpawnFailure {
    fn of(stage: Stage) -> impl FnOnce(io::Error) -> SpawnFailure {
        move |source| SpawnFailure { stage, source }
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

    let mut moves: Vec<Staged> = request
        .moves
        .iter()
        .map(|m| Staged { source: m.source, target: m.target, optional: m.optional, parked: -1 })
        .collect();
    moves.sort_by_key(|m| m.target);
    let gaps = gaps(moves.iter().map(|m| m.target as u32));
    let floor = moves.last().map_or(0, |m| m.target.saturating_add(1));

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
        floor,
        file: request.file.map_or(-1, |f| f.as_raw_fd()),
        join: -1,
        reset_handlers: false,
        setsid: request.setsid,
        started: false,
        stage: 0,
        errno: 0,
    };

    let stack = Stack::take().map_err(SpawnFailure::of(Stage::Clone))?;
    let result = {
        let _blocked = BlockedSignals::new();
        let mut born = Err(libc::ENOSYS);
        if use_clone3 {
            born = clone3(&mut child, &stack, request.cgroup);
            if born.as_ref().is_err_and(|errno| *errno == libc::ENOSYS) {
                CLONE3_MISSING.store(true, Ordering::Relaxed);
            }
        }
        if let Ok(spawned) = &born
            && !was_started(&child)
        {
            // Killed before its first instruction. Linux since 6.14 (and stable ones with that change) does this to every child cloned into a cgroup whose
            // `cgroup.kill` was used (more often than our own cgroup's): cgroup_css_set_fork() looks at the kill sequence of
            // the caller's cgroup, cgroup_post_fork() compares it with the target's. Joining by hand has no such check.
            let _ = super::wait_pidfd(spawned.pidfd.as_fd(), true); // no zombie stays; the status says nothing
            born = Err(libc::ENOSYS);
        }
        // A sandbox answers EPERM or EINVAL, an old kernel ENOSYS or E2BIG; a cgroup that may not be joined answers the
        // same way again, then from the write into cgroup.procs.
        match born {
            Err(libc::ENOSYS | libc::EPERM | libc::EINVAL | libc::E2BIG) => {
                clone(&mut child, &stack, request.cgroup)
            }
            other => other.map_err(|errno| SpawnFailure {
                stage: Stage::Clone,
                source: io::Error::from_raw_os_error(errno),
            }),
        }
    };
    // Whoever shared the stack has executed or ended by now: vfork.
    stack.give_back();
    let spawned = result?;
    // SAFETY: a plain read; the child wrote it before this thread was resumed.
    let (stage, errno) = unsafe { (ptr::read_volatile(&child.stage), ptr::read_volatile(&child.errno)) };
    let stage = match stage {
        0 => return Ok(spawned),
        2 => Stage::Join,
        3 => Stage::Session,
        4 => Stage::Directory,
        5 => Stage::Descriptors,
        6 => Stage::Exec,
        _ => Stage::Clone,
    };
    // It is ending or has ended: this wait is short, and leaves no zombie.
    super::wait_pidfd(spawned.pidfd.as_fd(), true).map_err(SpawnFailure::of(stage))?;
    Err(SpawnFailure { stage, source: io::Error::from_raw_os_error(errno) })
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

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn clone3(child: &mut Child, stack: &Stack, cgroup: Option<BorrowedFd<'_>>) -> Result<Spawned, c_int> {
    let mut pidfd: c_int = -1;
    let into = if cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 };
    let flags = (libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD) as u64 | CLONE_CLEAR_SIGHAND | into;
    let args = CloneArgs {
        flags,
        pidfd: (&raw mut pidfd) as u64,
        child_tid: 0,
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
    // `child`, which never returns, and this thread is suspended until it has executed or ended (CLONE_VFORK), so that
    // everything `child` points to outlives its use.
    let result = unsafe { clone3_raw(&raw const args, child_entry, (child as *mut Child).cast()) };
    if result < 0 {
        return Err(-result as c_int);
    }
    // SAFETY: the kernel stored a fresh descriptor there.
    Ok(Spawned { pid: result as u32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn clone3(_: &mut Child, _: &Stack, _: Option<BorrowedFd<'_>>) -> Result<Spawned, c_int> {
    Err(libc::ENOSYS) // no assembly for this architecture; clone(2) does it
}

/// `struct clone_args` of include/uapi/linux/sched.h, third version (88 bytes).
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[repr(C, align(8))]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// clone3(2) whose child calls `entry(data)` on the new stack. Returns the pid, or minus errno.
///
/// # Safety
/// `args` must ask for CLONE_VM, CLONE_VFORK and a stack whose end is aligned to 16; `entry` must not return.
#[cfg(target_arch = "x86_64")]
unsafe fn clone3_raw(
    args: *const CloneArgs,
    entry: unsafe extern "C" fn(*mut c_void) -> !,
    data: *mut c_void,
) -> c_long {
    let result: c_long;
    // SAFETY: syscall clobbers rcx and r11 only. In the child rax is 0 and rsp the end of the new stack; it leaves through
    // `entry` and never reaches the code after label 2. Memory is shared, hence no `nomem`.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp", // the outermost frame, for unwinders
            "mov rdi, r9",
            "call r8",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") args,
            in("rsi") size_of::<CloneArgs>(),
            in("r8") entry,
            in("r9") data,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// clone3(2) whose child calls `entry(data)` on the new stack. Returns the pid, or minus errno.
///
/// # Safety
/// `args` must ask for CLONE_VM, CLONE_VFORK and a stack whose end is aligned to 16; `entry` must not return.
#[cfg(target_arch = "aarch64")]
unsafe fn clone3_raw(
    args: *const CloneArgs,
    entry: unsafe extern "C" fn(*mut c_void) -> !,
    data: *mut c_void,
) -> c_long {
    let result: c_long;
    // SAFETY: svc clobbers x0 only. In the child x0 is 0 and sp the end of the new stack; it leaves through `entry` and
    // never reaches the code after label 2. Memory is shared, hence no `nomem`.
    unsafe {
        std::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr", // the outermost frame, for unwinders
            "mov x0, x10",
            "blr x9",
            "brk #1",
            "2:",
            in("x8") libc::SYS_clone3,
            inlateout("x0") args => result,
            in("x1") size_of::<CloneArgs>(),
            in("x9") entry,
            in("x10") data,
        );
    }
    result
}

/// The older way: clone(2), and the child writes itself into `cgroup.procs` before anything else.
fn clone(record: &mut Child, stack: &Stack, cgroup: Option<BorrowedFd<'_>>) -> Result<Spawned, SpawnFailure> {
    let procs = cgroup.map(open_procs).transpose().map_err(SpawnFailure::of(Stage::Join))?;
    record.join = procs.as_ref().map_or(-1, |fd| fd.as_raw_fd());
    record.reset_handlers = true;
    let mut pidfd: c_int = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: as for clone3: a stack of its own, a function that never returns, and vfork keeps everything alive.
    let pid = unsafe {
        libc::clone(clone_entry, stack.high(), flags, (record as *mut Child).cast(), &raw mut pidfd)
    };
    check(pid.into()).map_err(SpawnFailure::of(Stage::Clone))?;
    // SAFETY: the kernel stored a fresh descriptor there.
    Ok(Spawned { pid: pid as u32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
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

    #[test]
    fn gaps_surround_the_targets() {
        assert_eq!(gaps([].into_iter()), [(0, u32::MAX)]);
        assert_eq!(gaps([0, 1, 2].into_iter()), [(3, u32::MAX)]);
        assert_eq!(gaps([1, 5].into_iter()), [(0, 0), (2, 4), (6, u32::MAX)]);
    }
}
