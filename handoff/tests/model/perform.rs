//! Effects, performed on the small world.

use crate::apply::{Broken, Seen, broken};
use crate::life::{adopt, process_dies, spawn};
use crate::mutants;
use crate::rules::{Fences, Mutant, Rules};
use crate::tenure;
use crate::world::{ClaimFile, Inbox, Link, Mode, OpenRecord, Stream, TrialRecord, World};
use handoff::ids::{Epoch, HandoffId, InstanceId};
use handoff::journal::Record;
use handoff::machine::{Effect, Ended, Hook, Input, Outcome, Peer, Step, Timer, Which};
use handoff::wire::{Message, Stamped};

fn to_instance(w: &mut World, id: InstanceId, frame: Stamped) {
    let generation = w.sup.generation;
    if let Some(live) = w.live_mut(id)
        && let Some(link) =
            live.knock.iter_mut().chain(&mut live.link).find(|link| link.generation == generation)
        && !link.stream.eof
    {
        link.stream.frames.push_back(frame);
    }
}

pub(crate) fn to_supervisor(w: &mut World, id: InstanceId, frame: Stamped) {
    let generation = w.sup.generation;
    let linked = w.live(id).and_then(|l| l.link.as_ref());
    if linked.is_none_or(|link| link.generation != generation) {
        return;
    }
    match &mut w.sup.edit().mode {
        Mode::Dead => {}
        Mode::Finding { inboxes, .. } => push(inboxes, id, frame),
        Mode::Running(r) => push(&mut r.inboxes, id, frame),
    }
}

fn push(inboxes: &mut [Inbox], id: InstanceId, frame: Stamped) {
    if let Some(inbox) = inboxes.iter_mut().find(|inbox| inbox.from == id && !inbox.stream.eof) {
        inbox.stream.frames.push_back(frame);
    }
}

fn doom(w: &mut World, id: InstanceId) {
    if let Some(n) = w.index(id) {
        if w.ghost.hurt & (1 << n) == 0 {
            w.ghost.ended |= 1 << n;
        }
        w.ghost.hurt |= 1 << n;
    }
    if let Some(live) = w.live_mut(id) {
        live.doomed = true;
    }
}

pub(crate) fn supervisor(
    w: &mut World,
    effect: Effect,
    rules: &Rules,
    seen: &mut Seen,
) -> Result<(), Broken> {
    let Some(r) = w.running() else { return Ok(()) };
    match effect {
        Effect::Persist(record) => journal(w, &record, rules),
        Effect::TurnBack(id) => drop(w.running_mut().map(|r| r.turning = Some(id))),
        Effect::ReadClaim(epoch) => {
            let owner = w.disk.owner(epoch);
            if let Some(r) = w.running_mut() {
                r.answers.push_back(Input::Claimed(epoch, owner));
            }
        }
        Effect::WatchClaim(epoch) => {
            let owner = w.disk.owner(epoch);
            if let Some(r) = w.running_mut() {
                match owner {
                    Some(_) => r.answers.push_back(Input::Claimed(epoch, owner)),
                    None => r.watch = Some(epoch),
                }
            }
        }
        Effect::Send(peer, frame) => {
            if let Some(id) = r.id_of(peer) {
                tenure::canary(w, id, &frame.message, rules)?;
                to_instance(w, id, frame);
            }
        }
        Effect::Forget(peer) => forget(w, peer),
        Effect::Reconnect(peer) => {
            let generation = w.sup.generation;
            if let Some(id) = r.id_of(peer)
                && let Some(live) = w.live_mut(id)
            {
                let stream = Stream { frames: [adopt(generation)].into(), eof: false };
                live.knock = Some(Link { generation, stream });
                if let Some(link) = &mut live.link
                    && link.generation == generation
                {
                    link.stream.eof = true;
                }
                if let Some(r) = w.running_mut() {
                    r.inboxes.retain(|inbox| inbox.from != id);
                    r.inboxes.push(Inbox { from: id, stream: Stream::default() });
                }
            }
        }
        // a failure that is forgotten only lets one more restart happen
        Effect::Arm(Timer::Forgive(_), _) | Effect::Disarm(Timer::Forgive(_)) => {}
        Effect::Arm(timer, _) => drop(w.running_mut().map(|r| r.timers.insert(timer))),
        Effect::Disarm(timer) => drop(w.running_mut().map(|r| r.timers.remove(&timer))),
        Effect::Spawn(peer, id, which) => {
            let build = chosen(w, which, rules)?;
            spawn(w, id, build, peer == Peer::Successor, rules);
            if let Some(r) = w.running_mut() {
                let slot = if peer == Peer::Successor { &mut r.successor } else { &mut r.incumbent };
                if let Some(old) = slot.replace(id) {
                    return broken("model", format!("{} still names {old}", peer.name()));
                }
                r.inboxes.push(Inbox { from: id, stream: Stream::default() });
            }
        }
        Effect::Kill(peer) | Effect::Terminate(peer) => {
            let id = r.id_of(peer);
            if let Some(id) = id {
                doom(w, id);
            }
            if let Some(r) = w.running_mut() {
                match id {
                    Some(_) => drop(r.due.insert(peer)),
                    None => r.answers.push_back(Input::Gone(peer)),
                }
            }
        }
        Effect::Promote => {
            if let Some(r) = w.running_mut() {
                if let Some(old) = r.incumbent.take() {
                    r.retiring.push(old);
                    if r.due.remove(&Peer::Incumbent) {
                        r.due.insert(Peer::Retiring(old));
                    }
                    r.inboxes.retain(|inbox| inbox.from != old);
                }
                if r.due.remove(&Peer::Successor) {
                    r.due.insert(Peer::Incumbent);
                }
                r.incumbent = r.successor.take();
            }
        }
        Effect::Report(ended) => {
            if !rules.safety_only {
                check_ended(w, &ended, rules)?;
            }
            seen.ended.push(ended);
        }
        // it went with the frame
        Effect::Call(Hook::Canary) => {}
        Effect::Cancel(Hook::Canary) => drop(w.running_mut().map(|r| r.canary = None)),
        Effect::Finish(_)
        | Effect::Propose
        | Effect::Claim(_)
        | Effect::SyncClaim(_)
        | Effect::Lock(_)
        | Effect::Unlock
        | Effect::Call(_)
        | Effect::Cancel(_)
        | Effect::CloseParked
        | Effect::Tidy => return broken("model", format!("S orders {effect:?}")),
    }
    Ok(())
}

