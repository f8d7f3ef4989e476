//! States that differ in nothing that can matter any more are made one.
//!
//! Each line says why nobody can tell the difference. `without_and_with_reductions` explores the same twice and compares.

use crate::rules::Rules;
use crate::world::{Inbox, Mode, World};
use handoff::ids::InstanceId;
use handoff::wire::{Role, Standing};

/// The one state that stands for all that are like it.
pub(crate) fn normal(w: &mut World, rules: &Rules) {
    disk(w, rules);
    ghost(w, rules);
    inboxes(w);
    servers(w);
}

fn disk(w: &mut World, rules: &Rules) {
    // a proposal is linked by the process that wrote it, and by nobody else
    let dead = |w: &World, id: InstanceId| !w.alive(id);
    if w.disk.proposals.iter().any(|(_, id)| dead(w, *id)) {
        let mut kept = w.disk.proposals.clone();
        kept.retain(|(_, id)| w.alive(*id));
        w.disk_mut().proposals = kept;
    }
    // where no power can be lost any more, what is durable matters to an owner that begins to serve, and a dead one will not
    let power = rules.kinds.power && w.faults > 0;
    if !power && w.disk.claims.iter().any(|c| !c.durable && dead(w, c.owner)) {
        let living: Vec<_> = w.procs.iter().filter(|p| p.live.is_some()).map(|p| p.id).collect();
        for claim in w.disk_mut().claims.iter_mut().filter(|c| !living.contains(&c.owner)) {
            claim.durable = true;
        }
    }
}

fn ghost(w: &mut World, rules: &Rules) {
    // who was hurt, and told Begin, is asked where the supervisor is gone for good: here it comes back, always
    let gone = !rules.restartable || w.sup.stopped || (rules.kinds.stops && w.faults > 0);
    if gone || rules.overlaps() || rules.judges_manners() {
        return;
    }
    (w.ghost.hurt, w.ghost.ended, w.ghost.begun) = (0, 0, 0);
    // who served is asked of the successor of an incumbent that resumes
    let mut asked = 0;
    for peer in w.procs.iter().filter_map(|p| p.live.as_ref()?.peer.as_ref()) {
        asked |= w.index(peer.id).map_or(0, |n| 1 << n);
    }
    w.ghost.served &= asked;
}

/// Each is found by its writer; their order is that of the calls that made them.
fn inboxes(w: &mut World) {
    let sorted = |inboxes: &[Inbox]| inboxes.is_sorted_by_key(|inbox| inbox.from);
    let ordered = match &w.sup.mode {
        Mode::Dead => true,
        Mode::Finding { inboxes, .. } => sorted(inboxes),
        Mode::Running(r) => sorted(&r.inboxes),
    };
    if ordered {
        return;
    }
    match &mut w.sup.edit().mode {
        Mode::Dead => {}
        Mode::Finding { inboxes, .. } => inboxes.sort_by_key(|inbox| inbox.from),
        Mode::Running(r) => r.inboxes.sort_by_key(|inbox| inbox.from),
    }
}

fn servers(w: &mut World) {
    for n in 0..w.procs.len() {
        let Some(l) = w.procs[n].live.as_ref() else { continue };
        let serves = matches!(l.machine.role(), Role::Incumbent | Role::Retiring) && l.todo.is_empty();
        // what it was as a successor is over
        let past = serves && (l.streamed || !l.incumbent.is_nil());
        // who is leaving never looks at its data again
        let leaves = serves && l.machine.standing() == Standing::Retiring && l.memory.is_some();
        if (past || leaves)
            && let Some(live) = w.procs[n].edit().live.as_mut()
        {
            (live.streamed, live.incumbent) = (false, InstanceId::NIL);
            if leaves {
                live.memory = None;
            }
        }
    }
}
