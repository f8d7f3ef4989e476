//! Events in any order, possible or not, into each machine: it never panics, and keeps what it can keep alone.

use crate::source::Source;
use crate::table::Table;
use crate::wild;
use crate::words::{BASE, O};
use crate::{incumbent, successor, supervisor};
use handoff::ids::{Epoch, HandoffId, InstanceId};
use handoff::journal::Record;
use handoff::machine::{Command, Effect, Hook, Incumbent, Input, Machine, Peer, times};
use handoff::wire::{Message, Strategy};
use std::collections::BTreeSet;
use std::fmt::Debug;

/// The first byte chooses the machine, the second its state, each further one an event.
pub(crate) fn check(data: &[u8]) {
    let mut source = Source::new(data);
    match source.below(6) {
        0 => walk(&incumbent::table(), instance(O, BASE), &mut source),
        1 => {
            let first = Incumbent::active(O, BASE, Strategy::Overlap, times::LEASE);
            walk(&Table { first, ..incumbent::table() }, instance(O, BASE), &mut source);
        }
        2 => walk(&successor::table(), instance(crate::words::N, Epoch::ZERO), &mut source),
        3 => walk(&successor::cold_table(), instance(crate::words::N, Epoch::ZERO), &mut source),
        4 => walk(&supervisor::table(), Watch::Supervisor(Overseer::default()), &mut source),
        _ => {
            // what instances say of themselves decides how they hand over
            let mut table = supervisor::table();
            let says = table.inputs.iter_mut().map(|(_, input)| input);
            for input in says.chain(table.states.iter_mut().flat_map(|(_, way)| way)) {
                if let Input::Received(_, frame) = input
                    && let Message::Hello(hello) = &mut frame.message
                {
                    (hello.strategy, hello.owner_lock) = (Strategy::Overlap, None);
                }
            }
            walk(&table, Watch::Supervisor(Overseer { overlap: true, ..Overseer::default() }), &mut source);
        }
    }
}

fn walk<M: Machine + Clone + PartialEq + Debug>(table: &Table<M>, mut watch: Watch, source: &mut Source<'_>) {
    let mut machine = table.first.clone();
    let (_, way) = &table.states[source.below(table.states.len())];
    for input in way {
        step(&mut machine, input.clone(), &mut watch);
    }
    let mut steps = 0;
    while !source.is_empty() && steps < 200 {
        steps += 1;
        let input = match table.inputs.get(usize::from(source.byte())) {
            Some((_, input)) => input.clone(),
            None => wild::input(source),
        };
        step(&mut machine, input, &mut watch);
        assert!(!(table.name)(&machine).is_empty());
    }
}

fn step<M: Machine + Clone + PartialEq + Debug>(machine: &mut M, input: Input, watch: &mut Watch) {
    let before = machine.clone();
    let effects = machine.handle(input.clone());
    let mut again = before.clone();
    assert_eq!((again.handle(input.clone()), &again), (effects.clone(), &*machine), "the same, asked twice");
    assert!(effects.len() < 64, "{} effects of {input:?}", effects.len());
    let story = || format!("{input:?}\nin {before:?}\ngives {effects:?}");
    if is_stale(&input) {
        let answers = effects.iter().all(|effect| matches!(effect, Effect::Send(..)));
        assert!(answers && *machine == before, "a stale frame has an effect: {}", story());
    }
    if let Err(wrong) = watch.see(&input, &effects) {
        panic!("{wrong}: {}", story());
    }
}

/// An order of a handoff that is not open. (Resolve is answered in every state, and may be remembered.)
fn is_stale(input: &Input) -> bool {
    let Input::Received(_, frame) = input else { return false };
    let order = matches!(
        frame.message,
        Message::SealRequest
            | Message::Begin { .. }
            | Message::Commit
            | Message::Abort { .. }
            | Message::Started
            | Message::Warmed { .. }
            | Message::Drained { .. }
            | Message::SealComplete { .. }
            | Message::Ready { .. }
    );
    order && frame.handoff == wild::STALE
}

/// What one process can keep by itself, whatever the others do.
enum Watch {
    Instance(Tenant),
    Supervisor(Overseer),
}

fn instance(me: InstanceId, epoch: Epoch) -> Watch {
    let holds = epoch != Epoch::ZERO;
    Watch::Instance(Tenant { me, tenure: epoch, holds, ..Tenant::default() })
}

impl Watch {
    fn see(&mut self, input: &Input, effects: &[Effect]) -> Result<(), &'static str> {
        match self {
            Watch::Instance(tenant) => tenant.see(input, effects),
            Watch::Supervisor(overseer) => overseer.see(input, effects),
        }
    }
}

/// A server, as it may own data.
#[derive(Default)]
struct Tenant {
    me: InstanceId,
    /// The epoch it serves under, or served under last.
    tenure: Epoch,
    /// The claims that name it.
    mine: BTreeSet<Epoch>,
    /// Those that it made durable.
    synced: BTreeSet<Epoch>,
    /// owner.lock is its own; and it waits for it.
    holds: bool,
    waits: bool,
    /// It gave the lock free and has not taken the service back.
    handed_over: bool,
    finished: bool,
}

