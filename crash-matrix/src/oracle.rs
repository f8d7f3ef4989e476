//! What must hold in every cell. Each oracle looks at the evidence and says what is wrong with it; none of them is
//! ever asked twice about safety. `crash-matrix run --plant O1` .. `O11` plants a bug that the one of that name finds.

use crate::allowed;
use crate::cell::Fault;
use crate::evidence::{Evidence, Snapshot};
use handoff_tests::crashes::Hit;
use handoff_tests::linear::{self, Operation};
use handoff_tests::records::contradictions;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// `O1` .. `O11`, or `panic` when the harness came to its end.
    pub oracle: String,
    /// What was seen.
    pub what: String,
}

/// Name, promise and judge.
pub(crate) struct Oracle {
    pub(crate) name: &'static str,
    pub(crate) holds: &'static str,
    judge: fn(&Evidence) -> Vec<String>,
}

/// All of them.
pub(crate) const ALL: [Oracle; 11] = [
    Oracle {
        name: "O1",
        holds: "no client sees a failure, unless the cell killed the only server",
        judge: o1,
    },
    Oracle {
        name: "O2",
        holds: "what clients share is linearizable, key by key, and nothing comes twice",
        judge: o2,
    },
    Oracle { name: "O3", holds: "one writer at every instant, by the log and by the lock", judge: o3 },
    Oracle { name: "O4", holds: "what was acknowledged is there", judge: o4 },
    Oracle {
        name: "O5",
        holds: "claims are for ever, contiguous, and durable before anybody serves",
        judge: o5,
    },
    Oracle {
        name: "O6",
        holds: "nothing is left: processes, descriptors, files, sockets, groups",
        judge: o6,
    },
    Oracle { name: "O7", holds: "the same listener, and never absent", judge: o7 },
    Oracle { name: "O8", holds: "the first good answer comes in time", judge: o8 },
    Oracle {
        name: "O9",
        holds: "the outcome is allowed, and exit code, report and claims agree on it",
        judge: o9,
    },
    Oracle {
        name: "O10",
        holds: "one healthy server, nothing open, by status, journal and claims",
        judge: o10,
    },
    Oracle { name: "O11", holds: "a clean upgrade afterwards commits", judge: o11 },
];

/// Asks all oracles.
pub(crate) fn judge(seen: &Evidence) -> Vec<Violation> {
    let late = seen.late.iter().map(|(oracle, what)| violation(oracle, what.clone()));
    let judged = ALL.iter().flat_map(|oracle| {
        let wrong = (oracle.judge)(seen).into_iter();
        wrong.map(|what| violation(oracle.name, what))
    });
    late.chain(judged).collect()
}

pub(crate) fn violation(oracle: &str, what: String) -> Violation {
    Violation { oracle: oracle.into(), what }
}

/// Protocol, L3: first answer after the death of one process, process start included. Longer is measured again,
/// alone; the shortest timer of the protocol that could be what we waited for is 2 s.
const ANSWER: Duration = Duration::from_millis(1500);
/// Where a limit of the scaled protocol has to pass first: lease 1.5 s, freeze 1 s, T_active 1.25 s, and a death.
const ANSWER_AFTER_LIMIT: Duration = Duration::from_millis(4500);
/// Protocol, L3.
const ADOPTED: Duration = Duration::from_secs(1);

fn o1(seen: &Evidence) -> Vec<String> {
    let mut wrong = Vec::new();
    if seen.tally.answered == 0 {
        wrong.push("nothing was asked: the load was not there".into());
    }
    if seen.exempt {
        return wrong;
    }
    if seen.tally.failed > 0 || seen.tally.closed > 0 {
        wrong.push(format!("the clients noticed: {}", seen.tally));
    }
    if !seen.probes.unanswered.is_empty() {
        wrong.push(format!("connected, and not answered: {:?}", seen.probes.unanswered));
    }
    wrong
}

/// By an independent checker, on keys that eight clients share; and each client's own account: an INCR that skips a
/// value, a message that comes twice.
fn o2(seen: &Evidence) -> Vec<String> {
    let mut wrong = contradictions_of(&seen.tally.operations);
    if !seen.tally.operations.iter().any(|operation| operation.answer.is_some()) {
        wrong.push("nothing was asked of shared keys: nothing was tested".into());
    }
    if seen.tally.reordered > 0 {
        wrong.push(format!("twice, or out of order: {}", seen.tally));
    }
    wrong
}

/// One tells enough.
fn contradictions_of(operations: &[Operation]) -> Vec<String> {
    let mut wrong = linear::contradictions(operations);
    let keys = wrong.len();
    wrong.truncate(1);
    wrong.into_iter().map(|one| format!("not linearizable, {keys} keys: {one}")).collect()
}

