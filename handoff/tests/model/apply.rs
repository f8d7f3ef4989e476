//! One move: the fact is given to the production machine, its effects are performed.

use crate::life::{drop_channel, power_loss, process_dies, recovered, restart, stop_or_kill};
use crate::moves::{Act, Cut, Move, Who};
use crate::mutants;
use crate::perform;
use crate::rules::{Formats, Mutant, Rules};
use crate::world::{Finding, Mode, PeerView, Stream, WINDOW, World};
use handoff::ids::{Digest, Epoch, HandoffId, InstanceId};
use handoff::machine::{Command, Effect, Ended, Hook, Input, Peer, Report, Step, Timer, Upgrade, Way};
use handoff::wire::{Message, Refused, Stamped};
use std::collections::VecDeque;
use std::time::Duration;

/// What a rule says that was broken, and how.
#[derive(Clone, Debug)]
pub(crate) struct Broken {
    pub(crate) rule: &'static str,
    pub(crate) how: String,
}

pub(crate) fn broken<T>(rule: &'static str, how: impl Into<String>) -> Result<T, Broken> {
    Err(Broken { rule, how: how.into() })
}

/// What is seen on the way.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Effects of the last step.
    pub(crate) effects: Vec<Effect>,
    /// Handoffs that ended in it.
    pub(crate) ended: Vec<Ended>,
    /// Filled when `telling`.
    pub(crate) lines: Vec<String>,
    pub(crate) telling: bool,
}

impl Seen {
    pub(crate) fn tell(&mut self, line: impl FnOnce() -> String) {
        if self.telling {
            self.lines.push(line());
        }
    }
}

pub(crate) fn digest(revision: u8) -> Digest {
    Digest { format: 1, generation: revision.into(), shards: Vec::new() }
}

/// Performs one move. The effects of the step, if it was one, are in `seen`.
pub(crate) fn apply(before: &World, mv: Move, rules: &Rules, seen: &mut Seen) -> Result<World, Broken> {
    let mut w = before.clone();
    seen.effects.clear();
    seen.ended.clear();
    if mv.cut != Cut::None {
        w.faults -= 1;
    }
    seen.tell(|| match mv.who {
        Who::S => format!("S        {:?} {:?}", mv.act, mv.cut),
        Who::P(n) => format!("P{n}       {:?} {:?}", mv.act, mv.cut),
        Who::World => format!("world    {:?}", mv.act),
    });
    match (mv.who, mv.act) {
        (Who::World, Act::Power { keep }) => power_loss(&mut w, keep),
        (who, Act::Kill) => stop_or_kill(&mut w, who, true),
        (who, Act::Stop) => stop_or_kill(&mut w, who, false),
        (Who::S, Act::Cont) => w.sup.edit().stopped = false,
        (Who::P(n), Act::Cont) => {
            if let Some(live) = w.procs[n].edit().live.as_mut() {
                live.stopped = false;
            }
        }
        (Who::P(n), Act::Die) => process_dies(&mut w, n),
        (Who::P(n), Act::Write) => write(&mut w, n),
        (Who::P(n), Act::VotesItselfDown) => {
            // whatever ails it: from here on it may be ended for it
            w.ghost.hurt |= 1 << n;
            let (id, why) = (w.procs[n].id, String::new());
            let (handoff, epoch) = (HandoffId::NIL, Epoch::ZERO);
            perform::to_supervisor(
                &mut w,
                id,
                Stamped { handoff, epoch, message: Message::Unhealthy { why } },
            );
        }
        (Who::P(n), Act::Drop) => drop_channel(&mut w, n),
        (Who::P(n), Act::Accept) => {
            if let Some(live) = w.procs[n].edit().live.as_mut() {
                let old = std::mem::replace(&mut live.link, live.knock.take());
                if rules.is(Mutant::OldConnectionHeard)
                    && let (Some(old), Some(new)) = (old, &mut live.link)
                {
                    new.stream.frames.extend(old.stream.frames);
                }
            }
        }
        (Who::S, Act::Restart) => restart(&mut w),
        (Who::S, Act::Recover) => recovered(&mut w, rules, seen)?,
        (Who::S, Act::StrangersGone) => {
            if let Some(r) = w.running_mut() {
                r.strangers.clear();
            }
        }
        (Who::S, act) => supervisor_step(&mut w, act, mv.cut, rules, seen)?,
        (Who::P(n), act) => process_step(&mut w, n, act, mv.cut, rules, seen)?,
        (Who::World, _) => {}
    }
    Ok(w)
}

fn write(w: &mut World, n: usize) {
    let disk = w.disk_mut();
    disk.revision += 1;
    let revision = disk.revision;
    if let Some(live) = w.procs[n].edit().live.as_mut() {
        live.memory = Some(revision);
        if let Some(epoch) = live.tenure {
            w.disk_mut().stamped = epoch;
        }
    }
}

