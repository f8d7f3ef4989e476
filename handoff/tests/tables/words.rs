//! Inputs in short.

use handoff::ids::{BuildId, Digest, Epoch, HandoffId, InstanceId};
use handoff::machine::{Input, Peer};
use handoff::wire::{FileId, Formats, Hello, HelloAck, Message, Refused, Role, Stamped, Strategy};

pub(crate) const O: InstanceId = InstanceId(1);
pub(crate) const N: InstanceId = InstanceId(2);
pub(crate) const THIRD: InstanceId = InstanceId(3);
pub(crate) const HANDOFF: HandoffId = HandoffId(7);
pub(crate) const BASE: Epoch = Epoch(1);
pub(crate) const NEXT: Epoch = Epoch(2);

pub(crate) fn from(peer: Peer, message: Message) -> Input {
    Input::Received(peer, Stamped { handoff: HANDOFF, epoch: BASE, message })
}

pub(crate) fn stale(peer: Peer, message: Message) -> Input {
    Input::Received(peer, Stamped { handoff: HandoffId(6), epoch: BASE, message })
}

pub(crate) fn refused() -> Message {
    Message::Refused(Refused { what: 0, why: String::new() })
}

pub(crate) fn ack() -> Message {
    Message::HelloAck(HelloAck {
        version: 1,
        lease_ms: 6000,
        freeze_budget_ms: 2000,
        deadline_ms: 300_000,
        generation: 1,
        incumbent: O,
        connection_format: 1,
    })
}

pub(crate) fn digest(generation: u64) -> Digest {
    Digest { format: 1, generation, shards: Vec::new() }
}

pub(crate) fn wrong<T>() -> Result<T, String> {
    Err("wrong".to_owned())
}

pub(crate) fn hello(instance: InstanceId, role: Role) -> Hello {
    Hello {
        role,
        instance,
        pid: 1,
        build: BuildId("1".to_owned()),
        service: "kv".to_owned(),
        wire_min: 1,
        wire_max: 1,
        strategy: Strategy::Exclusive,
        state: Formats { reads: vec![1], writes: 1 },
        connections: Formats { reads: vec![1], writes: 1 },
        owner_lock: Some(FileId { dev: 1, ino: 1 }),
        epoch: BASE,
        listeners: Vec::new(),
        generation: 0,
        canary: true,
    }
}
