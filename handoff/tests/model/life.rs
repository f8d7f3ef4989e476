//! How processes begin and end: starts, kills, power loss, and the supervisor that comes back.

use crate::apply::{Broken, Seen, broken};
use crate::hello;
use crate::moves::Who;
use crate::part::Part;
use crate::rules::Rules;
use crate::world::{Inbox, Link, Mode, Proc, Running, Stream, Sup, World};
use handoff::ids::{Epoch, HandoffId, InstanceId};
use handoff::machine::recovery::{Found, FoundHandoff, FoundTrial, recover};
use handoff::machine::{Command, Input, Peer};
use handoff::wire::{Message, Role, Stamped};
use std::collections::VecDeque;

pub(crate) fn stop_or_kill(w: &mut World, who: Who, kill: bool) {
    match who {
        Who::S if kill => supervisor_dies(w),
        Who::S => w.sup.edit().stopped = true,
        Who::P(n) => {
            w.ghost.hurt |= 1 << n;
            if kill {
                process_dies(w, n);
            } else if let Some(live) = w.procs[n].edit().live.as_mut() {
                live.stopped = true;
            }
        }
        Who::World => {}
    }
}

pub(crate) fn supervisor_dies(w: &mut World) {
    let sup = w.sup.edit();
    sup.mode = Mode::Dead;
    sup.stopped = false;
    let generation = sup.generation;
    for proc in &mut w.procs {
        let proc = proc.edit();
        if let Some(live) = &mut proc.live {
            for link in live.link.iter_mut().chain(&mut live.knock) {
                if link.generation == generation {
                    link.stream.eof = true;
                }
            }
        }
    }
}

pub(crate) fn process_dies(w: &mut World, n: usize) {
    let id = w.procs[n].id;
    let build = w.procs[n].build;
    w.procs[n] = Part::new(Proc { id, build, live: None });
    if w.disk.lock == Some(id) {
        w.disk_mut().lock = None;
    }
    let closes = |inboxes: &mut Vec<Inbox>| {
        for inbox in inboxes.iter_mut().filter(|inbox| inbox.from == id) {
            inbox.stream.eof = true;
        }
    };
    match &mut w.sup.edit().mode {
        Mode::Dead => {}
        Mode::Finding { inboxes, .. } => closes(inboxes),
        Mode::Running(r) => closes(&mut r.inboxes),
    }
    for m in 0..w.procs.len() {
        let sees = w.procs[m].live.as_ref().and_then(|l| l.peer.as_ref()).is_some_and(|p| p.id == id);
        if sees
            && let Some(live) = w.procs[m].edit().live.as_mut()
            && let Some(stream) = live.peer.as_mut().and_then(|p| p.transfer.as_mut())
        {
            stream.eof = true;
        }
    }
}

pub(crate) fn power_loss(w: &mut World, keep: bool) {
    supervisor_dies(w);
    for n in 0..w.procs.len() {
        w.ghost.hurt |= 1 << n;
        if w.procs[n].live.is_some() {
            process_dies(w, n);
        }
    }
    let disk = w.disk_mut();
    // of another boot: the next supervisor blames nobody for it
    disk.trial = None;
    if keep {
        disk.claims.iter_mut().for_each(|c| c.durable = true);
    } else {
        disk.claims.retain(|c| c.durable);
    }
}

pub(crate) fn drop_channel(w: &mut World, n: usize) {
    w.ghost.hurt |= 1 << n;
    let id = w.procs[n].id;
    if let Some(link) = w.procs[n].edit().live.as_mut().and_then(|live| live.link.as_mut()) {
        link.stream.frames.clear();
        link.stream.eof = true;
    }
    let breaks = |inboxes: &mut Vec<Inbox>| {
        for inbox in inboxes.iter_mut().filter(|inbox| inbox.from == id) {
            inbox.stream = Stream { frames: VecDeque::new(), eof: true };
        }
    };
    match &mut w.sup.edit().mode {
        Mode::Dead => {}
        Mode::Finding { inboxes, .. } => breaks(inboxes),
        Mode::Running(r) => breaks(&mut r.inboxes),
    }
}

pub(crate) fn adopt(generation: u64) -> Stamped {
    let message = Message::Adopt { generation };
    Stamped { handoff: HandoffId::NIL, epoch: Epoch::ZERO, message }
}

