//! Events that no table has: every kind of input with a few values each, that fit each other or do not.

use crate::source::Source;
use crate::words::{BASE, HANDOFF, N, NEXT, O, THIRD, digest, hello};
use handoff::ids::{Epoch, HandoffId, InstanceId};
use handoff::machine::{Command, Hook, Input, Peer, Report, Step, Timer, Upgrade, Way};
use handoff::wire::{HelloAck, Message, Refused, Role, Stamped, Standing};
use std::time::Duration;

/// A handoff that is never open.
pub(crate) const STALE: HandoffId = HandoffId(6);

pub(crate) fn input(source: &mut Source<'_>) -> Input {
    match source.below(12) {
        0 => Input::Start,
        1 => Input::Command(command(source)),
        2..=4 => {
            let (peer, handoff, epoch) = (peer(source), handoff(source), epoch(source));
            Input::Received(peer, Stamped { handoff, epoch, message: message(source) })
        }
        5 => Input::Closed(peer(source)),
        6 => Input::Exited(peer(source)),
        7 => Input::Gone(peer(source)),
        8 => Input::Expired(timer(source)),
        9 => Input::Done(
            hook(source),
            if source.below(4) == 0 { Err("wrong".into()) } else { Ok(report(source)) },
        ),
        10 => match source.below(4) {
            0 => Input::Locked { highest: None },
            1 => Input::Locked { highest: Some((epoch(source), id(source))) },
            _ => Input::Claimed(epoch(source), Some(id(source)).filter(|id| !id.is_nil())),
        },
        _ => Input::Failed(step(source), "it failed".into()),
    }
}

fn id(source: &mut Source<'_>) -> InstanceId {
    [O, N, THIRD, InstanceId(0).nth(1), InstanceId(0).nth(2), InstanceId::NIL][source.below(6)]
}

fn handoff(source: &mut Source<'_>) -> HandoffId {
    [HANDOFF, HANDOFF, HANDOFF, HandoffId(8), STALE, HandoffId::NIL][source.below(6)]
}

fn epoch(source: &mut Source<'_>) -> Epoch {
    [BASE, NEXT, Epoch(3), Epoch(4), Epoch::ZERO, Epoch(u64::MAX)][source.below(6)]
}

fn peer(source: &mut Source<'_>) -> Peer {
    match source.below(4) {
        0 => Peer::Supervisor,
        1 => Peer::Incumbent,
        2 => Peer::Successor,
        _ => Peer::Retiring(id(source)),
    }
}

fn command(source: &mut Source<'_>) -> Command {
    match source.below(4) {
        0 => Command::Start,
        1 => Command::Abort,
        2 => Command::Stop,
        _ => Command::Upgrade(Upgrade {
            handoff: handoff(source),
            successor: id(source),
            deadline: Duration::from_secs(source.byte().into()),
            drain_grace: Duration::from_secs(source.byte().into()),
            freeze_budget: Duration::MAX,
            probation: Duration::from_secs(source.below(2) as u64),
            canary: source.below(2) == 1,
            way: [Way::Forward, Way::OneWay, Way::Back][source.below(3)],
        }),
    }
}

fn timer(source: &mut Source<'_>) -> Timer {
    let timers = [
        Timer::Deadline,
        Timer::Drain,
        Timer::Freeze,
        Timer::Lease,
        Timer::SelfCommit,
        Timer::Started,
        Timer::Active,
        Timer::Silent,
        Timer::Backoff,
        Timer::Forgive(u32::MAX),
        Timer::Retire(N),
        Timer::Grace,
        Timer::ColdStart,
        Timer::Probation,
        Timer::Stall,
        Timer::Canary,
    ];
    timers[source.below(timers.len())]
}

fn hook(source: &mut Source<'_>) -> Hook {
    let hooks = [
        Hook::Warm,
        Hook::Open,
        Hook::Receive,
        Hook::Serve,
        Hook::Drain,
        Hook::Seal,
        Hook::HandOver,
        Hook::Verify,
        Hook::Resume,
        Hook::Retire,
        Hook::Health,
        Hook::Canary,
    ];
    hooks[source.below(hooks.len())]
}

