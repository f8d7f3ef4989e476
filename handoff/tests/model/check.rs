//! What must hold in every state, at every end, and what must have been seen.

use crate::apply::{Broken, Seen, apply, broken};
use crate::explore::Set;
use crate::moves::{Act, Move, Who, moves};
use crate::mutants::readdressed;
use crate::part::fingerprint;
use crate::rules::Rules;
use crate::world::{Mode, World};
use handoff::ids::{Epoch, HandoffId, InstanceId};
use handoff::machine::{Effect, Hook, Input, Machine, Outcome, Peer, Timer};
use handoff::wire::{Message, Stamped, Standing};

/// What was judged before, by hash.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    instances: Set,
    supervisors: Set,
    upgrades: Set,
}

/// The interesting ends, each of which must have been reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reached {
    pub(crate) committed: bool,
    pub(crate) resumed_before_seal: bool,
    pub(crate) resumed_by_claim: bool,
    pub(crate) reclaimed: bool,
    pub(crate) cold_start_old: bool,
    pub(crate) cold_start_new: bool,
    pub(crate) adopted_active_successor: bool,
    pub(crate) self_commit: bool,
    pub(crate) resolves_while_hung_successor_locks: bool,
    pub(crate) both_serve: bool,
    pub(crate) incumbent_without_supervisor: bool,
    pub(crate) successor_without_supervisor: bool,
    pub(crate) proven: bool,
    pub(crate) rolled_back: bool,
    pub(crate) rolled_back_from_disk: bool,
    pub(crate) watched_again: bool,
    /// The way back was aborted and is tried once more.
    pub(crate) tried_again: bool,
}

impl Reached {
    /// What another part of the run has seen.
    pub(crate) fn add(&mut self, other: &Reached) {
        let Reached {
            committed,
            resumed_before_seal,
            resumed_by_claim,
            reclaimed,
            cold_start_old,
            cold_start_new,
            adopted_active_successor,
            self_commit,
            resolves_while_hung_successor_locks,
            both_serve,
            incumbent_without_supervisor,
            successor_without_supervisor,
            proven,
            rolled_back,
            rolled_back_from_disk,
            watched_again,
            tried_again,
        } = *other;
        self.committed |= committed;
        self.resumed_before_seal |= resumed_before_seal;
        self.resumed_by_claim |= resumed_by_claim;
        self.reclaimed |= reclaimed;
        self.cold_start_old |= cold_start_old;
        self.cold_start_new |= cold_start_new;
        self.adopted_active_successor |= adopted_active_successor;
        self.self_commit |= self_commit;
        self.resolves_while_hung_successor_locks |= resolves_while_hung_successor_locks;
        self.both_serve |= both_serve;
        self.incumbent_without_supervisor |= incumbent_without_supervisor;
        self.successor_without_supervisor |= successor_without_supervisor;
        self.proven |= proven;
        self.rolled_back |= rolled_back;
        self.rolled_back_from_disk |= rolled_back_from_disk;
        self.watched_again |= watched_again;
        self.tried_again |= tried_again;
    }
}

pub(crate) fn describe(w: &World) -> String {
    let mut text = match &w.sup.mode {
        Mode::Dead => "S dead".to_owned(),
        Mode::Finding { .. } => "S finding".to_owned(),
        Mode::Running(r) => format!(
            "S {} todo {} answers {:?} timers {:?} inc {:?} suc {:?} ret {:?} due {:?} strangers {:?}",
            r.machine.state_name(),
            r.todo.len(),
            r.answers,
            r.timers,
            r.incumbent,
            r.successor,
            r.retiring,
            r.due,
            r.strangers
        ),
    };
    if w.sup.stopped {
        text += " (stopped)";
    }
    for (n, p) in w.procs.iter().enumerate() {
        match &p.live {
            None => text += &format!("\n  P{n} {} dead", p.id),
            Some(l) => {
                text += &format!(
                    "\n  P{n} {} {} {}tenure {:?} hooks {:?} timers {:?} locking {:?} memory {:?}",
                    p.id,
                    l.machine.state_name(),
                    if l.stopped { "(stopped) " } else { "" },
                    l.tenure,
                    l.hooks,
                    l.timers,
                    l.locking,
                    l.memory
                );
            }
        }
    }
    text + &format!("\n  {:?}", w.disk)
}

