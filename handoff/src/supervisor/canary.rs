//! The canary: one request on a connection that no client has, and what is a good answer to it.

use super::instance::News;
use super::preflight::Executable;
use super::world::World;
use crate::machine::{Hook, Input};
use crate::wire::escape;
use processkit::{Command, ProcessGroup, Stdio};
use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::AbortHandle;

/// The most bytes that are sent, and that are expected.
const MAX_SIDE: usize = 4096;
/// So much of them is shown in a reason.
const SHOWN: usize = 120;
/// How one is written, for every message about one that is not.
const FORM: &str = r"write SEND=>EXPECT, for example 'PING\r\n=>+PONG'; escapes are \r \n \\ \xNN";

/// What is tried on a new server between Ready and Commit, and again while it is on probation: a request, or a program.
///
/// It is not of the server's own making: [`Incumbent::health`](crate::sdk::Incumbent::health) is that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canary {
    pub(super) what: What,
    pub(super) timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    Exchange { send: Vec<u8>, expect: Vec<u8> },
    Program(PathBuf),
}

impl Canary {
    /// Time for the answer when nobody names another.
    pub const TIMEOUT: Duration = Duration::from_millis(500);

    /// Sends this and expects an answer that begins like that.
    #[must_use]
    pub fn exchange(send: impl Into<Vec<u8>>, expect: impl Into<Vec<u8>>) -> Self {
        let what = What::Exchange { send: send.into(), expect: expect.into() };
        Self { what, timeout: Self::TIMEOUT }
    }

    /// Runs this program with the connection as stdin, stdout and descriptor 3; exit code 0 is a good answer. It is ended
    /// with all that it starts when its time is over. Of the environment it gets PATH.
    #[must_use]
    pub fn program(path: impl Into<PathBuf>) -> Self {
        Self { what: What::Program(path.into()), timeout: Self::TIMEOUT }
    }

    /// Time for the whole of it; part of the freeze, so it must be less than the freeze budget.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Refuses what cannot be tried.
    pub(super) fn check(&self, freeze_budget: Duration) -> Result<(), String> {
        if self.timeout.is_zero() || self.timeout >= freeze_budget {
            return Err(format!(
                "the time of the canary, {:?}, must be more than zero and less than the freeze budget, {freeze_budget:?}",
                self.timeout
            ));
        }
        match &self.what {
            What::Exchange { expect, .. } if expect.is_empty() => {
                Err("the canary expects nothing: any answer would do, and none".to_owned())
            }
            What::Exchange { send, expect } if send.len().max(expect.len()) > MAX_SIDE => {
                Err(format!("the canary is too long: {MAX_SIDE} bytes each way are the most"))
            }
            What::Exchange { .. } => Ok(()),
            What::Program(path) if path.is_absolute() => Ok(()),
            What::Program(path) => Err(format!("canary program {}: give an absolute path", path.display())),
        }
    }

    /// Looks whether it can be tried at all.
    pub(super) fn check_program(&self) -> Result<(), String> {
        match &self.what {
            What::Exchange { .. } => Ok(()),
            What::Program(path) => {
                Executable::open(path).map(drop).map_err(|why| format!("canary program {why}"))
            }
        }
    }

    async fn attempt(&self, connection: OwnedFd) -> Result<(), String> {
        match &self.what {
            What::Exchange { send, expect } => self.exchanged(connection.into(), send, expect).await,
            What::Program(path) => self.ran(Arc::new(connection), path).await,
        }
    }

    async fn exchanged(&self, connection: UnixStream, send: &[u8], expect: &[u8]) -> Result<(), String> {
        let mut got = Vec::with_capacity(1024);
        let talk = async {
            connection.set_nonblocking(true)?;
            let mut connection = tokio::net::UnixStream::from_std(connection)?;
            connection.write_all(send).await?;
            while got.len() < expect.len() && expect.starts_with(&got) {
                if connection.read_buf(&mut got).await? == 0 {
                    return Err(std::io::Error::other("it closed the connection"));
                }
            }
            Ok(())
        };
        let how = match tokio::time::timeout(crate::crash::scaled(self.timeout), talk).await {
            Ok(Ok(())) if got.starts_with(expect) => return Ok(()),
            Ok(Ok(())) => String::new(),
            Ok(Err(error)) => format!("; {error}"),
            Err(_) => format!("; no more within {:?}", self.timeout),
        };
        Err(format!("sent {}, expected {}, got {}{how}", shown(send), shown(expect), shown(&got)))
    }

