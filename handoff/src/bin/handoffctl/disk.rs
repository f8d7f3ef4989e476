//! What a run dir says without a supervisor: journal, claim files, control sockets. Reading only.

use handoff::journal::{JournalState, Record, replay};
use handoff::os::claims::Claims;
use handoff::os::{identity, listeners};
use handoff::supervisor::report::{
    ClaimReport, HandoffReport, InstanceReport, LastHandoff, OpenHandoff, SCHEMA, StatusReport,
};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// More than a journal that is compacted can be.
const MAX_JOURNAL: u64 = 64 << 20;

/// The records of the journal; none when there is no journal.
pub(crate) fn journal(run_dir: &Path) -> Result<Vec<Record>, String> {
    let path = run_dir.join("journal");
    let wrong = |why: String| format!("{}: {why}", path.display());
    let file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(wrong(format!("{e}; run this as the user of the supervisor"))),
    };
    let mut bytes = Vec::new();
    file.take(MAX_JOURNAL).read_to_end(&mut bytes).map_err(|e| wrong(e.to_string()))?;
    // what a supervisor is writing at this moment looks like a torn tail, which is normal
    replay(&bytes).map(|replay| replay.records).map_err(|e| wrong(e.to_string()))
}

/// The reports of ended handoffs, oldest first; one that cannot be read is its own word.
pub(crate) fn reports(records: &[Record]) -> Vec<Result<HandoffReport, String>> {
    let jsons = records.iter().filter_map(|record| match record {
        Record::Report { handoff, json } => Some((handoff, json)),
        _ => None,
    });
    jsons
        .map(|(handoff, json)| {
            serde_json::from_str(json)
                .map_err(|e| format!("the report of handoff {handoff} cannot be read: {e}"))
        })
        .collect()
}

/// The status as far as it can be told from outside.
pub(crate) fn status(run_dir: &Path, why: &str) -> StatusReport {
    let mut told = vec![why.to_owned()];
    let records = journal(run_dir).unwrap_or_else(|e| {
        told.push(e);
        Vec::new()
    });
    let state = JournalState::fold(&records);
    let claim = claims(run_dir).and_then(|claims| match claims.highest() {
        Ok(highest) => highest,
        Err(e) => {
            told.push(e.to_string());
            None
        }
    });
    let owner = claim.as_ref().filter(|(_, claim)| {
        identity::boot_id().is_ok_and(|boot| boot == claim.boot_id)
            && identity::start_time(claim.pid).is_ok_and(|start| start == claim.start_time)
    });
    let listening = control_sockets(run_dir);
    let serving = owner.map(|(epoch, claim)| {
        let listens = listening.iter().any(|(name, alive)| *alive && *name == claim.instance.to_string());
        told.push(format!(
            "process {} owns epoch {epoch} and runs{}",
            claim.pid,
            if listens { "" } else { ", but its control socket does not answer" }
        ));
        InstanceReport {
            pid: Some(claim.pid),
            build: Some(claim.build.to_string()),
            executable: Some(claim.executable_text()),
            instance: Some(claim.instance.to_string()),
        }
    });
    let others = listening
        .iter()
        .filter(|(name, alive)| *alive && owner.is_none_or(|(_, claim)| claim.instance.to_string() != *name));
    for (name, _) in others {
        told.push(format!("the control socket of instance {name} answers too"));
    }
    StatusReport {
        schema: SCHEMA,
        state: if serving.is_some() {
            "serving"
        } else if state.stopped {
            "stopped"
        } else {
            "unknown"
        }
        .to_owned(),
        reason: Some(told.join("; ")),
        epoch: owner.map(|(epoch, _)| epoch.0),
        server: serving,
        handoff: state.open.as_ref().map(|open| OpenHandoff {
            handoff_id: open.handoff.to_string(),
            phase: if open.resolving.is_some() {
                "resolve"
            } else if open.sealed {
                "seal"
            } else {
                "spawn"
            }
            .to_owned(),
            new: Some(InstanceReport {
                instance: Some(open.successor.to_string()),
                ..InstanceReport::default()
            }),
        }),
        claim: claim.as_ref().map(|(epoch, claim)| ClaimReport {
            epoch: epoch.0,
            instance: claim.instance.to_string(),
            build: claim.build.to_string(),
            pid: claim.pid,
            executable: claim.executable_text(),
        }),
        last: state.last_ended.as_ref().map(|ended| LastHandoff {
            handoff_id: ended.handoff.to_string(),
            outcome: ended.outcome,
            reason: ended.reason.clone(),
        }),
        ..StatusReport::default()
    }
}

/// Where a supervisor notes which data its run dir is about.
pub(crate) fn data_link(run_dir: &Path) -> PathBuf {
    run_dir.join("data")
}

fn claims(run_dir: &Path) -> Option<Claims> {
    let beside_the_data = data_link(run_dir).join(".handoff");
    [beside_the_data, run_dir.join("claims")].iter().find_map(|dir| Claims::observe(dir).ok())
}

/// The control sockets by instance, and whether somebody listens there.
fn control_sockets(run_dir: &Path) -> Vec<(String, bool)> {
    let Ok(entries) = std::fs::read_dir(run_dir.join("ctl")) else { return Vec::new() };
    let paths = entries.flatten().map(|entry| entry.path());
    let sockets = paths.filter(|path| path.extension().is_some_and(|e| e == "sock"));
    sockets
        .filter_map(|path| {
            let name = path.file_stem()?.to_str()?.to_owned();
            // a full queue is a sign of life, too
            let alive = match listeners::connect_unix(&path) {
                Ok(_) => true,
                Err(e) => e.kind() == io::ErrorKind::WouldBlock,
            };
            Some((name, alive))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_run_dir_knows_nothing_and_says_why() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let status = status(dir.path(), "nobody");
        assert_eq!(status.state, "unknown");
        assert_eq!(status.reason.as_deref(), Some("nobody"));
        assert!(status.supervisor.is_none() && status.claim.is_none() && status.cold_starts.is_none());
    }

    #[test]
    fn a_foreign_journal_is_named() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("journal"), b"this is something else altogether").expect("written");
        assert!(journal(dir.path()).expect_err("foreign").contains("journal"));
        assert!(status(dir.path(), "nobody").reason.is_some_and(|r| r.contains("journal")));
    }
}