/// The build that is started, and that it is the right one.
fn chosen(w: &World, which: Which, rules: &Rules) -> Result<u8, Broken> {
    let owner = w.disk.highest().map(|(_, owner)| owner);
    let failed = w.disk.trial.filter(|trial| Some(trial.serving) == owner);
    match which {
        Which::Wanted => Ok(w.running().map_or(0, |r| r.wanted)),
        Which::Highest if failed.is_some() && !rules.safety_only => {
            broken("probation", format!("{failed:?} is dead and its build is started again"))
        }
        Which::Highest if rules.is(Mutant::WrongBuild) => Ok(0),
        Which::Highest => Ok(owner.map_or(0, |id| w.build(id))),
        Which::Of(id) => {
            let back = w.disk.trial.is_some_and(|trial| {
                trial.previous == id || w.disk.open.is_some_and(|open| open.incumbent == trial.serving)
            });
            if !back {
                return broken("which build", format!("that of {id}, and nobody is on probation"));
            }
            Ok(w.build(id))
        }
    }
}

fn journal(w: &mut World, record: &Record, rules: &Rules) {
    match record {
        Record::ProbationOver { .. } if rules.is(Mutant::ProbationNeverOver) => {}
        Record::Terms { handoff, .. } => {
            if let Some(open) = w.disk_mut().open.as_mut().filter(|open| open.handoff == *handoff) {
                open.probation = true;
            }
        }
        Record::TurnedDown { handoff, failed, .. } => {
            if let Some(trial) = w.disk_mut().trial.as_mut().filter(|trial| trial.handoff == *handoff) {
                trial.failed = Some(*failed);
            }
        }
        Record::ProbationOver { handoff } => {
            w.disk_mut().trial.take_if(|trial| trial.handoff == *handoff);
        }
        Record::RolledBack { .. } => w.disk_mut().trial = None,
        Record::Intent { handoff, incumbent, successor, epoch } => {
            w.disk_mut().open = Some(OpenRecord {
                handoff: *handoff,
                incumbent: *incumbent,
                successor: *successor,
                epoch: *epoch,
                probation: false,
            });
        }
        Record::Ended { handoff, outcome, .. } => {
            if let Some(open) = w.disk.open.filter(|open| open.handoff == *handoff) {
                let (handoff, previous, serving) = (open.handoff, open.incumbent, open.successor);
                let disk = w.disk_mut();
                disk.open = None;
                if *outcome == Outcome::Committed {
                    disk.trial =
                        open.probation.then_some(TrialRecord { handoff, previous, serving, failed: None });
                }
            }
        }
        Record::Generation { .. }
        | Record::SealRequested { .. }
        | Record::Resolving { .. }
        | Record::ColdStart { .. }
        | Record::Serving { .. }
        | Record::Stopped
        | Record::Report { .. } => {}
    }
}

