//! `run`: binds the listeners, starts the server, supervises until a signal.

use crate::args::{EnvArg, Run};
use crate::exit::Exit;
use crate::{disk, output};
use handoff::error::Error;
use handoff::os::stop_signals::StopSignals;
use handoff::supervisor::{Carried, Manager, SpawnSpec, Supervisor};
use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// Time for the server to finish what it answers after the first signal, and after the second.
const GRACE: Duration = Duration::from_secs(10);
const SHORT_GRACE: Duration = Duration::from_millis(200);

pub(crate) fn main(args: Run) -> Exit {
    if let Err(why) = args.check() {
        return Exit::usage("run", &why);
    }
    let filter = EnvFilter::builder().with_default_directive(tracing::Level::INFO.into()).from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    // before there is any other thread
    if let Err(e) = StopSignals::hold_back() {
        output::complain(&format!("signals: {e}"));
        return Exit::Internal;
    }
    let carried = match Carried::inherit() {
        Ok(carried) => carried,
        Err(why) => {
            output::complain(&why);
            return Exit::Internal;
        }
    };
    let manager = match Manager::connect() {
        Ok(manager) => manager,
        Err(e) => {
            output::complain(&format!("service manager: {e}"));
            return Exit::Internal;
        }
    };
    if carried.is_some() {
        // executed by descriptor, it would be called by the number of that
        let _ = nix::sys::prctl::set_name(c"handoffctl");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            output::complain(&format!("no runtime: {e}"));
            return Exit::Internal;
        }
    };
    runtime.block_on(supervise(args, carried, manager))
}

async fn supervise(args: Run, carried: Option<Carried>, manager: Option<Manager>) -> Exit {
    let signals = match StopSignals::listen() {
        Ok(signals) => signals,
        Err(e) => {
            output::complain(&format!("signals: {e}"));
            return Exit::Internal;
        }
    };
    let mut supervisor = Supervisor::new(&args.run_dir)
        .with_build_id(concat!("handoffctl ", env!("CARGO_PKG_VERSION")))
        .with_arguments(std::env::args_os().skip(1))
        .with_restarts(args.restarts.rules());
    if let Some(carried) = carried {
        supervisor = supervisor.with_carried(carried);
    }
    if let Some(manager) = manager {
        supervisor = supervisor.with_service_manager(manager);
    }
    if let Some(dir) = &args.data_dir {
        supervisor = supervisor.with_data_dir(dir);
    }
    if let Some(name) = &args.name {
        supervisor = supervisor.with_name(name);
    }
    for listen in &args.listen {
        supervisor = supervisor.with_address(listen.name.as_str(), listen.address.clone());
    }
    let begun = match take_over(&supervisor, &signals).await {
        Taken::GivenUp => return Exit::Internal,
        Taken::Asked(Ok(())) => return stop(&supervisor, &signals).await,
        Taken::Asked(Err(e)) | Taken::Quietly(Err(e)) => Err(e),
        Taken::Quietly(Ok(())) => tokio::select! {
            begun = begin(&supervisor, &args) => begun,
            // not yet serving: what there is, is ended
            () = stop_asked(&signals) => return stop(&supervisor, &signals).await,
        },
    };
    if let Err(e) = begun {
        output::complain(&format!("{e}{}", next_step(&e)));
        // what was started on the way is not left behind; the error above is the one that counts
        let _ = supervisor.shutdown(SHORT_GRACE).await;
        return of_error(&e);
    }
    tokio::select! {
        () = stop_asked(&signals) => stop(&supervisor, &signals).await,
        // a process that supervises nobody must not look alive to who would start it again
        () = supervisor.ended() => {
            output::complain("this supervisor came to its end by a bug: its servers live on; run the same command again to take them over");
            Exit::Internal
        }
    }
}

/// How taking over ended.
enum Taken {
    Quietly(Result<(), Error>),
    /// Somebody asked to stop meanwhile.
    Asked(Result<(), Error>),
    /// Somebody asked twice.
    GivenUp,
}

