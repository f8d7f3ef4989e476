//! The fallback: process groups, and a walk over `/proc` with this process as the subreaper of what it starts.
//!
//! A descendant of this process belongs to the tree if it, or an ancestor of it, is a leader we started, has a leader's
//! process group or session, or carries the tree's mark in its initial environment; and what was seen to belong to it does so
//! for good. What clears its environment (or writes over it, as setproctitle(3) does; or was started by a program in the tree
//! that has such trees itself, whose mark took the place of ours), starts a session and is orphaned before anybody looks
//! cannot be told from other children; this is what a cgroup is better at. Nor can the environment of a process be read that
//! has another uid than we have, or gained privileges at its exec, unless we may trace it (CAP_SYS_PTRACE, as root has it):
//! such a one has to be told by the other signs.

use super::is_short;
use crate::identity::Stat;
use crate::process::Child;
use crate::sys;
use crate::watch;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

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
    leaders: Mutex<Vec<Leader>>,
    /// How many came in from outside so far.
    entries: AtomicU64,
    /// Locked for the time of a walk.
    seen: Mutex<Seen>,
    /// Those among the seen that were started by somebody else in this process, whose status is not ours to take.
    adopted: Mutex<HashSet<(u32, u64)>>,
    /// Members that were killed and may not have ended yet, by pid and start time.
    doomed: Mutex<HashMap<(u32, u64), Member>>,
}

/// A process we started. Its descriptor is not ours to keep: the numbers are enough to know its process group and session
/// by, for as long as something is in them.
#[derive(Debug)]
struct Leader {
    pid: u32,
    start: u64,
    child: Weak<Child>,
}

/// Without a look, so many leaders are remembered.
const LEADERS: usize = 1024;

/// What the walks have told.
#[derive(Debug, Default)]
struct Seen {
    /// Pid and start time of those that were seen to be members and may live.
    members: HashSet<(u32, u64)>,
    /// Looks in a row that found nobody, after so many entries.
    empty_looks: u32,
    entries: u64,
}

/// /proc is read entry by entry: only so many empty looks in a row say that nobody slipped past. Nobody is born into a tree
/// that is empty, so that none is needed then until somebody comes in.
const EMPTY_LOOKS: u32 = 2;

/// Whose tree a process (pid and start time) has the mark of, for all trees of this program: where there are many, each of
/// them would read the environments of the members of all others, at every look.
static MARKED: Mutex<BTreeMap<(u32, u64), String>> = Mutex::new(BTreeMap::new());

/// A member found by the walk.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) pid: u32,
    pub(crate) start: u64,
    pub(crate) pidfd: OwnedFd,
    /// Started in this process: its status belongs to its handle.
    leader: bool,
    /// Nothing has to be done but to wait for its end.
    pub(crate) killed: bool,
}

