//! Becoming another program in place (execve(2)): what goes through, and the call itself.
//!
//! Descriptors are close-on-exec from birth. What shall go through is a copy without that flag, made just before: if
//! the exec fails the copies are dropped, and nothing has changed.

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, Signal};
use nix::time::{ClockId, clock_gettime};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

/// A file without a name that holds these bytes, close-on-exec.
///
/// # Errors
/// No memory, no descriptor.
pub fn memory_file(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?);
    file.write_all_at(bytes, 0)?;
    Ok(file.into())
}

/// A copy that outlives the next exec of this process. Drop it if there is none.
///
/// # Errors
/// No descriptor is free.
pub fn passable(fd: impl AsFd) -> io::Result<OwnedFd> {
    // the standard library's copies have numbers above the standard streams
    let copy = fd.as_fd().try_clone_to_owned()?;
    fcntl(&copy, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(copy)
}

/// Executes an opened program in the place of this one: same pid, same children, same control group. All other
/// threads end. Returns only when that did not happen, with the reason.
///
/// SIGTERM and SIGINT are held back across the exec, where nobody handles them: the new program calls
/// [`heed_signals`] once it does.
#[must_use]
pub fn replace_image(program: BorrowedFd<'_>, arguments: &[CString], environment: &[CString]) -> io::Error {
    let held_back = stop_signals();
    if let Err(error) = held_back.thread_block() {
        return error.into();
    }
    let Err(error) = nix::unistd::fexecve(program, arguments, environment);
    // it fails only for numbers that are no signals
    let _ = held_back.thread_unblock();
    error.into()
}

/// Lets SIGTERM and SIGINT through, which [`replace_image`] may have held back in this thread. Call it when both are
/// handled. A process that was started the usual way is not changed.
pub fn heed_signals() {
    // it fails only for numbers that are no signals
    let _ = stop_signals().thread_unblock();
}

fn stop_signals() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT].into_iter().collect()
}

/// The monotonic clock, which goes on across an exec.
///
/// # Errors
/// The machine has no such clock.
pub fn monotonic_ns() -> io::Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    let ns = now.tv_sec().saturating_mul(1_000_000_000).saturating_add(now.tv_nsec());
    u64::try_from(ns).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_goes_through_and_the_original_does_not() {
        let file = memory_file("test", b"what is kept").expect("a memfd");
        let copy = passable(&file).expect("a copy");
        let flags = |fd: &OwnedFd| fcntl(fd, FcntlArg::F_GETFD).expect("open");
        assert_eq!(flags(&file), FdFlag::FD_CLOEXEC.bits());
        assert_eq!(flags(&copy), 0);
        let mut bytes = [0; 12];
        File::from(copy).read_exact_at(&mut bytes, 0).expect("read");
        assert_eq!(&bytes, b"what is kept");
    }

    #[test]
    fn an_exec_that_fails_returns_and_heeds_signals_again() {
        let no_program = memory_file("test", b"no program at all").expect("a memfd");
        let error = replace_image(no_program.as_fd(), &[c"x".to_owned()], &[]);
        assert_eq!(error.raw_os_error(), Some(libc::ENOEXEC), "{error}");
        let mask = SigSet::thread_get_mask().expect("a mask");
        assert!(!mask.contains(Signal::SIGTERM) && !mask.contains(Signal::SIGINT));
    }
}
