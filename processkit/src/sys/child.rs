//! The child between clone and exec: raw syscalls only, no allocation, no lock, nothing that could unwind.

use super::KERNEL_SIGSET_BYTES;
use super::privileges::{bind_to_parent, drop_privileges, set_oom_score};
use super::spawn::Stage;
use crate::privileges::Privileges;
use std::convert::Infallible;
use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::sync::atomic::AtomicU32;

const LAST_SIGNAL: c_int = 64;

/// Everything the child reads and writes, as plain pointers into this thread's memory.
#[repr(C)]
pub(super) struct Child {
    pub(super) path: *const c_char,
    pub(super) argv: *const *const c_char,
    pub(super) envp: *const *const c_char,
    /// Digits of the pid go here; null for nowhere.
    pub(super) pid_digits: *mut u8,
    pub(super) directory: *const c_char,
    pub(super) moves: *mut Staged,
    pub(super) moves_len: usize,
    /// Inclusive ranges of descriptors that must not survive exec.
    pub(super) gaps: *const (u32, u32),
    pub(super) gaps_len: usize,
    pub(super) file: c_int,
    pub(super) privileges: *const Privileges,
    /// The process that makes this one.
    pub(super) parent: c_int,
    /// `cgroup.procs` to join by, where the kernel did not place us already.
    pub(super) join: c_int,
    pub(super) reset_handlers: bool,
    pub(super) setsid: bool,
    /// Set by the child's first instruction.
    pub(super) started: bool,
    /// 1 until the child has executed or ended; the kernel clears it, and wakes who waits.
    pub(super) running: AtomicU32,
    /// Set by the parent when it gave up on a child that cannot get to its program, and why.
    pub(super) halted: Option<Stage>,
    pub(super) failed: Option<Stage>,
    pub(super) errno: c_int,
    /// What of many it was that failed: a target, or a resource.
    pub(super) detail: c_int,
}

pub(super) struct Staged {
    pub(super) source: c_int,
    pub(super) target: c_int,
    pub(super) optional: bool,
    /// Another move puts something else at the number of this source: it has to be moved out of the way first.
    pub(super) park: bool,
    pub(super) closed: bool,
}

/// The child's life between clone and exec.
///
/// # Safety
/// Only in a vforked child on its own stack; `data` must point to a [`Child`] whose pointers are valid.
pub(super) unsafe extern "C" fn child_entry(data: *mut c_void) -> ! {
    // SAFETY: by contract.
    unsafe {
        let record: *mut Child = data.cast();
        ptr::write_volatile(&raw mut (*record).started, true);
        let Err(stage) = child(record);
        ptr::write_volatile(&raw mut (*record).errno, *libc::__errno_location());
        ptr::write_volatile(&raw mut (*record).failed, Some(stage));
        loop {
            libc::syscall(libc::SYS_exit_group, 127);
        }
    }
}

/// Everything up to exec. Returns only on failure, with the cause in errno.
///
/// # Safety
/// As for [`child_entry`].
unsafe fn child(record: *mut Child) -> Result<Infallible, Stage> {
    // The kernel's sigaction is at most 32 bytes, and zeros are SIG_DFL.
    let default = [0u64; 4];
    let null = ptr::null::<c_void>();
    // SAFETY: every pointer comes from the record, which its maker keeps alive; everything else is a plain syscall. errno
    // is the suspended thread's, who reads it only through the record.
    unsafe {
        if (*record).reset_handlers {
            // Caught signals become default ones; ignored ones stay ignored, as exec has it.
            for signal in 1..=LAST_SIGNAL {
                let mut old = [0u64; 4];
                let known = libc::syscall(
                    libc::SYS_rt_sigaction,
                    signal,
                    null,
                    old.as_mut_ptr(),
                    KERNEL_SIGSET_BYTES,
                );
                if known == 0 && old[0] > 1 {
                    libc::syscall(
                        libc::SYS_rt_sigaction,
                        signal,
                        default.as_ptr(),
                        null,
                        KERNEL_SIGSET_BYTES,
                    );
                }
            }
        }
        // Rust programs ignore SIGPIPE; what they start should not have to know.
        libc::syscall(libc::SYS_rt_sigaction, libc::SIGPIPE, default.as_ptr(), null, KERNEL_SIGSET_BYTES);

        if (*record).join >= 0 && libc::syscall(libc::SYS_write, (*record).join, c"0".as_ptr(), 1usize) < 0 {
            return Err(Stage::Join);
        }

        let privileges = &*(*record).privileges;
        set_oom_score(privileges)?;

        let session = if (*record).setsid {
            libc::syscall(libc::SYS_setsid)
        } else {
            libc::syscall(libc::SYS_setpgid, 0, 0)
        };
        if session < 0 {
            return Err(Stage::Session);
        }

        place_descriptors(record)?;
        // The rest stays open until exec, not beyond: `file` is among it. Under the limit it was opened under, not a new one.
        let mut index = 0;
        while index < (*record).gaps_len {
            let (first, last) = *(*record).gaps.add(index);
            if libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) < 0 {
                close_on_exec(first, last);
            }
            index += 1;
        }
        drop_privileges(record, privileges)?;
        // As the new user: nobody starts where they may not enter.
        if !(*record).directory.is_null() && libc::syscall(libc::SYS_chdir, (*record).directory) < 0 {
            return Err(Stage::Directory);
        }

        if !(*record).pid_digits.is_null() {
            write_decimal(libc::syscall(libc::SYS_getpid) as u32, (*record).pid_digits);
        }

        bind_to_parent(record, privileges)?;

        let nothing_blocked = 0u64;
        let mask = &raw const nothing_blocked;
        let old_mask = ptr::null_mut::<u64>();
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, mask, old_mask, KERNEL_SIGSET_BYTES);

        let file = (*record).file;
        if file >= 0 {
            let (argv, envp) = ((*record).argv, (*record).envp);
            libc::syscall(libc::SYS_execveat, file, c"".as_ptr(), argv, envp, libc::AT_EMPTY_PATH);
        } else {
            libc::syscall(libc::SYS_execve, (*record).path, (*record).argv, (*record).envp);
        }
        Err(Stage::Exec)
    }
}