fn forget(w: &mut World, peer: Peer) {
    let generation = w.sup.generation;
    let Some(r) = w.running_mut() else { return };
    r.due.remove(&peer);
    let Some(id) = r.id_of(peer) else { return };
    r.inboxes.retain(|inbox| inbox.from != id);
    r.exit_told.remove(&id);
    match peer {
        Peer::Incumbent => r.incumbent = None,
        Peer::Successor => r.successor = None,
        Peer::Retiring(id) => r.retiring.retain(|other| *other != id),
        Peer::Supervisor => {}
    }
    if let Some(live) = w.live_mut(id) {
        for link in live.link.iter_mut().chain(&mut live.knock) {
            if link.generation == generation {
                link.stream.eof = true;
            }
        }
    }
}

/// I7, and that the report is true.
fn check_ended(w: &World, ended: &Ended, rules: &Rules) -> Result<(), Broken> {
    let round = ended.handoff.0 - 1;
    let successor = InstanceId(100 + round);
    match ended.outcome {
        Outcome::Aborted | Outcome::Reclaimed | Outcome::PreflightFailed | Outcome::ColdStarted => {
            if w.alive(successor) {
                return broken("I7", format!("{ended:?} is reported and the successor lives"));
            }
        }
        Outcome::Committed => {
            if w.disk.owner(ended.epoch) != Some(successor) {
                return broken("report", format!("{ended:?} and the claim does not name the successor"));
            }
        }
        Outcome::RolledBack => {
            // the build before: the first one, where there was one upgrade
            let owner = w.disk.owner(ended.epoch);
            let first = |id| w.build(id) == 0 || rules.upgrades > 1;
            if owner.is_none_or(|id| !first(id) || (id != successor && w.alive(successor))) {
                return broken("report", format!("{ended:?} and {owner:?} owns that epoch"));
            }
        }
        Outcome::Unknown => {}
    }
    Ok(())
}

fn key(w: &World, n: usize) -> (HandoffId, InstanceId) {
    let id = w.procs[n].id;
    let handoff = w.procs[n].live.as_ref().and_then(|l| l.machine.handoff()).unwrap_or(HandoffId::NIL);
    (handoff, id)
}

