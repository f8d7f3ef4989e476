//! Listeners: addresses, binding, inheriting, checking.

use super::fds;
use crate::ids::ListenerName;
use crate::wire::FileId;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    self, AddressFamily, Backlog, SockFlag, SockType, SockaddrLike as _, UnixAddr, sockopt,
};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Connections the kernel queues while nobody accepts.
pub const BACKLOG: i32 = 4096;

/// Where a service listens, in the form of `--listen NAME=ADDR`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// `127.0.0.1:6379`, `[::1]:6379`
    Tcp(SocketAddr),
    /// `udp:127.0.0.1:53`
    Udp(SocketAddr),
    /// `unix:/path`
    Unix(PathBuf),
    /// `unix-seqpacket:/path`
    UnixSeqpacket(PathBuf),
    /// `unix-dgram:/path`
    UnixDatagram(PathBuf),
}

/// A text that is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address: use 127.0.0.1:6379, [::1]:6379, unix:/path or udp:127.0.0.1:53")]
pub struct InvalidAddress(String);

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidAddress(text.chars().take(160).collect());
        let path =
            |path: &str| match Path::new(path).is_absolute() && !path.contains('\0') && path.len() <= 1024 {
                true => Ok(PathBuf::from(path)),
                false => Err(invalid()),
            };
        if let Some(rest) = text.strip_prefix("unix:") {
            path(rest).map(Address::Unix)
        } else if let Some(rest) = text.strip_prefix("unix-seqpacket:") {
            path(rest).map(Address::UnixSeqpacket)
        } else if let Some(rest) = text.strip_prefix("unix-dgram:") {
            path(rest).map(Address::UnixDatagram)
        } else if let Some(rest) = text.strip_prefix("udp:") {
            rest.parse().map(Address::Udp).map_err(|_| invalid())
        } else {
            text.parse().map(Address::Tcp).map_err(|_| invalid())
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(a) => a.fmt(f),
            Address::Udp(a) => write!(f, "udp:{a}"),
            Address::Unix(p) => write!(f, "unix:{}", p.display()),
            Address::UnixSeqpacket(p) => write!(f, "unix-seqpacket:{}", p.display()),
            Address::UnixDatagram(p) => write!(f, "unix-dgram:{}", p.display()),
        }
    }
}

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Somebody listens there.
    #[error("address in use: {address}: stop the process that listens there, or choose another address")]
    InUse {
        /// The address.
        address: Address,
    },
    /// The kernel refused.
    #[error("cannot listen on {address}: {source}{}", next_step(source))]
    Bind {
        /// The address.
        address: Address,
        /// Why.
        source: io::Error,
    },
    /// What the environment promises is not there, or not what it is said to be.
    #[error("inherited descriptor {number} ({name}): {source}")]
    Inherited {
        /// Its number.
        number: RawFd,
        /// Its name.
        name: String,
        /// What is wrong.
        source: io::Error,
    },
    /// `LISTEN_FDS` and its companions make no sense.
    #[error("{variable}={value:?}: {why}")]
    Environment {
        /// Which variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What is wrong.
        why: String,
    },
}

fn next_step(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => ": create the directory first",
        io::ErrorKind::PermissionDenied => {
            ": a port below 1024 or a directory of somebody else needs privileges"
        }
        io::ErrorKind::AddrNotAvailable => ": this machine has no such address",
        io::ErrorKind::InvalidFilename => ": choose a shorter path",
        _ => "",
    }
}

/// Binds a listener: non-blocking, close-on-exec, `SO_REUSEADDR`, a long backlog. A Unix socket is 0600.
///
/// A Unix socket is bound under a temporary name and then renamed, so that whoever finds it can connect; the file of
/// a dead one is replaced, a live one is "address in use".
///
/// # Errors
/// [`ListenError::InUse`] names the address; other refusals carry the kernel's word.
pub fn bind(address: &Address) -> Result<OwnedFd, ListenError> {
    bind_with_mode(address, 0o600)
}

/// [`bind`] with another file mode for a Unix socket.
///
/// # Errors
/// See [`bind`].
pub fn bind_with_mode(address: &Address, mode: u32) -> Result<OwnedFd, ListenError> {
    let bound = match address {
        Address::Tcp(a) => bind_inet(*a, SockType::Stream),
        Address::Udp(a) => bind_inet(*a, SockType::Datagram),
        Address::Unix(p) => bind_unix(p, SockType::Stream, mode),
        Address::UnixSeqpacket(p) => bind_unix(p, SockType::SeqPacket, mode),
        Address::UnixDatagram(p) => bind_unix(p, SockType::Datagram, mode),
    };
    bound.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse { address: address.clone() },
        _ => ListenError::Bind { address: address.clone(), source },
    })
}

const FLAGS: SockFlag = SockFlag::SOCK_CLOEXEC.union(SockFlag::SOCK_NONBLOCK);

fn backlog() -> Backlog {
    Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN)
}

