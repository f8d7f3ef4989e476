//! Every schedule of the production machines, with faults, in a small world.
//!
//! The machines are the very ones that run; only what is around them is a model: channels with the semantics of
//! sockets, a disk of which some is durable, one lock, processes that are killed, stopped and continued at every
//! effect. The exploration is exhaustive for its budget of faults and its traces are shortest.
//!
//! Faults: kill -9 and SIGSTOP (with CONT at any later time, or never) before and after every effect, failing hooks,
//! proposals, claims, fsyncs and spawns, channels that break, timers that run out too early, power loss. S comes back,
//! or never does. Both strategies; under overlap there is no lock and no data, and somebody serves in every state.
//! Not modelled: descriptors, connections handed over one by one (overlap), two supervisors at once, real time.
//!
//! States that nobody can tell apart are one ([`reduce`]). How many there are in each run is pinned ([`pinned`]).
//!
//! A run for longer: `HANDOFF_MODEL_FAULTS=3 cargo test --release -p handoff --no-default-features --test model
//! a_supervisor -- --test-threads 1 --nocapture`; `HANDOFF_MODEL_UPGRADES=2` lets faults strike the next upgrade too;
//! `HANDOFF_MODEL_KINDS=stops,hurry` leaves the other kinds out. `HANDOFF_MODEL_KILLS=4` with the filter `deaths` explores
//! four kills. Times are in docs/testing.md.
//!
//! Deeper than every schedule can be tried, a simulator walks through the same world, one way a seed: [`sim`].

mod allowed;
mod apply;
mod check;
mod dice;
mod explore;
mod life;
mod moves;
mod mutants;
mod part;
mod perform;
mod pinned;
mod reduce;
mod removed;
mod rules;
mod shrink;
mod sim;
mod tenure;
mod walk;
mod world;

use check::Reached;
use explore::{Found, explore};
use handoff::ids::{BuildId, Epoch, InstanceId};
use handoff::wire::{FileId, Hello, Role};
use rules::{Fences, Formats, Kinds, Mutant, Rules};

