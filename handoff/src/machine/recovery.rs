//! Where everything stands when a supervisor starts and others already run: facts in, a machine out.
//!
//! An open handoff goes into the same routine as every other open end (`Resolving`); there is no other recovery code.

use super::step::{Effect, Effects, Outcome, Peer, Timer, Upgrade, Way, times};
use super::supervisor::Supervisor;
use crate::ids::{Epoch, HandoffId, InstanceId};
use crate::journal::Record;
use crate::wire::{Hello, Standing};
use std::time::Duration;

/// What a restarted supervisor found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Random base for the ids of instances that will be started.
    pub base: InstanceId,
    /// Its generation: higher than all before.
    pub generation: u64,
    /// The handoff that the journal shows begun and not ended.
    pub open: Option<FoundHandoff>,
    /// The server that the journal shows on probation, or being rolled back.
    pub trial: Option<FoundTrial>,
    /// The highest claim.
    pub highest: Option<(Epoch, InstanceId)>,
    /// The supervisor before stopped, and nothing was left: that nobody serves is as it should be.
    pub stopped: bool,
    /// The instances that answered.
    pub instances: Vec<FoundInstance>,
}

/// A handoff that the journal shows open.
#[derive(Clone, Copy, Debug)]
pub struct FoundHandoff {
    /// Its id.
    pub handoff: HandoffId,
    /// Who served when it began.
    pub incumbent: InstanceId,
    /// Who was to serve.
    pub successor: InstanceId,
    /// The base epoch.
    pub epoch: Epoch,
    /// How long its server is on probation.
    pub probation: Duration,
    /// What is to be tried on its server is known.
    pub canary: bool,
}

/// A server that the journal shows on probation.
#[derive(Clone, Debug)]
pub struct FoundTrial {
    /// The handoff that committed.
    pub handoff: HandoffId,
    /// Who served before.
    pub previous: InstanceId,
    /// Who serves since.
    pub serving: InstanceId,
    /// How long.
    pub window: Duration,
    /// What is tried on it again and again is known.
    pub canary: bool,
    /// Why it has not stood it, and how many ways back have come to nothing since.
    pub turned_down: Option<(String, u32)>,
}

impl FoundHandoff {
    /// The probation after this one.
    fn trial(&self) -> Option<FoundTrial> {
        let (handoff, previous, serving) = (self.handoff, self.incumbent, self.successor);
        let (window, canary, turned_down) = (self.probation, self.canary, None);
        let trial = FoundTrial { handoff, previous, serving, window, canary, turned_down };
        (!self.probation.is_zero()).then_some(trial)
    }

    /// Within the probation there is no other handoff than the one that goes back.
    fn undoes(&self, trial: Option<&FoundTrial>) -> Option<FoundTrial> {
        trial.filter(|trial| trial.serving == self.incumbent).cloned()
    }
}

/// An instance that answered Adopt.
#[derive(Clone, Debug)]
pub struct FoundInstance {
    /// What it says of itself.
    pub hello: Hello,
    /// How it stands.
    pub standing: Standing,
    /// Its epoch (the base epoch while a handoff is open).
    pub epoch: Epoch,
    /// The handoff that is open for it, or nil.
    pub handoff: HandoffId,
    /// The other side of that handoff, or nil.
    pub peer: InstanceId,
}

/// The machine to go on with, and who has which name in it.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// The machine.
    pub supervisor: Supervisor,
    /// To be performed first. Names are bound before.
    pub effects: Effects,
    /// Who is `Peer::Incumbent`.
    pub incumbent: Option<InstanceId>,
    /// Who is `Peer::Successor`, whether it answered or only its container is there.
    pub successor: Option<InstanceId>,
    /// Who is `Peer::Retiring`.
    pub retiring: Vec<InstanceId>,
}