impl Tree {
    pub(crate) fn new() -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        // In a table of other numbers our children would not be found, and strangers would.
        if std::fs::read_link("/proc/self")?.to_str() != Some(&std::process::id().to_string()) {
            return Err(io::Error::other("/proc shows another pid namespace than our own: mount one for it"));
        }
        sys::become_subreaper()?;
        let own = Stat::read(std::process::id())?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Ok(Tree {
            // the address tells copies of this crate in one program apart
            mark: format!("{:x}.{:x}.{number:x}.{:x}", own.pid, own.start, (&raw const NUMBER).addr()),
            leaders: Mutex::default(),
            entries: AtomicU64::new(0),
            seen: Mutex::default(),
            adopted: Mutex::default(),
            doomed: Mutex::default(),
        })
    }

    /// What every process of the tree has in its environment.
    pub(crate) fn mark(&self) -> (OsString, OsString) {
        (MARK.into(), self.mark.clone().into())
    }

    pub(crate) fn add(&self, leader: &Arc<Child>) {
        let (pid, start) = (leader.pid(), leader.start_ticks());
        MARKED.lock().unwrap_or_else(PoisonError::into_inner).insert((pid, start), self.mark.clone());
        let count = {
            let mut leaders = self.leaders.lock().unwrap_or_else(PoisonError::into_inner);
            leaders.push(Leader { pid, start, child: Arc::downgrade(leader) });
            leaders.len()
        };
        self.entries.fetch_add(1, Ordering::Release);
        if count % LEADERS == 0 {
            let _ = self.members(); // forgets those that lead nobody any more; whoever asks is told the error
        }
    }

    /// Take in a child of this process that somebody else started and reaps.
    #[cfg(feature = "process-control")]
    pub(crate) fn adopt(&self, pid: u32, start: u64) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.adopted.lock().unwrap_or_else(PoisonError::into_inner).insert((pid, start));
        seen.members.insert((pid, start));
        self.entries.fetch_add(1, Ordering::Release);
    }

    /// The living members.
    pub(crate) fn members(&self) -> io::Result<Vec<Member>> {
        let mut members = Vec::new();
        self.each(|member| {
            members.push(member);
            Ok(())
        })?;
        Ok(members)
    }

    /// Do something to each living member, one after the other: nobody has more descriptors than members.
    fn each(&self, mut act: impl FnMut(Member) -> io::Result<()>) -> io::Result<()> {
        let own = std::process::id();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = self.entries.load(Ordering::Acquire);
        if seen.entries != entries {
            (seen.entries, seen.empty_looks) = (entries, 0);
        } else if seen.empty_looks >= EMPTY_LOOKS {
            return Ok(());
        }
        let table = self.sparing(process_table)?;
        let by_pid: HashMap<u32, Stat> = table.iter().map(|stat| (stat.pid, *stat)).collect();
        let mut below: HashMap<u32, Vec<Stat>> = HashMap::new();
        for stat in table {
            below.entry(stat.parent).or_default().push(stat);
        }
        let lives = |pid: &u32, start: &u64| by_pid.get(pid).is_some_and(|stat| stat.start == *start);
        MARKED.lock().unwrap_or_else(PoisonError::into_inner).retain(|(pid, start), _| lives(pid, start));
        let leaders: HashSet<u32> = {
            let led: HashSet<u32> = by_pid.values().flat_map(|stat| [stat.group, stat.session]).collect();
            let mut leaders = self.leaders.lock().unwrap_or_else(PoisonError::into_inner);
            // A number that now belongs to somebody else, or that nothing refers to any more, leads nothing.
            leaders.retain(|leader| match by_pid.get(&leader.pid) {
                Some(stat) => stat.start == leader.start,
                None => {
                    led.contains(&leader.pid)
                        || leader.child.upgrade().is_some_and(|child| !child.is_reaped())
                }
            });
            let mut adopted = self.adopted.lock().unwrap_or_else(PoisonError::into_inner);
            adopted.retain(|(pid, start)| lives(pid, start));
            leaders.iter().map(|leader| leader.pid).chain(adopted.iter().map(|(pid, _)| *pid)).collect()
        };

        seen.members.retain(|(pid, start)| lives(pid, start));
        let (mut empty, empty_looks) = (true, std::mem::take(&mut seen.empty_looks));
        let mut open: Vec<(Stat, bool)> =
            below.remove(&own).into_iter().flatten().map(|s| (s, false)).collect();
        while let Some((stat, parent_inside)) = open.pop() {
            let inside = parent_inside
                || [stat.pid, stat.group, stat.session].iter().any(|id| leaders.contains(id))
                || seen.members.contains(&(stat.pid, stat.start))
                || self.sparing(|| self.is_marked(stat))?;
            open.extend(below.remove(&stat.pid).into_iter().flatten().map(|s| (s, inside)));
            if !inside {
                continue;
            }
            seen.members.insert((stat.pid, stat.start));
            let Some(pidfd) = self.sparing(|| unless_short(sys::pidfd_open(stat.pid)))? else { continue };
            if stat.is_zombie() {
                // An orphan that came to us. A leader is its handle's to reap.
                if stat.parent == own && !leaders.contains(&stat.pid) {
                    let _ = sys::wait_pidfd(pidfd.as_fd(), false); // best effort; the next walk sees it again
                }
                continue;
            }
            let now = self.sparing(|| unless_short(Stat::read(stat.pid)))?;
            if now.is_some_and(|now| now.start == stat.start && !now.is_zombie()) {
                empty = false;
                let leader = leaders.contains(&stat.pid);
                act(Member { pid: stat.pid, start: stat.start, pidfd, leader, killed: false })?;
            }
        }
        seen.empty_looks = if empty { empty_looks + 1 } else { 0 };
        Ok(())
    }

    /// Look, with the descriptors of those that were killed if there are no others.
    fn sparing<T>(&self, look: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match look() {
            Err(error) if is_short(&error) && self.forget_doomed() => look(),
            other => other,
        }
    }

    /// Whether there was one.
    fn forget_doomed(&self) -> bool {
        !std::mem::take(&mut *self.doomed.lock().unwrap_or_else(PoisonError::into_inner)).is_empty()
    }

    /// Whether the mark stands in its initial environment. That it does not is believed only of an environment that was read
    /// to its end, between two looks at the same memory: within execve(2) there is none, or a part of one.
    fn is_marked(&self, mut before: Stat) -> io::Result<bool> {
        let key = (before.pid, before.start);
        if let Some(mark) = MARKED.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(*mark == self.mark);
        }
        let mut blank = 0;
        for _ in 0..EXEC_LOOKS {
            let environment = unless_short(std::fs::read(format!("/proc/{}/environ", before.pid)))?;
            let Some(environment) = environment else { return Ok(false) };
            let mark = environment.split(|b| *b == 0).find_map(|entry| {
                let value = entry.strip_prefix(MARK.as_bytes())?.strip_prefix(b"=")?;
                std::str::from_utf8(value).ok().filter(|mark| self.is_akin(mark))
            });
            if let Some(mark) = mark {
                let mut marked = MARKED.lock().unwrap_or_else(PoisonError::into_inner);
                marked.insert(key, mark.to_owned());
                return Ok(mark == self.mark);
            }
            let Some(after) = unless_short(Stat::read(before.pid))? else { return Ok(false) };
            let settled = after.image == before.image;
            let whole = settled && after.image.has_environment_of(environment.len());
            if whole || after.has_no_memory() {
                return Ok(false);
            }
            // one that has given its environment back, as a guardian has
            blank =
                if settled && environment.is_empty() && after.image.is_complete() { blank + 1 } else { 0 };
            if blank == BLANK_LOOKS {
                return Ok(false);
            }
            before = after;
        }
        Ok(false)
    }

    /// Whether it is the mark of a tree of this program: all but the number is the same. Who has one keeps it, since nobody
    /// else gives such; the mark of another program with trees tells nothing, and is not remembered.
    fn is_akin(&self, mark: &str) -> bool {
        let (ours, theirs): (Vec<_>, Vec<_>) = (self.mark.split('.').collect(), mark.split('.').collect());
        matches!((&*ours, &*theirs), ([a, b, _, c], [x, y, _, z]) if (a, b, c) == (x, y, z))
    }

    /// A signal for every member, and for those born while this runs. One that may not be signalled spares no other; the first
    /// such error is told in the end.
    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        let (mut done, mut told) = (HashSet::new(), Ok(()));
        for _ in 0..PASSES {
            let mut fresh = false;
            self.each(|member| {
                if !done.insert((member.pid, member.start)) {
                    return Ok(());
                }
                fresh = true;
                match sys::pidfd_send_signal(member.pidfd.as_fd(), signal) {
                    Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                        told = std::mem::replace(&mut told, Ok(())).and(Err(error));
                        return Ok(());
                    }
                    _ => {}
                }
                if signal == libc::SIGKILL {
                    let mut doomed = self.doomed.lock().unwrap_or_else(PoisonError::into_inner);
                    doomed.insert((member.pid, member.start), Member { killed: true, ..member });
                }
                Ok(())
            })?;
            if !fresh {
                break;
            }
        }
        told
    }

    /// SIGKILL for the whole tree.
    pub(crate) fn kill(&self) -> io::Result<()> {
        self.signal(libc::SIGKILL)
    }

    /// Somebody who still lives, or `None` when the tree is empty; its orphans are reaped then.
    pub(crate) fn survivor(&self) -> io::Result<Option<Member>> {
        if let Some(dying) = self.dying() {
            return Ok(Some(dying)); // no need to look for others yet
        }
        for _ in 0..EMPTY_LOOKS {
            if let Some(member) = self.members()?.pop() {
                return Ok(Some(member));
            }
        }
        Ok(None)
    }

    /// Somebody who was killed and has not ended yet. Those that have are reaped, unless they are their handle's to reap.
    fn dying(&self) -> Option<Member> {
        let mut doomed = self.doomed.lock().unwrap_or_else(PoisonError::into_inner);
        doomed.retain(|_, member| {
            let lives = !watch::has_ended(member.pidfd.as_fd());
            if !lives && !member.leader {
                let _ = sys::wait_pidfd(member.pidfd.as_fd(), false); // its parent's, as long as that lives
            }
            lives
        });
        let key = doomed.keys().next().copied()?;
        doomed.remove(&key)
    }
}

