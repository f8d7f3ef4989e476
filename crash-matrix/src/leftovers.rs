//! What is on disk and in /sys when nothing is open: the claims, and what should not be there any more.

use handoff::claim::{FileName, Proposal};
use handoff::ids::InstanceId;
use handoff::journal::{JournalState, Record, replay};
use handoff_tests::records::Stamp;
use handoff_tests::rig::{Rig, cgroup_of};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The claims of a data directory, by epoch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claimed(BTreeMap<u64, Owner>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner {
    instance: u128,
    pid: u32,
}

/// Reads all claims.
pub(crate) fn claims(rig: &Rig) -> Result<Claimed, String> {
    let dir = rig.data_dir.join(".handoff");
    let mut claims = BTreeMap::new();
    for name in names(&dir)? {
        if let Some(FileName::Claim(epoch)) = FileName::parse(&name) {
            let bytes = std::fs::read(dir.join(&name)).map_err(|e| format!("{name}: {e}"))?;
            let proposal = Proposal::decode(&bytes).map_err(|e| format!("{name}: {e}"))?;
            claims.insert(epoch.0, Owner { instance: proposal.instance.0, pid: proposal.pid });
        }
    }
    Ok(Claimed(claims))
}

impl Claimed {
    /// Who owns the highest epoch.
    pub(crate) fn owner_pid(&self) -> Option<u32> {
        self.0.last_key_value().map(|(_, owner)| owner.pid)
    }

    /// The instances that own the epochs above the highest of `before`, in order.
    pub(crate) fn since(&self, before: &Claimed) -> Vec<String> {
        let highest = before.0.last_key_value().map_or(0, |(epoch, _)| *epoch);
        self.0.range(highest + 1..).map(|(_, owner)| InstanceId(owner.instance).to_string()).collect()
    }

    /// What is wrong: a claim changed or vanished, or an epoch was left out.
    pub(crate) fn follows(&self, before: &Claimed) -> Vec<String> {
        let changed = before.0.iter().filter(|(epoch, owner)| self.0.get(epoch) != Some(owner));
        let mut wrong: Vec<String> = changed
            .map(|(epoch, owner)| {
                format!("the claim of {epoch} is for ever: {owner:?}, then {:?}", self.0.get(epoch))
            })
            .collect();
        let epochs: Vec<u64> = self.0.keys().copied().collect();
        if !epochs.windows(2).all(|pair| pair[1] == pair[0] + 1) {
            wrong.push(format!("an epoch is missing: {epochs:?}"));
        }
        wrong
    }

    /// What somebody wrote who had not claimed.
    pub(crate) fn uncovered(&self, stamps: &[Stamp]) -> Vec<String> {
        let owner = |stamp: &Stamp| self.0.get(&stamp.epoch).map(|owner| owner.instance);
        let without = stamps.iter().filter(|stamp| owner(stamp) != Some(stamp.instance));
        without.take(3).map(|stamp| format!("written without a claim: {stamp:?}, {self:?}")).collect()
    }

    fn highest(&self) -> Option<u128> {
        self.0.last_key_value().map(|(_, owner)| owner.instance)
    }
}

/// The journal of the supervisor.
pub(crate) fn journal(rig: &Rig) -> Result<(Vec<Record>, JournalState), String> {
    let bytes = std::fs::read(rig.run_dir.join("journal")).map_err(|e| format!("journal: {e}"))?;
    let replay = replay(&bytes).map_err(|e| format!("journal: {e}"))?;
    let state = JournalState::fold(&replay.records);
    Ok((replay.records, state))
}

/// Containers, sockets and proposals of instances that are gone, half-written files, and zombies.
pub(crate) fn found(rig: &Rig, claimed: &Claimed) -> Result<Vec<String>, String> {
    let mut left = Vec::new();
    let (records, _) = journal(rig)?;
    let started: BTreeSet<_> = records
        .iter()
        .filter_map(|record| match record {
            Record::Intent { successor, .. } => Some(*successor),
            Record::ColdStart { instance, .. } => Some(*instance),
            _ => None,
        })
        .collect();
    if started.is_empty() {
        return Err("no instance in the journal: nothing was tested".into());
    }
    let containers =
        claimed.owner_pid().and_then(cgroup_of).and_then(|path| Some(path.parent()?.to_path_buf()));
    for instance in started.iter().filter(|instance| claimed.highest() != Some(instance.0)) {
        if let Some(path) = containers.as_ref().map(|dir| dir.join(format!("inst-{instance}")))
            && path.exists()
        {
            left.push(path.display().to_string());
        }
    }
    let expected = claimed.highest().map(|id| format!("{}.sock", InstanceId(id)));
    for name in names(&rig.run_dir.join("ctl"))? {
        if Some(&name) != expected.as_ref() {
            left.push(format!("ctl/{name}"));
        }
    }
    for name in names(&rig.data_dir.join(".handoff"))? {
        let stays = matches!(FileName::parse(&name), Some(FileName::Claim(_)))
            || matches!(name.as_str(), "lineage.lock" | "owner.lock" | "reserve" | "builds");
        if !stays {
            left.push(format!(".handoff/{name}"));
        }
    }
    for dir in [rig.run_dir.clone(), rig.data_dir.clone(), rig.data_dir.join(".handoff/builds")] {
        let all = if dir.is_dir() { names(&dir)? } else { Vec::new() };
        left.extend(all.into_iter().filter(|name| name.starts_with("tmp.")));
    }
    left.extend(
        zombies(rig.supervisor_pid()).into_iter().map(|pid| format!("zombie {pid} of the supervisor")),
    );
    Ok(left)
}

fn zombies(parent: u32) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let Some((_, rest)) = stat.rsplit_once(") ") else { return false };
        let mut words = rest.split(' ');
        words.next() == Some("Z") && words.next() == Some(parent.to_string().as_str())
    })
    .collect()
}

fn names(dir: &Path) -> Result<Vec<String>, String> {
    let entries = std::fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}
