//! A supervisor that replaces itself by another program: same pid, same children, same listeners.
//!
//! | step | who | when it fails |
//! |---|---|---|
//! | the file is opened and checked, and asked whether it can take over | old program, in a task | refused; nothing has changed |
//! | nothing is open (checked again) | old program's loop | busy |
//! | copies of what goes through, the facts, exec | old program's loop | the copies are dropped; the old program goes on |
//! | lock, listeners, lineage, operators' socket by number; instances by Adopt, under a higher generation | new program | as a supervisor that dies: the servers serve on, whoever starts it again adopts them |
//! | the answer to the operator who asked | new program | it asks `status` |
//!
//! What can fail in the fourth row is what the check in the first is for.

pub(super) mod candidate;
pub(super) mod carried;
pub mod report;

use super::instance::{Instance, News};
use super::preflight::Executable;
use super::world::World;
use crate::machine::Timer;
use crate::os::exec;
use carried::{FORMAT, Facts, Passed, VARIABLE};
use report::{ImageReport, Replacement, ReplacementReport};
use std::ffi::{CString, OsString};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// The operators' listener, where there is one: it is bound after the supervisor was opened.
pub(super) type Door = Arc<Mutex<Option<OwnedFd>>>;

/// How long an operator may take to read the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// An order that is not answered.
#[derive(Debug)]
pub(super) struct Replacing {
    client: OwnedFd,
    reply: oneshot::Sender<ReplacementReport>,
    since: Instant,
}

/// What the checked program must not speak to: it is not the service yet.
const OF_THE_SERVICE: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"];

/// Our environment as the new program shall have it. What a service manager passed by number is not at these numbers
/// any more, or already taken.
fn environment() -> Vec<(OsString, OsString)> {
    let ours = |key: &OsString| {
        let key = key.as_bytes();
        key != VARIABLE.as_bytes() && !key.starts_with(b"LISTEN_")
    };
    std::env::vars_os().filter(|(key, _)| ours(key)).collect()
}

impl World {
    pub(super) fn replace(
        &mut self,
        binary: Option<PathBuf>,
        client: OwnedFd,
        reply: oneshot::Sender<ReplacementReport>,
    ) {
        let refused = |outcome, why: &str| ReplacementReport::not(outcome, why);
        if self.replacing.is_some() {
            let busy = refused(Replacement::Busy, "the supervisor is being replaced already: wait for that");
            return drop(reply.send(busy));
        }
        if let Some(why) = self.open_now() {
            return drop(reply.send(refused(Replacement::Busy, &why)));
        }
        let Some(arguments) = self.site.arguments.clone() else {
            let why = "this program embeds its supervisor and cannot be replaced in place";
            return drop(reply.send(refused(Replacement::Refused, why)));
        };
        self.replacing = Some(Replacing { client, reply, since: Instant::now() });
        let (facts, tell) = (self.facts(), self.tell.clone());
        tokio::spawn(async move {
            let opened = tokio::task::spawn_blocking(move || {
                Executable::open(&binary.map_or_else(own_program, Ok).map_err(|e| e.to_string())?)
            });
            let reviewed = match opened.await {
                Err(error) => Err(error.to_string()),
                Ok(Err(why)) => Err(why),
                Ok(Ok(program)) => candidate::ask(&program, &arguments, &facts).await.map(|()| program),
            };
            let _ = tell.send(News::Reviewed(reviewed));
        });
    }

    /// The new program was checked: becomes it, or says why not.
    pub(super) fn reviewed(&mut self, reviewed: Result<Executable, String>) {
        let ready = reviewed.map_err(|why| (Replacement::Refused, why)).and_then(|program| {
            // an order that came before this moment is still the old program's
            while let Ok(order) = self.orders.try_recv() {
                self.ordered(order);
            }
            self.open_now().map_or(Ok(program), |why| Err((Replacement::Busy, why)))
        });
        let (outcome, why) = match ready {
            Err(why) => why,
            Ok(program) => {
                self.tell_replacement();
                let Err(error) = self.become_it(&program);
                (Replacement::Refused, format!("{}: {error}", program.path.display()))
            }
        };
        tracing::warn!(why, "not replaced");
        let Some(replacing) = self.replacing.take() else { return };
        let report = ReplacementReport {
            pid: Some(std::process::id()),
            old: Some(self.image()),
            check_ms: Some(ms(replacing.since.elapsed())),
            ..ReplacementReport::not(outcome, why)
        };
        let _ = replacing.reply.send(report);
    }

    /// What a new program would have to begin in the middle of.
    fn open_now(&self) -> Option<String> {
        let view = self.window.look();
        if let Some(handoff) = view.handoff.or(self.ask.as_ref().map(|ask| ask.handoff)) {
            return Some(format!(
                "handoff {handoff} is open: wait for it, or end it with `handoffctl abort`"
            ));
        }
        let quiet = view.upgrade_possible && self.inputs.is_empty() && self.starting.is_none();
        (!quiet).then(|| format!("the supervisor is busy ({}): try again", view.state.to_lowercase()))
    }

    fn everybody(&self) -> impl Iterator<Item = &Instance> {
        self.incumbent.iter().chain(&self.successor).chain(self.retiring.values())
    }

