//! One cell: one rig, one point, one death, and everything that must hold afterwards.

use crate::leftovers;
use crate::matrix::Fault;
use handoff_tests::bins::{Build, Programs};
use handoff_tests::client::Client;
use handoff_tests::crashes::{Crashes, Hit, Order, Point, monotonic, points};
use handoff_tests::load::{Load, Plan};
use handoff_tests::prober::{Prober, Probes};
use handoff_tests::records::{contradictions, stamps};
use handoff_tests::rig::{Finished, PATIENCE, Rig, Setup, alive, wait_gone};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// What a cell tells when everything held.
#[derive(Clone, Debug)]
pub struct Report {
    /// From the death to the first good answer.
    pub answer: Duration,
    /// From the start of a new supervisor to its having adopted what runs.
    pub adopted: Option<Duration>,
    /// How the upgrade ended for the operator.
    pub code: Option<i32>,
    /// The server that serves afterwards.
    pub served_by: &'static str,
}

/// How a cell ended without a broken promise.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// It struck, and everything held.
    Held(Report),
    /// Nobody came by: an upgrade need not pass here.
    Unreached,
}

/// The longest that a process may need to come by a point after the upgrade's end (what a leaving server does).
const COMES_BY: Duration = Duration::from_secs(3);

fn plan() -> Plan {
    Plan { busy: 2, idle: 2, subscribers: 1, half: 2, ..Plan::default() }
}

fn setup(crashes: &Crashes) -> Setup {
    let setup = Setup::new(Programs::of(Build::Crash));
    crashes.env().iter().fold(setup, |setup, (key, value)| setup.supervisor_env(key, value))
}

/// The points that an upgrade under load comes by when nobody dies.
pub(crate) fn recording(order: Order) -> Vec<Point> {
    let crashes = Crashes::new();
    let rig = setup(&crashes).start();
    let mut load = Load::start(rig.addr, plan());
    load.hold_back();
    let old = rig.server_pid();
    crashes.only(order);
    let before = crashes.trace().len();
    rig.upgrade_commits();
    wait_gone(old);
    rig.wait_until_settled();
    let hits: Vec<Hit> = crashes.trace().into_iter().skip(before).collect();
    load.let_go();
    load.finish().assert_clean();
    points(&hits)
}

/// Where on the happy path the copies of a connection change hands: deaths in between cost connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path<'a>(pub(crate) &'a [Point]);

impl Path<'_> {
    fn at(self, name: &str) -> usize {
        self.0.iter().position(|point| point.name == name).unwrap_or_else(|| panic!("no {name} on the way"))
    }

    /// Whether this death may cost clients what was under way: the dead process was the only server, or it held
    /// the only copies of the connections.
    fn costs(self, point: &Point, died: u32, old: u32) -> bool {
        match point.role() {
            "S" => false,
            _ if died == old => self.at(&point.name) <= self.at("O.call.HandOver.after"),
            // the successor: from here on the old server may have let go
            _ => self.at(&point.name) >= self.at("N.send.Started.after"),
        }
    }
}