pub(crate) fn process(
    w: &mut World,
    n: usize,
    effect: Effect,
    rules: &Rules,
    seen: &mut Seen,
) -> Result<(), Broken> {
    let id = w.procs[n].id;
    match effect {
        Effect::Propose => {
            let key = key(w, n);
            w.disk_mut().proposals.insert(key);
        }
        Effect::Claim(epoch) => claim(w, n, epoch, rules),
        Effect::ReadClaim(epoch) => {
            let owner = w.disk.owner(epoch);
            answer(w, n, Input::Claimed(epoch, owner));
        }
        Effect::SyncClaim(epoch) => {
            for claim in w.disk_mut().claims.iter_mut().filter(|c| c.epoch == epoch) {
                claim.durable = true;
            }
        }
        Effect::Send(Peer::Supervisor, frame) => {
            if let (true, Message::Resumed { epoch }) = (rules.overlaps(), &frame.message) {
                tenure::goes_on(w, n, *epoch)?;
            }
            to_supervisor(w, id, frame);
        }
        Effect::Send(Peer::Incumbent, frame) => {
            w.ghost.served |= 1 << n;
            let incumbent = w.live(id).map(|l| l.incumbent);
            if let Some(view) = incumbent.and_then(|o| w.live_mut(o)).and_then(|o| o.peer.as_mut())
                && view.id == id
                && let Some(stream) = &mut view.transfer
            {
                stream.frames.push_back(frame);
                if mutants::channel_not_drained(rules) {
                    stream.frames.clear();
                }
            }
        }
        Effect::Send(Peer::Successor | Peer::Retiring(_), _) => {
            return broken("model", format!("an instance sends {effect:?}"));
        }
        Effect::Forget(Peer::Successor) => {
            if let Some(live) = w.live_mut(id) {
                live.peer = None;
            }
        }
        Effect::Forget(Peer::Incumbent) => {
            let incumbent = w.live(id).map(|l| l.incumbent);
            if let Some(view) = incumbent.and_then(|o| w.live_mut(o)).and_then(|o| o.peer.as_mut())
                && view.id == id
                && let Some(stream) = &mut view.transfer
            {
                stream.eof = true;
            }
        }
        Effect::Kill(Peer::Successor) => {
            if rules.fences().no_end {
                answer(w, n, Input::Gone(Peer::Successor));
                return Ok(());
            }
            let peer = w.live_mut(id).and_then(|l| l.peer.as_mut()).map(|peer| {
                peer.kill_due = true;
                peer.id
            });
            match peer {
                Some(peer) => doom(w, peer),
                None => answer(w, n, Input::Gone(Peer::Successor)),
            }
        }
        Effect::Arm(timer, _) => drop(w.live_mut(id).map(|l| l.timers.insert(timer))),
        Effect::Disarm(timer) => drop(w.live_mut(id).map(|l| l.timers.remove(&timer))),
        // a retiring server would hold it for its whole grace
        Effect::Lock(_) | Effect::Unlock if rules.overlaps() => {
            return broken("lock", format!("{id} of the overlap strategy orders {effect:?}"));
        }
        Effect::Lock(patience) => {
            let Fences { no_lock, no_claim, .. } = rules.fences();
            if w.disk.lock == Some(id) || no_lock {
                // what is seen under the lock belongs to the claims
                let highest = w.disk.highest().filter(|_| !no_claim);
                answer(w, n, Input::Locked { highest });
            } else if mutants::leaves_when_locked(rules) && w.disk.lock.is_some() {
                answer(w, n, Input::Failed(Step::Lock, String::new()));
            } else if let Some(live) = w.live_mut(id) {
                live.locking = Some(patience.is_some());
            }
        }
        Effect::Unlock => {
            if w.disk.lock == Some(id) {
                w.disk_mut().lock = None;
            }
        }
        Effect::Call(hook) => call(w, n, hook, rules)?,
        Effect::Cancel(hook) => drop(w.live_mut(id).map(|l| l.hooks.remove(&hook))),
        Effect::CloseParked => {}
        Effect::Tidy => tenure::tidy(w, n),
        Effect::Finish(ending) => {
            seen.tell(|| format!("         ends: {ending:?}"));
            process_dies(w, n);
        }
        Effect::Forget(_)
        | Effect::Kill(_)
        | Effect::Terminate(_)
        | Effect::Reconnect(_)
        | Effect::Persist(_)
        | Effect::WatchClaim(_)
        | Effect::Spawn(..)
        | Effect::TurnBack(_)
        | Effect::Promote
        | Effect::Report(_) => return broken("model", format!("an instance orders {effect:?}")),
    }
    Ok(())
}

fn answer(w: &mut World, n: usize, input: Input) {
    if let Some(live) = w.procs[n].edit().live.as_mut() {
        live.answers.push_back(input);
    }
}

fn claim(w: &mut World, n: usize, epoch: Epoch, rules: &Rules) {
    let (handoff, me) = key(w, n);
    let ignored = match rules.mutant {
        Some(Mutant::Fences(fences)) => fences.no_claim,
        Some(Mutant::ResumeWithoutClaim) => {
            w.live(me).is_some_and(|l| l.peer.is_some() && epoch == l.machine.epoch().next())
        }
        Some(Mutant::ReclaimWithoutClaim) => {
            w.live(me).is_some_and(|l| l.peer.is_some() && epoch > l.machine.epoch().next())
        }
        _ => false,
    };
    if ignored {
        return answer(w, n, Input::Claimed(epoch, Some(me)));
    }
    if w.disk.owner(epoch).is_none() && w.disk.proposals.contains(&(handoff, me)) {
        w.disk_mut().claims.push(ClaimFile { epoch, owner: me, handoff, durable: false });
    }
    let owner = w.disk.owner(epoch);
    answer(w, n, Input::Claimed(epoch, owner));
}

fn call(w: &mut World, n: usize, hook: Hook, rules: &Rules) -> Result<(), Broken> {
    let build = w.procs[n].build;
    if hook == Hook::Open && !rules.overlaps() && !rules.formats_of(build).0.contains(&w.disk.format) {
        let format = w.disk.format;
        return broken("I5", format!("build {build} opens data in format {format}"));
    }
    let Some(live) = w.procs[n].edit().live.as_mut() else { return Ok(()) };
    if hook == Hook::Canary {
        live.sings = true;
        return Ok(());
    }
    live.hooks.insert(hook);
    if matches!(hook, Hook::Serve | Hook::Resume) {
        let epoch = live.machine.tenure();
        tenure::begin(w, n, epoch, hook, rules)?;
    } else if hook == Hook::Retire {
        tenure::end(w, n);
    }
    Ok(())
}