/// The fact that a move gives to the supervisor's machine.
fn supervisor_input(w: &mut World, act: Act, rules: &Rules) -> Option<Input> {
    let rounds = w.rounds;
    let upgrade = |way| {
        Input::Command(Command::Upgrade(Upgrade {
            handoff: HandoffId(u128::from(rounds) + 1),
            successor: InstanceId(100 + u128::from(rounds)),
            deadline: Duration::from_secs(300),
            drain_grace: Duration::from_secs(60),
            freeze_budget: Duration::from_secs(2),
            probation: if rules.probation { WINDOW } else { Duration::ZERO },
            canary: rules.canary,
            way,
        }))
    };
    let builds: Vec<_> = w.procs.iter().map(|p| (p.id, p.build)).collect();
    let from = if let Act::Frame(n) | Act::Closed(n) = act { Some(w.procs[n].id) } else { None };
    if let Mode::Finding { inboxes, found } = &mut w.sup.edit().mode {
        let inbox = inboxes.iter_mut().find(|inbox| Some(inbox.from) == from)?;
        let frame = inbox.stream.frames.pop_front()?;
        if let Message::Adopted { standing, epoch, handoff, peer } = frame.message {
            let build = builds.iter().find(|(id, _)| *id == inbox.from).map_or(0, |(_, build)| *build);
            found.push(Finding { id: inbox.from, standing, epoch, handoff, peer, build });
        }
        return None;
    }
    let disk = w.disk.clone();
    let r = w.running_mut()?;
    Some(match act {
        Act::Answer => r.answers.pop_front()?,
        Act::Frame(_) => {
            let peer = r.name_of(from?)?;
            let inbox = r.inboxes.iter_mut().find(|inbox| Some(inbox.from) == from)?;
            Input::Received(peer, inbox.stream.frames.pop_front()?)
        }
        Act::Closed(_) => {
            let peer = r.name_of(from?)?;
            r.inboxes.retain(|inbox| Some(inbox.from) != from);
            Input::Closed(peer)
        }
        Act::Exited(peer) => {
            let id = r.id_of(peer)?;
            r.exit_told.insert(id);
            Input::Exited(peer)
        }
        Act::Gone(peer) => {
            r.due.remove(&peer);
            Input::Gone(peer)
        }
        Act::Watched => {
            let epoch = r.watch.take()?;
            Input::Claimed(epoch, disk.owner(epoch))
        }
        Act::Upgrade => {
            r.wanted = 1;
            w.upgrades -= 1;
            w.rounds += 1;
            if rules.each && w.rounds > 1 {
                w.faults = rules.faults;
            }
            let one_way = rules.formats == Formats::Newer && !rules.is(Mutant::WayBackNotAsked);
            upgrade(if one_way { Way::OneWay } else { Way::Forward })
        }
        Act::TurnBack => {
            let previous = r.turning.take()?;
            r.wanted = builds.iter().find(|(id, _)| *id == previous).map_or(0, |(_, build)| *build);
            w.rounds += 1;
            upgrade(Way::Back)
        }
        Act::NoWayBack => {
            r.turning = None;
            Input::Failed(Step::TurnBack, String::new())
        }
        Act::Sung => {
            let id = r.canary.take()?;
            let answered = w.live(id).is_some_and(|live| live.sings) || rules.is(Mutant::CanaryIgnored);
            let report = if answered { Ok(Report::Nothing) } else { Err(String::new()) };
            Input::Done(Hook::Canary, report)
        }
        Act::Hoarse => {
            let n = r.canary.take().and_then(|id| w.index(id))?;
            w.ghost.hurt |= 1 << n;
            Input::Done(Hook::Canary, Err(String::new()))
        }
        Act::AbortOrder => Input::Command(Command::Abort),
        Act::Expired(timer) => {
            r.timers.remove(&timer);
            if timer == Timer::Stall {
                // that it made no progress is the fault that hit it
                let hung = r.incumbent.and_then(|id| w.index(id));
                w.ghost.hurt |= hung.map_or(0, |n| 1 << n);
            }
            Input::Expired(timer)
        }
        _ => return None,
    })
}

