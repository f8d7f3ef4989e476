//! Orders from the face and from operators, and how they end.

use super::builds::{keep, sync};
use super::instance::{Instance, News};
use super::kept_canary;
use super::options::SpawnSpec;
use super::orders::{Aborted, Child, Done, Order, PhaseEvent, Refusal, Serving, Wanted};
use super::place::Place;
use super::preflight::Executable;
use super::progress::Progress;
use super::report::{HandoffReport, InstanceReport, LastHandoff};
use super::spawn::Build;
use super::world::{Beat, World};
use crate::error::{Error, Result};
use crate::ids::{HandoffId, InstanceId};
use crate::journal::Record;
use crate::machine::{Command, Ended, Input, Outcome, Step, Upgrade, Way};
use crate::phase::Phase;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Where an upgrade is answered.
pub(super) type Reply = oneshot::Sender<std::result::Result<Box<Done>, Refusal>>;

/// An upgrade that was asked for and is not answered.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) handoff: HandoffId,
    pub(super) successor: InstanceId,
    pub(super) phases: mpsc::UnboundedSender<PhaseEvent>,
    pub(super) reply: Reply,
    pub(super) spec: SpawnSpec,
    pub(super) way: Way,
    /// Which build it goes back to, where an operator named one.
    pub(super) to: Option<String>,
    since: Instant,
    stage: Stage,
    /// What is started, once it is checked.
    pub(super) build: Option<Arc<Build>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Something else is open: a recovery, a cold start.
    Waiting,
    /// The preflight runs.
    Checking,
    /// The machine has it.
    Open,
}

/// A `start` that is not answered.
#[derive(Debug)]
pub(super) struct Starting {
    program: PathBuf,
    reply: oneshot::Sender<Result<Serving>>,
}

impl World {
    pub(super) fn ordered(&mut self, order: Order) {
        match order {
            Order::Start { spec, reply } => self.start(spec, reply),
            Order::Upgrade { wanted, phases, reply } => self.upgrade(wanted, phases, reply),
            Order::Abort { reply } => {
                let answer = self.abort();
                let _ = reply.send(answer);
            }
            Order::Status { reply } => {
                let _ = reply.send(Box::new(self.status()));
            }
            Order::Replace { binary, client, reply } => self.replace(binary, client, reply),
            Order::Quiet { reply } => self.when_quiet(reply),
            Order::Stop { grace, reply } => {
                if !self.stop.is_empty() {
                    self.hurry(grace);
                }
                self.stop.push(reply);
                self.grace = grace;
                self.inputs.push_back(Input::Command(Command::Stop));
            }
        }
    }

    /// Asked to stop once more: what is being ended gets no more time than this from now on.
    fn hurry(&self, grace: Duration) {
        let slots = self.incumbent.iter().chain(&self.successor).chain(self.retiring.values());
        slots.for_each(|instance| instance.hurry(grace));
    }

    fn start(&mut self, spec: SpawnSpec, reply: oneshot::Sender<Result<Serving>>) {
        let program = spec.binary.clone();
        if self.starting.is_some() {
            let why = "another start is under way".to_owned();
            return drop(reply.send(Err(Error::NotServing { program, why })));
        }
        let build = spec
            .check()
            .and_then(|()| {
                let not = |why| Error::NotServing { program: program.clone(), why };
                Executable::open(&spec.resolve().map_err(not)?).map_err(not)
            })
            .map(|executable| Arc::new(Build { executable, spec }));
        let build = match build {
            Ok(build) => build,
            Err(error) => return drop(reply.send(Err(error))),
        };
        self.configured = Some(Arc::clone(&build));
        self.starting = Some(Starting { program, reply });
        let view = self.window.look();
        if view.failed.is_some() {
            self.last_exit = None;
            self.inputs.push_back(Input::Command(Command::Start));
        } else if view.state == "Empty" {
            // what it is, its own claim will say: it is read before it is started
            let (builds, tell) = (Arc::clone(&self.site.builds), self.tell.clone());
            tokio::task::spawn_blocking(move || {
                let mut build = (*build).clone();
                let kept = build.executable.keep(&builds).map(|()| Arc::new(build));
                let _ = tell.send(News::Configured(kept));
            });
        } else {
            self.keep_adopted(&build);
        }
    }

