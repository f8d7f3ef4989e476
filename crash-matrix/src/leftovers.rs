//! What is on disk and in /sys when nothing is open: the claims, and what should not be there any more.

use handoff::claim::{FileName, Proposal};
use handoff::journal::{Record, replay};
use handoff_tests::records::Stamp;
use handoff_tests::rig::{Rig, cgroup_of};
use std::collections::{BTreeMap, BTreeSet};

/// The claims of a data directory, by epoch.
#[derive(Clone, Debug)]
pub(crate) struct Claimed(BTreeMap<u64, Owner>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Owner {
    instance: u128,
    pid: u32,
}

/// Reads all claims.
///
/// # Panics
/// When one is no claim.
pub(crate) fn claims(rig: &Rig) -> Claimed {
    let dir = rig.data_dir.join(".handoff");
    let mut claims = BTreeMap::new();
    for entry in std::fs::read_dir(&dir).expect("a claim directory").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(FileName::Claim(epoch)) = FileName::parse(&name) {
            let bytes = std::fs::read(entry.path()).expect("a claim");
            let proposal = Proposal::decode(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
            claims.insert(epoch.0, Owner { instance: proposal.instance.0, pid: proposal.pid });
        }
    }
    Claimed(claims)
}

impl Claimed {
    /// Who owns the highest epoch.
    pub(crate) fn owner_pid(&self) -> Option<u32> {
        self.0.last_key_value().map(|(_, owner)| owner.pid)
    }

    /// # Panics
    /// When a claim changed or vanished, or an epoch was left out.
    pub(crate) fn follows(&self, before: &Claimed) {
        for (epoch, owner) in &before.0 {
            assert_eq!(
                self.0.get(epoch),
                Some(owner),
                "the claim of {epoch} is for ever: {before:?}, then {self:?}"
            );
        }
        let epochs: Vec<u64> = self.0.keys().copied().collect();
        assert!(epochs.windows(2).all(|pair| pair[1] == pair[0] + 1), "an epoch is missing: {self:?}");
    }

    /// # Panics
    /// When somebody wrote who had not claimed.
    pub(crate) fn cover(&self, stamps: &[Stamp]) {
        for stamp in stamps {
            let owner = self.0.get(&stamp.epoch).map(|owner| owner.instance);
            assert_eq!(owner, Some(stamp.instance), "written without a claim: {stamp:?}, {self:?}");
        }
    }

    fn highest(&self) -> Option<u128> {
        self.0.last_key_value().map(|(_, owner)| owner.instance)
    }
}

/// Containers, sockets and proposals of instances that are gone, and half-written files.
pub(crate) fn found(rig: &Rig, claimed: &Claimed) -> Vec<String> {
    let mut left = Vec::new();
    let bytes = std::fs::read(rig.run_dir.join("journal")).expect("a journal");
    let replay = replay(&bytes).unwrap_or_else(|e| panic!("journal: {e}"));
    let started: BTreeSet<_> = replay
        .records
        .iter()
        .filter_map(|record| match record {
            Record::Intent { successor, .. } => Some(*successor),
            Record::ColdStart { instance, .. } => Some(*instance),
            _ => None,
        })
        .collect();
    assert!(!started.is_empty(), "no instance in the journal: nothing was tested");
    let containers =
        claimed.owner_pid().and_then(cgroup_of).and_then(|path| Some(path.parent()?.to_path_buf()));
    for instance in started.iter().filter(|instance| claimed.highest() != Some(instance.0)) {
        if let Some(path) = containers.as_ref().map(|dir| dir.join(format!("inst-{instance}")))
            && path.exists()
        {
            left.push(path.display().to_string());
        }
    }
    let expected = claimed.highest().map(|id| format!("{}.sock", handoff::ids::InstanceId(id)));
    for entry in std::fs::read_dir(rig.run_dir.join("ctl")).expect("control sockets").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if Some(&name) != expected.as_ref() {
            left.push(format!("ctl/{name}"));
        }
    }
    for entry in std::fs::read_dir(rig.data_dir.join(".handoff")).expect("a claim directory").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let stays = matches!(FileName::parse(&name), Some(FileName::Claim(_)))
            || matches!(name.as_str(), "lineage.lock" | "owner.lock" | "reserve" | "builds");
        if !stays {
            left.push(format!(".handoff/{name}"));
        }
    }
    left
}
