//! Counterexamples that the exploration found.

use super::Successor;
use crate::ids::{BuildId, Digest, Epoch, InstanceId};
use crate::machine::step::{Effect, Hook, Input, Machine, Report};
use crate::wire::{Formats, Hello, Role, Strategy};

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
    }
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