/// Goes on without faults until nothing happens any more: one fair schedule of many.
pub(crate) fn settle(mut w: World, rules: &Rules) -> Result<World, Broken> {
    let mut seen = Seen::default();
    for _ in 0..1000 {
        let list = moves(&w, rules);
        let restart = list.lazy.iter().find(|mv| mv.act == Act::Restart);
        let Some(mv) = list.eager.first().or(list.timers.first()).or(restart) else { return Ok(w) };
        w = apply(&w, *mv, rules, &mut seen)?;
    }
    broken("L1", format!("1000 steps and no end: {}", describe(&w)))
}

/// L1 and L2: nothing happens any more, and it is a good end.
pub(crate) fn terminal(w: &World) -> Result<(), Broken> {
    let live: Vec<_> = w.procs.iter().filter_map(|p| p.live.as_ref().map(|l| (p.id, l))).collect();
    let serving: Vec<_> = live.iter().filter(|(_, l)| l.tenure.is_some()).collect();
    let bad = |rule, what: &str| broken(rule, format!("{what}: {}", describe(w)));
    let gone = matches!(w.sup.mode, Mode::Dead) || w.sup.stopped;
    if gone {
        if live.iter().any(|(_, l)| l.stopped) {
            let idle = serving.is_empty() && live.iter().any(|(_, l)| !l.stopped);
            return if idle { bad("L2", "S is gone and a healthy process waits for ever") } else { Ok(()) };
        }
        if serving.len() == 1 && live.len() == 1 {
            return Ok(());
        }
        if !live.is_empty() {
            return bad("L2", "S is gone and not exactly one server serves");
        }
        let unhurt = |n: usize| w.ghost.hurt & (1 << n) == 0;
        // who served last, and whoever was started after it
        let last = w.index(w.ghost.last.1).unwrap_or(0);
        let served = (last + 1..w.procs.len()).any(|n| w.ghost.served & (1 << n) != 0);
        if unhurt(last) && !served {
            return bad(
                "L2",
                "S is gone, who served last was healthy, nobody after it served: nobody serves",
            );
        }
        // where another one had claimed for its handoff, N was right to leave
        let lost = |id: InstanceId| w.disk.claims.iter().any(|c| c.owner != id && c.handoff.0 + 99 == id.0);
        let waits = |n: usize| w.ghost.begun & (1 << n) != 0 && unhurt(n) && !lost(w.procs[n].id);
        if (last + 1..w.procs.len()).any(waits) {
            return bad("L2", "S is gone, N was healthy and told Begin: nobody serves");
        }
        return Ok(());
    }
    let Some(r) = w.running() else { return bad("L1", "S finds for ever") };
    let [(id, l)] = live.as_slice() else { return bad("L1", "not exactly one server is left") };
    if !l.stopped && (l.tenure.is_none() || l.machine.standing() != Standing::Active) {
        return bad("L1", "the only server does not serve");
    }
    if r.machine.handoff().is_some() || !r.machine.upgrade_possible() {
        return bad("L1", "S is not ready for the next upgrade");
    }
    if r.machine.serving().map(|(id, _)| id) != Some(*id) {
        return bad("L1", "S believes that another one serves");
    }
    if !l.stopped && r.machine.serving().map(|(_, epoch)| epoch) != l.tenure {
        return bad("L1", "S has another epoch in mind");
    }
    if w.disk.open.is_some() {
        return bad("L1", "the journal shows an open handoff");
    }
    if w.disk.trial.is_some() {
        return bad("L1", "the journal shows a probation");
    }
    Ok(())
}

/// L4: an upgrade without faults commits.
pub(crate) fn next_upgrade(w: &World, rules: &Rules, checked: &mut Checked) -> Result<(), Broken> {
    if w.running().is_none() || w.sup.stopped || w.procs.iter().any(|p| stopped(p)) {
        return Ok(());
    }
    let mut w = World { faults: 0, upgrades: 1, ..w.clone() };
    if !checked.upgrades.insert(w.fingerprint()) {
        return Ok(());
    }
    w.rounds += 1;
    let successor = InstanceId(100 + u128::from(w.rounds));
    let end = settle(w, &Rules { stubborn: false, ..rules.clone() })?;
    let serves = end.running().and_then(|r| r.machine.serving()).map(|(id, _)| id);
    if serves != Some(successor) {
        return broken("L4", format!("the next upgrade did not commit: {}", describe(&end)));
    }
    Ok(())
}