    async fn ran(&self, connection: Arc<OwnedFd>, path: &Path) -> Result<(), String> {
        let program = path.display();
        let failed = |error: &dyn fmt::Display| format!("program {program}: {error}");
        let group = ProcessGroup::new().map_err(|e| failed(&e))?;
        let command = Command::new(path)
            .setsid()
            .env_clear()
            .inherit_env(["PATH"])
            .stdin_from(Stdio::Fd(Arc::clone(&connection)))
            .stdout(Stdio::Fd(Arc::clone(&connection)))
            .stderr(Stdio::Inherit)
            .pass_fd(connection.try_clone().map_err(|e| failed(&e))?, 3);
        let mut process = group.start(&command).await.map_err(|e| failed(&e))?;
        // its alone now: the server sees the end of it as the end of the connection
        drop((connection, command));
        let ended = tokio::time::timeout(crate::crash::scaled(self.timeout), process.exit()).await;
        if let Err(error) = group.kill() {
            tracing::warn!(%error, %program, "what the canary program started is not ended");
        }
        match ended {
            Ok(Ok(exit)) if exit.success() => Ok(()),
            Ok(Ok(exit)) => Err(format!("program {program} {exit}; what it said is in the supervisor's log")),
            Ok(Err(error)) => Err(failed(&error)),
            Err(_) => Err(format!("program {program} did not end within {:?}", self.timeout)),
        }
    }
}

/// `SEND=>EXPECT`
impl FromStr for Canary {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (send, expect) = text.split_once("=>").ok_or_else(|| format!("there is no '=>'; {FORM}"))?;
        let (send, expect) = (unescaped(send)?, unescaped(expect)?);
        if expect.is_empty() {
            return Err(format!("nothing stands behind '=>': any answer would do, and none; {FORM}"));
        }
        if send.len().max(expect.len()) > MAX_SIDE {
            return Err(format!("too long: {MAX_SIDE} bytes each way are the most"));
        }
        Ok(Self::exchange(send, expect))
    }
}

fn unescaped(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let hex = |two: &[u8]| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok();
        let (value, used) = match rest {
            [b'r', ..] => (b'\r', 1),
            [b'n', ..] => (b'\n', 1),
            [b'\\', ..] => (b'\\', 1),
            [b'x', a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => {
                (hex(&[*a, *b]).unwrap_or_default(), 3)
            }
            other => {
                let what: String = String::from_utf8_lossy(other).chars().take(3).collect();
                return Err(format!("\\{what} is no escape; {FORM}"));
            }
        };
        out.push(value);
        rest = &rest[used..];
    }
    Ok(out)
}

/// Bytes of a peer in a sentence.
fn shown(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "nothing".to_owned();
    }
    let more = if bytes.len() > SHOWN { ".." } else { "" };
    format!("\"{}\"{more}", bytes[..bytes.len().min(SHOWN)].escape_ascii())
}

/// The canary of the last upgrade, and the one that is under way.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    pub(super) canary: Option<Canary>,
    /// The supervisor's end of the connection that goes with the next `Canary`.
    connection: Option<OwnedFd>,
    /// One that is not listened to any more may still be about to tell how it went.
    number: u64,
    running: Option<AbortHandle>,
}

impl Attempts {
    /// Those of a canary that an earlier supervisor began with.
    pub(super) fn of(canary: Option<Canary>) -> Self {
        Self { canary, ..Self::default() }
    }
}

impl World {
    /// The server's end of a new connection.
    pub(super) fn open_canary(&mut self) -> std::io::Result<OwnedFd> {
        let (ours, theirs) = UnixStream::pair()?;
        self.attempts.connection = Some(ours.into());
        Ok(theirs.into())
    }

    /// Talks on it. How it went is told in the end, whatever happens.
    pub(super) fn start_canary(&mut self) {
        self.cancel_canary();
        let (canary, connection) = (self.attempts.canary.clone(), self.attempts.connection.take());
        let (number, tell) = (self.attempts.number, self.tell.clone());
        let task = tokio::spawn(async move {
            let how = match (canary, connection) {
                (Some(canary), Some(connection)) => canary.attempt(connection).await,
                (None, _) | (_, None) => Err("there is no connection to try it on".to_owned()),
            };
            // the loop has ended when nobody listens
            let _ = tell.send(News::Tried(number, how.map_err(|why| escape(&why))));
        });
        self.attempts.running = Some(task.abort_handle());
    }

    /// Ends it. It is not heard of any more.
    pub(super) fn cancel_canary(&mut self) {
        self.attempts.number += 1;
        if let Some(task) = self.attempts.running.take() {
            task.abort();
        }
    }

