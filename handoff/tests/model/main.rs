//! Every schedule of the production machines, with faults, in a small world.
//!
//! The machines are the very ones that run; only what is around them is a model: channels with the semantics of
//! sockets, a disk of which some is durable, one lock, processes that are killed, stopped and continued at every
//! effect. The exploration is exhaustive for its budget of faults and its traces are shortest.
//!
//! Larger budgets: `HANDOFF_MODEL_FAULTS=3 cargo test -p handoff --no-default-features --release --test model`
//! (minutes, some GB); `HANDOFF_MODEL_UPGRADES=2` explores the next upgrade with faults too.

#![allow(missing_docs, unreachable_pub)]

mod apply;
mod check;
mod explore;
mod moves;
mod perform;
mod rules;
mod world;

use explore::{Found, explore};
use handoff::ids::{BuildId, Epoch, InstanceId};
use handoff::wire::{FileId, Formats, Hello, Role, Strategy};
use rules::{Mutant, Rules};

/// What an instance says of itself.
fn hello(instance: InstanceId, role: Role, epoch: Epoch) -> Hello {
    Hello {
        role,
        instance,
        pid: 1,
        build: BuildId::default(),
        service: String::new(),
        wire_min: 1,
        wire_max: 1,
        strategy: Strategy::Exclusive,
        state: Formats { reads: vec![1], writes: 1 },
        connections: Formats { reads: vec![1], writes: 1 },
        owner_lock: Some(FileId { dev: 1, ino: 1 }),
        epoch,
        listeners: Vec::new(),
        generation: 0,
    }
}

/// Each supervisor numbers the servers that it starts from a base of its own.
fn base(generation: u64) -> InstanceId {
    InstanceId(u128::from(generation) << 32)
}

fn from_environment(name: &str, default: u8) -> u8 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn run(mut rules: Rules) -> Found {
    rules.faults = from_environment("HANDOFF_MODEL_FAULTS", rules.faults);
    rules.upgrades = from_environment("HANDOFF_MODEL_UPGRADES", rules.upgrades);
    let begun = std::time::Instant::now();
    let found = explore(&rules);
    eprintln!(
        "{} faults, {} upgrades, S {}: {} states, {} ends, {:?}, in {:.1?}",
        rules.faults,
        rules.upgrades,
        if rules.restartable { "restartable" } else { "never restarted" },
        found.states,
        found.terminal,
        found.reached,
        begun.elapsed()
    );
    found
}

fn holds(found: &Found) {
    if let Some(v) = &found.violation {
        panic!("{}: {}\n{}", v.rule, v.how, v.trace.join("\n"));
    }
    assert!(!found.cut_short, "the limit was hit");
}

#[test]
fn a_supervisor_that_comes_back() {
    let found = run(Rules::new(true, 2));
    holds(&found);
}

#[test]
fn a_supervisor_that_never_comes_back() {
    let found = run(Rules::new(false, 2));
    holds(&found);
}

#[test]
fn mutants() {
    let _ = Mutant::ClaimNotSynced;
}
