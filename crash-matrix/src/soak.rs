//! Soak cells: fifty upgrades of one service under load, and nothing of them stays.
//!
//! After each upgrade everything is counted that could stay. What passes is no growth, so the least of the last counts is
//! compared with the least of the first ones: what is still there at the best of times has come to stay.

use crate::cell::{Fault, Workload, fits};
use crate::evidence::{BUILDS, Snapshot};
use crate::oracle::{Violation, violation};
use crate::record::Record;
use crate::sweep::said;
use crate::trial::{self, SETTLES};
use handoff_tests::crashes::{Crashes, Order, Point};
use handoff_tests::linear;
use handoff_tests::load::Load;
use handoff_tests::records::contradictions;
use handoff_tests::rig::{Finished, Rig, held, wait_gone};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Upgrades in a row.
const UPGRADES: usize = 50;
/// As many claims, and what they name, are kept: before that something grows rightly.
const SETTLED: usize = 20;
/// How many counts are looked at on each side.
const WINDOW: usize = 10;
/// Reports of 128 handoffs are kept in memory; an allocator rounds up.
const MEMORY_KB: u64 = 16;
/// The records of one handoff and its report; the journal is compacted at 4 MiB.
const JOURNAL_BYTES: u64 = 16 << 10;

/// Fifty upgrades.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Soak {
    /// All of them commit.
    Commits,
    /// Every other one is aborted: by a bad successor, or by the death of one that is ready.
    Alternating,
}

impl FromStr for Soak {
    type Err = String;

    fn from_str(text: &str) -> Result<Soak, String> {
        let found = Soak::ALL.into_iter().find(|soak| soak.name() == text);
        found.ok_or_else(|| format!("{text:?}: there are {}", Soak::ALL.map(Soak::name).join(", ")))
    }
}

impl Soak {
    /// All of them.
    pub const ALL: [Soak; 2] = [Soak::Commits, Soak::Alternating];

    /// Those whose names fit.
    #[must_use]
    pub fn that_fit(pattern: &str) -> Vec<Soak> {
        Soak::ALL.into_iter().filter(|soak| fits(pattern, soak.name())).collect()
    }

    /// Its name, as that of a cell.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Soak::Commits => "soak.commits/load/v1-1-1",
            Soak::Alternating => "soak.alternating/load/v1-1-1",
        }
    }

    /// What is done, and what must hold then.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Soak::Commits => "Fifty upgrades in a row under load: all commit, and nothing stays of any.",
            Soak::Alternating => {
                "Fifty upgrades under load, every other one aborted (by a bad successor, or by the death of one that is \
                 ready): each ends as it should, and nothing stays of any."
            }
        }
    }

    /// Tries it, with this bug planted.
    #[must_use]
    pub fn run(self, plant: Option<&str>) -> Record {
        let began = Instant::now();
        let seen = catch_unwind(AssertUnwindSafe(|| self.soaked(plant))).map_err(said);
        Record::soaked(self.name(), seen, began.elapsed())
    }

    fn soaked(self, plant: Option<&str>) -> (Vec<Violation>, Duration) {
        let mut wrong = Vec::new();
        let crashes = Crashes::new();
        let rig = trial::setup(&crashes, 100, [1, 1, 1], plant).start();
        let load = Load::start(rig.addr, trial::plan(Workload::Load));
        let mut counts = Vec::new();
        for n in 0..UPGRADES {
            let ends = self.ends(n);
            let done = ends.upgrade(&rig, &crashes, plant);
            if done.code != Some(ends.code()) {
                wrong.push(violation("O9", format!("upgrade {n}, {ends:?}: {done:?}")));
            }
            if !load.wait_for(20, SETTLES) {
                wrong.push(violation("O8", format!("nothing is answered after upgrade {n}")));
                break;
            }
            counts.push(count(&rig));
        }
        let tally = load.finish();
        if !tally.is_clean() {
            wrong.push(violation("O1", format!("the clients noticed: {tally}")));
        }
        wrong.extend(linear::contradictions(&tally.operations).into_iter().map(|what| violation("O2", what)));
        let end = Snapshot::take(&rig);
        wrong.extend(contradictions(&end.stamps).into_iter().take(3).map(|what| violation("O3", what)));
        match &end.left {
            Ok(left) if left.is_empty() => {}
            left => wrong.push(violation("O6", format!("left behind: {left:?}"))),
        }
        if end.status.code != Some(0) {
            wrong.push(violation("O10", format!("status: {:?}", end.status)));
        }
        wrong.extend(leaks(&counts).into_iter().map(|what| violation("O6", what)));
        (wrong, tally.longest)
    }

    fn ends(self, n: usize) -> Ends {
        match (self, n % 4) {
            (Soak::Alternating, 0) => Ends::Bad,
            (Soak::Alternating, 2) => Ends::Killed,
            _ => Ends::Commits,
        }
    }
}

/// How an upgrade is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    Commits,
    /// The successor has another digest.
    Bad,
    /// The successor dies when it is ready.
    Killed,
}

impl Ends {
    fn code(self) -> i32 {
        match self {
            Ends::Commits => 0,
            Ends::Bad | Ends::Killed => 10,
        }
    }