/// Kills whoever comes to `point` during an upgrade under load.
///
/// # Panics
/// When a promise was broken.
pub(crate) fn run(point: &Point, fault: Fault, order: Order, path: Path<'_>) -> End {
    let crashes = Crashes::new();
    let mut rig = setup(&crashes).start();
    let mut load = Load::start(rig.addr, plan());
    let prober = Prober::start(rig.addr);
    load.hold_back();
    let old = rig.server_pid();
    let claimed = leftovers::claims(&rig);

    crashes.arm(point, fault.name(), order);
    let done = rig.upgrade(&["--deadline", "30s"]);
    let Some(strike) = crashes.strike_within(COMES_BY) else {
        done.expect_code(0);
        return End::Unreached;
    };
    wait_gone(strike.pid);
    let runs: Vec<u32> = rig.instances().into_iter().filter(|pid| alive(*pid)).collect();

    let mut adopted = None;
    if point.role() == "S" {
        // a signal leaves no code
        assert_eq!(rig.wait_supervisor(), (fault == Fault::Exit).then_some(1));
        // done may have been said before the end
        assert!(matches!(done.code, Some(12 | 0)), "{done:?}");
        assert!(done.took < Duration::from_secs(10), "an operator is told at once: {done:?}");
        let restarted = monotonic();
        rig.spawn_supervisor();
        wait_adopted(&rig);
        adopted = Some(monotonic() - restarted);
    }
    assert!(load.wait_for(20, PATIENCE), "nothing is answered any more\n{}", rig.log());
    let deadline = Instant::now() + PATIENCE;
    rig.wait_until_settled();
    // the supervisor may not have heard of the death yet
    while !alive(rig.server_pid()) {
        assert!(Instant::now() < deadline, "a dead server serves\n{}", rig.log());
        rig.wait_until_settled();
    }
    load.let_go();

    let server = rig.server_pid();
    if point.role() == "S" {
        assert!(
            runs.contains(&server),
            "the running server is taken over: {server} of {runs:?}\n{}",
            rig.log()
        );
    }
    let new = crashes.trace().into_iter().find(|hit| hit.point.starts_with("N."));
    let served_by = match server {
        pid if pid == old => "O",
        pid if new.is_some_and(|hit| hit.pid == pid) => "N",
        _ => "X",
    };
    settled(&rig, &crashes, &done, &claimed);
    // L4: nothing that an abort left is in the way of the next one
    let claimed = leftovers::claims(&rig);
    rig.upgrade_commits();
    rig.wait_until_settled();
    let (tally, probes) = (load.finish(), prober.finish());
    settled(&rig, &crashes, &done, &claimed);

    tally.assert_nothing_lost();
    connected(&probes, &rig);
    assert_eq!(tally.refused, 0, "somebody held the listener all the time: {tally}");
    if !path.costs(point, strike.pid, old) {
        tally.assert_clean();
        assert!(probes.unanswered.is_empty(), "{:?}\n{}", probes.unanswered, rig.log());
    }
    let answer = probes.first_after(strike.at).expect("somebody was answered");
    End::Held(Report { answer, adopted, code: done.code, served_by })
}

/// Waits until a new supervisor knows who serves.
fn wait_adopted(rig: &Rig) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = operator_asks(&rig.run_dir.join("control.sock"), r#"{"op":"status"}"#);
        match status {
            Ok(answer) if !answer["status"]["server"]["pid"].is_null() => return,
            _ => assert!(Instant::now() < deadline, "nothing was adopted: {status:?}\n{}", rig.log()),
        }
    }
}

/// One question on the operator socket: cheaper than a process for each.
fn operator_asks(socket: &std::path::Path, request: &str) -> std::io::Result<serde_json::Value> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    writeln!(stream, "{request}")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

/// Connecting always succeeds: S, O, N or X holds the listener.
fn connected(probes: &Probes, rig: &Rig) {
    assert!(probes.unconnected.is_empty(), "{:?}\n{}", probes.unconnected, rig.log());
}

/// What must hold when nothing is open any more.
fn settled(rig: &Rig, crashes: &Crashes, done: &Finished, claimed_before: &leftovers::Claimed) {
    let told = || format!("{}{}\n{}", done.stdout, done.stderr, rig.log());
    // L1: one server, and it answers
    rig.status().expect_code(0);
    let server = rig.server_pid();
    assert_eq!(
        rig.instances().into_iter().collect::<Vec<_>>(),
        [server],
        "one server and nothing else\n{}",
        told()
    );
    let answer = Client::connect(rig.addr.into()).and_then(|mut client| client.ask("PING"));
    assert!(answer.is_ok(), "{answer:?}\n{}", told());
    // I1, I4: who may write, by the claims; who wrote, by the log
    let claimed = leftovers::claims(rig);
    claimed.follows(claimed_before);
    assert_eq!(
        claimed.owner_pid(),
        Some(server),
        "the highest claim names who serves: {claimed:?}\n{}",
        told()
    );
    let stamps = stamps(&rig.data_dir);
    assert!(!stamps.is_empty(), "no records: nothing was tested");
    assert_eq!(contradictions(&stamps), Vec::<String>::new(), "{}", told());
    claimed.cover(&stamps);
    // I7
    let left = leftovers::found(rig, &claimed);
    assert!(left.is_empty(), "left behind: {left:?}\n{}", told());
    assert!(crashes.strike().is_some());
}
