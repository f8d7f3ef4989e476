//! What can happen next in a world.

use crate::rules::Rules;
use crate::world::{Live, Mode, PeerView, Running, World};
use handoff::machine::{Hook, Peer, Timer};
use handoff::wire::Standing;

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) who: Who,
    pub(crate) act: Act,
    pub(crate) cut: Cut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    S,
    P(usize),
    World,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Goes on with effects that a stop interrupted.
    Continue,
    Answer,
    /// The next frame of a channel: of instance n (S), or of the supervisor.
    Frame(usize),
    /// The next frame of the transfer channel.
    Transfer,
    /// The end of the channel with instance n, or with the supervisor.
    Closed(usize),
    TransferClosed,
    Exited(Peer),
    Gone(Peer),
    Watched,
    Upgrade,
    AbortOrder,
    /// The build to go back to was found, or was not.
    TurnBack,
    NoWayBack,
    /// The canary that is under way is over, by what became of who was asked.
    Sung,
    /// It is over, and the answer was wrong or none.
    Hoarse,
    /// It serves and says that it should not.
    VotesItselfDown,
    Done(Hook),
    HookFails(Hook),
    Unhealthy,
    /// What it loaded is not what was sealed.
    Misread,
    Locked,
    LockTimeout,
    Accept,
    Expired(Timer),
    /// It acknowledges a write.
    Write,
    /// SIGKILL takes effect.
    Die,
    // S only
    Restart,
    Recover,
    /// One of the strangers is gone.
    StrangersGone,
    // faults from outside
    Kill,
    Stop,
    Cont,
    /// The channel between S and this process breaks, both live.
    Drop,
    /// Power loss; unsynced claims survive or not.
    Power {
        keep: bool,
    },
}

/// Where in the effect list of a step a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    None,
    Kill(usize),
    Stop(usize),
    /// This effect fails.
    Fail(usize),
    /// This effect is done and yet reported as failed.
    FailDone(usize),
}

/// Moves, by how they count.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    /// They happen, sooner or later, without a fault.
    pub(crate) eager: Vec<Move>,
    /// Timers that run out only because nothing else happens any more.
    pub(crate) timers: Vec<Move>,
    /// They may happen at any time, or never.
    pub(crate) lazy: Vec<Move>,
    /// They cost one fault.
    pub(crate) faults: Vec<Move>,
}

fn m(who: Who, act: Act) -> Move {
    Move { who, act, cut: Cut::None }
}

pub(crate) fn moves(w: &World, rules: &Rules) -> Moves {
    let mut out = Moves::default();
    supervisor(w, rules, &mut out);
    for (n, proc) in w.procs.iter().enumerate() {
        if let Some(live) = &proc.live {
            process(w, n, live, rules, &mut out);
        }
    }
    if w.faults > 0 && w.rounds > 0 && rules.kinds.power {
        out.faults.push(m(Who::World, Act::Power { keep: false }));
        if w.disk.claims.iter().any(|c| !c.durable) {
            out.faults.push(m(Who::World, Act::Power { keep: true }));
        }
    }
    if rules.each && w.rounds > 0 && (out.eager.len() > 1 || !out.timers.is_empty()) {
        // one after the other: the next is ordered when nothing is left of the one before
        out.eager.retain(|mv| mv.act != Act::Upgrade);
    }
    if !out.eager.is_empty() {
        // in a hurry: a timer that runs out while something else is still under way costs a fault
        out.faults.append(&mut out.timers);
    }
    if w.faults == 0 {
        out.faults.clear();
    }
    out.faults.retain(|mv| affordable(mv.act, rules));
    out
}

fn affordable(act: Act, rules: &Rules) -> bool {
    match act {
        Act::HookFails(_) | Act::Unhealthy | Act::Misread | Act::NoWayBack | Act::Hoarse => {
            rules.kinds.errors
        }
        Act::VotesItselfDown => rules.probation && (rules.kinds.errors || rules.kinds.votes),
        Act::Stop => rules.kinds.stops,
        Act::Drop => rules.kinds.drops,
        Act::Expired(_) | Act::LockTimeout | Act::Recover | Act::AbortOrder => rules.kinds.hurry,
        _ => true,
    }
}

