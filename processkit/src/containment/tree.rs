//! The fallback: process groups, and a walk over `/proc` with this process as the subreaper of what it starts.
//!
//! A descendant of this process belongs to the tree if it, or an ancestor of it, is a leader we started, has a leader's
//! process group or session, or carries the tree's mark in its initial environment; and what was seen to belong to it does so
//! for good. What clears its environment (or writes over it, as setproctitle(3) does), starts a session and is orphaned
//! before anybody looks cannot be told from other children; this is what a cgroup is better at. Nor can the environment of a
//! process be read that has another uid than we have, or gained privileges at its exec, unless we may trace it
//! (CAP_SYS_PTRACE, as root has it): such a one has to be told by the other signs.

use crate::identity::Stat;
use crate::process::Child;
use crate::sys;
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The variable that carries a tree's mark.
pub(crate) const MARK: &str = "PROCESSKIT_GROUP";

/// How often the walk is repeated for processes born meanwhile.
const PASSES: usize = 64;

/// How often the same memory has to have no environment where it should be.
const BLANK_LOOKS: u32 = 3;

/// How often a process that executes a program meanwhile is looked at again. A look takes some ten microseconds and an
/// execve(2) some hundred, so that most looks lie between two of them.
const EXEC_LOOKS: usize = 1000;

/// The processes of one group without a cgroup.
#[derive(Debug)]
pub(crate) struct Tree {
    mark: String,
    leaders: Mutex<Vec<Arc<Child>>>,
    /// Pid and start time of those that were seen to be members and may live. Locked for the time of a walk.
    seen: Mutex<HashSet<(u32, u64)>>,
    /// Those among the seen that were started by somebody else in this process, whose status is not ours to take.
    adopted: Mutex<HashSet<(u32, u64)>>,
    /// Members other than leaders that were killed, so that those among them that come to us as orphans are reaped.
    doomed: Mutex<Vec<OwnedFd>>,
}

/// A member found by the walk.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) pid: u32,
    pub(crate) start: u64,
    pub(crate) pidfd: OwnedFd,
    /// Started in this process: its status belongs to its handle.
    leader: bool,
}

