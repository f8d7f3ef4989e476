//! What was seen in a cell: collected first, judged later (see [`crate::oracle`]).

use crate::cell::Cell;
use crate::leftovers::{self, Claimed};
use handoff::journal::JournalState;
use handoff_tests::client::Client;
use handoff_tests::crashes::Hit;
use handoff_tests::history::Tally;
use handoff_tests::prober::Probes;
use handoff_tests::records::{Stamp, stamps};
use handoff_tests::rig::{EXECUTABLE, Finished, Rig, held, more};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Everything that the oracles look at.
#[derive(Debug)]
pub(crate) struct Evidence {
    pub(crate) cell: Cell,
    /// Where, when and who.
    pub(crate) strike: Hit,
    /// When everything was at rest again.
    pub(crate) settled: Duration,
    /// Whether clients may have lost what was under way: the only server died.
    pub(crate) exempt: bool,
    /// Two deaths left nobody who held the listener.
    pub(crate) orphaned: bool,
    /// It stood still as the server that serves, and the operator ended it.
    pub(crate) struck_was_ended: bool,
    /// What the operator was told.
    pub(crate) done: Option<Finished>,
    /// Before anything happened, when it was over, and after one more upgrade.
    pub(crate) before: Snapshot,
    pub(crate) middle: Snapshot,
    pub(crate) end: Snapshot,
    /// The upgrade that nobody disturbed.
    pub(crate) again: Finished,
    pub(crate) tally: Tally,
    pub(crate) probes: Probes,
    pub(crate) locks: LocksSeen,
    pub(crate) trace: Vec<Hit>,
    /// From the strike to the first good answer.
    pub(crate) answer: Option<Duration>,
    /// From the start of a new supervisor to its knowing who serves.
    pub(crate) adopted: Option<Duration>,
    /// `O`, `N` or `X`: who served in the middle.
    pub(crate) served_by: &'static str,
    /// What did not come in time, and whose oracle that is.
    pub(crate) late: Vec<(&'static str, String)>,
}

/// A service at rest.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    /// The pid that `status` names.
    pub(crate) server: Option<u32>,
    pub(crate) status: Finished,
    pub(crate) instances: BTreeSet<u32>,
    pub(crate) claims: Result<Claimed, String>,
    pub(crate) stamps: Vec<Stamp>,
    pub(crate) journal: Result<JournalState, String>,
    pub(crate) left: Result<Vec<String>, String>,
    pub(crate) listener: Option<u64>,
    /// Who holds owner.lock.
    pub(crate) writers: Vec<u32>,
    pub(crate) answers: bool,
    /// What the supervisor has open, by kind.
    pub(crate) held: BTreeMap<String, usize>,
}

/// The builds of who serves and of who served before, to go back to: of each the file and the copy that is kept of it.
/// Copies are made and opened beside everything else.
pub(crate) const BUILDS: usize = 4;

/// What was left may be on its way out: a build is being kept under a temporary name, a child is being reaped.
const GOES: Duration = Duration::from_secs(20);

impl Snapshot {
    pub(crate) fn take(rig: &Rig) -> Snapshot {
        let claims = leftovers::claims(rig);
        let deadline = Instant::now() + GOES;
        let left = loop {
            let left = claims.clone().and_then(|claims| leftovers::found(rig, &claims));
            if matches!(&left, Ok(left) if left.is_empty()) || Instant::now() > deadline {
                break left;
            }
            pace();
        };
        let status = rig.status();
        let server = serde_json::from_str::<Value>(&status.stdout).ok();
        let server = server.and_then(|status| u32::try_from(status["server"]["pid"].as_u64()?).ok());
        let instances = rig.instances();
        Snapshot {
            server,
            status,
            writers: held_by(&instances, &rig.data_dir.join(".handoff/owner.lock")),
            instances,
            claims,
            stamps: stamps(&rig.data_dir),
            journal: leftovers::journal(rig).map(|(_, state)| state),
            left,
            listener: listener(rig.addr.port()),
            answers: Client::connect(rig.addr.into()).and_then(|mut client| client.ask("PING")).is_ok(),
            held: held(rig.supervisor_pid()),
        }
    }

