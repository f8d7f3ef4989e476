//! `upgrade --no-supervisor`: this program supervises for the time of the upgrade, and leaves.

use crate::args::Upgrade;
use crate::exit::Exit;
use crate::output::{Progress, no_report};
use crate::{disk, probe};
use handoff::error::Error;
use handoff::machine::Outcome;
use handoff::supervisor::report::{HandoffReport, InstanceReport};
use handoff::supervisor::{Canary, HandoffOutcome, SpawnSpec, Supervisor};
use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tracing_subscriber::EnvFilter;

/// The end of the upgrade, and what the operator is told.
pub(super) fn upgrade(
    args: &Upgrade,
    binary: Option<PathBuf>,
    canary: Option<Canary>,
) -> (Exit, HandoffReport) {
    let failed = |exit, why: String| (exit, no_report(Outcome::PreflightFailed, why));
    let run_dir = &args.run_dir;
    if !run_dir.join("ctl").is_dir() {
        let why = format!("{}: no supervisor ever ran here: check --run-dir", run_dir.display());
        return failed(Exit::Preflight, why);
    }
    let filter = EnvFilter::builder().with_default_directive(tracing::Level::WARN.into()).from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return failed(Exit::Internal, format!("no runtime: {e}")),
    };
    match runtime.block_on(supervise(args, binary, canary)) {
        Ok(report) => (Exit::of_outcome(report.outcome), report),
        Err(e @ Error::InUse { .. }) => {
            failed(Exit::Busy, format!("{e}; a supervisor runs: leave --no-supervisor out"))
        }
        Err(e @ Error::HandoffInProgress) => failed(Exit::Busy, e.to_string()),
        Err(e @ (Error::Io { .. } | Error::Invalid(_) | Error::NotServing { .. })) => {
            failed(Exit::Preflight, e.to_string())
        }
        Err(e) => (Exit::Unknown, no_report(Outcome::Unknown, e.to_string())),
    }
}

async fn supervise(
    args: &Upgrade,
    binary: Option<PathBuf>,
    canary: Option<Canary>,
) -> Result<HandoffReport, Error> {
    let mut supervisor = Supervisor::new(&args.run_dir)
        .with_build_id(concat!("handoffctl ", env!("CARGO_PKG_VERSION"), ", for one upgrade"))
        .as_guest();
    if let Some(data) = data_dir(&args.run_dir) {
        supervisor = supervisor.with_data_dir(data);
    }
    supervisor.resume_from_journal().await?;
    let server = supervisor.status().await?.server.unwrap_or_default();
    let old = as_it_runs(&server)?;
    supervisor.serve_operators().await?;
    // serves already: this says what to start if nobody serves any more
    supervisor.start(old.clone()).await?;
    let new = match binary {
        Some(binary) => SpawnSpec::new(binary).like(&old),
        None => old,
    };
    let new = new.drain_grace(args.drain_grace).freeze_budget(args.freeze_budget).deadline(args.deadline);
    // nobody is there to end a probation: this program leaves when the handoff is over
    let new = new.probation(Duration::ZERO).one_way(args.one_way);
    let new = match canary {
        Some(canary) => new.canary(canary),
        None => new,
    };
    let outcome = hand_over(&supervisor, new).await;
    // the old server leaves by itself, but what held it is put away by whoever watches
    supervisor.leave(args.drain_grace + args.deadline).await;
    Ok(outcome?.report)
}

async fn hand_over(supervisor: &Supervisor, new: SpawnSpec) -> Result<HandoffOutcome, Error> {
    let mut phases = supervisor.events();
    let progress = Progress::new();
    let handoff = supervisor.perform_handoff(new);
    tokio::pin!(handoff);
    loop {
        tokio::select! {
            outcome = &mut handoff => return outcome,
            phase = phases.recv() => match phase {
                Ok(event) => {
                    progress.phase(event.phase.name(), event.at.as_secs_f64() * 1000.0, &event.note);
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return handoff.await,
            },
        }
    }
}

/// A wrong answer would mean claims at another place: who serves knows best, the supervisor's note is second.
fn data_dir(run_dir: &Path) -> Option<PathBuf> {
    let said = probe::everybody(run_dir).iter().find_map(probe::Probed::data_dir);
    said.or_else(|| std::fs::canonicalize(disk::data_link(run_dir)).ok())
}

/// What the running server was started with, by its own process: nobody else is left to ask.
fn as_it_runs(server: &InstanceReport) -> Result<SpawnSpec, Error> {
    let unknown = |why: &str| Error::Invalid(format!("the server that serves: {why}"));
    let pid = server.pid.ok_or_else(|| unknown("its process is not known"))?;
    let executable = server.executable.as_deref().ok_or_else(|| unknown("its program is not known"))?;
    let read = |what: &str| {
        let path = PathBuf::from(format!("/proc/{pid}/{what}"));
        let bytes = std::fs::read(&path).map_err(|e| Error::path(&path, e))?;
        Ok::<_, Error>(words(&bytes))
    };
    let mut spec = SpawnSpec::new(executable).args(read("cmdline")?.into_iter().skip(1));
    for variable in read("environ")? {
        let bytes = variable.into_vec();
        let Some(at) = bytes.iter().position(|b| *b == b'=') else { continue };
        let (key, value) = (&bytes[..at], &bytes[at + 1..]);
        if !key.starts_with(b"HANDOFF_") && !key.starts_with(b"LISTEN_") {
            spec = spec.env(OsString::from_vec(key.to_vec()), OsString::from_vec(value.to_vec()));
        }
    }
    Ok(spec)
}

/// Each word ends with a zero byte (proc_pid_cmdline(5)).
fn words(bytes: &[u8]) -> Vec<OsString> {
    let Some(bytes) = bytes.strip_suffix(b"\0") else { return Vec::new() };
    bytes.split(|b| *b == 0).map(|word| OsString::from_vec(word.to_vec())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_words_are_words() {
        assert_eq!(words(b"a\0\0b\0"), ["a", "", "b"]);
        assert!(words(b"").is_empty());
    }
}