/// Every descriptor to its number, and the file to execute out of their way.
///
/// # Safety
/// As for [`child_entry`].
unsafe fn place_descriptors(record: *mut Child) -> Result<(), Stage> {
    // SAFETY: the moves come from the record, and the calls pass no pointers.
    unsafe {
        // First what stays where it is: a number that is not open must not be taken for a copy.
        let mut index = 0;
        while index < (*record).moves_len {
            let entry = (*record).moves.add(index);
            if (*entry).source == (*entry).target
                && libc::syscall(libc::SYS_fcntl, (*entry).source, libc::F_SETFD, 0) < 0
            {
                (*record).detail = (*entry).target;
                if !(*entry).optional {
                    return Err(Stage::Descriptors);
                }
                (*entry).closed = true;
            }
            index += 1;
        }
        index = 0;
        while index < (*record).moves_len {
            let entry = (*record).moves.add(index);
            if (*entry).park {
                (*record).detail = (*entry).target;
                (*entry).source = copy_beside(record, (*entry).source)?;
            }
            index += 1;
        }
        if (*record).file >= 0 && is_target(record, (*record).file) {
            (*record).detail = -1;
            (*record).file = copy_beside(record, (*record).file)?;
        }
        index = 0;
        while index < (*record).moves_len {
            let entry = (*record).moves.add(index);
            (*record).detail = (*entry).target;
            if (*entry).closed {
                libc::syscall(libc::SYS_close, (*entry).target);
            } else if (*entry).source != (*entry).target
                && libc::syscall(libc::SYS_dup3, (*entry).source, (*entry).target, 0) < 0
            {
                return Err(Stage::Descriptors);
            }
            index += 1;
        }
    }
    Ok(())
}

/// A copy at a number that is nobody's target. One that is made at a target on the way is replaced there later.
///
/// # Safety
/// As for [`child_entry`].
unsafe fn copy_beside(record: *const Child, fd: c_int) -> Result<c_int, Stage> {
    let mut from = 0;
    loop {
        // SAFETY: no pointers are passed; the record is valid by contract.
        unsafe {
            let copy = libc::syscall(libc::SYS_fcntl, fd, libc::F_DUPFD_CLOEXEC, from) as c_int;
            if copy < 0 {
                return Err(Stage::Descriptors);
            }
            if !is_target(record, copy) {
                return Ok(copy);
            }
            from = copy + 1;
        }
    }
}

/// # Safety
/// As for [`child_entry`].
unsafe fn is_target(record: *const Child, fd: c_int) -> bool {
    let mut index = 0;
    // SAFETY: the moves come from the record.
    unsafe {
        while index < (*record).moves_len {
            if (*(*record).moves.add(index)).target == fd {
                return true;
            }
            index += 1;
        }
    }
    false
}

/// close_range(2) by hand, for kernels before 5.11.
///
/// # Safety
/// As for [`child_entry`].
unsafe fn close_on_exec(first: u32, last: u32) {
    let mut limit = [0u64; 2];
    // SAFETY: `limit` is as large as a struct rlimit64; the rest passes no pointers.
    unsafe {
        let null = ptr::null::<c_void>();
        if libc::syscall(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, null, limit.as_mut_ptr()) < 0 {
            limit[0] = 1 << 20;
        }
        let mut fd = first;
        while fd <= last && u64::from(fd) < limit[0] {
            libc::syscall(libc::SYS_fcntl, fd, libc::F_SETFD, libc::FD_CLOEXEC);
            fd += 1;
        }
    }
}

/// # Safety
/// There must be room for ten bytes at `to`.
pub(super) unsafe fn write_decimal(mut number: u32, to: *mut u8) {
    let mut digits = [0u8; 10];
    let mut count = 0;
    while count == 0 || number > 0 {
        digits[count] = b'0' + (number % 10) as u8;
        number /= 10;
        count += 1;
    }
    let mut index = 0;
    while index < count {
        // SAFETY: at most ten digits.
        unsafe { *to.add(index) = digits[count - 1 - index] };
        index += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals() {
        for number in [0, 7, 10, 4_194_304, u32::MAX] {
            let mut text = [0u8; 12];
            // SAFETY: twelve bytes are enough.
            unsafe { write_decimal(number, text.as_mut_ptr()) };
            let end = text.iter().position(|b| *b == 0).expect("a terminator");
            assert_eq!(std::str::from_utf8(&text[..end]).expect("digits"), number.to_string());
        }
    }
}