    pub(super) fn configured(&mut self, build: std::result::Result<Arc<Build>, String>) {
        match build {
            Ok(build) => self.configured = Some(build),
            // its start says the same
            Err(why) => tracing::warn!(why, "the program was not read"),
        }
        self.last_exit = None;
        self.inputs.push_back(Input::Command(Command::Start));
    }

    fn upgrade(&mut self, wanted: Wanted, phases: mpsc::UnboundedSender<PhaseEvent>, reply: Reply) {
        let open = self.ask.as_ref().map(|ask| ask.handoff);
        if let Some(open) = open.or(self.waiting.as_ref().and_then(|_| self.window.look().handoff)) {
            return drop(reply.send(Err(Refusal::Busy(open))));
        }
        let back = matches!(wanted, Wanted::Back { .. });
        let to = if let Wanted::Back { to, .. } = &wanted { to.clone() } else { None };
        let spec = match self.spec_of(wanted) {
            Ok(spec) => spec,
            Err(error) => return drop(reply.send(Err(Refusal::Error(error)))),
        };
        let way = match (back, spec.one_way) {
            (true, _) => Way::Back,
            (false, true) => Way::OneWay,
            (false, false) => Way::Forward,
        };
        self.take(spec, way, phases, reply);
        if let Some(ask) = &mut self.ask {
            ask.to = to;
        }
    }

    /// From here it is the upgrade that is open.
    pub(super) fn take(
        &mut self,
        spec: SpawnSpec,
        way: Way,
        phases: mpsc::UnboundedSender<PhaseEvent>,
        reply: Reply,
    ) {
        let since = Instant::now();
        let handoff = HandoffId(uuid::Uuid::now_v7().as_u128());
        self.beats.arm(Beat::Upgrade, spec.deadline);
        let successor = InstanceId(uuid::Uuid::new_v4().as_u128());
        let stage = Stage::Waiting;
        let (to, build) = (None, None);
        self.ask = Some(Ask { handoff, successor, phases, reply, spec, way, to, since, stage, build });
    }

    fn spec_of(&self, wanted: Wanted) -> Result<SpawnSpec> {
        let spec = match wanted {
            Wanted::Spec(spec) => spec,
            Wanted::Operator { binary, times, probation, one_way, wait, canary } => {
                let unknown = || Error::Invalid("no program is configured: start one first".to_owned());
                let configured = self.configured.as_ref().ok_or_else(unknown)?;
                let mut spec = configured.spec.clone();
                if let Some(binary) = binary {
                    spec.binary = binary;
                }
                spec.canary = canary;
                spec.probation(probation).one_way(one_way).wait_probation(wait).within(times)
            }
            // which program that is, is found out
            Wanted::Back { times, .. } => SpawnSpec::new("").within(times),
        };
        spec.check()?;
        Ok(spec)
    }

    fn abort(&mut self) -> Aborted {
        let view = self.window.look();
        match (&self.ask, view.handoff) {
            (Some(ask), _) if ask.stage != Stage::Open => {
                let handoff = ask.handoff;
                self.refuse("aborted by the operator before it began".to_owned());
                Aborted::Aborting(handoff)
            }
            (_, Some(handoff)) if view.abort_possible => {
                self.inputs.push_back(Input::Command(Command::Abort));
                Aborted::Aborting(handoff)
            }
            (_, Some(_)) => {
                let why = "too late: the successor may have claimed already, or the end is being found out";
                Aborted::Nothing(why.to_owned())
            }
            (_, None) if view.probation.is_some() => {
                let why =
                    "no handoff is open: the last one has committed; `handoffctl rollback` goes back from it";
                Aborted::Nothing(why.to_owned())
            }
            (_, None) => Aborted::Nothing("no handoff is open".to_owned()),
        }
    }

