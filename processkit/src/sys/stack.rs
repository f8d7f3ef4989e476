//! Stacks for children between clone and exec.

use super::check;
use std::ffi::c_void;
use std::io;
use std::ptr;
use std::sync::{Mutex, PoisonError};

/// Memory a child runs on until it executes its program, with a guard page below.
pub(super) struct Stack {
    base: *mut c_void,
}

// SAFETY: plain memory, used by one thread at a time.
unsafe impl Send for Stack {}

/// Stacks not in use. As many as there were spawns at once, up to a limit.
static STACKS: Mutex<Vec<Stack>> = Mutex::new(Vec::new());
const STACKS_KEPT: usize = 8;

impl Stack {
    pub(super) const SIZE: usize = 64 * 1024;
    /// The largest page there is on the architectures we have.
    const GUARD: usize = 64 * 1024;

    pub(super) fn take() -> io::Result<Stack> {
        if let Some(stack) = STACKS.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(stack);
        }
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice.
        let base =
            unsafe { libc::mmap(ptr::null_mut(), Self::GUARD + Self::SIZE, libc::PROT_NONE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Stack { base };
        // SAFETY: within the mapping made above.
        check(unsafe { libc::mprotect(stack.low(), Self::SIZE, libc::PROT_READ | libc::PROT_WRITE) }.into())?;
        Ok(stack)
    }

    pub(super) fn give_back(self) {
        let mut kept = STACKS.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < STACKS_KEPT {
            kept.push(self);
        }
    }

    pub(super) fn low(&self) -> *mut c_void {
        self.base.wrapping_byte_add(Self::GUARD)
    }

    pub(super) fn high(&self) -> *mut c_void {
        self.low().wrapping_byte_add(Self::SIZE)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing runs on it.
        unsafe { libc::munmap(self.base, Self::GUARD + Self::SIZE) };
    }
}
