//! Upgrades in a row under loads that nobody here wrote: nothing fails, nothing is lost, nothing grows.

use crate::Findings;
use crate::table::spread;
use handoff_tests::bins::Programs;
use handoff_tests::load::{Load, Plan};
use handoff_tests::redis_benchmark::{RedisBenchmark, miscounted};
use handoff_tests::rig::{Footprint, PATIENCE, Rig, Setup};
use std::time::Duration;

/// Upgrades before the first count: so many claims, and what they name, are kept.
const SETTLE: u32 = 20;
/// Requests between two upgrades.
const BETWEEN: u64 = 200;

/// The clients of the `redis` crate are the load; the others see what it cannot.
const PLAN: Plan = Plan {
    busy: 1,
    library: 4,
    fresh: 1,
    shared: 0,
    idle: 20,
    subscribers: 1,
    half: 2,
    unread: 1,
    pause: Duration::ZERO,
};

pub(crate) fn measure(programs: &'static Programs, upgrades: u32, findings: &mut Findings) {
    let rig = Setup::new(programs).start();
    for n in 1..=SETTLE {
        let done = rig.upgrade(&[]);
        findings.promise(done.code == Some(0), format!("hundred: upgrade {n} of the first {SETTLE} commits"));
    }
    let before = Counted::of(&rig);
    let mut load = Load::start(rig.addr, PLAN);
    let benchmarks = match RedisBenchmark::missing() {
        None => vec![
            ("-k 1", RedisBenchmark::start(rig.addr, true)),
            ("-k 0", RedisBenchmark::start(rig.addr, false)),
        ],
        Some(missing) => {
            findings.promise(false, format!("hundred: {missing}"));
            Vec::new()
        }
    };
    let mut freezes = Vec::new();
    for n in 1..=upgrades {
        load.hold_back();
        let done = rig.upgrade(&[]);
        load.let_go();
        findings
            .promise(done.code == Some(0), format!("hundred: upgrade {n} commits: {}", done.stdout.trim()));
        freezes.extend(done.json()["freeze_ms"].as_f64());
        findings.promise(load.wait_for(BETWEEN, PATIENCE), format!("hundred: answers after upgrade {n}"));
    }
    println!("{} of {upgrades} upgrades in a row", freezes.len());
    spread("freeze_ms", &freezes);
    let runs: Vec<_> = benchmarks.into_iter().map(|(name, running)| (name, running.finish())).collect();
    for (name, seen) in &runs {
        println!(
            "redis-benchmark {name}: {} requests in {} rounds, {} faults",
            seen.requests,
            seen.rounds,
            seen.faults.len()
        );
        seen.faults.iter().for_each(|fault| println!("  {fault}"));
        findings.promise(
            seen.faults.is_empty() && seen.rounds > 0,
            format!("hundred: redis-benchmark {name} sees nothing"),
        );
    }
    let tally = load.finish();
    println!("clients: {tally}");
    findings.promise(tally.is_clean(), "hundred: no client notices an upgrade");
    let wrong = miscounted(rig.addr, &runs.iter().map(|(_, seen)| seen).collect::<Vec<_>>());
    findings.promise(wrong.is_none(), format!("hundred: {}", wrong.unwrap_or_default()));

    let after = Counted::of(&rig);
    println!("{:<24} {:>8} {:>8} {:>14}", "", "before", "after", "an upgrade");
    for ((what, then, bounded), (_, now, _)) in before.figures().into_iter().zip(after.figures()) {
        let slope = (now as f64 - then as f64) / f64::from(upgrades.max(1));
        println!("{what:<24} {then:>8} {now:>8} {slope:>+14.3}");
        findings.promise(!bounded || now <= then, format!("hundred: {what} do not grow ({then} to {now})"));
    }
}

/// What may not grow, counted while nothing is asked and nobody is leaving.
struct Counted {
    footprint: Footprint,
    sockets: [usize; 2],
    memory_kb: [usize; 2],
}

impl Counted {
    fn of(rig: &Rig) -> Counted {
        let footprint = rig.settled_footprint();
        let pids = [rig.supervisor_pid(), rig.server_pid()];
        Counted { footprint, sockets: pids.map(sockets), memory_kb: pids.map(memory_kb) }
    }

    /// Name, number, and whether it is promised not to grow.
    fn figures(&self) -> Vec<(&'static str, usize, bool)> {
        let Footprint {
            processes,
            supervisor_fds,
            server_fds,
            supervisor_threads,
            server_threads,
            cgroups,
            ..
        } = self.footprint;
        vec![
            ("processes", processes, true),
            ("fds of the supervisor", supervisor_fds, true),
            ("fds of the server", server_fds, true),
            ("sockets of the supervisor", self.sockets[0], true),
            ("sockets of the server", self.sockets[1], true),
            ("cgroups", cgroups, true),
            ("files in the run dir", self.footprint.run_files.len(), true),
            ("files in .handoff", self.footprint.control_files.len(), true),
            // come and go with what is asked, and with allocators
            ("threads of the supervisor", supervisor_threads, false),
            ("threads of the server", server_threads, false),
            ("memory of S, KiB", self.memory_kb[0], false),
            ("memory of the server, KiB", self.memory_kb[1], false),
        ]
    }
}

fn sockets(pid: u32) -> usize {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

fn memory_kb(pid: u32) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