fn stopped(p: &crate::world::Proc) -> bool {
    p.live.as_ref().is_some_and(|l| l.stopped)
}

fn stale(handoff: u128, epoch: u64, message: Message) -> Stamped {
    Stamped { handoff: HandoffId(handoff), epoch: Epoch(epoch), message }
}

/// I8, and that the machines themselves agree with what the world allows. Each distinct machine once.
pub(crate) fn machines(w: &World, checked: &mut Checked, rules: &Rules) -> Result<(), Broken> {
    for p in &w.procs {
        let Some(l) = p.live.as_ref().filter(|_| !p.judged()) else { continue };
        if l.machine.serves() && l.tenure.is_none() && l.todo.is_empty() && l.answers.is_empty() {
            return broken("serves", format!("{} says it serves in {}", p.id, l.machine.state_name()));
        }
        if !checked.instances.insert(fingerprint(&l.machine)) {
            continue;
        }
        for message in [
            Message::SealRequest,
            Message::Commit,
            Message::Begin { digest: None },
            Message::Abort { reason: String::new() },
            Message::Retire { grace_ms: 1 },
        ] {
            // of another handoff, and of another epoch
            let own = l.machine.handoff().map_or(77, |h| h.0);
            for (handoff, epoch) in [(77, l.machine.epoch().0), (own, 55)] {
                // a retiring server knows its handoff by its id alone, and only Retire and Resolve count there
                let frame = stale(handoff, epoch, message.clone());
                let frame = readdressed(frame, l.machine.handoff(), l.machine.epoch(), rules);
                let mut machine = l.machine.clone();
                let effects = machine.handle(Input::Received(Peer::Supervisor, frame));
                let harmless = effects.iter().all(|e| match e {
                    Effect::Send(Peer::Supervisor, f) => matches!(f.message, Message::Refused(_)),
                    _ => false,
                });
                if machine != l.machine || !harmless {
                    return broken(
                        "I8",
                        format!("{} on stale {}: {effects:?}", l.machine.state_name(), message.name()),
                    );
                }
            }
        }
        let started = stale(77, l.machine.epoch().0, Message::Started);
        let mut machine = l.machine.clone();
        let effects = machine.handle(Input::Received(Peer::Successor, started));
        if machine != l.machine || !effects.is_empty() {
            return broken("I8", format!("{} on a stale Started", l.machine.state_name()));
        }
    }
    if let Some(r) = w.running().filter(|_| !w.sup.judged())
        && checked.supervisors.insert(fingerprint(&r.machine))
    {
        for (peer, message) in [
            (Peer::Incumbent, Message::Drained { open: 0 }),
            (Peer::Incumbent, Message::SealComplete { digest: crate::apply::digest(1), connections: 1 }),
            (Peer::Incumbent, Message::SealFailed { error: String::new() }),
            (Peer::Incumbent, Message::Resumed { epoch: Epoch(1) }),
            (Peer::Incumbent, Message::Retiring),
            (Peer::Successor, Message::Warmed { loaded: String::new(), revision: 0 }),
            (
                Peer::Successor,
                Message::Ready {
                    digest: Some(crate::apply::digest(1)),
                    listeners: Vec::new(),
                    healthy: true,
                    connections: 1,
                },
            ),
            (Peer::Successor, Message::Active { epoch: Epoch(2) }),
        ] {
            let mut machine = r.machine.clone();
            let name = message.name();
            let frame = readdressed(stale(77, 1, message), machine.handoff(), Epoch(1), rules);
            let effects = machine.handle(Input::Received(peer, frame));
            if machine != r.machine || !effects.is_empty() {
                return broken("I8", format!("{} on a stale {name}: {effects:?}", r.machine.state_name()));
            }
        }
    }
    Ok(())
}