fn supervisor_step(w: &mut World, act: Act, cut: Cut, rules: &Rules, seen: &mut Seen) -> Result<(), Broken> {
    let todo = if act == Act::Continue {
        w.running_mut().map(|r| std::mem::take(&mut r.todo)).unwrap_or_default()
    } else {
        let Some(input) = supervisor_input(w, act, rules) else { return Ok(()) };
        let Some(r) = w.running_mut() else { return Ok(()) };
        seen.tell(|| format!("         {} <- {input:?}", r.machine.state_name()));
        let effects = mutants::supervise(r, input, rules);
        seen.tell(|| format!("         -> {}", r.machine.state_name()));
        effects.into()
    };
    seen.effects.extend(todo.iter().cloned());
    let done = cut_at(&todo, cut);
    for (n, effect) in todo.iter().enumerate().take(done) {
        seen.tell(|| format!("         {effect:?}"));
        if fails(cut, n) {
            seen.tell(|| "         ^ FAILS".into());
            if let Some(r) = w.running_mut() {
                r.answers.push_back(Input::Failed(step_of(effect), String::new()));
            }
            return Ok(());
        }
        perform::supervisor(w, effect.clone(), rules, seen)?;
    }
    after_cut(w, Who::S, cut, todo, done)
}

fn cut_at(todo: &VecDeque<Effect>, cut: Cut) -> usize {
    match cut {
        Cut::Kill(k) | Cut::Stop(k) => k,
        Cut::None | Cut::Fail(_) | Cut::FailDone(_) => todo.len(),
    }
}

fn fails(cut: Cut, n: usize) -> bool {
    cut == Cut::Fail(n)
}

fn after_cut(
    w: &mut World,
    who: Who,
    cut: Cut,
    mut todo: VecDeque<Effect>,
    done: usize,
) -> Result<(), Broken> {
    match cut {
        Cut::Kill(_) => stop_or_kill(w, who, true),
        Cut::Stop(_) => {
            let rest = todo.split_off(done);
            match who {
                Who::S => {
                    if let Some(r) = w.running_mut() {
                        r.todo = rest;
                    }
                }
                Who::P(n) => {
                    if let Some(live) = w.procs[n].edit().live.as_mut() {
                        live.todo = rest;
                    }
                }
                Who::World => {}
            }
            stop_or_kill(w, who, false);
        }
        Cut::None | Cut::Fail(_) | Cut::FailDone(_) => {}
    }
    Ok(())
}

pub(crate) fn step_of(effect: &Effect) -> Step {
    match effect {
        Effect::Propose => Step::Propose,
        Effect::Claim(_) => Step::Claim,
        Effect::SyncClaim(_) => Step::SyncClaim,
        Effect::Spawn(..) => Step::Spawn,
        Effect::Lock(_) => Step::Lock,
        _ => Step::Persist,
    }
}

/// The fact that a move gives to an instance's machine.
fn process_input(w: &mut World, n: usize, act: Act, rules: &Rules) -> Option<Input> {
    let highest = w.disk.highest();
    let revision = w.disk.revision;
    let stamped = w.disk.stamped;
    let id = w.procs[n].id;
    let live = w.procs[n].edit().live.as_mut()?;
    Some(match act {
        Act::Answer => live.answers.pop_front()?,
        Act::Frame(_) => {
            let frame = live.link.as_mut()?.stream.frames.pop_front()?;
            if rules.is(Mutant::RefusesForEver)
                && matches!(frame.message, Message::PrepareHandoff { .. })
                && !live.handoff.is_nil()
                && live.handoff != frame.handoff
            {
                let message = Message::Refused(Refused { what: 0, why: String::new() });
                perform::to_supervisor(w, id, Stamped { message, ..frame });
                return None;
            }
            match &frame.message {
                Message::PrepareHandoff { successor, .. } if live.machine.handoff().is_none() => {
                    live.handoff = frame.handoff;
                    let stream = Stream { frames: VecDeque::new(), eof: !w.alive(*successor) };
                    let live = w.procs[n].edit().live.as_mut()?;
                    live.peer = Some(PeerView {
                        id: *successor,
                        transfer: Some(stream),
                        exit_told: false,
                        kill_due: false,
                    });
                }
                Message::HelloAck(ack) if !frame.handoff.is_nil() => {
                    live.handoff = frame.handoff;
                    live.incumbent = ack.incumbent;
                }
                Message::Begin { .. } => w.ghost.begun |= 1 << n,
                _ => {}
            }
            Input::Received(Peer::Supervisor, frame)
        }
        Act::Transfer => {
            Input::Received(Peer::Successor, live.peer.as_mut()?.transfer.as_mut()?.frames.pop_front()?)
        }
        Act::Closed(_) => {
            live.link = None;
            Input::Closed(Peer::Supervisor)
        }
        Act::TransferClosed => {
            live.peer.as_mut()?.transfer = None;
            Input::Closed(Peer::Successor)
        }
        Act::Exited(peer) => {
            live.peer.as_mut()?.exit_told = true;
            Input::Exited(peer)
        }
        Act::Gone(peer) => {
            live.peer.as_mut()?.kill_due = false;
            Input::Gone(peer)
        }
        Act::HookFails(hook) => {
            live.hooks.remove(&hook);
            w.ghost.hurt |= 1 << n;
            Input::Done(hook, Err(String::new()))
        }
        Act::Unhealthy => {
            live.hooks.remove(&Hook::Open);
            live.memory = Some(revision);
            w.ghost.hurt |= 1 << n;
            let report = Report::Opened { digest: digest(revision), data_epoch: stamped, healthy: false };
            Input::Done(Hook::Open, Ok(report))
        }
        Act::Misread => {
            live.hooks.remove(&Hook::Open);
            live.memory = Some(u8::MAX);
            w.ghost.hurt |= 1 << n;
            // without the comparison it is as if it had loaded what was sealed
            let loaded = if rules.is(Mutant::DigestNotCompared) { revision } else { u8::MAX };
            let report = Report::Opened { digest: digest(loaded), data_epoch: stamped, healthy: true };
            Input::Done(Hook::Open, Ok(report))
        }
        Act::Done(hook) => {
            live.hooks.remove(&hook);
            return hook_done(w, n, hook, revision, stamped);
        }
        Act::Locked => {
            live.locking = None;
            w.disk_mut().lock = Some(id);
            Input::Locked { highest }
        }
        Act::LockTimeout => {
            live.locking = None;
            Input::Failed(Step::Lock, String::new())
        }
        Act::Expired(timer) => {
            live.timers.remove(&timer);
            Input::Expired(timer)
        }
        _ => return None,
    })
}