/// Not to be left half-way: only who has taken the servers over can end them. Who asks to stop meanwhile waits.
async fn take_over(supervisor: &Supervisor, signals: &StopSignals) -> Taken {
    let taking = async {
        if let Some(journal) = supervisor.resume_from_journal().await? {
            tracing::info!(generation = journal.generation, adopted = journal.adopted.len(), "resumed");
        }
        Ok(())
    };
    tokio::pin!(taking);
    tokio::select! {
        taken = &mut taking => return Taken::Quietly(taken),
        () = stop_asked(signals) => tracing::info!("stopping as soon as the servers are taken over"),
    }
    tokio::select! {
        taken = &mut taking => Taken::Asked(taken),
        () = stop_asked(signals) => {
            output::complain("stopped by a second signal while it took over: servers may live on; run the same command again");
            Taken::GivenUp
        }
    }
}

async fn begin(supervisor: &Supervisor, args: &Run) -> Result<(), Error> {
    if let Some(dir) = &args.data_dir {
        note_data_dir(&args.run_dir, dir);
    }
    supervisor.serve_operators().await?;
    let serving = supervisor.start(spec(args)).await?;
    tracing::info!(?serving, "serving");
    if let Some(report) = supervisor.answer_for_replacement().await? {
        tracing::info!(took_ms = report.took_ms, "in the place of an older supervisor");
    }
    Ok(())
}

/// Leaves word where the claims are, for a `status` that finds no supervisor. Only a convenience: no promise needs it.
fn note_data_dir(run_dir: &Path, data_dir: &Path) {
    let link = disk::data_link(run_dir);
    let target = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_path_buf());
    if std::fs::read_link(&link).is_ok_and(|old| old == target) {
        return;
    }
    let noted = match std::fs::remove_file(&link) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => std::os::unix::fs::symlink(&target, &link),
    };
    if let Err(e) = noted {
        tracing::warn!("{}: {e}", link.display());
    }
}

async fn stop(supervisor: &Supervisor, signals: &StopSignals) -> Exit {
    tracing::info!(grace = ?GRACE, "stopping; a second signal shortens the grace, a third one ends at once");
    let stopped = tokio::select! {
        stopped = supervisor.shutdown(GRACE) => stopped,
        () = stop_asked(signals) => {
            tracing::info!(grace = ?SHORT_GRACE, "stopping faster");
            tokio::select! {
                stopped = supervisor.shutdown(SHORT_GRACE) => stopped,
                () = stop_asked(signals) => {
                    output::complain("stopped by a third signal: servers may live on; run the same command again to take them over");
                    return Exit::Internal;
                }
            }
        }
    };
    match stopped {
        Ok(()) | Err(Error::Stopped) => {
            tracing::info!("stopped, nothing is left behind");
            Exit::Done
        }
        Err(e) => {
            output::complain(&e.to_string());
            Exit::Internal
        }
    }
}

async fn stop_asked(signals: &StopSignals) {
    if let Err(e) = signals.next().await {
        tracing::error!("signals are not heard any more, kill -9 is left: {e}");
        std::future::pending().await
    }
}

fn spec(args: &Run) -> SpawnSpec {
    let mut words = args.program.iter();
    let mut spec = SpawnSpec::new(words.next().cloned().unwrap_or_default()).args(words);
    for env in &args.env {
        match env {
            EnvArg::Set(key, value) => spec = spec.env(key, value),
            EnvArg::Copy(key) => match std::env::var_os(key) {
                Some(value) => spec = spec.env(key, value),
                None => tracing::info!("--env {key}: not set here, so the server does not get it"),
            },
        }
    }
    spec
}

/// The library names the thing and the kernel's word; what to do about it is for people.
fn next_step(e: &Error) -> &'static str {
    match e {
        Error::Io { source, .. } => hint(source),
        // what a program says before it ends is on this stderr too
        Error::NotServing { why, .. } if why.contains("exited") => "; what it said itself stands above",
        _ => "",
    }
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => "; check the path, or create the directory (mkdir -p)",
        io::ErrorKind::NotADirectory => "; give a directory",
        io::ErrorKind::PermissionDenied => "; run as its owner, or change owner or mode",
        io::ErrorKind::ReadOnlyFilesystem => "; remount it writable, or use another directory",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room on that file system",
        _ => "",
    }
}

fn of_error(e: &Error) -> Exit {
    match e {
        Error::InUse { .. } => Exit::Busy,
        Error::Io { .. } | Error::Invalid(_) | Error::Name(_) | Error::NotServing { .. } => Exit::Preflight,
        _ => Exit::Internal,
    }
}