fn bind_inet(address: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket::socket(family, kind, FLAGS, None)?;
    if kind == SockType::Stream {
        // connections of an earlier run linger in TIME_WAIT
        socket::setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    }
    if address.is_ipv6() {
        // one address, one listener: dual stack depends on a sysctl otherwise
        socket::setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    socket::bind(fd.as_raw_fd(), &socket::SockaddrStorage::from(address))?;
    if kind == SockType::Stream {
        socket::listen(&fd, backlog())?;
    }
    Ok(fd)
}

fn bind_unix(path: &Path, kind: SockType, mode: u32) -> io::Result<OwnedFd> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a file name is needed"));
    };
    refuse_a_live_one(path, kind)?;
    let fd = socket::socket(AddressFamily::Unix, kind, FLAGS, None)?;
    let dir = std::fs::File::open(parent)?;
    let temporary = format!(".{}.{}", name.to_string_lossy(), std::process::id());
    let temporary_path = parent.join(&temporary);
    match std::fs::remove_file(&temporary_path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    socket::bind(fd.as_raw_fd(), &through(parent, &dir, temporary.as_ref())?)?;
    let finish = || -> io::Result<()> {
        std::fs::set_permissions(&temporary_path, std::fs::Permissions::from_mode(mode))?;
        if kind != SockType::Datagram {
            socket::listen(&fd, backlog())?;
        }
        std::fs::rename(&temporary_path, path)
    };
    match finish() {
        Ok(()) => Ok(fd),
        Err(e) => {
            let _ = std::fs::remove_file(&temporary_path);
            Err(e)
        }
    }
}

/// A Unix address that fits `sun_path` however long the directory's path is.
fn through(parent: &Path, dir: &std::fs::File, name: &Path) -> io::Result<UnixAddr> {
    if let Ok(short) = UnixAddr::new(&parent.join(name)) {
        return Ok(short);
    }
    Ok(UnixAddr::new(&Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name))?)
}

/// Connects to a Unix stream socket however long its path is, without waiting for a full backlog.
///
/// # Errors
/// `WouldBlock` when the backlog is full; else what the kernel says.
pub fn connect_unix(path: &Path) -> io::Result<OwnedFd> {
    connect(path, SockType::Stream)
}

fn connect(path: &Path, kind: SockType) -> io::Result<OwnedFd> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a file name is needed"));
    };
    let dir = std::fs::File::open(parent)?;
    let fd = socket::socket(AddressFamily::Unix, kind, FLAGS, None)?;
    // before it is connected: what a server says at once must carry who says it
    socket::setsockopt(&fd, sockopt::PassCred, &true)?;
    socket::connect(fd.as_raw_fd(), &through(parent, &dir, name.as_ref())?)?;
    Ok(fd)
}

fn refuse_a_live_one(path: &Path, kind: SockType) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt as _;
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
        Ok(meta) if !meta.file_type().is_socket() => {
            let why = "a file that is no socket is in the way: move it or choose another path";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
        }
        Ok(_) => {}
    }
    match connect(path, kind) {
        // nobody behind it: the file of a dead server
        Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => Ok(()),
        // connected, or its backlog is full, or it is of another kind: alive
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// Which kind of listener a descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Accepts TCP connections.
    Tcp,
    /// Accepts Unix stream connections.
    Unix,
    /// Accepts Unix seqpacket connections.
    UnixSeqpacket,
    /// Receives UDP datagrams.
    Udp,
    /// Receives Unix datagrams.
    UnixDatagram,
}

/// Checks that a descriptor is a listener: a socket of a known kind that listens or, without connections, is bound.
///
/// # Errors
/// What is wrong with it.
pub fn validate(fd: BorrowedFd<'_>) -> io::Result<Kind> {
    let wrong = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
    let kind = match socket::getsockopt(&fd, sockopt::SockType) {
        Err(nix::errno::Errno::ENOTSOCK) => return Err(wrong("not a socket".into())),
        other => other?,
    };
    let family = family(fd)?;
    let found = match (family, kind) {
        (AddressFamily::Inet | AddressFamily::Inet6, SockType::Stream) => Kind::Tcp,
        (AddressFamily::Inet | AddressFamily::Inet6, SockType::Datagram) => Kind::Udp,
        (AddressFamily::Unix, SockType::Stream) => Kind::Unix,
        (AddressFamily::Unix, SockType::SeqPacket) => Kind::UnixSeqpacket,
        (AddressFamily::Unix, SockType::Datagram) => Kind::UnixDatagram,
        (family, kind) => {
            return Err(wrong(format!("a {kind:?} socket of family {family:?} is no listener")));
        }
    };
    let accepts = matches!(found, Kind::Tcp | Kind::Unix | Kind::UnixSeqpacket);
    if accepts && !socket::getsockopt(&fd, sockopt::AcceptConn)? {
        return Err(wrong("a socket that does not listen".into()));
    }
    Ok(found)
}

fn family(fd: BorrowedFd<'_>) -> io::Result<AddressFamily> {
    let address: socket::SockaddrStorage = socket::getsockname(fd.as_raw_fd())?;
    address.family().ok_or_else(|| io::Error::other("a socket of an unknown family"))
}

pub(crate) fn is_unix(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(family(fd)? == AddressFamily::Unix)
}

