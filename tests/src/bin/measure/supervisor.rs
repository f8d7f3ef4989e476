//! What a supervisor costs that dies or is replaced, and a new server that fails on probation: each under load, each
//! against its goal.

use crate::Findings;
use crate::table::{ms, spread};
use handoff_tests::bins::Programs;
use handoff_tests::client::Client;
use handoff_tests::history::percentile;
use handoff_tests::load::{Load, Plan};
use handoff_tests::rig::{PATIENCE, Rig, Setup, stop, wait_gone};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

/// A restarted supervisor has adopted.
const ADOPTED_MS: f64 = 300.0;
/// A supervisor that replaces itself.
const REPLACED_MS: f64 = 200.0;
/// A heartbeat is due after this.
const HEARTBEAT_MS: f64 = 2000.0;
/// Beyond the start of a process (a death) and beyond the lease (a hang).
const BACK_MS: f64 = 300.0;
/// Time without progress after which a server on probation counts as hung.
const LEASE_MS: f64 = 6000.0;
/// Requests between two rounds.
const BETWEEN: u64 = 100;

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

pub(crate) fn measure(programs: &'static Programs, rounds: u32, findings: &mut Findings) {
    let mut rig = Setup::new(programs).start();
    let load = Load::start(rig.addr, PLAN);
    let server = rig.server_pid();
    let (mut adopted, mut replaced) = (Vec::new(), Vec::new());
    for n in 1..=rounds {
        rig.kill_supervisor();
        findings
            .promise(load.wait_for(BETWEEN, PATIENCE), format!("supervisor: answers without one, round {n}"));
        let began = Instant::now();
        rig.spawn_supervisor();
        rig.wait_until_settled();
        adopted.push(ms(began.elapsed()));
        let done = rig.ctl("upgrade", &["--supervisor", "--format", "json"]);
        findings
            .promise(done.code == Some(0), format!("supervisor: replacement {n}: {}", done.stdout.trim()));
        replaced.extend(done.json()["took_ms"].as_f64());
        findings.promise(load.wait_for(BETWEEN, PATIENCE), format!("supervisor: answers after round {n}"));
    }
    findings.promise(rig.server_pid() == server, "supervisor: the server was never started again");
    let tally = load.finish();
    println!("{rounds} rounds under load: supervisor killed and started again, then replaced by itself");
    spread("started again to adopted", &adopted);
    spread("replaced, last moment to answer", &replaced);
    println!("  clients: {tally}");
    findings.promise(tally.is_clean(), "supervisor: no client notices that it dies or is replaced");
    let most = percentile(&replaced, 100.0);
    findings.promise(most.is_some_and(|ms| ms < HEARTBEAT_MS), "supervisor: no heartbeat is missed");
    let goal = |figure: Option<f64>, goal: f64| figure.is_some_and(|ms| ms < goal);
    findings
        .goal(goal(percentile(&adopted, 50.0), ADOPTED_MS), format!("p50 of adopted under {ADOPTED_MS} ms"));
    findings.goal(goal(most, REPLACED_MS), format!("a replacement under {REPLACED_MS} ms"));

    let start: Vec<f64> = (0..rounds.min(20)).map(|_| ms(process_start(programs))).collect();
    spread("start of a process, for comparison", &start);
    let start = percentile(&start, 50.0).unwrap_or_default();
    let dead = back(&rig, rounds, findings, |pid| {
        let _ = kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), Signal::SIGKILL);
    });
    spread("dead on probation to first answer", &dead);
    let bound = BACK_MS + start;
    findings.goal(goal(percentile(&dead, 50.0), bound), format!("p50 of a death under {bound:.0} ms"));
    let hung = back(&rig, rounds.div_ceil(10), findings, stop);
    spread("hung on probation to first answer", &hung);
    let bound = LEASE_MS + BACK_MS;
    findings.goal(goal(percentile(&hung, 100.0), bound), format!("a hang under {bound:.0} ms"));
}

/// From an executable to its first answer, without a supervisor: what every cold start costs.
fn process_start(programs: &Programs) -> Duration {
    let dir = tempfile::Builder::new().prefix("handoff-").tempdir().expect("a temporary directory");
    let addr = crate::freeze::free_addr();
    let began = Instant::now();
    let mut command = std::process::Command::new(&programs.demo_server);
    command.arg("--data").arg(dir.path()).args(["--bind", &addr.to_string()]);
    let null = std::process::Stdio::null;
    let child = command.stdin(null()).stdout(null()).stderr(null()).spawn().expect("a program of ours");
    let _running = crate::freeze::Running(child);
    while Client::connect(addr).and_then(|mut client| client.ask("PING")).is_err() {
        assert!(began.elapsed() < PATIENCE, "the server does not start");
        std::thread::yield_now();
    }
    began.elapsed()
}

/// Upgrades, strikes the new server, and waits for the first answer of the build before.
fn back(rig: &Rig, rounds: u32, findings: &mut Findings, strike: impl Fn(u32)) -> Vec<f64> {
    let mut times = Vec::new();
    for n in 1..=rounds {
        rig.wait_until_settled();
        let done = rig.upgrade(&["--probation", "300s"]);
        findings.promise(done.code == Some(0), format!("supervisor: upgrade {n} commits: {}", done.stdout));
        rig.wait_until_settled();
        let pid = rig.server_pid();
        let began = Instant::now();
        strike(pid);
        // whoever is hung accepts nothing: the answer is of the next one
        let answer = Client::connect(rig.addr.into()).and_then(|mut client| {
            client.set_patience(PATIENCE)?;
            client.ask("PING")
        });
        times.push(ms(began.elapsed()));
        findings.promise(answer.is_ok(), format!("supervisor: an answer after round {n}"));
        wait_gone(pid);
        rig.wait_until_settled();
        let last = rig.status().json()["last"]["outcome"].clone();
        findings.promise(last == "rolled_back", format!("supervisor: round {n} is rolled back, not {last}"));
    }
    times
}