fn o3(seen: &Evidence) -> Vec<String> {
    let mut wrong = Vec::new();
    for snapshot in [&seen.middle, &seen.end] {
        if snapshot.stamps.is_empty() {
            wrong.push("no records: nothing was tested".into());
        }
        wrong.extend(contradictions(&snapshot.stamps).into_iter().take(3));
        if snapshot.writers != Vec::from_iter(snapshot.server) {
            wrong.push(format!("{:?} serves, {:?} holds owner.lock", snapshot.server, snapshot.writers));
        }
    }
    wrong.extend(seen.locks.crowds.first().map(|all| format!("{all:?} hold owner.lock at once")));
    if seen.locks.samples == 0 {
        wrong.push("nobody looked at the locks".into());
    }
    wrong
}

fn o4(seen: &Evidence) -> Vec<String> {
    if seen.tally.lost == 0 {
        Vec::new()
    } else {
        vec![format!("acknowledged writes are gone: {}", seen.tally)]
    }
}

fn o5(seen: &Evidence) -> Vec<String> {
    let mut wrong = Vec::new();
    let snapshots = [&seen.before, &seen.middle, &seen.end];
    for snapshot in snapshots {
        match &snapshot.claims {
            Ok(claims) => wrong.extend(claims.uncovered(&snapshot.stamps)),
            Err(why) => wrong.push(why.clone()),
        }
    }
    for pair in snapshots.windows(2) {
        if let [Snapshot { claims: Ok(before), .. }, Snapshot { claims: Ok(after), .. }] = pair {
            wrong.extend(after.follows(before));
        }
    }
    wrong.extend(served_before_durable(&seen.trace));
    wrong
}

/// Whoever begins to serve after a claim has synced that claim before.
fn served_before_durable(trace: &[Hit]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut unsynced: BTreeMap<u32, bool> = BTreeMap::new();
    for hit in trace {
        let effect = hit.point.split_once('.').map_or("", |(_, effect)| effect);
        match effect {
            "claim.after" => drop(unsynced.insert(hit.pid, true)),
            "sync_claim.after" => drop(unsynced.insert(hit.pid, false)),
            "call.Serve.before" | "call.Resume.before" if unsynced.get(&hit.pid) == Some(&true) => {
                wrong.push(format!("{} of {} before its claim was durable", hit.point, hit.pid));
            }
            _ => {}
        }
    }
    wrong
}

fn o6(seen: &Evidence) -> Vec<String> {
    let mut wrong = Vec::new();
    for (when, snapshot) in [("afterwards", &seen.middle), ("after a clean upgrade", &seen.end)] {
        match &snapshot.left {
            Ok(left) if left.is_empty() => {}
            Ok(left) => wrong.push(format!("left behind {when}: {left:?}")),
            Err(why) => wrong.push(why.clone()),
        }
        if snapshot.instances.iter().any(|pid| Some(*pid) != snapshot.server) {
            wrong
                .push(format!("{:?} serves, and there are {:?} {when}", snapshot.server, snapshot.instances));
        }
    }
    let more = seen.end.holds_more_than(&seen.before);
    if !more.is_empty() {
        wrong.push(format!("the supervisor holds more than before: {more:?}"));
    }
    wrong
}

fn o7(seen: &Evidence) -> Vec<String> {
    let mut wrong = Vec::new();
    if seen.orphaned {
        return wrong;
    }
    let inodes = [seen.before.listener, seen.middle.listener, seen.end.listener];
    if inodes[0].is_none() || inodes.windows(2).any(|pair| pair[0] != pair[1]) {
        wrong.push(format!("the listener's inode: {inodes:?}"));
    }
    if seen.tally.refused > 0 {
        wrong.push(format!("refused: {}", seen.tally));
    }
    if !seen.probes.unconnected.is_empty() {
        wrong.push(format!("not connected: {:?}", seen.probes.unconnected));
    }
    wrong
}

/// Timing, and only that: on a busy machine it is measured again, alone.
fn o8(seen: &Evidence) -> Vec<String> {
    let mut wrong = Vec::new();
    match (seen.answer, bound(seen)) {
        (None, _) => wrong.push("nobody was answered after the fault".into()),
        (Some(answer), Some(bound)) if answer > bound => {
            wrong.push(format!("first answer after {answer:?}, the bound is {bound:?}"));
        }
        _ => {}
    }
    if let Some(adopted) = seen.adopted.filter(|time| *time > ADOPTED && seen.cell.second.is_none()) {
        wrong.push(format!("a new supervisor took {adopted:?}, the bound is {ADOPTED:?}"));
    }
    wrong
}

