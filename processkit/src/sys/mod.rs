//! The one door to the kernel: calls that neither std nor nix offer. All `unsafe` of the crate is below here.
#![expect(unsafe_code, reason = "raw syscalls; every block says why it is sound")]

mod blocked_signals;
mod child;
mod clone;
mod guard;
mod guardian;
mod marked;
mod privileges;
mod spawn;
mod stack;

pub(crate) use guardian::{FORGET, MARK_BYTES, Message, SLOTS, WATCH_CGROUP, WATCH_TREE, start_guardian};
pub(crate) use spawn::{Move, Spawn, SpawnFailure, Stage, spawn};

use crate::exit::{Exit, Usage};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Bytes of a signal set as the kernel has it.
const KERNEL_SIGSET_BYTES: usize = 8;

/// The outcome of a wait that does not block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// It lives.
    Running,
    /// It was a child of ours and is reaped now.
    Reaped(Exit, Usage),
    /// It is no child of ours, or somebody else reaped it.
    NotOurs,
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// pidfd_open(2).
pub(crate) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    // SAFETY: no pointers are passed.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// pidfd_send_signal(2).
pub(crate) fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let info: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: a null siginfo is allowed and stands for what kill(2) sends.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0) })?;
    Ok(())
}

/// waitid(2) on a pidfd, with the usage that only the system call itself tells. With `block`, a live child is waited for.
pub(crate) fn wait_pidfd(pidfd: BorrowedFd<'_>, block: bool) -> io::Result<Waited> {
    // __WALL: also the guardian, which ends without a signal
    let options = libc::WEXITED | libc::__WALL | if block { 0 } else { libc::WNOHANG };
    loop {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        let mut usage = MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: `info` and `usage` are writable and as large as the kernel expects.
        let result = check(unsafe {
            libc::syscall(
                libc::SYS_waitid,
                libc::P_PIDFD,
                pidfd.as_raw_fd(),
                info.as_mut_ptr(),
                options,
                usage.as_mut_ptr(),
            )
        });
        if let Err(error) = result {
            match error.raw_os_error() {
                Some(libc::EINTR) => continue,
                Some(libc::ECHILD) => return Ok(Waited::NotOurs),
                Some(libc::EAGAIN) => return Ok(Waited::Running), // a PIDFD_NONBLOCK descriptor
                _ => return Err(error),
            }
        }
        // SAFETY: zeros are a valid siginfo and a valid rusage, and waitid filled them in.
        let (info, usage) = unsafe { (info.assume_init(), usage.assume_init()) };
        // SAFETY: waitid fills in the fields of SIGCHLD, or leaves zeros when nothing has exited.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        if pid == 0 {
            return Ok(Waited::Running);
        }
        let exit = match info.si_code {
            libc::CLD_EXITED => Exit { code: Some(status & 0xff), signal: None, core: false },
            libc::CLD_DUMPED => Exit { code: None, signal: Some(status), core: true },
            _ => Exit { code: None, signal: Some(status), core: false },
        };
        return Ok(Waited::Reaped(exit, from_rusage(&usage)));
    }
}

fn from_rusage(usage: &libc::rusage) -> Usage {
    let duration = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.unsigned_abs()) + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    Usage {
        user: duration(usage.ru_utime),
        system: duration(usage.ru_stime),
        max_rss_bytes: Some(usage.ru_maxrss.unsigned_abs() * 1024),
    }
}

/// The status the kernel keeps in the pidfd once the process is reaped, by whomever (Linux 6.15).
pub(crate) fn pidfd_exit_status(pidfd: BorrowedFd<'_>) -> Option<Exit> {
    /// `struct pidfd_info` of include/uapi/linux/pidfd.h, first version (64 bytes).
    #[repr(C)]
    struct PidfdInfo {
        mask: u64,
        cgroup: u64,
        ids: [u32; 11],
        exit_code: i32,
    }
    const INFO_EXIT: u64 = 1 << 3;
    const READ_WRITE: u32 = 3 << 30;
    const GET_INFO: u32 = READ_WRITE | ((size_of::<PidfdInfo>() as u32) << 16) | (0xff << 8) | 11;

    let mut info = PidfdInfo { mask: INFO_EXIT, cgroup: 0, ids: [0; 11], exit_code: 0 };
    // SAFETY: the request number carries the size of `info`, which the kernel neither overreads nor overwrites.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO as _, &raw mut info) };
    (result == 0 && info.mask & INFO_EXIT != 0).then(|| Exit::from_status(info.exit_code))
}

/// Orphaned descendants come to this process instead of to init. Holds for the whole process.
pub(crate) fn become_subreaper() -> io::Result<()> {
    // SAFETY: no pointers are passed.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }.into())?;
    Ok(())
}

/// Whether the descriptor lies on a cgroup2 file system.
pub(crate) fn is_cgroup2(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut stat = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: `stat` is writable and of the right size.
    check(unsafe { libc::fstatfs(fd.as_raw_fd(), stat.as_mut_ptr()) }.into())?;
    // SAFETY: zero is a valid statfs, and fstatfs filled it in.
    let stat = unsafe { stat.assume_init() };
    Ok(stat.f_type as u64 == libc::CGROUP2_SUPER_MAGIC as u64)
}

/// Register a descriptor with the runtime.
pub(crate) fn watched<T: Owned>(fd: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: `Owned` types keep their descriptor open and the same for as long as they live.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// What holds one descriptor open for all its life, by ownership or by a borrow.
pub(crate) trait Owned: AsRawFd {}
impl Owned for OwnedFd {}
impl Owned for BorrowedFd<'_> {}
