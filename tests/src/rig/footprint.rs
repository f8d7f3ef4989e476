//! What may not grow.

use super::{PATIENCE, Rig, wait_gone};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

/// What may not grow from one upgrade to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Processes of the service.
    pub processes: usize,
    /// Descriptors of the supervisor.
    pub supervisor_fds: usize,
    /// Descriptors of the server.
    pub server_fds: usize,
    /// Threads of the supervisor.
    pub supervisor_threads: usize,
    /// Threads of the server.
    pub server_threads: usize,
    /// Control groups of this service's instances.
    pub cgroups: usize,
    /// Files in the run dir.
    pub run_files: BTreeSet<String>,
    /// Claims, proposals and locks.
    pub control_files: BTreeSet<String>,
    /// Anything else.
    pub temporary_files: BTreeSet<String>,
}

impl Footprint {
    /// What grew against `before`. The names of claims and sockets change; their number may not grow beyond what is kept
    /// for good.
    fn growth(&self, before: &Footprint) -> Option<String> {
        let of_claim = |f: &str| f.starts_with("epoch.") || f.starts_with("builds/spec.");
        let kept = |f: &Footprint| f.control_files.iter().filter(|f| !of_claim(f)).count();
        let all = |start: &str| self.control_files.iter().filter(|f| f.starts_with(start)).count();
        let pairs = [
            ("processes", self.processes, before.processes),
            ("descriptors of the supervisor", self.supervisor_fds, before.supervisor_fds),
            ("descriptors of the server", self.server_fds, before.server_fds),
            ("control groups", self.cgroups, before.cgroups),
            ("files in the run dir", self.run_files.len(), before.run_files.len()),
            ("control files", kept(self), kept(before)),
            ("claims", all("epoch."), CLAIMS_KEPT),
            // one for each claim, for who lives, and for what the clean-up, which runs beside, has yet to remove
            ("calls of builds", all("builds/spec."), CLAIMS_KEPT + 3),
        ];
        let grown = pairs.into_iter().find(|(_, now, then)| now > then);
        grown.map(|(what, now, then)| format!("{what}: {then} grew to {now}"))
    }
}

impl Rig {
    /// [`Rig::footprint`] when what is leaving has left, and all is held that stays.
    ///
    /// # Panics
    /// When it does not come to that.
    #[must_use]
    pub fn settled_footprint(&self) -> Footprint {
        let server = self.server_pid();
        self.instances().into_iter().filter(|pid| *pid != server).for_each(wait_gone);
        let deadline = Instant::now() + PATIENCE;
        while !self.build_is_read() {
            assert!(Instant::now() < deadline, "the build is not read\n{}", self.log());
            std::thread::yield_now();
        }
        self.footprint()
    }

    /// Whether the supervisor holds the kept build of its server: it reads that beside everything else, and copies it
    /// first where it is new to it.
    fn build_is_read(&self) -> bool {
        let Ok(builds) = self.data_dir.join(".handoff/builds").canonicalize() else { return true };
        let held = std::fs::read_dir(format!("/proc/{}/fd", self.supervisor_pid())).expect("a child of ours");
        let held = held.flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok());
        // 64 digits; the kernel says behind them that it has been copied again since
        let is_build = |path: &Path| path.file_name().is_some_and(|name| name.len() >= 64);
        let mut held = held.filter(|path| path.starts_with(&builds) && is_build(path));
        let copying = files(&builds).iter().any(|name| name.starts_with("tmp."));
        // a file system that nothing is executed from keeps none
        !copying && (held.next().is_some() || !files(&builds).iter().any(|name| is_build(Path::new(name))))
    }

    /// Waits until nothing is more than it was: what passes is no growth.
    ///
    /// This failed when it looked once: a supervisor that had just begun was copying a build.
    ///
    /// # Panics
    /// When something stays that was not there.
    #[track_caller]
    pub fn assert_no_growth(&self, before: &Footprint) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = self.settled_footprint();
            let Some(what) = now.growth(before) else { return };
            assert!(Instant::now() < deadline, "{what}\nbefore {before:#?}\nafter {now:#?}\n{}", self.log());
        }
    }
}

/// The highest claims are kept; see the protocol's clean-up.
const CLAIMS_KEPT: usize = 17;

pub(super) fn files(dir: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                open.push(path);
            } else if let Ok(name) = path.strip_prefix(dir) {
                found.insert(name.display().to_string());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_is_named_and_what_is_replaced_is_not() {
        let with = |names: &[&str]| Footprint {
            supervisor_fds: names.len(),
            control_files: names.iter().map(ToString::to_string).collect(),
            ..Footprint::default()
        };
        let before = with(&["epoch.1", "builds/spec.1", "reserve"]);
        assert_eq!(with(&["epoch.2", "builds/spec.2", "reserve"]).growth(&before), None);
        let more = with(&["epoch.1", "builds/spec.1", "reserve", "epoch.2"]);
        assert_eq!(more.growth(&before).as_deref(), Some("descriptors of the supervisor: 3 grew to 4"));
        let other = with(&["epoch.1", "builds/tmp.7.0", "reserve"]);
        assert_eq!(other.growth(&before).as_deref(), Some("control files: 1 grew to 2"));
    }
}