/// Decides where everything stands. Instances that answered and have no name in the result are of no handoff that is
/// known: their trees are to be ended.
#[must_use]
pub fn recover(found: Found) -> Recovery {
    let mut supervisor = Supervisor::new(found.base, found.generation);
    let mut retiring = Vec::new();
    let (mut serving, mut before): (Vec<FoundInstance>, Vec<FoundInstance>) = (Vec::new(), Vec::new());
    for instance in found.instances {
        match instance.standing {
            Standing::Active | Standing::Draining | Standing::Sealed => serving.push(instance),
            Standing::Retiring => retiring.push(instance.hello.instance),
            Standing::Warming | Standing::Opening | Standing::Claimed | Standing::Starting => {
                before.push(instance)
            }
        }
    }
    // the owner of the highest claim first: if a second one says it serves, it has not heard yet that it does not
    let owner = found.highest.map(|(_, owner)| owner);
    serving.sort_by_key(|i| (i.standing != Standing::Active, Some(i.hello.instance) != owner, i.epoch));
    // who still believes to serve handed over to one that is gone and has yet to hear of it, where a cold start was
    // begun since, or where the claims have gone on beyond its handoff
    let owns = |i: &FoundInstance| Some(i.hello.instance) == owner;
    let started = before.iter().any(is_cold) && !serving.iter().any(owns);
    let passed = |i: &FoundInstance| !owns(i) && found.highest.is_some_and(|(top, _)| top > i.epoch.next());
    let (left, serving): (Vec<_>, Vec<_>) = serving.into_iter().partition(|i| started || passed(i));
    retiring.extend(left.iter().map(|i| i.hello.instance));
    let mut serving = serving.into_iter();

    let Some(first) = serving.next() else {
        if found.highest.is_some() && !found.stopped {
            supervisor.found_nobody();
        }
        return without_incumbent(supervisor, found.open, found.trial, before, retiring);
    };
    // N is active and O has not seen Started yet: it will, and leaves by itself
    retiring.extend(serving.map(|i| i.hello.instance));
    let mut effects = Effects::new();
    for instance in &retiring {
        supervisor.watch_retiring(*instance);
        effects.push(Effect::Arm(Timer::Retire(*instance), times::START + times::RETIRE_SLACK));
    }

    let me = first.hello.instance;
    let handoff = found
        .open
        .filter(|open| open.incumbent == me || open.successor == me)
        .filter(|open| first.handoff.is_nil() || first.handoff == open.handoff)
        // its own word beats the journal's: it may have slept through the end of an older one
        .or_else(|| open_of(&first));
    let mut successor = None;
    if let Some(open) = found.open.filter(|open| handoff.is_none_or(|h| h.handoff != open.handoff)) {
        effects.push(superseded(open, me, first.epoch));
    }
    match handoff {
        // it began as the successor and serves: committed, whoever was to write that down
        Some(open) if open.successor == me => {
            let (handoff, epoch) = (open.handoff, first.epoch);
            if open.undoes(found.trial.as_ref()).is_some() {
                let reason = "a rollback was under way when the supervisor was restarted".to_owned();
                effects.push(Effect::Persist(Record::RolledBack { handoff, reason, epoch }));
            }
            effects.push(Effect::Persist(Record::Ended {
                handoff,
                outcome: Outcome::Committed,
                reason: None,
                epoch,
            }));
            match open.trial() {
                Some(trial) => effects.extend(supervisor.found_on_probation(first.hello, epoch, trial)),
                None => supervisor.found_idle(first.hello, epoch),
            }
        }
        Some(open) => {
            successor = Some(open.successor);
            let reason = "the supervisor was restarted".to_owned();
            let found_successor = before.iter().find(|i| i.hello.instance == open.successor);
            let hello = found_successor.map(|i| i.hello.clone());
            let warm = found_successor.is_some_and(|i| i.standing != Standing::Warming);
            let undone = open.undoes(found.trial.as_ref());
            effects.extend(found.trial.filter(|_| undone.is_none()).map(proven));
            effects.extend(supervisor.found_open(
                upgrade(open),
                first.hello,
                open.epoch,
                hello,
                reason,
                undone.map(|trial| (trial, warm)),
            ));
        }
        None => {
            let epoch = first.epoch;
            match found.trial {
                Some(trial) if trial.serving == me => {
                    effects.extend(supervisor.found_on_probation(first.hello, epoch, trial));
                }
                Some(trial) => {
                    // its place was taken by the build before it, from disk
                    let reason = "the new server died on probation".to_owned();
                    let handoff = trial.handoff;
                    effects.push(Effect::Persist(Record::RolledBack { handoff, reason, epoch }));
                    supervisor.found_idle(first.hello, epoch);
                }
                None => supervisor.found_idle(first.hello, epoch),
            }
        }
    }
    Recovery { supervisor, effects, incumbent: Some(me), successor, retiring }
}

/// A server that was started from disk and does not serve yet.
fn is_cold(instance: &FoundInstance) -> bool {
    instance.handoff.is_nil() && instance.standing != Standing::Warming
}

