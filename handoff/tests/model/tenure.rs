//! Who may acknowledge requests: when a tenure begins and ends, and what must hold then.

use crate::apply::{Broken, broken};
use crate::check::describe;
use crate::rules::{Mutant, Rules};
use crate::world::World;
use handoff::ids::{Epoch, HandoffId, InstanceId};
use handoff::machine::Hook;
use handoff::wire::{Message, Standing};

/// I4: the claim names it, is durable, and is above all tenures before.
fn owns(w: &World, id: InstanceId, epoch: Epoch) -> Result<(), Broken> {
    match w.disk.claim(epoch) {
        Some(claim) if claim.owner == id && claim.durable => {}
        Some(claim) => return broken("I4", format!("{id} serves under epoch {epoch} with {claim:?}")),
        None => return broken("I4", format!("{id} serves under epoch {epoch} without a claim")),
    }
    let (last, owner) = w.ghost.last;
    if epoch < last || (epoch == last && owner != id) {
        return broken("I4", format!("{id} serves under epoch {epoch} after {last} of {owner}"));
    }
    Ok(())
}

/// O took a later epoch without ever having stopped to serve (overlap). It may also go on under its old one.
pub(crate) fn goes_on(w: &mut World, n: usize, epoch: Epoch) -> Result<(), Broken> {
    let id = w.procs[n].id;
    let before = w.live(id).and_then(|l| l.tenure);
    if before == Some(epoch) {
        return Ok(());
    }
    if before.is_none() {
        return broken("serves", format!("{id} says that it goes on and had stopped to serve"));
    }
    owns(w, id, epoch)?;
    w.ghost.last = (epoch, id);
    if let Some(live) = w.live_mut(id) {
        live.tenure = Some(epoch);
    }
    Ok(())
}

/// It accepts nothing any more. (At a seal the tenure has ended before.)
pub(crate) fn end(w: &mut World, n: usize) {
    if let Some(live) = w.procs[n].edit().live.as_mut() {
        live.tenure = None;
    }
}

/// Without a freeze there is no moment without a server, unless a fault hit the last one.
pub(crate) fn somebody_serves(w: &World, rules: &Rules) -> Result<(), Broken> {
    // a second fault may be that a healthy one is slow, or that S slept between its look at the claim and its order
    let slow = rules.faults > 1 && (rules.kinds.hurry || rules.kinds.stops);
    let serves = |p: &crate::world::Proc| p.live.as_ref().is_some_and(|l| l.tenure.is_some());
    if !rules.overlaps() || slow || w.procs.iter().any(|p| serves(p)) {
        return Ok(());
    }
    let (_, last) = w.ghost.last;
    let healthy = |n: usize| w.ghost.hurt & !w.ghost.ended & (1 << n) == 0;
    if w.index(last).is_some_and(healthy) {
        return broken("gap", format!("nobody serves and {last} was healthy: {}", describe(w)));
    }
    Ok(())
}

/// I3: who answers, answers with the newest. (Who is stopped answers nothing; what it does next is judged then.)
pub(crate) fn nobody_reads_old_data(w: &World, rules: &Rules) -> Result<(), Broken> {
    if rules.overlaps() {
        return Ok(());
    }
    for p in &w.procs {
        let Some(l) = p.live.as_ref().filter(|l| !l.stopped) else { continue };
        let sealed = rules.is(Mutant::ReadsWhileSealed) && l.machine.standing() == Standing::Sealed;
        let answers = l.tenure.is_some() || sealed && l.memory.is_some();
        if answers && l.memory != Some(w.disk.revision) {
            let (newest, own) = (w.disk.revision, l.memory);
            return broken("I3", format!("{} answers with revision {own:?}, the newest is {newest}", p.id));
        }
    }
    Ok(())
}

/// From here on it may acknowledge writes.
pub(crate) fn begin(w: &mut World, n: usize, epoch: Epoch, hook: Hook, rules: &Rules) -> Result<(), Broken> {
    let id = w.procs[n].id;
    let fences = !matches!(rules.mutant, Some(Mutant::Fences(_)));
    if fences {
        owns(w, id, epoch)?;
        if !rules.overlaps() && w.disk.lock != Some(id) {
            return broken("fence", format!("{id} serves and owner.lock is {:?}", w.disk.lock));
        }
    }
    w.ghost.last = (epoch, id);
    let format = rules.formats_of(w.build(id)).1;
    if !rules.overlaps() && w.disk.format != format {
        w.disk_mut().format = format;
    }
    let revision = w.disk.revision;
    let Some(live) = w.live(id) else { return Ok(()) };
    if !rules.overlaps() && live.memory != Some(revision) {
        return broken("I2", format!("{id} serves with revision {:?}, the disk has {revision}", live.memory));
    }
    if fences
        && !matches!(rules.mutant, Some(Mutant::Copies(_)))
        && let (Hook::Resume, Some(peer)) = (hook, &live.peer)
        && let Some(m) = w.index(peer.id)
        && w.ghost.served & (1 << m) != 0
    {
        return broken("connections", "O resumes with connections that N may have read from".to_owned());
    }
    w.ghost.served |= 1 << n;
    for other in &w.procs {
        if !rules.overlaps() && other.id != id && other.live.as_ref().is_some_and(|l| l.tenure.is_some()) {
            return broken("I1", format!("{id} and {} may both acknowledge writes", other.id));
        }
    }
    if let Some(live) = w.live_mut(id) {
        live.tenure = Some(epoch);
    }
    Ok(())
}

/// S asks N for an answer, and permits a claim only to who has given it, where one was asked for.
pub(crate) fn canary(w: &mut World, id: InstanceId, message: &Message, rules: &Rules) -> Result<(), Broken> {
    if *message == Message::Canary {
        if let Some(live) = w.live_mut(id) {
            live.sings = false;
        }
        if let Some(r) = w.running_mut() {
            r.canary = Some(id);
        }
    }
    let permitted = *message == Message::Commit && rules.canary;
    if permitted && w.live(id).is_some_and(|live| !live.sings) {
        return broken("canary", format!("{id} may claim and has not answered the canary"));
    }
    Ok(())
}

pub(crate) fn tidy(w: &mut World, n: usize) {
    let mut last = w.procs[n].live.as_ref().map_or(HandoffId::NIL, |l| l.handoff);
    let mut claims = w.disk.claims.clone();
    claims.sort_by_key(|c| std::cmp::Reverse(c.epoch));
    for claim in claims.iter().take(2) {
        last = last.max(claim.handoff);
    }
    w.disk_mut().proposals.retain(|(handoff, _)| !handoff.is_nil() && *handoff > last);
}
