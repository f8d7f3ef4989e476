//! Becoming another program in place (execve(2)): what goes through, and the call itself.
//!
//! Descriptors are close-on-exec from birth. What shall go through is a copy without that flag, made just before: if
//! the exec fails the copies are dropped, and nothing has changed.

use super::stop_signals;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
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
/// SIGTERM and SIGINT wait across the exec until the new program reads them ([`super::stop_signals`]). After one that
/// was read before there is no exec.
#[must_use]
pub fn replace_image(program: BorrowedFd<'_>, arguments: &[CString], environment: &[CString]) -> io::Error {
    let Some(none_is_read) = stop_signals::none_was_read() else {
        return io::Error::other("this supervisor was told to stop");
    };
    let before = match stop_signals::block() {
        Ok(before) => before,
        Err(error) => return error,
    };
    let Err(error) = nix::unistd::fexecve(program, arguments, environment);
    drop(none_is_read);
    match before.thread_set_mask() {
        Ok(()) => error.into(),
        Err(mask) => io::Error::other(format!("{error}; and the signal mask: {mask}")),
    }
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
}
