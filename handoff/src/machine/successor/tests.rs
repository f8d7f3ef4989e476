//! Counterexamples that the exploration found.

use super::Successor;
use crate::ids::{BuildId, Digest, Epoch, HandoffId, InstanceId};
use crate::machine::step::{Effect, Hook, Input, Machine, Peer, Report};
use crate::wire::{Formats, Hello, HelloAck, Message, Role, Stamped, Strategy};

const N: InstanceId = InstanceId(2);
const BASE: Epoch = Epoch(4);

fn hello(role: Role, strategy: Strategy) -> Hello {
    Hello {
        role,
        instance: N,
        pid: 1,
        build: BuildId::default(),
        service: String::new(),
        wire_min: 1,
        wire_max: 1,
        strategy,
        state: Formats::default(),
        connections: Formats::default(),
        owner_lock: None,
        epoch: BASE,
        listeners: Vec::new(),
        generation: 0,
        canary: false,
    }
}

fn frame(message: Message) -> Input {
    Input::Received(Peer::Supervisor, Stamped { handoff: HandoffId(7), epoch: BASE, message })
}

fn ack() -> Message {
    Message::HelloAck(HelloAck {
        version: 1,
        lease_ms: 6000,
        freeze_budget_ms: 2000,
        deadline_ms: 300_000,
        generation: 1,
        incumbent: InstanceId(1),
        connection_format: 0,
    })
}

/// N claimed, said Started and died before it served; O, which served as well, had left at Started.
#[test]
fn an_overlapping_successor_says_started_when_it_serves() {
    let opened = Report::Opened { digest: Digest::default(), data_epoch: BASE, healthy: true };
    let warmed = Report::Warmed { loaded: String::new(), revision: 0 };
    let way = [
        Input::Start,
        frame(ack()),
        Input::Done(Hook::Warm, Ok(warmed)),
        frame(Message::Begin { digest: None }),
        Input::Done(Hook::Open, Ok(opened)),
        frame(Message::Commit),
    ];
    let mut n = Successor::new(hello(Role::Successor, Strategy::Overlap));
    for input in way {
        n.handle(input);
    }
    let claimed = n.handle(Input::Claimed(BASE.next(), Some(N)));
    assert_eq!(claimed, [Effect::SyncClaim(BASE.next()), Effect::Call(Hook::Serve)]);
    let served = n.handle(Input::Done(Hook::Serve, Ok(Report::Nothing)));
    let points: Vec<_> = served.iter().map(Effect::point).collect();
    assert_eq!(points, ["send.Started", "send.Active", "forget.incumbent", "tidy"]);
}

/// A retiring server would hold owner.lock for its whole grace, and nobody could start meanwhile.
#[test]
fn an_overlapping_server_starts_without_owner_lock() {
    let mut x = Successor::cold(hello(Role::Cold, Strategy::Overlap));
    assert_eq!(x.handle(Input::Start).last(), Some(&Effect::Call(Hook::Warm)));
    x.handle(Input::Done(Hook::Warm, Ok(Report::Warmed { loaded: String::new(), revision: 0 })));
    let opened = Report::Opened { digest: Digest::default(), data_epoch: Epoch::ZERO, healthy: true };
    let claim = x.handle(Input::Done(Hook::Open, Ok(opened)));
    assert_eq!(claim, [Effect::Propose, Effect::Claim(BASE.next())]);
}