fn supervisor(w: &World, rules: &Rules, out: &mut Moves) {
    let s = |act| m(Who::S, act);
    match &w.sup.mode {
        Mode::Dead => {
            if rules.restartable {
                out.lazy.push(s(Act::Restart));
            }
            return;
        }
        Mode::Finding { .. } | Mode::Running(_) => {
            if w.sup.stopped {
                out.lazy.push(s(Act::Cont));
            } else {
                out.faults.push(s(Act::Stop));
            }
            out.faults.push(s(Act::Kill));
        }
    }
    if w.sup.stopped {
        return;
    }
    match &w.sup.mode {
        Mode::Dead => {}
        Mode::Finding { inboxes, found } => {
            for inbox in inboxes {
                if !inbox.stream.frames.is_empty() && !found.iter().any(|f| f.id == inbox.from) {
                    out.eager.push(s(Act::Frame(w.index(inbox.from).expect("a process"))));
                }
            }
            let awaited = |p: &crate::world::Proc| {
                p.live.as_ref().is_some_and(|l| !l.stopped && !l.doomed)
                    && !found.iter().any(|f| f.id == p.id)
            };
            if w.procs.iter().any(|p| awaited(p)) {
                out.timers.push(s(Act::Recover));
            } else {
                out.eager.push(s(Act::Recover));
            }
        }
        Mode::Running(r) => running(w, r, out),
    }
}

fn running(w: &World, r: &Running, out: &mut Moves) {
    let s = |act| m(Who::S, act);
    if !r.strangers.is_empty() {
        if r.strangers.iter().all(|id| !w.alive(*id)) {
            out.eager.push(s(Act::StrangersGone));
        }
        return;
    }
    if !r.todo.is_empty() {
        out.eager.push(s(Act::Continue));
        return;
    }
    if r.machine.failed().is_some() {
        // the program ends with an error, and the service manager starts it again
        out.eager.push(s(Act::Kill));
        return;
    }
    if !r.answers.is_empty() {
        out.eager.push(s(Act::Answer));
        return;
    }
    let mut readable = false;
    for inbox in &r.inboxes {
        let n = w.index(inbox.from).expect("a process");
        if !inbox.stream.frames.is_empty() {
            readable = true;
            out.eager.push(s(Act::Frame(n)));
        } else if inbox.stream.eof {
            out.eager.push(s(Act::Closed(n)));
        }
    }
    let named = r.incumbent.iter().chain(&r.successor).chain(&r.retiring);
    for id in named {
        let peer = r.name_of(*id).expect("it has a name");
        if !w.alive(*id) {
            if !r.exit_told.contains(id) {
                out.eager.push(s(Act::Exited(peer)));
            }
            if r.due.contains(&peer) {
                out.eager.push(s(Act::Gone(peer)));
            }
        }
    }
    if r.watch.is_some_and(|epoch| w.disk.owner(epoch).is_some()) {
        out.eager.push(s(Act::Watched));
    }
    if w.upgrades > 0 && r.machine.upgrade_possible() {
        out.eager.push(s(Act::Upgrade));
    }
    if r.turning.is_some() {
        out.eager.push(s(Act::TurnBack));
        out.faults.push(s(Act::NoWayBack));
    }
    if let Some(id) = r.canary {
        let asked = w.live(id).filter(|live| !live.doomed);
        match asked {
            Some(live) if !live.sings => out.timers.push(s(Act::Sung)),
            Some(_) | None => out.eager.push(s(Act::Sung)),
        }
        out.faults.push(s(Act::Hoarse));
    }
    if r.machine.abort_possible() {
        out.faults.push(s(Act::AbortOrder));
    }
    if readable {
        return;
    }
    for timer in &r.timers {
        // heartbeats keep a live incumbent from being silent
        let linked =
            |l: &Live| l.link.as_ref().is_some_and(|k| k.generation == w.sup.generation && !k.stream.eof);
        let unlikely = matches!(timer, Timer::Silent | Timer::Stall)
            && r.incumbent.and_then(|id| w.live(id)).is_some_and(|l| !l.stopped && !l.doomed && linked(l));
        let list = if unlikely { &mut out.faults } else { &mut out.timers };
        list.push(s(Act::Expired(*timer)));
    }
}

