//! What a run dir says without a supervisor: journal, claim files, control sockets. Reading only.

use crate::probe::{self, Probed};
use handoff::claim::Proposal;
use handoff::ids::{Epoch, InstanceId};
use handoff::journal::{JournalState, Record, replay};
use handoff::os::claims::Claims;
use handoff::os::identity;
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
    let probed = probe::everybody(run_dir);
    let answers = |instance: InstanceId| {
        let it = probed.iter().find(|one| one.instance == instance.to_string());
        it.is_some_and(|one| one.hello.is_some())
    };
    let serving = owner.map(|(epoch, claim)| {
        let silent = if answers(claim.instance) { "" } else { ", but does not answer on its control socket" };
        told.push(format!("process {} owns epoch {epoch} and runs{silent}", claim.pid));
        InstanceReport {
            pid: Some(claim.pid),
            build: Some(claim.build.to_string()),
            executable: Some(claim.executable_text()),
            instance: Some(claim.instance.to_string()),
        }
    });
    let healthy = owner.is_some_and(|(_, claim)| answers(claim.instance));
    let is_owner = |one: &&Probed| owner.is_some_and(|(_, claim)| claim.instance.to_string() == one.instance);
    for one in probed.iter().filter(|one| !is_owner(one)) {
        told.push(match &one.hello {
            Some(hello) => format!("instance {} (process {}) runs, too", one.instance, hello.pid),
            None => format!("somebody holds the control socket of instance {} and is silent", one.instance),
        });
    }
    let open = state.open.as_ref().filter(|open| match over(open, claim.as_ref(), answers(open.successor)) {
        Some(how) => {
            told.push(format!("the journal does not know the end of handoff {}: {how}", open.handoff));
            false
        }
        None => true,
    });
    StatusReport {
        schema: SCHEMA,
        state: if healthy {
            "serving"
        } else if state.stopped && serving.is_none() {
            "stopped"
        } else {
            "unknown"
        }
        .to_owned(),
        reason: Some(told.join("; ")),
        epoch: owner.map(|(epoch, _)| epoch.0),
        server: serving,
        handoff: open.map(|open| OpenHandoff {
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

/// How a handoff that the journal shows open has ended, if it has: the claims know, and who is gone.
fn over(
    open: &handoff::journal::OpenHandoff,
    highest: Option<&(Epoch, Proposal)>,
    successor_answers: bool,
) -> Option<&'static str> {
    let (epoch, claim) = highest?;
    if *epoch > open.epoch {
        return Some(if claim.instance == open.successor {
            "the new server claimed, so it is committed"
        } else if claim.instance == open.incumbent {
            "the old server claimed, so it is aborted"
        } else {
            "a server was started from disk since"
        });
    }
    (!successor_answers).then_some("the new server is gone and did not claim, so the old one serves on")
}

#[cfg(test)]
mod tests {
    use super::*;
    use handoff::claim::BuildDigest;
    use handoff::ids::BuildId;

    #[test]
    fn an_empty_run_dir_knows_nothing_and_says_why() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let status = status(dir.path(), "nobody");
        assert_eq!(status.state, "unknown");
        assert_eq!(status.reason.as_deref(), Some("nobody"));
        assert!(status.supervisor.is_none() && status.claim.is_none() && status.cold_starts.is_none());
    }

    #[test]
    fn the_claims_know_how_an_open_handoff_ended() {
        let (incumbent, successor) = (InstanceId(1), InstanceId(2));
        let open = handoff::journal::OpenHandoff {
            handoff: handoff::ids::HandoffId(9),
            incumbent,
            successor,
            epoch: Epoch(4),
            sealed: true,
            resolving: None,
            probation_ms: 0,
        };
        let claim = |epoch, instance| {
            let mut claim =
                identity::own_proposal(open.handoff, instance, BuildId::default(), BuildDigest::default(), 1)
                    .expect("/proc");
            claim.instance = instance;
            (Epoch(epoch), claim)
        };
        let told = |highest, answers| over(&open, Some(&highest), answers);
        assert_eq!(told(claim(4, incumbent), true), None, "nobody has claimed, and both live");
        assert!(told(claim(4, incumbent), false).is_some_and(|how| how.contains("gone")));
        assert!(told(claim(5, successor), true).is_some_and(|how| how.contains("committed")));
        assert!(told(claim(5, incumbent), true).is_some_and(|how| how.contains("aborted")));
        assert!(told(claim(6, InstanceId(3)), true).is_some_and(|how| how.contains("disk")));
    }

    #[test]
    fn a_foreign_journal_is_named() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("journal"), b"this is something else altogether").expect("written");
        assert!(journal(dir.path()).expect_err("foreign").contains("journal"));
        assert!(status(dir.path(), "nobody").reason.is_some_and(|r| r.contains("journal")));
    }
}