    fn facts(&self) -> Facts {
        let hellos = self.everybody().filter_map(|instance| instance.hello.as_ref());
        Facts {
            format: FORMAT,
            run: self.site.run.path().to_owned(),
            journal: self.site.journal.clone(),
            claims: self.site.claims.dir().path().to_owned(),
            spoken: hellos.map(|h| carried::spoken(h.instance, h.wire_min, h.wire_max)).collect(),
            children: self.everybody().filter_map(|instance| instance.pid).collect(),
            old: self.image(),
            passed: None,
        }
    }

    fn image(&self) -> ImageReport {
        image(self.site.version(), self.site.generation)
    }

    /// In how many milliseconds each failure that counts is forgotten.
    fn failures_ms(&self) -> Vec<u64> {
        let counts = |(timer, left): (Timer, Duration)| match timer {
            Timer::Forgive(_) => u64::try_from(left.as_millis()).ok(),
            _ => None,
        };
        self.timers.left().filter_map(counts).collect()
    }

    /// Does not return when it works.
    fn become_it(&self, program: &Executable) -> io::Result<std::convert::Infallible> {
        let Some(Replacing { client, since, .. }) = &self.replacing else {
            return Err(io::Error::other("nobody asked for it"));
        };
        let check_ms = ms(since.elapsed());
        let began_ns = exec::monotonic_ns()?;
        let lock = exec::passable(&self.site.lock)?;
        let lineage = exec::passable(&self.site.lineage)?;
        let door = self.site.door.lock().unwrap_or_else(PoisonError::into_inner);
        let operators = door.as_ref().map(exec::passable).transpose()?;
        let client = exec::passable(client)?;
        let mut listeners = Vec::new();
        for shared in &self.site.listeners {
            listeners.push((shared.name.to_string(), exec::passable(&*shared.fd)?));
        }
        let passed = Passed {
            began_ns,
            check_ms,
            lock: lock.as_raw_fd(),
            lineage: lineage.as_raw_fd(),
            operators: operators.as_ref().map(std::os::fd::AsRawFd::as_raw_fd),
            client: client.as_raw_fd(),
            listeners: listeners.iter().map(|(name, fd)| (name.clone(), fd.as_raw_fd())).collect(),
            failures_ms: self.failures_ms(),
        };
        let facts = exec::passable(Facts { passed: Some(passed), ..self.facts() }.to_file()?)?;
        let arguments = std::iter::once(program.path.as_os_str())
            .chain(self.site.arguments.iter().flatten().map(OsString::as_os_str))
            .map(|argument| CString::new(argument.as_bytes()))
            .collect::<Result<Vec<_>, _>>()?;
        let number = format!("{VARIABLE}={}", facts.as_raw_fd());
        let environment = environment()
            .into_iter()
            .map(|(key, value)| [key.as_bytes(), b"=", value.as_bytes()].concat())
            .chain([number.into_bytes()])
            .map(CString::new)
            .collect::<Result<Vec<_>, _>>()?;
        tracing::info!(program = %program.path.display(), "replacing this supervisor");
        Err(exec::replace_image(std::os::fd::AsFd::as_fd(&*program.file), &arguments, &environment))
    }
}

/// The path this program was started from, as it is to be opened now: it may have been replaced since.
fn own_program() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    let bytes = path.as_os_str().as_bytes();
    let bytes = bytes.strip_suffix(b" (deleted)").unwrap_or(bytes);
    Ok(PathBuf::from(std::ffi::OsStr::from_bytes(bytes)))
}

fn image(version: String, generation: u64) -> ImageReport {
    let executable = own_program().map(|path| path.display().to_string()).unwrap_or_default();
    ImageReport { version, executable, generation }
}

/// The answer that a new program owes.
#[derive(Debug)]
pub(super) struct Debt {
    client: OwnedFd,
    began_ns: u64,
    report: ReplacementReport,
}

impl Debt {
    pub(super) fn of(carried: carried::Carried, version: String, generation: u64) -> Self {
        let report = ReplacementReport {
            schema: super::report::SCHEMA,
            outcome: Replacement::Replaced,
            reason: None,
            pid: Some(std::process::id()),
            old: Some(carried.facts.old),
            new: Some(image(version, generation)),
            check_ms: Some(carried.check_ms),
            took_ms: None,
        };
        Self { client: carried.client, began_ns: carried.began_ns, report }
    }

    /// Answers. An operator that is gone asks `status`.
    pub(super) fn pay(mut self) -> ReplacementReport {
        let took = exec::monotonic_ns().map(|now| Duration::from_nanos(now.saturating_sub(self.began_ns)));
        self.report.took_ms = took.ok().map(ms);
        let reply = super::protocol::Reply::Supervisor { report: Box::new(self.report.clone()) };
        let mut client = UnixStream::from(self.client);
        let said = serde_json::to_vec(&reply).map_err(io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            client.set_nonblocking(false)?;
            client.set_write_timeout(Some(PATIENCE))?;
            client.write_all(&line)
        });
        if let Err(error) = said {
            tracing::info!(%error, "the operator who asked is gone");
        }
        self.report
    }
}

/// Waits for the ends of children that this process has from before its exec and that nobody else watches.
pub(super) fn reap(children: impl Iterator<Item = u32>) {
    for pid in children {
        // an unreaped child keeps its number: this is still that process, or it was reaped before the exec
        let child = processkit::pidfd_open(pid)
            .map_err(processkit::Error::from)
            .and_then(processkit::Adopted::from_pidfd);
        if let Ok(child) = child {
            tokio::spawn(async move {
                let exit = child.exit().await;
                tracing::debug!(pid, ?exit, "a child from before");
            });
        }
    }
}

fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1_000_000.0).round() / 1000.0
}
