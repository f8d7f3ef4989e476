//! Where raw descriptor numbers become owned: the only unsafe code of this crate.
//!
//! Descriptors come into a process in two ways that the type system cannot follow: by inheritance, named in the
//! environment, and as ancillary data of a message.

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The most descriptors that one message may carry (`SCM_MAX_FD`).
pub const MAX_FDS: usize = 253;

static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// Takes ownership of a descriptor that this process inherited and that its environment names. Its close-on-exec
/// flag is set again. Each number can be taken once.
///
/// `check` sees the descriptor before it is taken: what does not pass stays as it was. Nothing else in this process
/// may own the number: call this for numbers that the parent process named, before anything else closes or reuses
/// them.
///
/// # Errors
/// `EBADF` when it is not open, `AlreadyExists` when it was taken before, and what `check` says.
pub fn take_inherited<T>(
    number: RawFd,
    check: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>,
) -> io::Result<(OwnedFd, T)> {
    if number <= 2 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("descriptor {number} is a standard stream"),
        ));
    }
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    if taken.contains(&number) {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("descriptor {number} was taken before"),
        ));
    }
    // SAFETY: the borrow does not outlive this function, and the number is not closed by it; a number that is not
    // open makes the next call fail with EBADF and nothing else.
    #[expect(unsafe_code, reason = "inherited descriptors are known by number only")]
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = FdFlag::from_bits_truncate(fcntl(borrowed, FcntlArg::F_GETFD)?);
    let checked = check(borrowed)?;
    fcntl(borrowed, FcntlArg::F_SETFD(flags | FdFlag::FD_CLOEXEC))?;
    taken.insert(number);
    // SAFETY: it is open (F_GETFD), the parent process named it as ours, and it is taken only here and only once.
    #[expect(unsafe_code, reason = "inherited descriptors are known by number only")]
    let owned = unsafe { OwnedFd::from_raw_fd(number) };
    Ok((owned, checked))
}

/// A descriptor whose number stays the same as long as the value lives.
pub(crate) trait Steady: AsRawFd {}
impl Steady for OwnedFd {}
impl Steady for std::sync::Arc<OwnedFd> {}
impl Steady for nix::sys::signalfd::SignalFd {}
impl Steady for std::net::TcpListener {}
impl Steady for std::os::unix::net::UnixListener {}

/// Registers a descriptor with the event loop.
pub(crate) fn watch<T: Steady>(fd: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: types that are `Steady` own their descriptor, never change or close it before they are dropped, and
    // `AsyncFd` gives no mutable access that is used anywhere in this crate.
    #[expect(unsafe_code, reason = "tokio cannot see that the number is steady")]
    let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
    Ok(registered?)
}

/// Who sent a message, as the kernel saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Process id in the receiver's namespace.
    pub pid: i32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// What one `recvmsg` brought.
#[derive(Debug)]
pub(super) struct Arrived {
    /// Bytes written into the buffer; 0 = end of the stream.
    pub(super) bytes: usize,
    /// Descriptors, close-on-exec from birth.
    pub(super) fds: Vec<OwnedFd>,
    /// Descriptors were lost (`MSG_CTRUNC`): the descriptor table is full, or more came than may.
    pub(super) truncated: bool,
    /// The sender, if the socket asks for it (`SO_PASSCRED`).
    pub(super) sender: Option<Credentials>,
}

/// Room for the ancillary data of one message, aligned as the kernel wants it.
#[derive(Debug)]
pub(super) struct Ancillary(Vec<u64>);

impl Ancillary {
    pub(super) fn with_room_for(fds: usize) -> Self {
        // header (16 bytes) and payload of one SCM_RIGHTS and one SCM_CREDENTIALS, each padded to 8 bytes
        let bytes = 16 + (fds * 4).next_multiple_of(8) + 16 + size_of::<libc::ucred>().next_multiple_of(8);
        Self(vec![0; bytes.div_ceil(8)])
    }
}