    pub(super) fn tried(&mut self, number: u64, how: Result<(), String>) {
        if number == self.attempts.number {
            self.attempts.running = None;
            match &how {
                Ok(()) => tracing::info!(target: "handoff.canary", "the canary was answered well"),
                Err(why) => tracing::warn!(target: "handoff.canary", why, "the canary failed"),
            }
            let done = how.map(|()| crate::machine::Report::Nothing);
            self.inputs.push_back(Input::Done(Hook::Canary, done));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_sent() {
        let long = format!("{}=>x", "y".repeat(MAX_SIDE));
        for (text, send, expect) in [
            (r"PING\r\n=>+PONG", &b"PING\r\n"[..], &b"+PONG"[..]),
            (r"=>220", b"", b"220"),
            (r"\x00\\\xfF=>=>", b"\0\\\xff", b"=>"),
            ("GET / HTTP/1.0\\r\\n\\r\\n=>HTTP/1.0 200", b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1.0 200"),
            (&long, "y".repeat(MAX_SIDE).as_bytes(), b"x"),
        ] {
            assert_eq!(text.parse(), Ok(Canary::exchange(send, expect)), "{text}");
        }
    }

    #[test]
    fn what_is_no_canary_is_told_with_an_example() {
        for (text, why) in [
            ("", "no '=>'"),
            ("PING", "no '=>'"),
            ("PING->PONG", "no '=>'"),
            ("PING=>", "nothing stands behind"),
            (r"PING\q=>x", r"\q is no escape"),
            (r"PING\x4=>x", r"\x4 is no escape"),
            (r"PING\xé=>x", "is no escape"),
            (r"PING=>\", "is no escape"),
        ] {
            let error = text.parse::<Canary>().expect_err(text);
            assert!(error.contains(why) && error.contains(r"'PING\r\n=>+PONG'"), "{text}: {error}");
        }
        let long = format!("{}=>x", "y".repeat(MAX_SIDE + 1));
        assert!(long.parse::<Canary>().expect_err("long").contains("4096"));
    }

    #[test]
    fn its_time_is_within_the_freeze() {
        let canary = Canary::exchange("a", "b");
        assert!(canary.check(Duration::from_secs(2)).is_ok());
        assert!(canary.check(Canary::TIMEOUT).expect_err("as long").contains("freeze budget"));
        assert!(canary.clone().timeout(Duration::ZERO).check(Duration::from_secs(2)).is_err());
        assert!(Canary::exchange("a", "").check(Duration::from_secs(2)).is_err());
        assert!(Canary::program("x").check(Duration::from_secs(2)).is_err());
    }

    async fn answered(canary: Canary, answer: &'static [u8]) -> Result<(), String> {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let server = std::thread::spawn(move || {
            let mut theirs = theirs;
            let mut asked = [0; 4];
            std::io::Read::read_exact(&mut theirs, &mut asked).expect("asked");
            std::io::Write::write_all(&mut theirs, answer).expect("answered");
        });
        let how = canary.attempt(ours.into()).await;
        server.join().expect("no panic");
        how
    }

    #[tokio::test]
    async fn an_answer_is_good_that_begins_as_expected() {
        let canary = Canary::exchange("PING", "+PONG").timeout(Duration::from_secs(20));
        assert_eq!(answered(canary.clone(), b"+PONG\r\n").await, Ok(()));
        assert_eq!(answered(canary.clone(), b"+PONG").await, Ok(()));
        let why = answered(canary.clone(), b"-ERR \0\r\n").await.expect_err("another answer");
        assert_eq!(why, r#"sent "PING", expected "+PONG", got "-ERR \x00\r\n""#);
        let why = answered(canary.clone(), b"+PO").await.expect_err("half of it");
        assert_eq!(why, r#"sent "PING", expected "+PONG", got "+PO"; it closed the connection"#);
        let why = answered(canary, b"").await.expect_err("nothing");
        assert!(why.contains("got nothing; it closed"), "{why}");
    }

    #[tokio::test]
    async fn silence_is_no_good_answer() {
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        let canary = Canary::exchange("PING", "+PONG").timeout(Duration::from_millis(1));
        let why = canary.attempt(ours.into()).await.expect_err("silence");
        assert!(why.ends_with("got nothing; no more within 1ms"), "{why}");
    }

    #[tokio::test]
    async fn a_program_talks_on_its_streams_and_on_descriptor_3() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let script = |name: &str, text: &str| {
            use std::os::unix::fs::PermissionsExt as _;
            let path = dir.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("mode set");
            path
        };
        let by_streams = script("streams", "echo PING; read -r answer; [ \"$answer\" = +PONG ]");
        let by_3 = script("three", "echo PING >&3; read -r answer <&3; [ \"$answer\" = +PONG ]");
        for path in [by_streams, by_3] {
            let canary = Canary::program(path).timeout(Duration::from_secs(20));
            assert_eq!(canary.check_program(), Ok(()));
            assert_eq!(answered(canary.clone(), b"+PONG\n").await, Ok(()));
            let why = answered(canary, b"-ERR\n").await.expect_err("another answer");
            assert!(why.contains("exited with code 1"), "{why}");
        }
        let missing = Canary::program(dir.path().join("missing"));
        assert!(missing.check_program().expect_err("missing").contains("no such program"));
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        let hangs = Canary::program(script("hangs", "echo PING; read -r answer"));
        let why = hangs.timeout(Duration::from_millis(1)).attempt(ours.into()).await.expect_err("no answer");
        assert!(why.contains("did not end within 1ms"), "{why}");
    }
}