fn process(w: &World, n: usize, l: &Live, rules: &Rules, out: &mut Moves) {
    let p = |act| m(Who::P(n), act);
    if l.doomed {
        out.eager.push(p(Act::Die));
    }
    if l.stopped {
        if !l.doomed {
            out.lazy.push(p(Act::Cont));
            out.faults.push(p(Act::Kill));
        }
        return;
    }
    if !l.doomed {
        out.faults.push(p(Act::Kill));
        out.faults.push(p(Act::Stop));
    }
    if !l.todo.is_empty() {
        out.eager.push(p(Act::Continue));
        return;
    }
    if !l.answers.is_empty() {
        out.eager.push(p(Act::Answer));
        return;
    }
    if let Some(epoch) = l.tenure
        && !rules.overlaps()
        && w.disk.stamped != epoch
        && (!rules.reduced || somebody_compares(w, n))
    {
        out.lazy.push(p(Act::Write));
    }
    if l.tenure.is_some() && w.running().is_some_and(|r| r.machine.state_name().starts_with("Probation")) {
        out.faults.push(p(Act::VotesItselfDown));
    }
    let mut readable = false;
    if let Some(link) = &l.link {
        if !link.stream.frames.is_empty() {
            readable = true;
            out.eager.push(p(Act::Frame(n)));
        } else if link.stream.eof {
            out.eager.push(p(Act::Closed(n)));
        } else if w.faults > 0 && w.sup.generation == link.generation {
            out.faults.push(p(Act::Drop));
        }
    }
    if l.knock.is_some() {
        out.eager.push(p(Act::Accept));
    }
    if let Some(peer) = &l.peer {
        readable |= of_peer(w, n, peer, out);
    }
    for hook in &l.hooks {
        let ready = match hook {
            Hook::Receive => {
                let o = w.live(l.incumbent).and_then(|o| o.peer.as_ref());
                let connected = o.is_some_and(|o| o.id == w.procs[n].id);
                l.streamed || !connected || l.machine.state_name().contains("lost")
            }
            _ => true,
        };
        if *hook == Hook::Seal && rules.stubborn && w.procs[n].build == 1 {
            out.eager.push(p(Act::HookFails(*hook)));
            continue;
        }
        if ready {
            out.eager.push(p(Act::Done(*hook)));
        }
        if !matches!(hook, Hook::HandOver | Hook::Receive | Hook::Retire) {
            out.faults.push(p(Act::HookFails(*hook)));
        }
        if *hook == Hook::Open {
            out.faults.push(p(Act::Unhealthy));
            // there is nothing to compare with where nobody sealed
            if l.machine.letter() == "N" && !rules.overlaps() {
                out.faults.push(p(Act::Misread));
            }
        }
    }
    if let Some(bounded) = l.locking {
        if w.disk.lock.is_none() {
            out.eager.push(p(Act::Locked));
        } else if bounded {
            out.timers.push(p(Act::LockTimeout));
        }
    }
    if readable {
        return;
    }
    for timer in &l.timers {
        // heartbeats renew the lease while the supervisor runs
        let heard = l.link.as_ref().is_some_and(|link| {
            link.generation == w.sup.generation
                && !link.stream.eof
                && !w.sup.stopped
                && !matches!(w.sup.mode, Mode::Dead)
        });
        let list = if *timer == Timer::Lease && heard { &mut out.faults } else { &mut out.timers };
        list.push(p(Act::Expired(*timer)));
    }
}

/// Whether another process has data in memory that it may serve with: otherwise nobody can tell whether a write was, for
/// whoever comes later reads it from disk.
fn somebody_compares(w: &World, n: usize) -> bool {
    let others =
        w.procs.iter().enumerate().filter(|(other, _)| *other != n).filter_map(|(_, p)| p.live.as_ref());
    others.into_iter().any(|l| l.memory.is_some() && l.machine.standing() != Standing::Retiring)
}

/// What O sees of N. Returns whether a frame can be read.
fn of_peer(w: &World, n: usize, peer: &PeerView, out: &mut Moves) -> bool {
    let p = |act| m(Who::P(n), act);
    let mut readable = false;
    if let Some(stream) = &peer.transfer {
        if !stream.frames.is_empty() {
            readable = true;
            out.eager.push(p(Act::Transfer));
        } else if stream.eof {
            out.eager.push(p(Act::TransferClosed));
        }
    }
    if !w.alive(peer.id) {
        if !peer.exit_told {
            out.eager.push(p(Act::Exited(Peer::Successor)));
        }
        if peer.kill_due {
            out.eager.push(p(Act::Gone(Peer::Successor)));
        }
    }
    readable
}