/// What an instance says of itself.
fn hello(instance: InstanceId, role: Role, epoch: Epoch, build: u8, rules: &Rules) -> Hello {
    let (reads, mut writes) = rules.formats_of(build);
    if rules.is(Mutant::WayBackNotAsked) {
        writes = 1;
    }
    Hello {
        role,
        instance,
        pid: 1,
        build: BuildId::default(),
        service: String::new(),
        wire_min: 1,
        wire_max: 1,
        strategy: rules.strategy,
        state: handoff::wire::Formats { reads, writes },
        connections: handoff::wire::Formats { reads: vec![1], writes: 1 },
        owner_lock: Some(FileId { dev: 1, ino: 1 }),
        epoch,
        listeners: Vec::new(),
        generation: 0,
        canary: rules.canary,
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
    if rules.kinds.power {
        rules.faults = from_environment("HANDOFF_MODEL_FAULTS", rules.faults);
        rules.upgrades = from_environment("HANDOFF_MODEL_UPGRADES", rules.upgrades);
        if let Ok(kinds) = std::env::var("HANDOFF_MODEL_KINDS") {
            rules.kinds = Kinds::named(&kinds);
        }
    } else {
        rules.faults = from_environment("HANDOFF_MODEL_KILLS", rules.faults);
    }
    let begun = std::time::Instant::now();
    let found = explore(&rules);
    let (name, took) = (rules.name(), begun.elapsed());
    eprintln!("{name}: {} states, {} ends, {:?}, in {took:.1?}", found.states, found.terminal, found.reached);
    if found.violation.is_none() {
        pinned::is_as_before(&name, found.states);
    }
    found
}

fn kept(found: &Found) {
    if let Some(v) = &found.violation {
        panic!("{}: {}\n{}", v.rule, v.how, v.trace.join("\n"));
    }
    assert!(!found.cut_short, "the limit was hit");
}

#[test]
fn a_supervisor_that_comes_back() {
    let found = run(Rules::new(true, 2, Kinds::ALL));
    kept(&found);
    let all = Reached {
        committed: true,
        resumed_before_seal: true,
        resumed_by_claim: true,
        reclaimed: true,
        cold_start_old: true,
        cold_start_new: true,
        adopted_active_successor: true,
        self_commit: true,
        resolves_while_hung_successor_locks: true,
        ..Reached::default()
    };
    assert_eq!(found.reached, all, "every interesting path is walked");
}

#[test]
fn a_supervisor_that_never_comes_back() {
    let found = run(Rules::new(false, 2, Kinds::ALL));
    kept(&found);
    let all = Reached {
        committed: true,
        resumed_before_seal: true,
        resumed_by_claim: true,
        reclaimed: true,
        cold_start_old: true,
        cold_start_new: true,
        self_commit: true,
        resolves_while_hung_successor_locks: true,
        incumbent_without_supervisor: true,
        successor_without_supervisor: true,
        ..Reached::default()
    };
    assert_eq!(found.reached, all, "every interesting path is walked");
}

#[test]
fn two_deaths() {
    let found = run(Rules::new(true, 2, Kinds::KILLS));
    kept(&found);
    assert!(found.reached.self_commit, "N commits by itself when S and O are gone");
    kept(&run(Rules::new(false, 2, Kinds::KILLS)));
}

/// The overlap strategy: two faults of any kind and, for one fault over two upgrades or two deaths, no moment without
/// a server.
fn both_serve(restartable: bool) {
    let found = run(Rules::overlap(restartable, 2, Kinds::ALL));
    kept(&found);
    kept(&run(Rules { upgrades: 2, ..Rules::overlap(restartable, 1, Kinds::ALL) }));
    kept(&run(Rules::overlap(restartable, 2, Kinds::KILLS)));
    let all = Reached {
        committed: true,
        resumed_by_claim: true,
        reclaimed: true,
        cold_start_old: true,
        cold_start_new: true,
        self_commit: true,
        both_serve: true,
        adopted_active_successor: restartable,
        incumbent_without_supervisor: !restartable,
        successor_without_supervisor: !restartable,
        ..Reached::default()
    };
    if std::env::var_os("HANDOFF_MODEL_FAULTS").is_none() {
        assert_eq!(found.reached, all, "every interesting path is walked, and none of a seal");
    }
}

#[test]
fn overlap_and_a_supervisor_that_comes_back() {
    both_serve(true);
}

#[test]
fn overlap_and_a_supervisor_that_never_comes_back() {
    both_serve(false);
}

/// After the commit: the new server dies, hangs or votes itself down, S dies, and a build before it serves again, which
/// reads what is on disk.
#[test]
fn probation() {
    let found = run(Rules::on_probation(true, 1, Kinds::ALL));
    kept(&found);
    let seen = |r: &Reached| (r.proven, r.rolled_back, r.rolled_back_from_disk, r.watched_again);
    assert_eq!(seen(&found.reached), (true, true, true, true), "every interesting path is walked");
    kept(&run(Rules::on_probation(false, 1, Kinds::ALL)));
}

/// It votes itself down and cannot be sealed: the way back is tried twice and then gone from disk.
/// `HANDOFF_MODEL_KILLS=2` lets somebody die meanwhile.
#[test]
fn a_way_back_that_is_always_aborted() {
    let found = run(Rules { stubborn: true, ..Rules::on_probation(true, 1, Kinds::VOTES) });
    kept(&found);
    let seen = |r: &Reached| (r.tried_again, r.rolled_back, r.rolled_back_from_disk);
    assert_eq!(seen(&found.reached), (true, false, true), "every interesting path is walked");
}

/// The way back is a handoff, and a fault may strike it too.
#[test]
fn two_faults_on_probation() {
    let found = run(Rules { probation: true, ..Rules::overlap(true, 2, Kinds::VOTES) });
    kept(&found);
    let Reached { rolled_back, rolled_back_from_disk, tried_again, .. } = found.reached;
    assert!(rolled_back && rolled_back_from_disk && tried_again);
}

#[test]
fn an_upgrade_ends_a_probation() {
    // with the exclusive strategy it is a million states and more
    kept(&run(Rules { probation: true, upgrades: 2, ..Rules::overlap(true, 1, Kinds::VOTES) }));
}

#[test]
fn overlap_on_probation() {
    let found = run(Rules { probation: true, ..Rules::overlap(true, 1, Kinds::ALL) });
    kept(&found);
    assert!(found.reached.rolled_back && found.reached.rolled_back_from_disk);
}

/// A request is tried on N when it is ready: without a good answer it is not permitted to claim, whatever dies or hangs
/// over it; and the same on probation.
#[test]
fn a_canary() {
    kept(&run(Rules { canary: true, ..Rules::new(true, 1, Kinds::ALL) }));
    kept(&run(Rules { canary: true, ..Rules::new(false, 1, Kinds::ALL) }));
    kept(&run(Rules { canary: true, ..Rules::overlap(true, 2, Kinds::ALL) }));
    kept(&run(Rules { canary: true, ..Rules::overlap(false, 2, Kinds::ALL) }));
}

#[test]
fn a_canary_again_and_again() {
    let found = run(Rules { canary: true, ..Rules::on_probation(true, 1, Kinds::ALL) });
    kept(&found);
    assert!(found.reached.proven && found.reached.rolled_back && found.reached.rolled_back_from_disk);
    let found = run(Rules { canary: true, probation: true, ..Rules::overlap(true, 1, Kinds::ALL) });
    kept(&found);
    assert!(found.reached.proven && found.reached.rolled_back && found.reached.rolled_back_from_disk);
}

#[test]
fn a_canary_that_is_ignored_is_missed() {
    let rules = Rules { canary: true, ..Rules::new(true, 1, Kinds::STOPS) };
    missed(Mutant::CanaryIgnored, rules, "canary");
}

/// Where the old build does not read what the new one writes there is no probation, and nothing goes back.
#[test]
fn one_way() {
    let found = run(Rules { formats: Formats::Newer, ..Rules::on_probation(true, 1, Kinds::ALL) });
    kept(&found);
    let Reached { proven, rolled_back, rolled_back_from_disk, .. } = found.reached;
    assert!(!proven && !rolled_back && !rolled_back_from_disk);
}

#[test]
fn a_rule_of_the_probation_that_is_taken_away_is_missed() {
    use Mutant::*;
    let newer = Rules { formats: Formats::Newer, ..Rules::on_probation(true, 1, Kinds::KILLS) };
    missed(WayBackNotAsked, newer, "I5");
    missed(ProbationNeverOver, Rules::on_probation(true, 1, Kinds::KILLS), "L1");
}

/// Without this rule the explorer finds something, and says so by this name.
fn caught(mutant: Mutant, restartable: bool, faults: u8, kinds: Kinds, rule: &str) {
    missed(mutant, Rules::new(restartable, faults, kinds), rule);
}

fn missed(mutant: Mutant, rules: Rules, rule: &str) {
    let rules = Rules { mutant: Some(mutant), ..rules };
    let found = explore(&rules);
    let violation = found.violation.unwrap_or_else(|| panic!("{mutant:?} survives {} states", found.states));
    eprintln!("{mutant:?}: {} after {} states", violation.rule, found.states);
    assert_eq!(violation.rule, rule, "{mutant:?}: {}", violation.how);
}

/// Without this rule nothing is found: another one covers it.
fn survives(mutant: Mutant, rules: Rules) {
    let found = explore(&Rules { mutant: Some(mutant), ..rules });
    eprintln!("{mutant:?}: {} states and nothing found", found.states);
    if let Some(v) = found.violation {
        panic!("{mutant:?} is not covered: {}: {}\n{}", v.rule, v.how, v.trace.join("\n"));
    }
}

#[test]
fn a_rule_that_is_taken_away_is_missed() {
    use Mutant::*;
    caught(ClaimNotSynced, true, 1, Kinds::STOPS, "I4");
    caught(ResumeWithoutClaim, true, 1, Kinds::STOPS, "I4");
    caught(ReclaimWithoutClaim, true, 1, Kinds::KILLS, "I4");
    caught(StartedAfterServing, true, 1, Kinds::KILLS, "connections");
    caught(ChannelNotDrained, true, 1, Kinds::KILLS, "connections");
    caught(RefusesForEver, true, 1, Kinds::KILLS, "L4");
    caught(NoLease, true, 1, Kinds::STOPS, "L2");
    caught(LeaveAtClaim, false, 2, Kinds::KILLS, "L2");
    caught(NoStartTimer, false, 2, Kinds::STOPS, "L2");
}

#[test]
fn a_rule_that_is_taken_away_from_the_overlap_is_missed() {
    use Mutant::*;
    missed(ClaimNotSynced, Rules::overlap(true, 1, Kinds::STOPS), "I4");
    missed(ReclaimWithoutClaim, Rules::overlap(true, 1, Kinds::KILLS), "I4");
    missed(LeaveAtClaim, Rules::overlap(true, 1, Kinds::KILLS), "gap");
    missed(ChannelNotDrained, Rules::overlap(true, 1, Kinds::KILLS), "ended");
    missed(RefusesForEver, Rules::overlap(true, 1, Kinds::KILLS), "L4");
    missed(NoLease, Rules::overlap(true, 1, Kinds::STOPS), "L2");
}

#[test]
fn claim_and_lock_keep_two_writers_apart_and_one_of_them_is_enough() {
    for bits in 0..8 {
        let (no_claim, no_lock, no_end) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
        let mutant = Mutant::Fences(Fences { no_claim, no_lock, no_end });
        let rules = Rules { mutant: Some(mutant), safety_only: true, ..Rules::new(true, 1, Kinds::STOPS) };
        let found = explore(&rules);
        // nobody is ended before the lock and the claim are asked for, so ending N is no fence but good manners
        let expected = (no_claim && no_lock).then_some("I1");
        assert_eq!(found.violation.map(|v| v.rule), expected, "{mutant:?}");
    }
}