/// What could be had of a process; `None` if it is gone or not ours to look at. That there was no descriptor or memory left
/// to look with is an error: who was not looked at is not gone.
pub(super) fn unless_short<T>(looked: io::Result<T>) -> io::Result<Option<T>> {
    match looked {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_short(&error) => Err(error),
        Err(_) => Ok(None),
    }
}

fn process_table() -> io::Result<Vec<Stat>> {
    let mut table: Vec<Stat> = std::fs::read_dir("/proc")?
        .filter_map(|entry| entry.map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).transpose())
        .filter_map(|pid| pid.and_then(|pid| unless_short(Stat::read(pid))).transpose())
        .collect::<io::Result<_>>()?;
    // One whose parent ended meanwhile has another by now, perhaps us.
    let pids: HashSet<u32> = table.iter().map(|stat| stat.pid).collect();
    for stat in table.iter_mut().filter(|stat| stat.parent != 0 && !pids.contains(&stat.parent)) {
        *stat = unless_short(Stat::read(stat.pid))?.unwrap_or(*stat);
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without what was told before.
    fn looked(tree: &Tree, pid: u32) -> bool {
        let stat = Stat::read(pid).expect("alive");
        MARKED.lock().expect("unpoisoned").remove(&(stat.pid, stat.start));
        tree.is_marked(stat).expect("an answer")
    }

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
        let missed = (0..300).find(|_| !looked(&tree, child.id()));
        let mistaken = (0..300).find(|_| looked(&other, child.id()));
        child.kill().expect("killed");
        child.wait().expect("reaped");
        assert_eq!(missed, None, "missed at this look");
        assert_eq!(mistaken, None, "control: a mark that it does not have, at this look");
    }
}