    /// What the machine's last step made possible.
    pub(super) fn settle(&mut self) {
        self.settle_guest();
        if self.starting.is_none() && self.ask.is_none() && self.waiting.is_none() {
            return;
        }
        let view = self.window.look();
        self.settle_probation(&view);
        if let Some(starting) = self.starting.take() {
            let child = self.incumbent.as_ref().and_then(child_of);
            if let (true, Some((_, epoch)), Some(child)) = (view.upgrade_possible, view.serving, child) {
                let _ = starting.reply.send(Ok(Serving { child, epoch }));
            } else if let Some(failed) = &view.failed
                && self.inputs.is_empty()
            {
                let why = format!("{failed}{}", self.last_exit());
                let error = Error::NotServing { program: starting.program, why };
                let _ = starting.reply.send(Err(error));
            } else {
                self.starting = Some(starting);
            }
        }
        let Some(ask) = &self.ask else { return };
        if ask.stage != Stage::Waiting {
            return;
        }
        if view.upgrade_possible || (ask.way == Way::Back && view.turning) {
            self.check();
        } else if ask.way == Way::Back {
            // what is open will decide who serves: that is what could be gone back from
            let state = view.state.to_lowercase();
            self.refuse(format!("not now ({state}): ask `handoffctl status`, and again when that has ended"));
        } else if let Some(failed) = view.failed {
            self.refuse(format!("no server serves: {failed}; start one first"));
        } else if ask.since.elapsed() >= ask.spec.deadline {
            let state = view.state.to_lowercase();
            self.refuse(format!("the deadline is over; awaited the end of what is open ({state})"));
        }
    }

    /// How the last process of a cold start ended, to be added to a sentence.
    pub(super) fn last_exit(&self) -> String {
        self.last_exit.as_ref().map_or_else(String::new, |exit| format!(" ({exit})"))
    }

    /// The preflight looks at files: in a thread of its own, so that a slow disk holds nobody.
    fn check(&mut self) {
        let place = Place {
            claims: self.site.claims.clone(),
            data: self.site.data_dir.clone(),
            incumbent: self.incumbent.as_ref().and_then(|incumbent| incumbent.pid),
            serving: self.incumbent.as_ref().map(|incumbent| incumbent.id),
            listeners: self.site.listeners.clone(),
            freeze: self.ask.as_ref().map_or(Duration::ZERO, |ask| ask.spec.freeze_budget),
            arrivals: self.arrivals.rate().filter(|_| self.site.data_dir.is_some()),
        };
        let Some(ask) = &mut self.ask else { return };
        ask.stage = Stage::Checking;
        let (handoff, successor, spec, tell) =
            (ask.handoff, ask.successor, ask.spec.clone(), self.tell.clone());
        let (builds, run) = (Arc::clone(&self.site.builds), self.site.run.clone());
        if ask.way == Way::Back {
            return self.check_back(place);
        }
        tokio::task::spawn_blocking(move || {
            let checked = spec.resolve().and_then(|path| Executable::open(&path));
            let (placed, mut warnings) = place.judged();
            let checked = checked.and_then(|executable| placed.map(|()| executable));
            let checked = checked.and_then(|executable| match &spec.canary {
                Some(canary) => {
                    canary.check_program()?;
                    // without it the upgrade is none the worse
                    warnings.extend(kept_canary::keep(&run, handoff, canary).err());
                    Ok(executable)
                }
                None => Ok(executable),
            });
            let checked = checked
                .and_then(|executable| keep(&builds, successor, &Build { executable, spec }))
                .map(Arc::new);
            let _ = tell.send(News::Checked(handoff, checked.clone(), warnings));
            if let Ok(build) = checked {
                sync(&builds, &build);
            }
        });
    }

    pub(super) fn checked(
        &mut self,
        handoff: HandoffId,
        checked: std::result::Result<Arc<Build>, String>,
        warnings: Vec<String>,
    ) {
        let view = self.window.look();
        let Some(ask) =
            self.ask.as_mut().filter(|ask| ask.handoff == handoff && ask.stage == Stage::Checking)
        else {
            return;
        };
        let build = match checked {
            Ok(build) => build,
            Err(reason) => return self.refuse(reason),
        };
        let possible = view.upgrade_possible || (ask.way == Way::Back && view.turning);
        if !possible || !self.inputs.is_empty() {
            ask.stage = Stage::Waiting;
            return;
        }
        let left = ask.spec.deadline.saturating_sub(ask.since.elapsed());
        if left.is_zero() {
            return self.refuse("the deadline is over; awaited the preflight".to_owned());
        }
        ask.stage = Stage::Open;
        self.beats.disarm(Beat::Upgrade);
        let command = Upgrade {
            handoff,
            successor: ask.successor,
            deadline: left,
            drain_grace: ask.spec.drain_grace,
            freeze_budget: ask.spec.freeze_budget,
            probation: ask.spec.probation,
            canary: ask.spec.canary.is_some(),
            way: ask.way,
        };
        let new = InstanceReport {
            executable: Some(build.executable.path.display().to_string()),
            instance: Some(ask.successor.to_string()),
            ..InstanceReport::default()
        };
        ask.build = Some(build);
        // one that goes back has none, and if it is aborted the probation goes on with its own
        if ask.way != Way::Back {
            self.attempts.canary.clone_from(&ask.spec.canary);
        }
        let old = self.incumbent.as_ref().map(Instance::report).unwrap_or_default();
        for warning in &warnings {
            tracing::warn!(%handoff, warning, "preflight");
        }
        self.progress = Some(Progress::new(handoff, old, new, ask.since).warned(warnings));
        self.inputs.push_back(Input::Command(Command::Upgrade(command)));
    }