fn report(source: &mut Source<'_>) -> Report {
    let digest = digest(source.below(2) as u64);
    match source.below(7) {
        0 => Report::Nothing,
        1 => Report::Warmed { loaded: String::new(), revision: 1 },
        2 => Report::Opened { digest, data_epoch: epoch(source), healthy: source.below(2) == 0 },
        3 => Report::Received { connections: source.below(3) as u64 },
        4 => Report::Drained { open: 1 },
        5 => Report::Sealed { digest, connections: source.below(3) as u64 },
        _ => Report::Verified { digest },
    }
}

fn step(source: &mut Source<'_>) -> Step {
    let steps =
        [Step::Persist, Step::Propose, Step::Claim, Step::SyncClaim, Step::Spawn, Step::TurnBack, Step::Lock];
    steps[source.below(steps.len())]
}

fn message(source: &mut Source<'_>) -> Message {
    let digest = digest(source.below(2) as u64);
    match source.below(29) {
        0 => {
            let role = [Role::Incumbent, Role::Successor, Role::Cold, Role::Retiring][source.below(4)];
            let mut hello = hello(id(source), role);
            hello.epoch = epoch(source);
            hello.wire_min = source.below(3) as u16;
            hello.generation = u64::from(source.byte()) << 56;
            Message::Hello(Box::new(hello))
        }
        1 => Message::HelloAck(HelloAck {
            version: 1,
            lease_ms: u32::from(source.byte()) << 24,
            freeze_budget_ms: 0,
            deadline_ms: u32::MAX,
            generation: 1,
            incumbent: id(source),
            connection_format: 0,
        }),
        2 => Message::Refused(Refused { what: source.byte().into(), why: "no".into() }),
        3 => Message::Warmed { loaded: String::new(), revision: 0 },
        4 => Message::PrepareHandoff {
            successor: id(source),
            deadline_ms: u32::MAX,
            drain_grace_ms: u32::MAX,
            freeze_budget_ms: u32::from(source.byte()) << 24,
            connection_format: 0,
        },
        5 => Message::Drained { open: u64::MAX },
        6 => Message::SealRequest,
        7 => Message::SealProgress { progress: u64::MAX },
        8 => Message::Heartbeat { progress: u64::MAX },
        9 => Message::SealComplete { digest, connections: u64::from(source.byte()) << 56 },
        10 => Message::SealFailed { error: String::new() },
        11 => Message::Unhealthy { why: String::new() },
        12 => Message::Begin { digest: Some(digest).filter(|_| source.below(2) == 0) },
        13 => Message::Ready {
            digest: Some(digest).filter(|_| source.below(2) == 0),
            listeners: Vec::new(),
            healthy: source.below(2) == 0,
            connections: source.below(3) as u64,
        },
        14 => Message::Canary,
        15 => Message::Commit,
        16 => Message::Started,
        17 => Message::Active { epoch: epoch(source) },
        18 => Message::Retire { grace_ms: u32::MAX },
        19 => Message::Resolve,
        20 => Message::Resumed { epoch: epoch(source) },
        21 => Message::Retiring,
        22 => Message::Abort { reason: String::new() },
        23 => Message::Adopt { generation: u64::MAX },
        24 => {
            let standings = [
                Standing::Active,
                Standing::Draining,
                Standing::Sealed,
                Standing::Retiring,
                Standing::Warming,
                Standing::Opening,
                Standing::Claimed,
                Standing::Starting,
            ];
            let standing = standings[source.below(standings.len())];
            let (epoch, handoff) = (epoch(source), handoff(source));
            Message::Adopted { standing, epoch, handoff, peer: id(source) }
        }
        25 => Message::Parked { first: 0, entries: Vec::new() },
        26 => Message::ParkedMore { index: 0, bytes: Vec::new() },
        27 => Message::ParkedAck { received: 0 },
        _ => Message::End { connections: 0 },
    }
}
