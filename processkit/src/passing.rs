//! Descriptors that a child gets beside its streams.

use crate::command::{Command, Stdio};
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::sync::Arc;

/// A descriptor to pass: owned, or a copy made at once of one that is borrowed.
///
/// One that could not be copied is an error of the spawn that was to pass it.
#[derive(Clone, Debug)]
pub struct PassedFd(std::result::Result<Arc<OwnedFd>, nix::Error>);

impl PassedFd {
    pub(crate) fn open(&self, target: RawFd) -> io::Result<&Arc<OwnedFd>> {
        self.0.as_ref().map_err(|error| {
            let kind = io::Error::from(*error).kind();
            io::Error::new(
                kind,
                format!("cannot pass descriptor {target}: its source cannot be copied: {error}"),
            )
        })
    }
}

impl From<OwnedFd> for PassedFd {
    fn from(fd: OwnedFd) -> Self {
        PassedFd(Ok(Arc::new(fd)))
    }
}

macro_rules! from_owners {
    ($($owner:ty),*) => {$(
        impl From<$owner> for PassedFd {
            fn from(owner: $owner) -> Self {
                OwnedFd::from(owner).into()
            }
        }
    )*};
}

from_owners!(File, PipeReader, PipeWriter, TcpListener, TcpStream, UdpSocket);
from_owners!(UnixDatagram, UnixListener, UnixStream);

impl From<Arc<OwnedFd>> for PassedFd {
    fn from(fd: Arc<OwnedFd>) -> Self {
        PassedFd(Ok(fd))
    }
}

impl From<BorrowedFd<'_>> for PassedFd {
    fn from(fd: BorrowedFd<'_>) -> Self {
        let copy = fd.try_clone_to_owned().map(Arc::new);
        PassedFd(copy.map_err(|error| nix::Error::from_raw(error.raw_os_error().unwrap_or(libc::EBADF))))
    }
}

impl Command {
    /// Pass this descriptor at exactly this number, whatever else is there: sources and targets may overlap in any way. A
    /// borrowed one is copied now. 0, 1 and 2 replace the stream.
    ///
    /// A target named twice, a negative one, and one that is not below our limit of open files (RLIMIT_NOFILE, the soft one)
    /// are spawn errors, and so is a source that was closed.
    pub fn pass_fd(mut self, fd: impl Into<PassedFd>, target: RawFd) -> Self {
        let fd = fd.into();
        let stream = usize::try_from(target).ok().and_then(|index| self.streams.get_mut(index));
        if let (Some(stream), Ok(fd)) = (stream, &fd.0) {
            *stream = Stdio::Fd(Arc::clone(fd));
        }
        self.passed.push((target, fd));
        self
    }
}

/// Whether all can be passed as asked.
pub(crate) fn check(passed: &[(RawFd, PassedFd)]) -> io::Result<()> {
    if passed.is_empty() {
        return Ok(());
    }
    let invalid = |text: String| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    let (limit, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
    let mut targets = HashSet::new();
    for (target, fd) in passed {
        match u64::try_from(*target) {
            Err(_) => return invalid(format!("cannot pass descriptor {target}: the number is negative")),
            Ok(number) if number >= limit => {
                return invalid(format!(
                    "cannot pass descriptor {target}: the limit of open files (RLIMIT_NOFILE) is {limit}"
                ));
            }
            Ok(_) => {}
        }
        if !targets.insert(target) {
            return invalid(format!("cannot pass descriptor {target}: it is mapped twice"));
        }
        fd.open(*target)?;
    }
    Ok(())
}