pub(crate) fn restart(w: &mut World) {
    let generation = w.sup.generation + 1;
    let mut inboxes = Vec::new();
    for proc in &mut w.procs {
        let from = proc.id;
        if let Some(live) = proc.edit().live.as_mut() {
            let stream = Stream { frames: [adopt(generation)].into(), eof: false };
            live.knock = Some(Link { generation, stream });
            inboxes.push(Inbox { from, stream: Stream::default() });
        }
    }
    w.sup = Part::new(Sup { generation, stopped: false, mode: Mode::Finding { inboxes, found: Vec::new() } });
}

pub(crate) fn recovered(w: &mut World, rules: &Rules, seen: &mut Seen) -> Result<(), Broken> {
    let generation = w.sup.generation;
    let Mode::Finding { inboxes, found } = w.sup.mode.clone() else {
        return broken("model", "recovers while running");
    };
    let instances: Vec<_> = found.iter().filter(|f| w.alive(f.id)).map(|f| f.found(rules)).collect();
    let base = crate::base(generation);
    // what is tried is in a file beside the journal
    let canary = rules.canary;
    let open = w.disk.open.map(|open| FoundHandoff { canary, ..open.into() });
    let trial = w.disk.trial.map(|trial| FoundTrial { canary, ..trial.into() });
    let highest = w.disk.highest();
    let recovery = recover(Found { base, generation, open, trial, highest, stopped: false, instances });
    let empty = recovery.supervisor.state_name() == "Empty";
    seen.tell(|| format!("         found {found:?}"));
    seen.tell(|| format!("         begins in {}", recovery.supervisor.state_name()));
    let mut r = Running::new(recovery.supervisor);
    r.incumbent = recovery.incumbent;
    r.successor = recovery.successor;
    r.retiring = recovery.retiring;
    r.todo = recovery.effects.into();
    // nobody serves and nothing is to be undone
    if empty {
        r.answers.push_back(Input::Command(Command::Start));
    }
    for inbox in inboxes {
        if r.name_of(inbox.from).is_some_and(|peer| !matches!(peer, Peer::Retiring(_))) {
            r.inboxes.push(inbox);
        }
    }
    for n in 0..w.procs.len() {
        let id = w.procs[n].id;
        if r.name_of(id).is_none()
            && let Some(live) = w.procs[n].edit().live.as_mut()
        {
            live.doomed = true;
            r.strangers.push(id);
            if !found.iter().any(|f| f.id == id) {
                // that it did not answer in time is the fault that hit it
                w.ghost.hurt |= 1 << n;
            }
        }
    }
    w.sup.edit().mode = Mode::Running(Box::new(r));
    Ok(())
}

/// The world with one server that serves under epoch 1 and a supervisor that started it.
pub(crate) fn first(rules: &Rules) -> World {
    let machine = handoff::machine::Supervisor::new(crate::base(1), 1);
    let mut r = Running::new(machine);
    r.answers.push_back(Input::Command(Command::Start));
    World {
        sup: Part::new(Sup { generation: 1, stopped: false, mode: Mode::Running(Box::new(r)) }),
        procs: Vec::new(),
        disk: Part::new(crate::world::Disk {
            claims: Vec::new(),
            proposals: Default::default(),
            lock: None,
            revision: 0,
            stamped: Epoch::ZERO,
            format: 1,
            open: None,
            trial: None,
        }),
        faults: rules.faults,
        upgrades: rules.upgrades,
        rounds: 0,
        ghost: crate::world::Ghost {
            last: (Epoch::ZERO, InstanceId::NIL),
            hurt: 0,
            ended: 0,
            begun: 0,
            served: 0,
        },
    }
}

pub(crate) fn spawn(w: &mut World, id: InstanceId, build: u8, successor: bool, rules: &Rules) {
    let generation = w.sup.generation;
    let epoch = w.disk.highest().map_or(Epoch::ZERO, |(epoch, _)| epoch);
    let machine = if successor {
        handoff::machine::Instance::successor(hello(id, Role::Successor, epoch, build, rules))
    } else {
        handoff::machine::Instance::cold(hello(id, Role::Cold, epoch, build, rules))
    };
    let live = Some(crate::world::Live::new(machine, generation));
    w.procs.push(Part::new(Proc { id, build, live }));
}
