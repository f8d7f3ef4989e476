//! The operator's end of `<run>/control.sock`: one request, reply lines until the final one, deadlines on all of it.

use handoff::supervisor::protocol::{MAX_LINE, Reply, Request};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// A connection to a supervisor.
#[derive(Debug)]
pub(crate) struct Client {
    lines: BufReader<UnixStream>,
    deadline: Instant,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// Nobody listens in this run dir.
    NoSupervisor(String),
    /// This user may not ask, or the socket is out of order; nothing was sent.
    NotAllowed(String),
    /// The request was sent; the supervisor went away before the final reply.
    Gone,
    /// The request was sent; nothing came in time.
    Silent(Duration),
    /// What came is no reply.
    Garbage(String),
}

impl Client {
    /// Connects. The whole conversation must be over when `patience` is.
    pub(crate) fn connect(run_dir: &Path, patience: Duration) -> Result<Client, NoAnswer> {
        let shown = run_dir.join("control.sock");
        let absent = |why: String| {
            NoAnswer::NoSupervisor(format!(
                "no supervisor answers at {}: {why}; check --run-dir, or start one with `handoffctl run`",
                shown.display()
            ))
        };
        let stream = open_dir(run_dir).and_then(|dir| {
            // a path through the descriptor is short, whatever the length of the run dir's name
            UnixStream::connect(format!("/proc/self/fd/{}/control.sock", dir.as_raw_fd()))
        });
        let stream = match stream {
            Ok(stream) => stream,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(absent(if run_dir.exists() {
                    "no such socket".into()
                } else {
                    "no such directory".into()
                }));
            }
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                return Err(absent("nobody listens".into()));
            }
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
                return Err(absent("not a directory".into()));
            }
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                return Err(NoAnswer::NotAllowed(format!(
                    "{}: {e}; run this as the user of the supervisor",
                    shown.display()
                )));
            }
            Err(e) => return Err(NoAnswer::NotAllowed(format!("{}: {e}", shown.display()))),
        };
        Ok(Client { lines: BufReader::new(stream), deadline: Instant::now() + patience })
    }

    /// Sends the request.
    pub(crate) fn send(&mut self, request: &Request) -> Result<(), NoAnswer> {
        let mut line = serde_json::to_string(request).map_err(|e| NoAnswer::Garbage(e.to_string()))?;
        line.push('\n');
        let left = self.left()?;
        let mut stream: &UnixStream = self.lines.get_ref();
        stream.set_write_timeout(Some(left)).map_err(lost)?;
        stream.write_all(line.as_bytes()).map_err(lost)
    }

    /// The next reply line.
    pub(crate) fn next(&mut self) -> Result<Reply, NoAnswer> {
        let mut line = Vec::new();
        let patience = self.left()?;
        loop {
            self.lines.get_ref().set_read_timeout(Some(self.left()?)).map_err(lost)?;
            let room = (MAX_LINE + 1).saturating_sub(line.len());
            match self.lines.by_ref().take(room as u64).read_until(b'\n', &mut line) {
                Ok(_) if line.last() == Some(&b'\n') => break,
                Ok(_) if line.len() > MAX_LINE => {
                    return Err(NoAnswer::Garbage(format!("a reply longer than {MAX_LINE} bytes")));
                }
                Ok(_) => return Err(NoAnswer::Gone),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(NoAnswer::Silent(patience)),
                Err(e) => return Err(lost(e)),
            }
        }
        serde_json::from_slice(&line).map_err(|e| NoAnswer::Garbage(e.to_string()))
    }

    fn left(&self) -> Result<Duration, NoAnswer> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(NoAnswer::Silent(Duration::ZERO)) } else { Ok(left) }
    }
}

fn open_dir(dir: &Path) -> io::Result<File> {
    let file = File::open(dir)?;
    if file.metadata()?.is_dir() { Ok(file) } else { Err(io::ErrorKind::NotADirectory.into()) }
}

fn lost(e: io::Error) -> NoAnswer {
    match e.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => NoAnswer::Silent(Duration::ZERO),
        _ => NoAnswer::Gone,
    }
}

impl std::fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NoAnswer::NoSupervisor(text) | NoAnswer::NotAllowed(text) => f.write_str(text),
            NoAnswer::Gone => f.write_str("the supervisor went away before it answered"),
            NoAnswer::Silent(time) if time.is_zero() => f.write_str("the supervisor did not answer in time"),
            NoAnswer::Silent(time) => {
                write!(f, "the supervisor did not answer within {} s", time.as_secs_f64())
            }
            NoAnswer::Garbage(what) => {
                write!(f, "the supervisor's reply cannot be read ({what}): is handoffctl of another version?")
            }
        }
    }
}
