//! The two calls that need assembly: one returns on another stack, the other must not touch errno. Where there is none,
//! clone(2) and vfork do.

use std::ffi::{c_int, c_long, c_void};
use std::sync::atomic::AtomicU32;

/// `struct clone_args` of include/uapi/linux/sched.h, third version (88 bytes).
#[repr(C, align(8))]
pub(super) struct CloneArgs {
    pub(super) flags: u64,
    pub(super) pidfd: u64,
    pub(super) child_tid: u64,
    pub(super) parent_tid: u64,
    pub(super) exit_signal: u64,
    pub(super) stack: u64,
    pub(super) stack_size: u64,
    pub(super) tls: u64,
    pub(super) set_tid: u64,
    pub(super) set_tid_size: u64,
    pub(super) cgroup: u64,
}

/// clone3(2) whose child calls `entry(data)` on the new stack. Returns the pid, or minus errno.
///
/// # Safety
/// `args` must ask for CLONE_VM and a stack whose end is aligned to 16; `entry` must not return.
pub(super) unsafe fn clone3_raw(
    args: *const CloneArgs,
    entry: unsafe extern "C" fn(*mut c_void) -> !,
    data: *mut c_void,
) -> c_long {
    let result: c_long;
    // SAFETY: syscall clobbers rcx and r11 only. In the child rax is 0 and rsp the end of the new stack; it leaves through
    // `entry` and never reaches the code after label 2. Memory is shared, hence no `nomem`.
    #[cfg(target_arch = "x86_64")]
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
    // SAFETY: as above: svc clobbers x0 only, which is 0 in the child.
    #[cfg(target_arch = "aarch64")]
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
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let _ = (args, entry, data);
        result = -c_long::from(libc::ENOSYS);
    }
    result
}

/// What a parent waits by: vfork where [`wait_while_running`] has no assembly.
pub(super) const WAIT: c_int = if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
    libc::CLONE_CHILD_CLEARTID
} else {
    libc::CLONE_VFORK
};

/// FUTEX_WAIT while the word is 1, by hand: the child uses this thread's errno meanwhile. Not private, as the kernel wakes.
/// Returns minus errno.
pub(super) fn wait_while_running(running: &AtomicU32, limit: &libc::timespec) -> c_long {
    let result: c_long;
    // SAFETY: both outlive the call; syscall clobbers rcx and r11 only.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") libc::SYS_futex => result,
            in("rdi") running.as_ptr(),
            in("rsi") libc::FUTEX_WAIT as c_long,
            in("rdx") 1u64,
            in("r10") std::ptr::from_ref(limit),
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    // SAFETY: both outlive the call; svc clobbers x0 only.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!(
            "svc #0",
            in("x8") libc::SYS_futex,
            inlateout("x0") running.as_ptr() => result,
            in("x1") libc::FUTEX_WAIT as c_long,
            in("x2") 1u64,
            in("x3") std::ptr::from_ref(limit),
            options(nostack),
        );
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let _ = (running, limit); // nobody calls this: vfork waits
        result = 0;
    }
    result
}