    /// Ends an upgrade that never became a handoff.
    pub(super) fn refuse(&mut self, reason: String) {
        self.beats.disarm(Beat::Upgrade);
        let Some(ask) = self.ask.take() else { return };
        self.tidy_canaries();
        tracing::info!(target: "handoff.abort", handoff = %ask.handoff, reason, "preflight failed");
        let view = self.window.look();
        if ask.way == Way::Back && view.turning {
            // the machine waits for it
            self.inputs.push_back(Input::Failed(Step::TurnBack, reason.clone()));
        }
        let report = HandoffReport {
            epoch: view.serving.map(|(_, epoch)| epoch.0),
            old: self.incumbent.as_ref().map(Instance::report),
            ..Progress::nothing(reason)
        };
        let _ = ask.reply.send(Ok(Box::new(Done { report, child: None })));
    }

    /// The machine says how the open handoff ended.
    pub(super) async fn finish(&mut self, ended: Ended) {
        let now = Instant::now();
        let committed = matches!(ended.outcome, Outcome::Committed | Outcome::RolledBack);
        if committed {
            self.show(Phase::Active, now);
        } else {
            let reason = ended.reason.as_deref().unwrap_or_default();
            tracing::info!(target: "handoff.abort", handoff = %ended.handoff, outcome = ?ended.outcome, reason);
        }
        let progress = self.progress.take().filter(|progress| progress.handoff == ended.handoff);
        let progress = progress.unwrap_or_else(|| {
            let of = |slot: &Option<Instance>| slot.as_ref().map(Instance::report).unwrap_or_default();
            Progress::new(ended.handoff, of(&self.incumbent), of(&self.successor), now)
        });
        let mut report = progress.end(&ended, now);
        if ended.outcome != Outcome::Committed && report.new.as_ref().is_none_or(|new| new.instance.is_none())
        {
            // started from disk
            report.new = self.incumbent.as_ref().map(Instance::report);
        }
        let (handoff_id, outcome, reason) = (ended.handoff.to_string(), ended.outcome, report.reason.clone());
        self.last = Some(LastHandoff { handoff_id, outcome, reason });
        match serde_json::to_string(&report) {
            // a report is history: persist fails for nothing that is not essential
            Ok(json) => drop(self.persist(Record::Report { handoff: ended.handoff, json }).await),
            Err(error) => tracing::error!(%error, "report"),
        }
        let child = self.incumbent.as_ref().filter(|_| committed).and_then(child_of);
        let ask = self.ask.take_if(|ask| ask.handoff == ended.handoff);
        self.answer(&ended, ask, Done { report, child });
    }

    /// Answers everybody who still waits, when the loop has ended.
    pub(super) fn farewell(&mut self) {
        if let Some(ask) = self.ask.take() {
            let _ = ask.reply.send(Err(Refusal::Error(Error::Stopped)));
        }
        self.waiting = None;
        if let Some(starting) = self.starting.take() {
            let _ = starting.reply.send(Err(Error::Stopped));
        }
        for reply in self.stop.drain(..) {
            let _ = reply.send(());
        }
    }

    /// The build of the upgrade that is open.
    pub(super) fn wanted(&self) -> Option<Arc<Build>> {
        self.ask.as_ref().and_then(|ask| ask.build.clone())
    }
}

fn child_of(instance: &Instance) -> Option<Child> {
    Some(Child { instance: instance.id, pid: instance.pid?, pidfd: instance.pidfd.clone()? })
}

/// Time that a stopping supervisor gives its servers when nobody named another.
pub(super) const GRACE: Duration = crate::machine::times::STOP;
