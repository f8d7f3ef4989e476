//! `upgrade`: asks the supervisor, shows the phases, prints one result.

use crate::args::{Format, Upgrade};
use crate::client::{Client, NoAnswer};
use crate::exit::Exit;
use crate::output::{self, Progress};
use handoff::machine::Outcome;
use handoff::supervisor::protocol::{Reply, Request};
use handoff::supervisor::report::{HandoffReport, SupervisorReport};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a handoff may take beyond its deadline: finding out who owns the next epoch, and a cold start.
pub(super) const AFTERMATH: Duration = Duration::from_secs(180);

pub(crate) fn main(args: &Upgrade) -> Exit {
    if let Err(why) = args.check() {
        return Exit::usage("upgrade", &why);
    }
    let asked = if args.no_supervisor { Ok(alone(args)) } else { ask(args).map_err(hinted) };
    show(asked, &args.run_dir, args.format)
}

/// Where nobody answers there is another way, which the operator has to choose.
fn hinted(why: NoAnswer) -> NoAnswer {
    match why {
        NoAnswer::NoSupervisor(why) => {
            NoAnswer::NoSupervisor(format!("{why}; where a server serves without one, add --no-supervisor"))
        }
        other => other,
    }
}

/// Prints the result, whatever it is.
pub(super) fn show(asked: Result<(Exit, HandoffReport), NoAnswer>, run_dir: &Path, format: Format) -> Exit {
    let (exit, report) = match asked {
        Ok(ended) => ended,
        Err(NoAnswer::NoSupervisor(why)) => {
            (Exit::NoSupervisor, output::no_report(Outcome::PreflightFailed, why))
        }
        Err(NoAnswer::NotAllowed(why)) => (Exit::Internal, output::no_report(Outcome::PreflightFailed, why)),
        Err(e @ (NoAnswer::Gone | NoAnswer::Silent(_) | NoAnswer::Garbage(_))) => {
            let why = format!("{e}; `handoffctl status --run-dir {}` tells who serves", run_dir.display());
            (Exit::Unknown, output::no_report(Outcome::Unknown, why))
        }
    };
    output::print(&output::report(&report, format));
    // the block on stdout may go to a file: whoever looks at stderr sees what went wrong
    if exit != Exit::Done && format == Format::Json {
        output::complain(report.reason.as_deref().unwrap_or(output::word(report.outcome)));
    }
    exit
}

fn alone(args: &Upgrade) -> (Exit, HandoffReport) {
    let wanted = binary(args).and_then(|binary| Ok((binary, args.canary.own()?)));
    match wanted {
        Ok((binary, canary)) => super::alone::upgrade(args, binary, canary),
        Err(why) => preflight(why),
    }
}

pub(super) fn preflight(why: String) -> (Exit, HandoffReport) {
    (Exit::Preflight, output::no_report(Outcome::PreflightFailed, why))
}

fn binary(args: &Upgrade) -> Result<Option<PathBuf>, String> {
    args.binary.as_deref().map(|path| checked("--binary", path)).transpose()
}

/// Who supervises, and what it knows.
pub(super) fn supervisor(run_dir: &Path) -> Result<SupervisorReport, NoAnswer> {
    let mut client = Client::connect(run_dir, AFTERMATH)?;
    client.send(&Request::Status)?;
    match client.next()? {
        Reply::Status { status } => Ok(status.supervisor.unwrap_or_default()),
        other => Err(NoAnswer::Garbage(format!("not an answer to a status: {other:?}"))),
    }
}

/// An older supervisor would not see that a canary is asked for, and upgrade without.
fn knows_canaries(args: &Upgrade) -> Result<Result<(), String>, NoAnswer> {
    let supervisor = supervisor(&args.run_dir)?;
    Ok(if supervisor.canary {
        Ok(())
    } else {
        Err(format!(
            "the supervisor that runs (version {}) does not know --canary: upgrade it first with --supervisor, or \
             leave the canary out",
            supervisor.version
        ))
    })
}

fn ask(args: &Upgrade) -> Result<(Exit, HandoffReport), NoAnswer> {
    let probation = if args.wait_probation { args.probation + args.deadline } else { Duration::ZERO };
    if args.canary.wanted()
        && let Err(why) = knows_canaries(args)?
    {
        return Ok(preflight(why));
    }
    let mut client = Client::connect(&args.run_dir, args.deadline + probation + AFTERMATH)?;
    let wanted = binary(args).and_then(|binary| Ok((binary, args.canary.request()?)));
    let (binary, canary) = match wanted {
        Ok(wanted) => wanted,
        Err(why) => return Ok(preflight(why)),
    };
    client.send(&Request::Upgrade {
        binary,
        drain_grace_ms: millis(args.drain_grace),
        freeze_budget_ms: millis(args.freeze_budget),
        deadline_ms: millis(args.deadline),
        probation_ms: millis(args.probation),
        one_way: args.one_way,
        wait_probation: args.wait_probation,
        canary,
    })?;
    follow(&mut client)
}

/// The phases as they come, then the result.
pub(super) fn follow(client: &mut Client) -> Result<(Exit, HandoffReport), NoAnswer> {
    let progress = Progress::new();
    loop {
        return Ok(match client.next()? {
            Reply::Phase { phase, at_ms, note } => {
                progress.phase(&phase, at_ms, &note);
                continue;
            }
            Reply::Result { report } => (Exit::of_outcome(report.outcome), *report),
            Reply::Busy { handoff_id } => {
                let why = format!(
                    "another upgrade is running (handoff {handoff_id}): wait for it, or end it with `handoffctl abort`"
                );
                (Exit::Busy, output::no_report(Outcome::PreflightFailed, why))
            }
            Reply::Error { message } => (Exit::Internal, output::no_report(Outcome::Unknown, message)),
            other @ (Reply::Aborting { .. }
            | Reply::NothingToAbort { .. }
            | Reply::Supervisor { .. }
            | Reply::Status { .. }) => {
                return Err(NoAnswer::Garbage(format!("not an answer to an upgrade: {other:?}")));
            }
        });
    }
}

/// The path as the supervisor can open it. What this user can see to be wrong need not be asked of the supervisor,
/// whose own check is the one that counts.
pub(crate) fn checked(flag: &str, program: &Path) -> Result<PathBuf, String> {
    let path = std::path::absolute(program).map_err(|e| format!("{flag} {}: {e}", program.display()))?;
    let meta = match std::fs::metadata(&path) {
        Ok(meta) => meta,
        // the supervisor's user may see more than this one
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => return Ok(path),
        Err(e) => return Err(format!("{flag} {}: {e}; give the path of the program", path.display())),
    };
    if !meta.is_file() {
        return Err(format!("{flag} {}: not a regular file; give the path of the program", path.display()));
    }
    if meta.permissions().mode() & 0o111 == 0 {
        return Err(format!("{flag} {}: not executable; run chmod +x on it", path.display()));
    }
    Ok(path)
}

pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
