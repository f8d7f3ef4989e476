//! What runs that were never ended left behind, what was done about it, and that it is told.

use super::adopt;
use super::open::CONTROL_SOCKET;
use crate::ids::InstanceId;
use crate::journal::Torn;
use crate::os::builds::BUILDS;
use crate::os::claims::Claims;
use crate::os::files::{Dir, FileError};

/// How many things are named; of the others only the number is.
const NAMED: usize = 32;

/// What was removed or cut when this supervisor took the directories.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    named: Vec<String>,
    more: usize,
}

impl Leftovers {
    pub(super) fn note(&mut self, what: String) {
        tracing::info!(target: "handoff.leftovers", "{what}");
        if self.named.len() < NAMED {
            self.named.push(what);
        } else {
            self.more += 1;
        }
    }

    fn removed(&mut self, dir: &Dir, what: &str, names: Vec<String>) {
        names.iter().for_each(|name| self.note(format!("{what} removed: {}", dir.join(name).display())));
    }

    /// What is only a supervisor's own: nobody else makes files here, and the lock says that there is no other one.
    pub(super) fn of_supervisors(&mut self, dir: &Dir, socket: &str) -> Result<(), FileError> {
        let bound = format!(".{socket}.");
        for name in dir.list()? {
            let what = if name.starts_with("tmp.") {
                "unfinished file"
            } else if name.starts_with(&bound) {
                "socket that was not bound to its end"
            } else {
                continue;
            };
            dir.unlink_if_there(&name)?;
            self.removed(dir, what, vec![name]);
        }
        Ok(())
    }

    pub(super) fn of_journal(&mut self, torn: Option<&Torn>) {
        if let Some(Torn { offset, bytes, why }) = torn {
            self.note(format!("journal: {bytes} bytes of an unfinished record cut off at {offset} ({why})"));
        }
    }

    /// Files whose writers are known to be dead, while others may live.
    pub(super) fn of_the_dead(&mut self, dir: &Dir) -> Result<(), FileError> {
        let names = dir.sweep_temps()?;
        self.removed(dir, "unfinished file", names);
        Ok(())
    }

    /// Copies of builds that were not finished: only a supervisor makes them, and this one holds the lineage. A
    /// supervisor that may only read has nothing to copy, either.
    pub(super) fn of_builds(&mut self, claims: &Dir) {
        let Ok(dir) = Dir::open(&claims.join(BUILDS)) else { return };
        if let Err(error) = self.of_supervisors(&dir, CONTROL_SOCKET) {
            tracing::warn!(%error, "unfinished copies of builds");
        }
    }

    pub(super) fn of_sockets(&mut self, ctl: &Dir, names: Vec<String>) {
        self.removed(ctl, "control socket that nobody listens on", names);
    }

    /// Nobody of this lineage lives, which only the lineage's lock, taken anew, proves: every proposal and every
    /// unfinished file is of the dead. Gives whose they were: their containers may be left.
    pub(super) fn of_a_dead_lineage(&mut self, claims: &Claims) -> Result<Vec<InstanceId>, FileError> {
        let swept = claims.sweep()?;
        self.removed(claims.dir(), "proposal or unfinished file of a dead instance", swept.names);
        Ok(swept.instances)
    }

    /// Ends and removes the container of an instance that has no name any more.
    pub(super) async fn container(&mut self, ctl: &Dir, id: InstanceId, pid: Option<u32>) {
        if adopt::sweep(ctl, id, adopt::group_of(id, pid)).await {
            self.note(format!("control group of instance {id} emptied and removed"));
        }
    }

    /// For `status`.
    pub(super) fn told(mut self) -> Vec<String> {
        if self.more > 0 {
            self.named.push(format!("and {} more", self.more));
        }
        self.named
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_are_counted() {
        let mut leftovers = Leftovers::default();
        (0..40).for_each(|n| leftovers.note(n.to_string()));
        let told = leftovers.told();
        assert_eq!((told.len(), told.last().map(String::as_str)), (33, Some("and 8 more")));
    }

    #[test]
    fn only_what_a_supervisor_makes_goes() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let dir = Dir::open(root.path()).expect("open");
        // pid 1 lives, and wrote none of it
        for name in ["tmp.1.0", ".control.sock.1", "journal", ".notes"] {
            std::fs::write(root.path().join(name), b"").expect("written");
        }
        let mut leftovers = Leftovers::default();
        leftovers.of_supervisors(&dir, "control.sock").expect("swept");
        let mut left = dir.list().expect("listed");
        left.sort();
        assert_eq!(left, [".notes", "journal"]);
        assert_eq!(leftovers.told().len(), 2);
    }
}
