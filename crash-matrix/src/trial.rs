//! One cell: one rig, one upgrade under load, one or two faults. The harness is also the operator and the service
//! manager: it ends what stands still for ever and starts a supervisor that is dead.

use crate::cell::{Cell, Fault, Policy, Workload};
use crate::evidence::{Evidence, Locks, Snapshot, asks, pace};
use crate::points::Points;
use handoff_tests::bins::{Build, Programs};
use handoff_tests::crashes::{Crashes, Hit, Order, Point, monotonic, points};
use handoff_tests::load::{Load, Plan};
use handoff_tests::prober::Prober;
use handoff_tests::rig::{Finished, Rig, Setup, UNHURRIED, alive, finish, wait_gone};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How a cell ended.
#[derive(Debug)]
pub(crate) enum Trial {
    /// It struck.
    Struck(Box<Evidence>),
    /// Nobody came by, and what the upgrade came to instead.
    Unreached(String),
}

/// How a cell is tried.
#[derive(Clone, Debug, Default)]
pub(crate) struct How {
    /// A bug on purpose.
    pub(crate) plant: Option<String>,
    /// Leave everything where it is.
    pub(crate) keep: bool,
}

/// The longest that a process may need to come by a point after the upgrade's end (what a leaving server does).
const COMES_BY: Duration = Duration::from_secs(3);
/// Everything is over by then, or never.
pub(crate) const SETTLES: Duration = Duration::from_secs(60);
/// The lease and the freeze budget of the scaled protocol: whoever waits for somebody who stands still has decided.
const DECIDED: Duration = Duration::from_millis(2000);

/// Without it, the clients of a few cells take all that the machine has; each of them still asks a hundred times a second.
const PAUSE: Duration = Duration::from_millis(5);

pub(crate) fn plan(workload: Workload) -> Plan {
    let library = if workload == Workload::Library { 2 } else { 0 };
    Plan {
        busy: 2 - library.min(1),
        library,
        shared: 8,
        idle: 2,
        subscribers: 1,
        half: 2,
        pause: PAUSE,
        ..Plan::default()
    }
}

pub(crate) fn setup(crashes: &Crashes, scale: u32, [s, o, n]: [u8; 3], plant: Option<&str>) -> Setup {
    let setup = Setup::new(Programs::of(Build::Crash))
        .supervisor_env("HANDOFF_TIME_SCALE", &scale.to_string())
        .supervisor_env("HANDOFF_SPEAK", &format!("{s}-{o}-{n}"));
    let setup = plant.iter().fold(setup, |setup, plant| setup.supervisor_env("HANDOFF_PLANT", plant));
    crashes.env().iter().fold(setup, |setup, (key, value)| setup.supervisor_env(key, value))
}