    fn upgrade(self, rig: &Rig, crashes: &Crashes, plant: Option<&str>) -> Finished {
        let old = rig.server_pid();
        let bad = rig.programs().bad("other-digest");
        let mut args = vec!["--format", "json", "--probation", "0s", "--freeze-budget", "20s"];
        match self {
            Ends::Commits => {}
            Ends::Bad => args.extend(["--binary", bad.to_str().expect("a path of ours")]),
            Ends::Killed => {
                let ready = Point { name: "N.send.Ready.after".into(), hit: 1 };
                crashes.arm(&ready, &Fault::Kill9.action(), Order::LeavesLast);
            }
        }
        let mut command = rig.ctl_command("upgrade", &args);
        command.envs(plant.map(|plant| ("HANDOFF_PLANT", plant)));
        let done = handoff_tests::rig::finish(&mut command);
        if self == Ends::Commits {
            wait_gone(old);
        }
        rig.wait_until_settled();
        done
    }
}

/// Everything that could stay, by name.
type Counts = BTreeMap<String, u64>;

fn count(rig: &Rig) -> Counts {
    let footprint = rig.settled_footprint();
    let (supervisor, server) = (rig.supervisor_pid(), rig.server_pid());
    let of_claim = |file: &&String| file.starts_with("epoch.") || file.starts_with("builds/spec.");
    let temporary = footprint.temporary_files.len() + tmp_names(&rig.run_dir) + tmp_names(&rig.data_dir);
    let numbers = [
        ("processes", footprint.processes),
        ("threads of the supervisor", footprint.supervisor_threads),
        ("threads of the server", footprint.server_threads),
        ("control groups", footprint.cgroups),
        ("files in the run dir", footprint.run_files.len()),
        ("files in .handoff", footprint.control_files.iter().filter(|file| !of_claim(file)).count()),
        ("claims, and what they name", footprint.control_files.iter().filter(of_claim).count()),
        ("temporary files", temporary),
    ];
    let mut counts: Counts = numbers.into_iter().map(|(name, n)| (name.to_owned(), n as u64)).collect();
    for (who, pid) in [("supervisor", supervisor), ("server", server)] {
        counts.extend(held(pid).into_iter().map(|(kind, n)| (format!("{who}: {kind}"), n as u64)));
    }
    counts.insert(MEMORY.into(), memory_kb(supervisor));
    let journal = std::fs::metadata(rig.run_dir.join("journal")).expect("a supervisor has a journal");
    counts.insert(JOURNAL.into(), journal.len());
    counts
}

const MEMORY: &str = "memory of the supervisor, KiB";
const JOURNAL: &str = "journal, bytes";
const BUILDS_HELD: &str = "supervisor: executable";

fn tmp_names(dir: &Path) -> usize {
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
    names.filter(|entry| entry.file_name().to_string_lossy().starts_with("tmp.")).count()
}

fn memory_kb(pid: u32) -> u64 {
    // a count that cannot be had is no count of 0: nothing would ever grow
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the supervisor lives");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    let number = line.split_whitespace().next().expect("a number");
    number.parse().expect("a number")
}

/// What has come to stay.
fn leaks(counts: &[Counts]) -> Vec<String> {
    if counts.len() < SETTLED + 2 * WINDOW {
        return vec![format!("only {} upgrades: nothing was tested", counts.len())];
    }
    let (first, last) = (&counts[SETTLED..SETTLED + WINDOW], &counts[counts.len() - WINDOW..]);
    let apart = (counts.len() - WINDOW - SETTLED) as u64;
    let least = |window: &[Counts], name: &str| {
        window.iter().map(|counts| counts.get(name).copied().unwrap_or(0)).min().unwrap_or(0)
    };
    let names: BTreeSet<&String> = counts.iter().flat_map(BTreeMap::keys).collect();
    let mut leaks = Vec::new();
    for name in names {
        let (before, after) = (least(first, name), least(last, name));
        let may = match name.as_str() {
            MEMORY => before + MEMORY_KB * apart,
            JOURNAL => before + JOURNAL_BYTES * apart,
            BUILDS_HELD => BUILDS as u64,
            _ => before,
        };
        if after > may {
            let slope = (after - before) as f64 / apart as f64;
            leaks.push(format!("{name}: {before} grew to {after} over {apart} upgrades, {slope:.2} each"));
        }
        if [MEMORY, JOURNAL].contains(&name.as_str()) {
            eprintln!("{name}: {before} before, {after} after {apart} more upgrades");
        }
    }
    leaks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(count: impl Fn(usize) -> u64) -> Vec<Counts> {
        (0..UPGRADES).map(|n| Counts::from([("sockets".to_owned(), count(n))])).collect()
    }

    #[test]
    fn one_in_fifty_upgrades_that_stays_is_a_leak_and_what_passes_is_none() {
        assert_eq!(leaks(&counted(|_| 7)), Vec::<String>::new());
        // grows until it is full
        assert_eq!(leaks(&counted(|n| n.min(SETTLED) as u64)), Vec::<String>::new());
        // now and then one more
        assert_eq!(leaks(&counted(|n| 7 + u64::from(n % 3 == 0))), Vec::<String>::new());
        assert_eq!(leaks(&counted(|n| 7 + n as u64)).len(), 1);
        let once = leaks(&counted(|n| 7 + u64::from(n > 35) + u64::from(n % 3 == 0)));
        assert!(once.len() == 1 && once[0].starts_with("sockets: 7 grew to 8"), "{once:?}");
        assert_eq!(leaks(&counted(|_| 7)[..30]).len(), 1, "too few");
    }
}