/// O is gone. N may have claimed; a cold-started server may be on its way.
fn without_incumbent(
    mut supervisor: Supervisor,
    open: Option<FoundHandoff>,
    trial: Option<FoundTrial>,
    before: Vec<FoundInstance>,
    retiring: Vec<InstanceId>,
) -> Recovery {
    let mut effects = Effects::new();
    for instance in &retiring {
        supervisor.watch_retiring(*instance);
        effects.push(Effect::Arm(Timer::Retire(*instance), times::START + times::RETIRE_SLACK));
    }
    if let Some(cold) = before.iter().find(|i| is_cold(i)) {
        let instance = cold.hello.instance;
        supervisor.found_starting(cold.hello.clone(), trial);
        effects.extend(open.map(|open| superseded(open, instance, cold.epoch)));
        effects.push(Effect::Arm(Timer::ColdStart, times::COLD_START));
        return Recovery { supervisor, effects, incumbent: Some(instance), successor: None, retiring };
    }
    let open = open.or_else(|| before.first().and_then(open_of_successor));
    let Some(open) = open else {
        effects.extend(trial.map(|trial| supervisor.found_fallen(trial)).unwrap_or_default());
        return Recovery { supervisor, effects, incumbent: None, successor: None, retiring };
    };
    match before.iter().find(|i| i.hello.instance == open.successor) {
        Some(n) => {
            let reason = "the supervisor was restarted, the incumbent is gone".to_owned();
            effects.extend(supervisor.found_orphan(
                upgrade(open),
                open.incumbent,
                open.epoch,
                n.hello.clone(),
                reason,
                open.undoes(trial.as_ref()),
            ));
            Recovery { supervisor, effects, incumbent: None, successor: Some(open.successor), retiring }
        }
        None => {
            let reason = Some("the supervisor was restarted, nobody was left".to_owned());
            let (handoff, outcome, epoch) = (open.handoff, Outcome::ColdStarted, open.epoch);
            effects.push(Effect::Persist(Record::Ended { handoff, outcome, reason, epoch }));
            effects.extend(trial.map(|trial| supervisor.found_fallen(trial)).unwrap_or_default());
            // its container may still hold something
            Recovery { supervisor, effects, incumbent: None, successor: None, retiring }
        }
    }
}

/// The journal shows a handoff open that is not the one to resolve: a cold start ended it, or its incumbent never
/// heard of it.
fn superseded(open: FoundHandoff, serving: InstanceId, epoch: Epoch) -> Effect {
    let (outcome, why) = if open.incumbent == serving {
        (Outcome::Aborted, "the incumbent was still busy with an older handoff")
    } else {
        (Outcome::ColdStarted, "a server started from disk had taken over")
    };
    let reason = Some(format!("the supervisor was restarted; {why}"));
    Effect::Persist(Record::Ended { handoff: open.handoff, outcome, reason, epoch })
}

/// Another handoff than the one that goes back is open: the probation was over, whatever was written down.
fn proven(trial: FoundTrial) -> Effect {
    Effect::Persist(Record::ProbationOver { handoff: trial.handoff })
}

/// The open handoff by the incumbent's own word, where the journal does not tell.
fn open_of(incumbent: &FoundInstance) -> Option<FoundHandoff> {
    (!incumbent.handoff.is_nil()).then_some(FoundHandoff {
        handoff: incumbent.handoff,
        incumbent: incumbent.hello.instance,
        successor: incumbent.peer,
        epoch: incumbent.epoch,
        probation: Duration::ZERO,
        canary: false,
    })
}

fn open_of_successor(successor: &FoundInstance) -> Option<FoundHandoff> {
    (!successor.handoff.is_nil()).then_some(FoundHandoff {
        handoff: successor.handoff,
        incumbent: successor.peer,
        successor: successor.hello.instance,
        epoch: successor.epoch,
        probation: Duration::ZERO,
        canary: false,
    })
}

/// The terms of the first supervisor are gone with it; what is still needed of them is the grace for retiring.
fn upgrade(open: FoundHandoff) -> Upgrade {
    Upgrade {
        handoff: open.handoff,
        successor: open.successor,
        deadline: Duration::from_secs(60),
        drain_grace: times::START,
        freeze_budget: Duration::from_secs(2),
        probation: open.probation,
        canary: open.canary,
        way: Way::Forward,
    }
}