/// The points that an upgrade under load comes by when nobody dies.
pub(crate) fn recording(order: Order) -> Vec<Point> {
    let crashes = Crashes::new();
    let rig = setup(&crashes, 100, [1, 1, 1], None).start();
    let mut load = Load::start(rig.addr, plan(Workload::Load));
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

/// An operator's upgrade, while we look elsewhere.
#[derive(Debug)]
struct Upgrade(mpsc::Receiver<Finished>);

impl Upgrade {
    fn begin(rig: &Rig, cell: &Cell, plant: Option<&str>) -> Upgrade {
        // as they count: a quarter
        let hurried = ["--deadline", "24s", "--freeze-budget", "4s", "--drain-grace", "4s"];
        let calm = ["--deadline", "30s", "--freeze-budget", "4s"];
        let times: &[&str] = if cell.time_scale() < 100 { &hurried } else { &calm };
        let mut command =
            rig.ctl_command("upgrade", &[&["--format", "json", "--probation", "0s"], times].concat());
        command.envs(plant.map(|plant| ("HANDOFF_PLANT", plant)));
        let (ended, end) = mpsc::channel();
        std::thread::spawn(move || ended.send(finish(&mut command)));
        Upgrade(end)
    }
}

/// Tries a cell once.
pub(crate) fn run(cell: &Cell, points: &Points, how: &How) -> Trial {
    let crashes = Crashes::new();
    let plant = how.plant.as_deref();
    let mut rig = setup(&crashes, cell.time_scale(), cell.versions, plant).start();
    if how.keep {
        println!("kept: {}", rig.keep().display());
    }
    let mut load = Load::start(rig.addr, plan(cell.workload));
    let (prober, locks) = (Prober::start(rig.addr), Locks::watch(&rig));
    load.hold_back();
    let before = Snapshot::take(&rig);
    let old = rig.server_pid();

    let actions: Vec<String> = cell.strikes().map(|strike| strike.fault.action()).collect();
    let armed: Vec<(&Point, &str)> =
        cell.strikes().zip(&actions).map(|(strike, action)| (&strike.point, action.as_str())).collect();
    crashes.arm_each(&armed, points.order(&cell.first.point));
    let upgrade = Upgrade::begin(&rig, cell, plant);
    let mut tender = Tender::new(cell, &mut rig, &crashes, &load, upgrade);
    let struck = tender.await_strike();
    tender.tend();
    let Tender { done, adopted, mut late, killed, socket, orphaned, .. } = tender;
    let strikes = crashes.strikes();
    let short = |done: &Option<Finished>| {
        done.as_ref().map_or("no end".into(), |d| format!("{:?} {}", d.code, d.stdout))
    };
    // a second fault may come after everything else: then it is looked for in the next upgrade, which is clean
    if !struck || strikes.len() < cell.strikes().count() {
        let still = crashes.disarm();
        return Trial::Unreached(format!("armed: {still}; {}", short(&done)));
    }
    let strike = strikes[0].clone();
    load.let_go();

    let settled = monotonic();
    let middle = Snapshot::take(&rig);
    let served_by = match middle.server {
        Some(pid) if pid == old => "O",
        Some(pid) if crashes.trace().iter().any(|hit| hit.pid == pid && hit.point.starts_with("N.")) => "N",
        _ => "X",
    };
    // L4: nothing that an abort left is in the way of the next one, however long its freeze takes on a busy machine
    let unhurried = [&["--format", "json", "--probation", "0s"], UNHURRIED].concat();
    let mut command = rig.ctl_command("upgrade", &unhurried);
    command.envs(plant.map(|plant| ("HANDOFF_PLANT", plant)));
    let again = finish(&mut command);
    if !rested(&rig, &socket, Instant::now() + SETTLES) {
        late.push(("O11", "nothing is at rest after a clean upgrade".into()));
    }
    let end = Snapshot::take(&rig).let_pass(&rig, &before);
    let (tally, probes, locks) = (load.finish(), prober.finish(), locks.finish());
    let exempt = is_exempt(&strikes, cell, points, old, &killed, middle.server, done.as_ref());
    let answer = probes.first_after(strike.at);
    let trace = crashes.trace();
    Trial::Struck(Box::new(Evidence {
        cell: cell.clone(),
        struck_was_ended: killed.contains(&strike.pid),
        strike,
        settled,
        exempt: exempt || orphaned,
        orphaned,
        done,
        before,
        middle,
        end,
        again,
        tally,
        probes,
        locks,
        trace,
        answer,
        adopted,
        served_by,
        late,
    }))
}

/// Whether clients may have lost what was under way: a server died that was the only one. Where a process lives on
/// after its fault, it died only if it was ended or nothing was committed; a retired server is no dead one.
fn is_exempt(
    strikes: &[Hit],
    cell: &Cell,
    points: &Points,
    old: u32,
    killed: &BTreeSet<u32>,
    server: Option<u32>,
    done: Option<&Finished>,
) -> bool {
    let committed = done.is_some_and(|done| done.code == Some(0));
    let mut servers = strikes.iter().zip(cell.strikes()).filter(|(_, strike)| strike.point.role() != "S");
    servers.any(|(hit, strike)| {
        let died =
            strike.fault.is_death() || killed.contains(&hit.pid) || server != Some(hit.pid) && !committed;
        died && (cell.second.is_some() || points.costs(&strike.point, hit.pid == old))
    })
}

/// Operator and service manager of one cell.
struct Tender<'a> {
    cell: &'a Cell,
    rig: &'a mut Rig,
    crashes: &'a Crashes,
    load: &'a Load,
    upgrade: Upgrade,
    socket: PathBuf,
    done: Option<Finished>,
    /// When the new supervisor was started.
    restarted: Option<Duration>,
    adopted: Option<Duration>,
    late: Vec<(&'static str, String)>,
    /// Whom we ended.
    killed: BTreeSet<u32>,
    continued: BTreeSet<u32>,
    /// For a moment nobody lived who held the listener.
    orphaned: bool,
}

impl<'a> Tender<'a> {
    fn new(cell: &'a Cell, rig: &'a mut Rig, crashes: &'a Crashes, load: &'a Load, upgrade: Upgrade) -> Self {
        let socket = rig.socket();
        Tender {
            cell,
            rig,
            crashes,
            load,
            upgrade,
            socket,
            done: None,
            restarted: None,
            adopted: None,
            late: Vec::new(),
            killed: BTreeSet::new(),
            continued: BTreeSet::new(),
            orphaned: false,
        }
    }

    /// False: the upgrade is over, and nobody came by.
    fn await_strike(&mut self) -> bool {
        let deadline = Instant::now() + SETTLES;
        let mut over: Option<Instant> = None;
        while self.crashes.strike().is_none() {
            self.hear();
            if self.done.is_some() {
                over.get_or_insert_with(Instant::now);
            }
            if over.is_some_and(|at| at.elapsed() > COMES_BY) || Instant::now() > deadline {
                return false;
            }
            pace();
        }
        true
    }

    fn hear(&mut self) {
        if let Ok(done) = self.upgrade.0.try_recv() {
            self.done = Some(done);
        }
    }

    /// Until everything is at rest.
    fn tend(&mut self) {
        let deadline = Instant::now() + SETTLES;
        loop {
            self.hear();
            self.attend_to_strikes();
            self.attend_to_listener();
            self.attend_to_supervisor();
            if self.adopted.is_none()
                && let Some(restarted) = self.restarted
                && serves(&self.socket).is_some()
            {
                self.adopted = Some(monotonic() - restarted);
            }
            let over = self.done.is_some() && alive(self.rig.supervisor_pid()) && !self.standing_still();
            if over && at_rest(self.rig, &self.socket) {
                break;
            }
            if Instant::now() > deadline {
                self.late.push(("O10", format!("not at rest after {SETTLES:?}: {:?}", serves(&self.socket))));
                return;
            }
            pace();
        }
        if !self.load.wait_for(20, SETTLES) {
            self.late.push(("O8", "nothing is answered any more".into()));
        }
    }

    fn strikes(&self) -> Vec<(Hit, Fault)> {
        self.crashes.strikes().into_iter().zip(self.cell.strikes().map(|strike| strike.fault)).collect()
    }

    /// Somebody was stopped, and it is not over yet.
    fn standing_still(&self) -> bool {
        self.strikes().iter().any(|(hit, fault)| {
            matches!(fault, Fault::Stop | Fault::Cont) && alive(hit.pid) && !self.continued.contains(&hit.pid)
        })
    }

    fn attend_to_strikes(&mut self) {
        for (hit, fault) in self.strikes() {
            if fault.is_death() || !matches!(fault, Fault::Stop | Fault::Cont) || !alive(hit.pid) {
                continue;
            }
            let supervisor = hit.point.starts_with("S.");
            let decided = monotonic() > hit.at + DECIDED && (supervisor || self.done.is_some());
            if !decided || self.continued.contains(&hit.pid) || self.killed.contains(&hit.pid) {
                continue;
            }
            // without a supervisor a server has to serve on (L2), unless it was struck, too
            let alone = self.strikes().iter().all(|(hit, _)| hit.point.starts_with("S."));
            if supervisor && alone && !self.load.wait_for(20, SETTLES) {
                self.late.push(("O8", "nothing is answered while the supervisor stands still".into()));
            }
            let pid = Pid::from_raw(i32::try_from(hit.pid).expect("a pid"));
            if fault == Fault::Cont {
                self.continued.insert(hit.pid);
                // ended meanwhile by whoever decided
                let _ = kill(pid, Signal::SIGCONT);
            } else if supervisor || serves(&self.socket) == Some(hit.pid) {
                self.killed.insert(hit.pid);
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
    }

    /// I6: a listener lives as long as any of S, O, N, X. Two deaths may leave none, or only a supervisor that was just
    /// started and has not been given it.
    fn attend_to_listener(&mut self) {
        let empty_handed =
            !alive(self.rig.supervisor_pid()) || self.restarted.is_some() && self.adopted.is_none();
        if self.cell.second.is_some() && empty_handed && !self.rig.instances().iter().any(|pid| alive(*pid)) {
            self.orphaned = true;
        }
    }

    /// What a service manager does.
    fn attend_to_supervisor(&mut self) {
        if alive(self.rig.supervisor_pid()) {
            return;
        }
        if self.cell.policy == Policy::Never && self.restarted.is_none() {
            self.alone();
        }
        self.rig.wait_supervisor();
        self.restarted = Some(monotonic());
        self.adopted = None;
        self.rig.launch_supervisor();
    }

    /// L2: nobody starts the supervisor again, and yet one server serves in the end and the others are gone.
    fn alone(&mut self) {
        let deadline = Instant::now() + SETTLES;
        while self.rig.instances().iter().filter(|pid| alive(**pid)).count() != 1 {
            if Instant::now() > deadline {
                let all = self.rig.instances();
                self.late.push(("O8", format!("without a supervisor there are the servers {all:?}")));
                return;
            }
            pace();
        }
        if !self.load.wait_for(20, SETTLES) {
            self.late.push(("O8", "nothing is answered without a supervisor".into()));
        }
    }
}

/// The server that the supervisor says serves.
fn serves(socket: &std::path::Path) -> Option<u32> {
    let answer = asks(socket, r#"{"op":"status"}"#).ok()?;
    u32::try_from(answer["status"]["server"]["pid"].as_u64()?).ok()
}

/// Nothing is open or leaving, and who serves lives.
fn at_rest(rig: &Rig, socket: &std::path::Path) -> bool {
    let Ok(answer) = asks(socket, r#"{"op":"status"}"#) else { return false };
    let status = &answer["status"];
    let server = status["server"]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    let retiring = status["retiring"].as_array().is_some_and(|all| !all.is_empty());
    let Some(server) = server.filter(|pid| alive(*pid)) else { return false };
    status["state"] == "serving"
        && status["handoff"].is_null()
        && !retiring
        && rig.instances() == BTreeSet::from([server])
}

fn rested(rig: &Rig, socket: &std::path::Path, deadline: Instant) -> bool {
    while !at_rest(rig, socket) {
        if Instant::now() > deadline {
            return false;
        }
        pace();
    }
    true
}