    /// Of what the supervisor holds more than before an upgrade. A supervisor that has started a server holds all that it
    /// ever will, but builds; one that has only adopted holds less.
    pub(crate) fn holds_more_than(&self, before: &Snapshot) -> Vec<String> {
        let builds = BUILDS.saturating_sub(before.held.get(EXECUTABLE).copied().unwrap_or(0));
        more(&before.held, &self.held, |kind| if kind == EXECUTABLE { builds } else { 0 })
    }

    /// Waits for what passes: an operator's connection whose end was not heard yet, a build that is being read.
    pub(crate) fn let_pass(mut self, rig: &Rig, before: &Snapshot) -> Snapshot {
        let deadline = Instant::now() + GOES;
        while !self.holds_more_than(before).is_empty() && Instant::now() < deadline {
            pace();
            self.held = held(rig.supervisor_pid());
        }
        self
    }
}

/// The inode of whoever listens on a port of the loopback.
fn listener(port: u16) -> Option<u64> {
    // who listens comes first, and the thousands of connections behind it need not be read
    let table = BufReader::new(std::fs::File::open("/proc/net/tcp").ok()?).lines();
    let local = format!("0100007F:{port:04X}");
    table.map_while(Result::ok).find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words.get(1) == Some(&local.as_str()) && words.get(3) == Some(&"0A"))
            .then(|| words.get(9)?.parse().ok())?
    })
}

/// Who holds a flock(2): looked up, never tried.
fn holders(lock: &Path) -> Vec<u32> {
    let Ok(inode) = std::fs::metadata(lock).map(|meta| meta.ino()) else { return Vec::new() };
    let table = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let end = format!(":{inode}");
    // asked all the time: the locks of everybody else are not taken to pieces
    let ours = table.lines().filter(|line| line.contains(&end));
    let held = ours.map(|line| line.split_whitespace().collect::<Vec<_>>());
    // who waits has an arrow in front
    let held = held.filter(|words| {
        words.get(1) == Some(&"FLOCK") && words.get(5).is_some_and(|file| file.ends_with(&end))
    });
    let pids: BTreeSet<u32> = held.filter_map(|words| words[4].parse().ok()).collect();
    pids.into_iter().collect()
}

/// Which of these holds it at rest, by their descriptors: the table of all locks is read in pieces, and a lock of somebody
/// else that goes meanwhile hides one in it.
fn held_by(pids: &BTreeSet<u32>, lock: &Path) -> Vec<u32> {
    let Ok(inode) = std::fs::metadata(lock).map(|meta| meta.ino()) else { return Vec::new() };
    let ours = format!(":{inode} ");
    let of_lock = |text: &str| text.lines().any(|line| line.contains("FLOCK") && line.contains(&ours));
    let holds = |pid: &u32| {
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
        // one that is closed meanwhile holds nothing
        descriptors.filter_map(|fd| std::fs::read_to_string(fd.path()).ok()).any(|text| of_lock(&text))
    };
    pids.iter().copied().filter(holds).collect()
}

/// Looks at owner.lock all the time.
#[derive(Debug)]
pub(crate) struct Locks {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<LocksSeen>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct LocksSeen {
    pub(crate) samples: u64,
    /// More than one at once.
    pub(crate) crowds: Vec<Vec<u32>>,
}

impl Locks {
    pub(crate) fn watch(rig: &Rig) -> Locks {
        let lock = rig.data_dir.join(".handoff/owner.lock");
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let (mut seen, mut last) = (LocksSeen::default(), Vec::new());
            while stopped.recv_timeout(Duration::from_millis(2)) == Err(RecvTimeoutError::Timeout) {
                let held = holders(&lock);
                seen.samples += 1;
                // the table is read in pieces: who let go meanwhile may be in one, who took it then in the next
                if held.len() > 1 && held == last {
                    seen.crowds.push(held.clone());
                }
                last = held;
            }
            seen
        });
        Locks { stop, thread }
    }

    pub(crate) fn finish(self) -> LocksSeen {
        drop(self.stop);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// One question on the operator socket: cheaper than a process for each.
pub(crate) fn asks(socket: &Path, request: &str) -> std::io::Result<Value> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    writeln!(stream, "{request}")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

/// The pause between two looks at something that tells nobody when it changes.
pub(crate) fn pace() {
    let (_open, never) = mpsc::channel::<()>();
    // nobody sends
    let _ = never.recv_timeout(Duration::from_millis(5));
}