impl Tenant {
    fn see(&mut self, input: &Input, effects: &[Effect]) -> Result<(), &'static str> {
        match input {
            Input::Claimed(epoch, Some(owner)) if *owner == self.me => drop(self.mine.insert(*epoch)),
            Input::Locked { .. } if self.waits => (self.holds, self.waits) = (true, false),
            _ => {}
        }
        // whoever asks may be told that it is over
        if self.finished && effects.iter().any(|effect| !matches!(effect, Effect::Send(..))) {
            return Err("it goes on after its end");
        }
        for effect in effects {
            self.sees(effect)?;
        }
        Ok(())
    }

    fn sees(&mut self, effect: &Effect) -> Result<(), &'static str> {
        match effect {
            // there is none after the last one
            Effect::Claim(epoch) if *epoch <= self.tenure && epoch.0 != u64::MAX => {
                return Err("it claims an epoch that it had");
            }
            Effect::SyncClaim(epoch) if !self.mine.contains(epoch) => {
                return Err("it makes a claim durable that does not name it");
            }
            Effect::SyncClaim(epoch) => drop(self.synced.insert(*epoch)),
            Effect::Call(Hook::Serve) => self.may_write()?,
            Effect::Call(Hook::Resume) if self.handed_over || !self.holds => self.may_write()?,
            Effect::Send(Peer::Incumbent, frame)
                if frame.message == Message::Started && self.synced.is_empty() =>
            {
                return Err("it begins under no claim, or under one that is not durable");
            }
            Effect::Unlock => {
                (self.holds, self.handed_over) = (false, true);
                // from here on only another claim makes it a writer
                self.mine.clear();
                self.synced.clear();
            }
            Effect::Lock(_) => self.waits = true,
            Effect::Finish(_) => self.finished = true,
            Effect::Persist(_) | Effect::Spawn(..) | Effect::Report(_) | Effect::Promote => {
                return Err("it does what is the supervisor's");
            }
            _ => {}
        }
        Ok(())
    }

    /// From here on it may: the lock is its own, and so is a claim that is durable and new.
    fn may_write(&mut self) -> Result<(), &'static str> {
        let newest = self.synced.last().copied().unwrap_or_default();
        if newest <= self.tenure {
            return Err("it serves under no claim, or under one that is not durable");
        }
        if !self.holds {
            return Err("it serves without owner.lock");
        }
        (self.tenure, self.handed_over) = (newest, false);
        Ok(())
    }
}

/// A supervisor, as it may give orders.
#[derive(Default)]
struct Overseer {
    overlap: bool,
    upgrades: usize,
    reports: usize,
    /// Whom the journal authorises to be started.
    intents: BTreeSet<InstanceId>,
    /// Handoffs whose seal the journal says is coming; that were sealed; whose successor is ready.
    announced: BTreeSet<HandoffId>,
    sealed: BTreeSet<HandoffId>,
    ready: BTreeSet<HandoffId>,
    stopped: bool,
}

impl Overseer {
    fn see(&mut self, input: &Input, effects: &[Effect]) -> Result<(), &'static str> {
        match input {
            Input::Command(Command::Upgrade(_)) => self.upgrades += 1,
            Input::Received(Peer::Incumbent, frame) => {
                if let Message::SealComplete { .. } = frame.message {
                    self.sealed.insert(frame.handoff);
                }
            }
            Input::Received(Peer::Successor, frame) => {
                if let Message::Ready { healthy: true, .. } = frame.message {
                    self.ready.insert(frame.handoff);
                }
            }
            _ => {}
        }
        let again = |effect: &Effect| {
            matches!(effect, Effect::Send(..) | Effect::Persist(Record::Stopped) | Effect::Finish(_))
        };
        if self.stopped && !effects.iter().all(again) {
            return Err("it goes on after its end");
        }
        for effect in effects {
            self.sees(effect)?;
        }
        Ok(())
    }

    fn sees(&mut self, effect: &Effect) -> Result<(), &'static str> {
        match effect {
            Effect::Propose | Effect::Claim(_) | Effect::SyncClaim(_) | Effect::Lock(_) | Effect::Unlock => {
                return Err("it does what is the servers'");
            }
            Effect::Call(hook) if *hook != Hook::Canary => return Err("it has no such hook"),
            Effect::Persist(Record::Intent { successor, .. }) => drop(self.intents.insert(*successor)),
            Effect::Persist(Record::SealRequested { handoff }) => drop(self.announced.insert(*handoff)),
            Effect::Spawn(Peer::Successor, id, _) if !self.intents.contains(id) => {
                return Err("a successor is started that the journal does not know");
            }
            Effect::Report(_) => {
                self.reports += 1;
                // how it ended, and once more what came of its probation
                if self.reports > 2 * self.upgrades {
                    return Err("more handoffs end than began");
                }
            }
            Effect::Send(_, frame) => match frame.message {
                Message::SealRequest if !self.announced.contains(&frame.handoff) => {
                    return Err("a seal is requested that the journal does not know");
                }
                Message::Begin { .. } if !self.overlap && !self.sealed.contains(&frame.handoff) => {
                    return Err("a successor begins before the incumbent is sealed");
                }
                Message::Commit if !self.ready.contains(&frame.handoff) => {
                    return Err("a successor may claim and did not say that it is ready");
                }
                _ => {}
            },
            Effect::Finish(_) => self.stopped = true,
            _ => {}
        }
        Ok(())
    }
}

/// Every state of every machine has a beginning in the corpus: the bytes that lead there.
#[cfg(test)]
pub(crate) fn beginnings() -> Vec<[u8; 2]> {
    let counts = [
        incumbent::table().states.len(),
        incumbent::table().states.len(),
        successor::table().states.len(),
        successor::cold_table().states.len(),
        supervisor::table().states.len(),
        supervisor::table().states.len(),
    ];
    let byte = |n: usize| u8::try_from(n).expect("a table has fewer states");
    let all = counts.iter().enumerate();
    all.flat_map(|(machine, count)| (0..*count).map(move |state| [byte(machine), byte(state)])).collect()
}