impl Tree {
    pub(crate) fn new() -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        sys::become_subreaper()?;
        let own = Stat::read(std::process::id())?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Ok(Tree {
            // the address tells copies of this crate in one program apart
            mark: format!("{:x}.{:x}.{number:x}.{:x}", own.pid, own.start, (&raw const NUMBER).addr()),
            leaders: Mutex::default(),
            seen: Mutex::default(),
            adopted: Mutex::default(),
            doomed: Mutex::default(),
        })
    }

    /// What every process of the tree has in its environment.
    pub(crate) fn mark(&self) -> (OsString, OsString) {
        (MARK.into(), self.mark.clone().into())
    }

    pub(crate) fn add(&self, leader: Arc<Child>) {
        self.leaders.lock().unwrap_or_else(PoisonError::into_inner).push(leader);
    }

    /// Take in a child of this process that somebody else started and reaps.
    #[cfg(feature = "process-control")]
    pub(crate) fn adopt(&self, pid: u32, start: u64) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.adopted.lock().unwrap_or_else(PoisonError::into_inner).insert((pid, start));
        seen.insert((pid, start));
    }

    /// The living members.
    pub(crate) fn members(&self) -> io::Result<Vec<Member>> {
        let own = std::process::id();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let table = process_table()?;
        let by_pid: HashMap<u32, Stat> = table.iter().map(|stat| (stat.pid, *stat)).collect();
        let mut below: HashMap<u32, Vec<Stat>> = HashMap::new();
        for stat in table {
            below.entry(stat.parent).or_default().push(stat);
        }
        let leaders: HashSet<u32> = {
            let mut leaders = self.leaders.lock().unwrap_or_else(PoisonError::into_inner);
            // A number that now belongs to somebody else, or that nothing refers to any more, leads nothing.
            leaders.retain(|leader| {
                let pid = leader.pid();
                match by_pid.get(&pid) {
                    Some(stat) => stat.start == leader.identity().start_time_ticks,
                    None => {
                        !leader.is_reaped() || by_pid.values().any(|s| s.group == pid || s.session == pid)
                    }
                }
            });
            let mut adopted = self.adopted.lock().unwrap_or_else(PoisonError::into_inner);
            adopted.retain(|(pid, start)| by_pid.get(pid).is_some_and(|stat| stat.start == *start));
            leaders.iter().map(|leader| leader.pid()).chain(adopted.iter().map(|(pid, _)| *pid)).collect()
        };

        seen.retain(|(pid, start)| by_pid.get(pid).is_some_and(|stat| stat.start == *start));
        let mut members = Vec::new();
        let mut open: Vec<(Stat, bool)> =
            below.remove(&own).into_iter().flatten().map(|s| (s, false)).collect();
        while let Some((stat, parent_inside)) = open.pop() {
            let inside = parent_inside
                || [stat.pid, stat.group, stat.session].iter().any(|id| leaders.contains(id))
                || seen.contains(&(stat.pid, stat.start))
                || self.is_marked(stat);
            open.extend(below.remove(&stat.pid).into_iter().flatten().map(|s| (s, inside)));
            if !inside {
                continue;
            }
            seen.insert((stat.pid, stat.start));
            let Ok(pidfd) = sys::pidfd_open(stat.pid) else { continue };
            if stat.is_zombie() {
                // An orphan that came to us. A leader is its handle's to reap.
                if stat.parent == own && !leaders.contains(&stat.pid) {
                    let _ = sys::wait_pidfd(pidfd.as_fd(), false); // best effort; the next walk sees it again
                }
            } else if Stat::read(stat.pid).is_ok_and(|now| now.start == stat.start && !now.is_zombie()) {
                let leader = leaders.contains(&stat.pid);
                members.push(Member { pid: stat.pid, start: stat.start, pidfd, leader });
            }
        }
        Ok(members)
    }

    /// Whether the mark stands in its initial environment. That it does not is believed only of an environment that was read
    /// to its end, between two looks at the same memory: within execve(2) there is none, or a part of one.
    fn is_marked(&self, mut before: Stat) -> bool {
        let mut blank = 0;
        for _ in 0..EXEC_LOOKS {
            let Ok(environment) = std::fs::read(format!("/proc/{}/environ", before.pid)) else {
                return false;
            };
            let marked = environment.split(|b| *b == 0).any(|entry| {
                let value = entry.strip_prefix(MARK.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
                value == Some(self.mark.as_bytes())
            });
            if marked {
                return true;
            }
            let Ok(after) = Stat::read(before.pid) else { return false };
            let settled = after.image == before.image;
            let whole = settled && after.image.has_environment_of(environment.len());
            if whole || after.has_no_memory() {
                return false;
            }
            // one that has given its environment back, as a guardian has
            blank =
                if settled && environment.is_empty() && after.image.is_complete() { blank + 1 } else { 0 };
            if blank == BLANK_LOOKS {
                return false;
            }
            before = after;
        }
        false
    }

    /// A signal for every member, and for those born while this runs.
    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        let mut done = HashSet::new();
        for _ in 0..PASSES {
            let mut fresh = false;
            for member in self.members()? {
                if !done.insert((member.pid, member.start)) {
                    continue;
                }
                fresh = true;
                match sys::pidfd_send_signal(member.pidfd.as_fd(), signal) {
                    Err(error) if error.raw_os_error() != Some(libc::ESRCH) => return Err(error),
                    _ => {}
                }
                if signal == libc::SIGKILL && !member.leader {
                    self.doomed.lock().unwrap_or_else(PoisonError::into_inner).push(member.pidfd);
                }
            }
            if !fresh {
                break;
            }
        }
        Ok(())
    }

    /// SIGKILL for the whole tree.
    pub(crate) fn kill(&self) -> io::Result<()> {
        self.signal(libc::SIGKILL)
    }

    /// Somebody who still lives, or `None` when the tree is empty; its orphans are reaped then.
    pub(crate) fn survivor(&self) -> io::Result<Option<Member>> {
        // /proc is read entry by entry: only two empty looks in a row say that nobody slipped past.
        let survivor = match self.members()?.pop() {
            Some(member) => Some(member),
            None => self.members()?.pop(),
        };
        let mut doomed = self.doomed.lock().unwrap_or_else(PoisonError::into_inner);
        doomed.retain(|pidfd| matches!(sys::wait_pidfd(pidfd.as_fd(), false), Ok(sys::Waited::Running)));
        Ok(survivor)
    }
}

fn process_table() -> io::Result<Vec<Stat>> {
    let mut table: Vec<Stat> = std::fs::read_dir("/proc")?
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|pid| Stat::read(pid).ok())
        .collect();
    // One whose parent ended meanwhile has another by now, perhaps us.
    let pids: HashSet<u32> = table.iter().map(|stat| stat.pid).collect();
    for stat in table.iter_mut().filter(|stat| stat.parent != 0 && !pids.contains(&stat.parent)) {
        *stat = Stat::read(stat.pid).unwrap_or(*stat);
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    /// Was missed: a process that executes a program in a loop, orphaned and in a session of its own, once in about a hundred
    /// looks. In the middle of execve(2) its new memory has an environment that is empty, and not because it is cleared.
    #[test]
    fn a_process_that_executes_in_a_loop_keeps_its_mark() {
        let tree = Tree::new().expect("a tree");
        let other = Tree::new().expect("a tree");
        let (key, value) = tree.mark();
        let mut child = Command::new("sh")
            .args(["-c", "exec sh -c \"$0\" \"$0\"", "exec sh -c \"$0\" \"$0\""])
            .env(key, value)
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("started");
        let missed = (0..300).find(|_| !tree.is_marked(Stat::read(child.id()).expect("alive")));
        let mistaken = (0..300).find(|_| other.is_marked(Stat::read(child.id()).expect("alive")));
        child.kill().expect("killed");
        child.wait().expect("reaped");
        assert_eq!(missed, None, "missed at this look");
        assert_eq!(mistaken, None, "control: a mark that it does not have, at this look");
    }
}
