//! Asking the instances themselves, where no supervisor answers: each says Hello to whoever connects to its control
//! socket. Nothing is said to it.

use handoff::os::listeners::connect_unix;
use handoff::wire::{Decoded, Decoder, Hello, Message};
use std::ffi::OsStr;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// An instance that runs says Hello at once; one on a machine with much to do, within this.
const PATIENCE: Duration = Duration::from_secs(5);
/// Hello is short.
const LIMIT: u64 = 64 * 1024;

/// Who is behind a control socket.
#[derive(Debug)]
pub(crate) struct Probed {
    /// The instance, by the name of its socket.
    pub(crate) instance: String,
    /// Its Hello; `None`: somebody holds the socket and says nothing.
    pub(crate) hello: Option<Box<Hello>>,
}

impl Probed {
    /// The data directory it was given at its birth, as far as this user may look.
    pub(crate) fn data_dir(&self) -> Option<PathBuf> {
        let environ = std::fs::read(format!("/proc/{}/environ", self.hello.as_ref()?.pid)).ok()?;
        let found =
            environ.split(|b| *b == 0).find_map(|variable| variable.strip_prefix(b"HANDOFF_DATA_DIR="))?;
        Some(OsStr::from_bytes(found).into())
    }
}

/// Asks everybody, all at the same time. Sockets of the dead are left out.
pub(crate) fn everybody(run_dir: &Path) -> Vec<Probed> {
    let Ok(entries) = std::fs::read_dir(run_dir.join("ctl")) else { return Vec::new() };
    let paths = entries.flatten().map(|entry| entry.path());
    let sockets: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == "sock")).collect();
    std::thread::scope(|scope| {
        let asked: Vec<_> = sockets.iter().map(|path| scope.spawn(|| probe(path, PATIENCE))).collect();
        asked.into_iter().filter_map(|one| one.join().ok().flatten()).collect()
    })
}

fn probe(path: &Path, patience: Duration) -> Option<Probed> {
    let instance = path.file_stem()?.to_str()?.to_owned();
    let hello = match connect_unix(path) {
        Ok(fd) => hello(&UnixStream::from(fd), patience).ok(),
        // a full queue is a sign of life, too
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => None,
        Err(_) => return None,
    };
    Some(Probed { instance, hello })
}

fn hello(stream: &UnixStream, patience: Duration) -> io::Result<Box<Hello>> {
    let deadline = Instant::now() + patience;
    stream.set_nonblocking(false)?;
    let mut decoder = Decoder::new();
    let mut bytes = [0; 4096];
    while decoder.position() < LIMIT {
        match decoder.pull().map_err(io::Error::other)? {
            Some(Decoded::Frame(frame)) => match frame.message {
                Message::Hello(hello) => return Ok(hello),
                other => return Err(io::Error::other(other.name())),
            },
            Some(Decoded::Unknown { .. }) => {}
            None => {
                let left = deadline.saturating_duration_since(Instant::now());
                stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
                let mut stream = stream;
                match stream.read(&mut bytes)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    n => decoder.push(&bytes[..n]),
                }
            }
        }
    }
    Err(io::Error::other("no Hello"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn silence_garbage_and_the_dead_are_told_apart() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let silent = dir.path().join("silent.sock");
        let _holder = UnixListener::bind(&silent).expect("bound");
        let probed = probe(&silent, Duration::from_millis(10)).expect("somebody");
        assert_eq!((probed.instance.as_str(), probed.hello.is_none()), ("silent", true));
        let dead = dir.path().join("dead.sock");
        drop(UnixListener::bind(&dead).expect("bound"));
        assert!(probe(&dead, Duration::from_millis(10)).is_none());
        let (mut garbage, ours) = UnixStream::pair().expect("a pair");
        io::Write::write_all(&mut garbage, &[b'x'; 64]).expect("written");
        assert!(hello(&ours, Duration::from_secs(5)).is_err());
    }
}