/// Which name an instance has, for whoever binds channels.
#[must_use]
pub fn name_of(recovery: &Recovery, instance: InstanceId) -> Option<Peer> {
    if recovery.incumbent == Some(instance) {
        Some(Peer::Incumbent)
    } else if recovery.successor == Some(instance) {
        Some(Peer::Successor)
    } else if recovery.retiring.contains(&instance) {
        Some(Peer::Retiring(instance))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::BuildId;
    use crate::wire::{Formats, Role, Strategy};

    fn found(instance: InstanceId, standing: Standing, epoch: Epoch) -> FoundInstance {
        let hello = Hello {
            role: Role::Incumbent,
            instance,
            pid: 1,
            build: BuildId::default(),
            service: String::new(),
            wire_min: 1,
            wire_max: 1,
            strategy: Strategy::Exclusive,
            state: Formats::default(),
            connections: Formats::default(),
            owner_lock: None,
            epoch,
            listeners: Vec::new(),
            generation: 1,
            canary: false,
        };
        FoundInstance { hello, standing, epoch, handoff: HandoffId::NIL, peer: InstanceId::NIL }
    }

    /// S called a stopped O unresponsive, began the next handoff and died; O continues with the first one.
    #[test]
    fn the_incumbents_own_word_beats_the_journal() {
        let (incumbent, first, second) = (InstanceId(1), HandoffId(1), HandoffId(2));
        let open = FoundHandoff {
            handoff: second,
            incumbent,
            successor: InstanceId(3),
            epoch: Epoch(1),
            probation: Duration::ZERO,
            canary: false,
        };
        let o = found(incumbent, Standing::Draining, Epoch(1));
        let recovery = recover(Found {
            base: InstanceId::NIL,
            generation: 2,
            open: Some(open),
            trial: None,
            highest: Some((Epoch(1), incumbent)),
            stopped: false,
            instances: vec![FoundInstance { handoff: first, peer: InstanceId(2), ..o }],
        });
        assert_eq!(recovery.supervisor.handoff(), Some(first));
        assert_eq!(recovery.successor, Some(InstanceId(2)));
        let ended =
            |e: &Effect| matches!(e, Effect::Persist(Record::Ended { handoff, .. }) if *handoff == second);
        assert!(recovery.effects.iter().any(ended));
    }

    /// The explorer's counterexample: O and N died, X serves, S died before it wrote that down.
    #[test]
    fn a_handoff_that_a_cold_start_ended_is_closed_in_the_journal() {
        let open = FoundHandoff {
            handoff: HandoffId(1),
            incumbent: InstanceId(1),
            successor: InstanceId(2),
            epoch: Epoch(1),
            probation: Duration::ZERO,
            canary: false,
        };
        for standing in [Standing::Active, Standing::Starting, Standing::Claimed] {
            let recovery = recover(Found {
                base: InstanceId::NIL,
                generation: 2,
                open: Some(open),
                trial: None,
                highest: Some((Epoch(2), InstanceId(3))),
                stopped: false,
                instances: vec![found(InstanceId(3), standing, Epoch(2))],
            });
            let ended = recovery.effects.iter().any(|effect| {
                matches!(effect, Effect::Persist(Record::Ended { handoff, outcome, .. })
                    if *handoff == open.handoff && *outcome == Outcome::ColdStarted)
            });
            assert!(ended, "{standing:?}: {:?}", recovery.effects);
            assert_eq!(recovery.incumbent, Some(InstanceId(3)));
        }
    }

    /// The explorer's counterexample: N committed and died, X was started, S died; O has not yet read Started.
    #[test]
    fn a_cold_start_under_way_is_not_ended_for_an_incumbent_that_has_yet_to_leave() {
        let (incumbent, successor, cold) = (InstanceId(1), InstanceId(2), InstanceId(3));
        let handoff = HandoffId(1);
        for (standing, highest) in
            [(Standing::Starting, (Epoch(2), successor)), (Standing::Claimed, (Epoch(3), cold))]
        {
            let o = found(incumbent, Standing::Draining, Epoch(1));
            let recovery = recover(Found {
                base: InstanceId::NIL,
                generation: 2,
                open: None,
                trial: None,
                highest: Some(highest),
                stopped: false,
                instances: vec![
                    FoundInstance { handoff, peer: successor, ..o },
                    found(cold, standing, Epoch(3)),
                ],
            });
            assert_eq!(recovery.incumbent, Some(cold), "{standing:?}");
            assert_eq!(recovery.retiring, [incumbent]);
        }
    }

    /// The explorer's counterexample over two upgrades: the first O has yet to read Started, the second one has left.
    #[test]
    fn an_incumbent_of_an_older_handoff_is_retiring() {
        let (first, second, third) = (InstanceId(1), InstanceId(2), InstanceId(3));
        let (old, new) = (HandoffId(1), HandoffId(2));
        let o = found(first, Standing::Draining, Epoch(1));
        let n = found(third, Standing::Claimed, Epoch(2));
        let recovery = recover(Found {
            base: InstanceId::NIL,
            generation: 2,
            open: Some(FoundHandoff {
                handoff: new,
                incumbent: second,
                successor: third,
                epoch: Epoch(2),
                probation: Duration::ZERO,
                canary: false,
            }),
            trial: None,
            highest: Some((Epoch(3), third)),
            stopped: false,
            instances: vec![
                FoundInstance { handoff: old, peer: second, ..o },
                FoundInstance { handoff: new, peer: second, ..n },
            ],
        });
        assert_eq!((recovery.supervisor.handoff(), recovery.successor), (Some(new), Some(third)));
        assert_eq!(recovery.retiring, [first]);
    }
}