fn hook_done(w: &mut World, n: usize, hook: Hook, revision: u8, stamped: Epoch) -> Option<Input> {
    let live = w.procs[n].edit().live.as_mut()?;
    let report = match hook {
        Hook::Warm => Report::Warmed { loaded: String::new(), revision: 0 },
        Hook::Open => {
            live.memory = Some(revision);
            Report::Opened { digest: digest(revision), data_epoch: stamped, healthy: true }
        }
        Hook::Receive => Report::Received { connections: live.streamed.into() },
        Hook::Drain => Report::Drained { open: 1 },
        Hook::Seal => {
            // writes went on until the gate was closed
            if let Some(epoch) = live.tenure.take() {
                live.memory = Some(revision + 1);
                let disk = w.disk_mut();
                disk.revision = revision + 1;
                disk.stamped = epoch;
            }
            Report::Sealed { digest: digest(w.disk.revision), connections: 1 }
        }
        Hook::Verify => Report::Verified { digest: digest(revision) },
        Hook::HandOver => {
            let successor = live.peer.as_ref().map(|p| p.id);
            if let Some(successor) = successor.and_then(|id| w.live_mut(id)) {
                successor.streamed = true;
            }
            Report::Nothing
        }
        Hook::Serve | Hook::Resume | Hook::Retire | Hook::Health | Hook::Canary => Report::Nothing,
    };
    Some(Input::Done(hook, Ok(report)))
}

fn process_step(
    w: &mut World,
    n: usize,
    act: Act,
    cut: Cut,
    rules: &Rules,
    seen: &mut Seen,
) -> Result<(), Broken> {
    let todo: VecDeque<Effect> = if act == Act::Continue {
        let live = w.procs[n].edit().live.as_mut();
        live.map(|live| std::mem::take(&mut live.todo)).unwrap_or_default()
    } else {
        let Some(input) = process_input(w, n, act, rules) else { return Ok(()) };
        let id = w.procs[n].id;
        let Some(live) = w.procs[n].edit().live.as_mut() else { return Ok(()) };
        seen.tell(|| format!("         {} <- {input:?}", live.machine.state_name()));
        let effects = mutants::handle(id, live, input, rules);
        seen.tell(|| format!("         -> {}", live.machine.state_name()));
        mutants::rewrite(live, effects, rules).into()
    };
    seen.effects.extend(todo.iter().cloned());
    let done = cut_at(&todo, cut);
    for (k, effect) in todo.iter().enumerate().take(done) {
        seen.tell(|| format!("         {effect:?}"));
        if fails(cut, k) || cut == Cut::FailDone(k) {
            seen.tell(|| "         ^ FAILS".into());
            w.ghost.hurt |= 1 << n;
            if cut == Cut::FailDone(k) {
                perform::process(w, n, effect.clone(), rules, seen)?;
            }
            if let Some(live) = w.procs[n].edit().live.as_mut() {
                live.answers.clear();
                live.answers.push_back(Input::Failed(step_of(effect), String::new()));
            }
            return Ok(());
        }
        perform::process(w, n, effect.clone(), rules, seen)?;
        if w.procs[n].live.is_none() {
            return Ok(());
        }
    }
    after_cut(w, Who::P(n), cut, todo, done)
}
