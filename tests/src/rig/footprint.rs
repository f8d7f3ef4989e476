//! What may not grow.

use std::collections::BTreeSet;
use std::path::Path;

/// What may not grow from one upgrade to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// # Panics
    /// When anything grew against `before`. The names of claims and sockets change; their number may not grow beyond
    /// what is kept for good.
    #[track_caller]
    pub fn assert_no_growth(&self, before: &Footprint) {
        let pairs = [
            ("processes", self.processes, before.processes),
            ("descriptors of the supervisor", self.supervisor_fds, before.supervisor_fds),
            ("descriptors of the server", self.server_fds, before.server_fds),
            ("control groups", self.cgroups, before.cgroups),
            ("files in the run dir", self.run_files.len(), before.run_files.len()),
        ];
        for (what, now, then) in pairs {
            assert!(now <= then, "{what}: {then} grew to {now}\nbefore {before:#?}\nafter {self:#?}");
        }
        let of_claim = |f: &str| f.starts_with("epoch.") || f.starts_with("builds/spec.");
        let kept = |f: &Footprint| f.control_files.iter().filter(|f| !of_claim(f)).count();
        assert!(kept(self) <= kept(before), "control files grew\nbefore {before:#?}\nafter {self:#?}");
        let claims = self.control_files.iter().filter(|f| f.starts_with("epoch.")).count();
        assert!(claims <= CLAIMS_KEPT, "{claims} claims are kept: {self:#?}");
        // one for each claim, for who lives, and for what the clean-up, which runs beside, has yet to remove
        let specs = self.control_files.iter().filter(|f| f.starts_with("builds/spec.")).count();
        assert!(specs <= CLAIMS_KEPT + 3, "the calls of {specs} builds are kept: {self:#?}");
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