/// The address a listener is bound to.
///
/// # Errors
/// When the descriptor is no listener.
pub fn address_of(fd: BorrowedFd<'_>) -> io::Result<Address> {
    let kind = validate(fd)?;
    if matches!(kind, Kind::Tcp | Kind::Udp) {
        let address: socket::SockaddrStorage = socket::getsockname(fd.as_raw_fd())?;
        let inet = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => SocketAddr::from(std::net::SocketAddrV4::new(v4.ip(), v4.port())),
            (None, Some(v6)) => {
                SocketAddr::from(std::net::SocketAddrV6::new(v6.ip(), v6.port(), 0, v6.scope_id()))
            }
            (None, None) => return Err(io::Error::other("a socket of an unknown family")),
        };
        return Ok(if kind == Kind::Tcp { Address::Tcp(inet) } else { Address::Udp(inet) });
    }
    let address: UnixAddr = socket::getsockname(fd.as_raw_fd())?;
    // the kernel remembers the name at bind time
    let path = address.path().map(final_name).unwrap_or_default();
    Ok(match kind {
        Kind::UnixSeqpacket => Address::UnixSeqpacket(path),
        Kind::UnixDatagram => Address::UnixDatagram(path),
        Kind::Unix | Kind::Tcp | Kind::Udp => Address::Unix(path),
    })
}

/// From the temporary name of [`bind`] to the one it was renamed to.
fn final_name(bound: &Path) -> PathBuf {
    let name = bound.file_name().and_then(|n| n.to_str());
    let inner = name.and_then(|n| n.strip_prefix('.')).and_then(|n| n.rsplit_once('.'));
    match inner {
        Some((name, pid)) if !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()) => {
            bound.with_file_name(name)
        }
        _ => bound.to_path_buf(),
    }
}

/// Identity of a socket (or any open file): the same inode in two processes is the same listener.
///
/// # Errors
/// What fstat says.
pub fn identity(fd: impl AsFd) -> io::Result<FileId> {
    let stat = nix::sys::stat::fstat(fd)?;
    Ok(FileId { dev: stat.st_dev, ino: stat.st_ino })
}

/// Sets `O_NONBLOCK` if it is not set.
pub(crate) fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
    if !flags.contains(OFlag::O_NONBLOCK) {
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    }
    Ok(())
}

/// Takes the listeners that this process inherited in the systemd convention (`LISTEN_FDS`, `LISTEN_FDNAMES`,
/// `LISTEN_PID`): each checked, close-on-exec and non-blocking, in order. None when the environment names none or
/// names another process.
///
/// With `any_pid` a `LISTEN_PID` of another process is no reason to look away: a launcher may have forked. Call it
/// once; a second call finds the descriptors taken.
///
/// # Errors
/// Which variable or descriptor is wrong. What is wrong stays open and untouched.
pub fn inherit(any_pid: bool) -> Result<Vec<(ListenerName, OwnedFd)>, ListenError> {
    let var = |variable: &'static str| std::env::var(variable).ok().filter(|v| !v.is_empty());
    let Some(count_text) = var("LISTEN_FDS") else { return Ok(Vec::new()) };
    let pid_text = var("LISTEN_PID").unwrap_or_default();
    if !any_pid && pid_text != std::process::id().to_string() {
        return Ok(Vec::new());
    }
    let count: i32 = match count_text.parse() {
        Ok(n @ 0..=1000) => n,
        _ => {
            let why = "a number of descriptors from 0 to 1000 is needed".to_owned();
            return Err(ListenError::Environment { variable: "LISTEN_FDS", value: count_text, why });
        }
    };
    let names_text = var("LISTEN_FDNAMES");
    let names = names(count, names_text.as_deref())?;
    let mut listeners = Vec::new();
    for (number, name) in (3..).zip(names) {
        let taken = fds::take_inherited(number, |fd| validate(fd).and_then(|_| set_nonblocking(fd)));
        let (fd, ()) =
            taken.map_err(|source| ListenError::Inherited { number, name: name.to_string(), source })?;
        listeners.push((name, fd));
    }
    Ok(listeners)
}

fn names(count: i32, text: Option<&str>) -> Result<Vec<ListenerName>, ListenError> {
    let wrong = |why: String| ListenError::Environment {
        variable: "LISTEN_FDNAMES",
        value: text.unwrap_or_default().chars().take(160).collect(),
        why,
    };
    let names: Vec<String> = match text {
        Some(text) => text.split(':').map(str::to_owned).collect(),
        None => (0..count).map(|n| format!("listener{n}")).collect(),
    };
    if names.len() != usize::try_from(count).unwrap_or(0) {
        return Err(wrong(format!("{} names for {count} descriptors", names.len())));
    }
    let mut checked = Vec::new();
    for name in &names {
        let name = ListenerName::new(name).map_err(|e| wrong(e.to_string()))?;
        if checked.contains(&name) {
            return Err(wrong(format!("{name} stands there twice")));
        }
        checked.push(name);
    }
    Ok(checked)
}

#[cfg(test)]
mod tests;
