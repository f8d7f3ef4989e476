//! A stretch of code in which no signal handler runs.

use super::KERNEL_SIGSET_BYTES;
use std::ptr;

/// All signals blocked in this thread, those of the C library included: a handler must not run in the child, where it
/// would write to our memory under another pid.
pub(super) struct BlockedSignals {
    before: u64,
}

impl BlockedSignals {
    pub(super) fn new() -> Self {
        let everything = u64::MAX;
        let mut before = 0u64;
        // SAFETY: both point to a kernel sigset of eight bytes.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigprocmask,
                libc::SIG_SETMASK,
                &raw const everything,
                &raw mut before,
                KERNEL_SIGSET_BYTES,
            );
        }
        BlockedSignals { before }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        let old_mask = ptr::null_mut::<u64>();
        // SAFETY: as above, and a null old mask is allowed.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigprocmask,
                libc::SIG_SETMASK,
                &raw const self.before,
                old_mask,
                KERNEL_SIGSET_BYTES,
            );
        }
    }
}
