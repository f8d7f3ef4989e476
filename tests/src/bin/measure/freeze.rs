//! The service pause with data, as the supervisor measures it and as a client sees it; and, on the same machine in
//! the same run, what clients see of plain restarts.

use crate::Findings;
use crate::table::{ms, spread};
use handoff_tests::bins::Programs;
use handoff_tests::fill::fill;
use handoff_tests::history::percentile;
use handoff_tests::load::{Load, Plan};
use handoff_tests::rig::{PATIENCE, Setup, ended_by};
use handoff_tests::witness::Witness;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The goal for the median.
const GOAL_MS: f64 = 15.0;
/// How many plain restarts are looked at.
const RESTARTS: usize = 5;
/// Requests between two upgrades.
const BETWEEN: u64 = 300;

/// A load that leaves the machine room for the upgrade: what is measured is the pause, not the queue for a core.
const PLAN: Plan = Plan {
    busy: 2,
    library: 1,
    fresh: 1,
    shared: 0,
    idle: 20,
    subscribers: 1,
    half: 4,
    unread: 0,
    pause: Duration::ZERO,
};

pub(crate) fn measure(programs: &'static Programs, upgrades: u32, megabytes: u32, findings: &mut Findings) {
    let rig = Setup::new(programs).start();
    if let Err(fault) = fill(rig.addr.into(), megabytes) {
        return findings.promise(false, format!("{megabytes} MB of data are taken ({fault})"));
    }
    println!("{megabytes} MB of data, --fsync always, {upgrades} upgrades under load");
    let mut load = Load::start(rig.addr, PLAN);
    let witness = Witness::start(rig.addr.into());
    let mut freezes = Vec::new();
    for n in 1..=upgrades {
        load.hold_back();
        let before = witness.seen().server;
        let done = rig.upgrade(&[]);
        load.let_go();
        findings
            .promise(done.code == Some(0), format!("freeze: upgrade {n} commits: {}", done.stdout.trim()));
        freezes.extend(done.json()["freeze_ms"].as_f64());
        let seen = done.code != Some(0) || witness.wait_for_other(before, PATIENCE);
        findings
            .promise(seen && load.wait_for(BETWEEN, PATIENCE), format!("freeze: answers after upgrade {n}"));
    }
    let seen = witness.finish();
    let tally = load.finish();
    let pauses: Vec<f64> = seen.pauses.iter().copied().map(ms).collect();
    spread("freeze_ms (SealRequest to Active)", &freezes);
    spread("pause of a client", &pauses);
    println!("  longest wait of that client with no upgrade: {:.1} ms", ms(seen.longest_otherwise));
    println!("  clients: {tally}");
    findings.promise(tally.is_clean() && seen.failed == 0, "freeze: no client notices an upgrade");
    findings.promise(freezes.len() == upgrades as usize, "freeze: each report has its freeze_ms");
    let (freeze, pause) = (percentile(&freezes, 50.0), percentile(&pauses, 50.0));
    findings.goal(freeze.is_some_and(|ms| ms < GOAL_MS), format!("p50 of freeze_ms under {GOAL_MS} ms"));
    findings
        .goal(pause.is_some_and(|ms| ms < GOAL_MS), format!("p50 of the client's pause under {GOAL_MS} ms"));
    drop(rig);
    rivals(programs, megabytes, pause);
}

/// SIGTERM and a new start with the same data, of the same server and of Redis.
fn rivals(programs: &'static Programs, megabytes: u32, ours: Option<f64>) {
    let dir = tempfile::Builder::new().prefix("handoff-").tempdir().expect("a temporary directory");
    let addr = free_addr();
    let data = dir.path().join("demo");
    std::fs::create_dir(&data).expect("a directory of ours");
    let mut demo = Command::new(&programs.demo_server);
    demo.arg("--data").arg(&data).args(["--bind", &addr.to_string()]);
    rival("demo-server, SIGTERM and cold start", demo, addr, megabytes, ours);

    let addr = free_addr();
    let data = dir.path().join("redis");
    std::fs::create_dir(&data).expect("a directory of ours");
    let mut redis = Command::new("redis-server");
    redis.args(["--bind", &addr.ip().to_string(), "--port", &addr.port().to_string(), "--dir"]).arg(&data);
    redis.args(["--save", "", "--appendonly", "yes", "--appendfsync", "always", "--daemonize", "no"]);
    if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_ok_and(|s| s.success())
    {
        rival("redis-server, SIGTERM and start", redis, addr, megabytes, ours);
    } else {
        println!("redis-server is not installed: not compared");
    }
}

fn rival(name: &str, mut command: Command, addr: SocketAddr, megabytes: u32, ours: Option<f64>) {
    let mut start = || {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Running(command.spawn().unwrap_or_else(|e| panic!("{name}: {e}")))
    };
    let mut running = start();
    let witness = Witness::start(addr);
    if !witness.wait_for_other(None, PATIENCE) {
        return println!("{name}: does not answer");
    }
    if let Err(fault) = fill(addr, megabytes) {
        return println!("{name}: {fault}");
    }
    let filled = witness.seen();
    for _ in 0..RESTARTS {
        let before = witness.seen().server;
        running.end();
        running = start();
        if !witness.wait_for_other(before, PATIENCE) {
            return println!("{name}: does not answer after a restart");
        }
    }
    let seen = witness.finish();
    let pauses: Vec<f64> = seen.pauses.iter().copied().map(ms).collect();
    spread(name, &pauses);
    let ratio = match (percentile(&pauses, 50.0), ours) {
        (Some(theirs), Some(ours)) if ours > 0.0 => {
            format!("{:.1} times the pause of an upgrade", theirs / ours)
        }
        _ => "no ratio".to_owned(),
    };
    let (failed, closed) = (seen.failed - filled.failed, seen.closed - filled.closed);
    println!("  {ratio}; one client saw {failed} failed requests, {closed} closed connections");
}

/// A process that ends with its owner.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    /// SIGTERM, and waits.
    fn end(&mut self) {
        let Ok(pidfd) = processkit::pidfd_open(self.0.id()) else { return };
        let _ = kill(Pid::from_raw(i32::try_from(self.0.id()).expect("a pid")), Signal::SIGTERM);
        if !ended_by(&pidfd, Instant::now() + Duration::from_secs(20)) {
            let _ = self.0.kill();
        }
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn free_addr() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("it is bound")
}
