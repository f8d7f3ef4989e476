//! Whose a group is, and what becomes of the groups of dead owners.

use crate::containment::{Cgroup, Containment, bases};
use crate::error::Result;
use crate::identity::{Stat, boot_id};
use crate::reaper;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once, OnceLock};

/// Remove the groups of owners that are dead: what still lives in them is killed. A group that was persisted or released is
/// left alone while something lives in it, and so is every named one.
///
/// Also done once by itself, in the background, when a process makes its first group. Directories that are not empty yet
/// when this returns are removed in the background ([`settled`](crate::settled)). Owners in other pid namespaces, or with
/// another boot id, are never judged.
///
/// Returns the directories that were taken.
///
/// # Errors
/// If the directory of groups cannot be read.
pub fn sweep_leaked() -> Result<Vec<PathBuf>> {
    let this = Owner::this_process()?;
    let mut taken = Vec::new();
    for base in bases() {
        match std::fs::read_dir(base) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            entries => sweep(entries?, &this, &mut taken),
        }
    }
    reaper::tidy_later(); // an owner that was killed may have left it empty
    Ok(taken)
}

fn sweep(entries: std::fs::ReadDir, this: &Owner, taken: &mut Vec<PathBuf>) {
    for entry in entries.filter_map(std::result::Result::ok) {
        let Some(owner) = entry.file_name().to_str().and_then(Owner::parse) else { continue };
        if !owner.is_dead(this) {
            continue;
        }
        // Any error here means that somebody else sweeps, too.
        let Ok(cgroup) = Cgroup::open(entry.path()) else { continue };
        let spared = cgroup.is_kept().unwrap_or(true) && cgroup.is_populated().unwrap_or(true);
        if !spared && cgroup.kill().is_ok() {
            event!(info, path = cgroup.path().display(), "sweeping the group of a dead owner");
            taken.push(entry.path());
            reaper::bury(Containment::Cgroup(Arc::new(cgroup)));
        }
    }
}

pub(crate) fn sweep_once() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        reaper::later(|| {
            if let Err(error) = sweep_leaked() {
                event!(warn, error = error, "cannot sweep leaked groups");
            }
        });
    });
}

/// Whether the directory of a group has a name that was given once, and is nobody else's for ever.
pub(crate) fn is_unnamed(name: &Path) -> bool {
    name.as_os_str().as_bytes().starts_with(b"@")
}

/// Whose an unnamed group is, as its directory's name says: `@<boot>.<pid namespace>.<pid>.<start time>.<number>`. `@` is in
/// no name a user may give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    boot: String,
    namespace: String,
    pid: u32,
    start: u64,
}

impl Owner {
    pub(crate) fn this_process() -> io::Result<Owner> {
        static THIS: OnceLock<Owner> = OnceLock::new();
        let pid = std::process::id();
        if let Some(known) = THIS.get()
            && known.pid == pid
        {
            return Ok(known.clone());
        }
        let namespace = std::fs::read_link("/proc/self/ns/pid")?; // pid:[4026531836]
        let this = Owner {
            boot: boot_id()?.replace('-', ""),
            namespace: namespace.to_string_lossy().chars().filter(char::is_ascii_digit).collect(),
            pid,
            start: Stat::read(pid)?.start,
        };
        let _ = THIS.set(this.clone()); // somebody else was faster, or this is a fork
        Ok(this)
    }

    pub(crate) fn next_name(&self) -> String {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let Owner { boot, namespace, pid, start } = self;
        // the address tells copies of this crate in one program apart
        format!("@{boot}.{namespace}.{pid}.{start}.{:x}-{number}", (&raw const NUMBER).addr())
    }

    fn parse(name: &str) -> Option<Owner> {
        let mut parts = name.strip_prefix('@')?.split('.');
        let mut part = || parts.next().filter(|part| !part.is_empty());
        let owner = Owner {
            boot: part()?.to_owned(),
            namespace: part()?.to_owned(),
            pid: part()?.parse().ok()?,
            start: part()?.parse().ok()?,
        };
        part()?;
        part().is_none().then_some(owner)
    }

    /// Certainly dead, as seen by `this` process.
    fn is_dead(&self, this: &Owner) -> bool {
        // No cgroup outlives a boot: who has another boot id is shown another file for it (a container may be), and is not
        // ours to judge, as little as one of another pid namespace.
        if self.boot != this.boot || self.namespace != this.namespace {
            return false;
        }
        match Stat::read(self.pid) {
            Ok(stat) => stat.start != self.start || stat.is_zombie(),
            // It may be hidden from us (hidepid): only a missing pid is a dead one.
            Err(_) => crate::sys::pidfd_open(self.pid).is_err_and(|e| e.raw_os_error() == Some(libc::ESRCH)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_owners() {
        let this = Owner::this_process().expect("our identity");
        assert_eq!(Owner::parse(&this.next_name()), Some(this.clone()));
        assert!(!this.is_dead(&this));
        assert!(Owner { start: this.start + 1, ..this.clone() }.is_dead(&this));
        assert!(!Owner { boot: "other".into(), start: 0, ..this.clone() }.is_dead(&this));
        assert!(!Owner { namespace: "1".into(), start: 0, ..this.clone() }.is_dead(&this));
        for name in ["", "@", "service", "@a.b.c.d.e", "@a.1.2.3", "@a.1.2.3.", "@a.1.2.3.4.5"] {
            assert_eq!(Owner::parse(name), None, "{name}");
        }
    }
}