/// `None`: who was stopped serves, and only an operator can help.
fn bound(seen: &Evidence) -> Option<Duration> {
    let strike = &seen.cell.first;
    match strike.fault {
        _ if seen.cell.second.is_some() => None,
        Fault::Stop | Fault::Cont | Fault::Late if strike.point.role() == "O" => None,
        fault if fault.is_hang() || seen.cell.time_scale() < 100 => Some(ANSWER_AFTER_LIMIT),
        _ => Some(ANSWER),
    }
}

fn o9(seen: &Evidence) -> Vec<String> {
    let Some(done) = &seen.done else { return vec!["the operator was told nothing".into()] };
    let mut wrong = Vec::new();
    let report: serde_json::Value = match serde_json::from_str(&done.stdout) {
        Ok(report) => report,
        Err(e) => return vec![format!("no report: {e}: {done:?}")],
    };
    let outcome = report["outcome"].as_str().unwrap_or_default();
    let code = match outcome {
        "committed" => &[0][..],
        "aborted" | "reclaimed" => &[10],
        "cold_started" => &[11],
        "unknown" => &[12],
        "preflight_failed" => &[14, 13, 3],
        "rolled_back" => &[15],
        _ => &[],
    };
    if !done.code.is_some_and(|given| code.contains(&given)) {
        wrong.push(format!("exit code {:?} for {outcome:?}", done.code));
    }
    if let (Ok(before), Ok(after)) = (&seen.before.claims, &seen.middle.claims) {
        let new = report["new"]["instance"].as_str().unwrap_or("nobody").to_owned();
        let claimed = after.since(before).contains(&new);
        let agrees = match outcome {
            "committed" | "reclaimed" => claimed,
            "aborted" | "preflight_failed" => !claimed,
            _ => true,
        };
        if !agrees {
            wrong.push(format!("{outcome:?} of {new}, and the claims since are {:?}", after.since(before)));
        }
    }
    wrong.extend(unexpected(seen));
    wrong
}

/// What the rule of this cell says. It is asked of the journal: an operator whose supervisor died was told *unknown*.
fn unexpected(seen: &Evidence) -> Option<String> {
    // an unreadable journal is O10's
    let ended = seen.middle.journal.as_ref().ok()?.last_ended.as_ref();
    let said = ended.map_or(serde_json::json!("none"), |ended| serde_json::json!(ended.outcome));
    let struck = match seen.strike.pid {
        _ if seen.cell.first.point.role() == "S" => "S",
        pid if seen.before.server == Some(pid) => "O",
        _ => "N",
    };
    allowed::rule(&seen.cell).contradicts(
        said.as_str().expect("an outcome is a word"),
        seen.served_by,
        struck,
        seen.struck_was_ended,
    )
}

fn o10(seen: &Evidence) -> Vec<String> {
    let mut wrong = Vec::new();
    for (when, snapshot) in [("afterwards", &seen.middle), ("after a clean upgrade", &seen.end)] {
        if snapshot.status.code != Some(0) {
            wrong.push(format!("status {when}: {:?}", snapshot.status));
        }
        if !snapshot.answers {
            wrong.push(format!("the server does not answer {when}"));
        }
        match &snapshot.journal {
            Ok(state) if state.open.is_none() => {}
            Ok(state) => wrong.push(format!("open in the journal {when}: {:?}", state.open)),
            Err(why) => wrong.push(why.clone()),
        }
        let owner = snapshot.claims.as_ref().ok().and_then(crate::leftovers::Claimed::owner_pid);
        if owner.is_none() || owner != snapshot.server {
            wrong.push(format!("{:?} serves {when}, the highest claim names {owner:?}", snapshot.server));
        }
    }
    wrong
}

fn o11(seen: &Evidence) -> Vec<String> {
    let committed = seen.again.code == Some(0) && seen.again.stdout.contains(r#""outcome":"committed""#);
    if committed { Vec::new() } else { vec![format!("{:?}", seen.again)] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_serves_before_its_claim_is_durable_is_seen() {
        let hit = |point: &str| Hit { pid: 7, at: Duration::ZERO, point: point.into(), struck: false };
        let good = ["N.claim.after", "N.sync_claim.after", "N.call.Serve.before"].map(hit);
        assert_eq!(served_before_durable(&good), Vec::<String>::new());
        let early = ["N.claim.after", "N.call.Serve.before"].map(hit);
        assert_eq!(served_before_durable(&early).len(), 1);
    }
}