/// Nobody who is healthy and serves is ended: the next one would serve all the same, but connections are lost. Judged
/// where nobody can be slow, and nobody is voted down.
pub(crate) fn nobody_healthy_is_ended(w: &World, rules: &Rules) -> Result<(), Broken> {
    if !rules.judges_manners() {
        return Ok(());
    }
    for (n, p) in w.procs.iter().enumerate() {
        let Some(l) = &p.live else { continue };
        if l.doomed && l.tenure.is_some() && w.ghost.hurt & !w.ghost.ended & (1 << n) == 0 {
            return broken("ended", format!("{} serves, is healthy and is ended: {}", p.id, describe(w)));
        }
    }
    Ok(())
}

/// Who serves at the end.
pub(crate) fn ends(w: &World, reached: &mut Reached) {
    let served = |p: &crate::world::Proc| p.live.as_ref().is_some_and(|l| l.tenure.is_some() && !l.stopped);
    if matches!(w.sup.mode, Mode::Dead) {
        for p in w.procs.iter().filter(|p| served(p)) {
            *(if successor(p.id) {
                &mut reached.successor_without_supervisor
            } else {
                &mut reached.incumbent_without_supervisor
            }) = true;
        }
    }
}

fn successor(id: InstanceId) -> bool {
    id.0 >= 100 && id.0 < 1 << 20
}

pub(crate) fn reach(before: &World, after: &World, mv: Move, seen: &Seen, reached: &mut Reached) {
    let serving =
        |w: &World| w.procs.iter().filter(|p| p.live.as_ref().is_some_and(|l| l.tenure.is_some())).count();
    reached.both_serve |= serving(after) == 2;
    reached.committed |= seen.ended.iter().any(|e| e.outcome == Outcome::Committed);
    for ended in seen.ended.iter().filter(|e| e.outcome == Outcome::RolledBack) {
        let by_handoff = after.disk.owner(ended.epoch).is_some_and(successor);
        reached.rolled_back |= by_handoff;
        reached.rolled_back_from_disk |= !by_handoff;
    }
    reached.proven |= mv.act == Act::Expired(Timer::Probation);
    match mv.who {
        Who::P(n) => {
            let Some(l) = &after.procs[n].live else { return };
            for effect in &seen.effects {
                match effect {
                    Effect::Call(Hook::Resume) => {
                        let steps = l.machine.tenure().0 - l.machine.epoch().0;
                        reached.resumed_before_seal |= steps == 0;
                        reached.resumed_by_claim |= steps == 1;
                        reached.reclaimed |= steps == 2;
                    }
                    // O under the overlap strategy: nothing has to be resumed
                    Effect::SyncClaim(epoch) if l.machine.standing() == Standing::Active => {
                        let base = before.procs[n].live.as_ref().map_or(*epoch, |l| l.machine.epoch());
                        reached.resumed_by_claim |= epoch.0 == base.0 + 1;
                        reached.reclaimed |= epoch.0 == base.0 + 2;
                    }
                    Effect::Claim(_) => {
                        reached.self_commit |=
                            mv.act == Act::Expired(Timer::SelfCommit) && matches!(after.sup.mode, Mode::Dead);
                    }
                    _ => {}
                }
            }
            if ["Resolving", "Taking (ending N)"].contains(&l.machine.state_name()) {
                let holder = after.disk.lock.and_then(|id| after.live(id));
                reached.resolves_while_hung_successor_locks |= holder.is_some_and(|h| h.stopped);
            }
        }
        Who::S => {
            let turns = seen.effects.iter().any(|e| matches!(e, Effect::TurnBack(_)));
            reached.tried_again |= turns && before.running().is_some_and(|r| r.machine.handoff().is_some());
            if seen.effects.iter().any(|e| matches!(e, Effect::Spawn(Peer::Incumbent, ..))) {
                let owner = before.disk.highest().map(|(_, owner)| owner);
                reached.cold_start_new |= owner.is_some_and(successor);
                reached.cold_start_old |= owner.is_some_and(|id| !successor(id));
            }
            if mv.act == Act::Recover
                && let Some(r) = after.running()
            {
                reached.watched_again |= r.machine.state_name().starts_with("Probation");
                reached.adopted_active_successor |=
                    r.machine.upgrade_possible() && r.incumbent.is_some_and(successor);
            }
        }
        Who::World => {}
    }
}