/// Receives without blocking.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    room: &mut Ancillary,
) -> io::Result<Arrived> {
    let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: an all-zero msghdr is a valid one with no buffers.
    #[expect(unsafe_code, reason = "libc's msghdr has private padding on some targets")]
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = room.0.as_mut_ptr().cast();
    header.msg_controllen = (room.0.len() * 8) as _;
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: the header points to one iovec and one control buffer, both exclusively borrowed for the call and
    // described with their true lengths.
    #[expect(unsafe_code, reason = "nix gives no access to the descriptors of a truncated message")]
    let bytes = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
    if bytes < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut arrived = Arrived {
        bytes: bytes.unsigned_abs(),
        fds: Vec::new(),
        truncated: header.msg_flags & libc::MSG_CTRUNC != 0,
        sender: None,
    };
    // SAFETY: the kernel filled the control buffer and set its length; the CMSG_ functions stay within it, and each
    // payload is read unaligned and only as far as its header says. The descriptors in it are new and ours alone.
    #[expect(unsafe_code, reason = "ancillary data is a packed list that only these macros know")]
    unsafe {
        let mut cmsg = libc::CMSG_FIRSTHDR(&raw const header);
        while !cmsg.is_null() {
            let data = libc::CMSG_DATA(cmsg);
            let length = ((*cmsg).cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
            match ((*cmsg).cmsg_level, (*cmsg).cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                    for n in 0..length / size_of::<RawFd>() {
                        let number = data.cast::<RawFd>().add(n).read_unaligned();
                        arrived.fds.push(OwnedFd::from_raw_fd(number));
                    }
                }
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if length >= size_of::<libc::ucred>() => {
                    let c = data.cast::<libc::ucred>().read_unaligned();
                    arrived.sender = Some(Credentials { pid: c.pid, uid: c.uid, gid: c.gid });
                }
                _ => {}
            }
            cmsg = libc::CMSG_NXTHDR(&raw const header, cmsg);
        }
    }
    Ok(arrived)
}

/// A copy of a descriptor of another process, which may be stopped (pidfd_getfd(2)). Close-on-exec.
///
/// # Errors
/// `EBADF` when it has no such descriptor, `EPERM` when this process may not trace it.
pub fn copy_from(process: BorrowedFd<'_>, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call takes three numbers and no pointer.
    #[expect(unsafe_code, reason = "neither nix nor libc wraps the call")]
    let result = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
    let number = match RawFd::try_from(result) {
        Ok(number) if number >= 0 => number,
        _ => return Err(io::Error::last_os_error()),
    };
    // SAFETY: the kernel made this descriptor for this call, and nobody else knows it.
    #[expect(unsafe_code, reason = "neither nix nor libc wraps the call")]
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Lets a socket listen with a queue for so many, or as many as `net.core.somaxconn` allows; also one that does already.
pub(super) fn listen(socket: BorrowedFd<'_>, backlog: i32) -> io::Result<()> {
    // SAFETY: no memory is passed, and the descriptor is open as long as it is borrowed.
    #[expect(unsafe_code, reason = "nix allows no queue above 4096, whatever the kernel is told to allow")]
    let result = unsafe { libc::listen(socket.as_raw_fd(), backlog) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `TCP_INFO` of a socket, as far as this kernel fills it.
pub(super) fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<libc::tcp_info> {
    // SAFETY: tcp_info is integers only: all zero is a value of it.
    #[expect(unsafe_code, reason = "nix has no such option")]
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes to `info`, which is that long and exclusively borrowed.
    #[expect(unsafe_code, reason = "nix has no such option")]
    let result = unsafe {
        let to = (&raw mut info).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, to, &raw mut length)
    };
    if result == 0 { Ok(info) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsFd as _, IntoRawFd};

    #[test]
    fn a_descriptor_is_taken_once_and_only_when_it_passes() {
        let number = std::fs::File::open("/dev/null").expect("/dev/null").into_raw_fd();
        let refused = take_inherited(number, |_| Err::<(), _>(io::Error::other("not this one")));
        assert_eq!(refused.expect_err("refused").to_string(), "not this one");
        let (fd, ()) = take_inherited(number, |_| Ok(())).expect("taken");
        let flags = fcntl(&fd, FcntlArg::F_GETFD).expect("open");
        assert_eq!(flags, FdFlag::FD_CLOEXEC.bits());
        let again = take_inherited(number, |_| Ok(())).expect_err("taken before");
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_descriptor_of_another_process_is_copied() {
        use std::io::Write as _;
        use std::process::{Command, Stdio};
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("cat");
        let pidfd = processkit::pidfd_open(child.id()).expect("a pidfd");
        let copy = copy_from(pidfd.as_fd(), 0);
        let missing = copy_from(pidfd.as_fd(), 1_000_000).expect_err("not open");
        child.stdin.take().expect("piped").write_all(b"x").expect("written");
        child.wait().expect("ended");
        assert_eq!(missing.raw_os_error(), Some(libc::EBADF));
        let flags = fcntl(copy.expect("its standard input"), FcntlArg::F_GETFD).expect("open");
        assert_eq!(flags, FdFlag::FD_CLOEXEC.bits());
    }

    #[test]
    fn a_number_that_is_not_open_is_an_error() {
        let error = take_inherited(1_000_000, |_| Ok(())).expect_err("not open");
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
        assert!(take_inherited(1, |_| Ok(())).is_err(), "standard streams are never taken");
    }
}
