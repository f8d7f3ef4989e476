//! Single rows of the incumbent's table, and what must hold in all of them.

use super::Incumbent;
use crate::ids::{Digest, Epoch, HandoffId, InstanceId};
use crate::machine::step::{Effect, Effects, Hook, Input, Machine, Peer, Report, Timer, times};
use crate::wire::{Message, Stamped, Standing, Strategy};
use std::time::Duration;

const O: InstanceId = InstanceId(1);
const N: InstanceId = InstanceId(2);
const HANDOFF: HandoffId = HandoffId(7);
const BASE: Epoch = Epoch(4);

fn frame(handoff: HandoffId, message: Message) -> Input {
    Input::Received(Peer::Supervisor, Stamped { handoff, epoch: BASE, message })
}

fn prepare(handoff: HandoffId) -> Input {
    let (deadline_ms, drain_grace_ms, freeze_budget_ms) = (300_000, 60_000, 2000);
    let message = Message::PrepareHandoff {
        successor: N,
        deadline_ms,
        drain_grace_ms,
        freeze_budget_ms,
        connection_format: 1,
    };
    frame(handoff, message)
}

fn done(hook: Hook) -> Input {
    let report = match hook {
        Hook::Drain => Report::Drained { open: 1 },
        Hook::Seal => Report::Sealed { digest: Digest::default(), connections: 1 },
        Hook::Verify => Report::Verified { digest: Digest::default() },
        _ => Report::Nothing,
    };
    Input::Done(hook, Ok(report))
}

/// The way of a handoff until O took it back, one input a state.
fn way() -> Vec<Input> {
    vec![
        prepare(HANDOFF),
        done(Hook::Drain),
        frame(HANDOFF, Message::SealRequest),
        done(Hook::Seal),
        Input::Closed(Peer::Supervisor),
        Input::Claimed(BASE.next(), Some(O)),
        Input::Gone(Peer::Successor),
        Input::Locked { highest: Some((BASE.next(), O)) },
        done(Hook::Verify),
    ]
}

fn machine() -> Incumbent {
    Incumbent::active(O, BASE, Strategy::Exclusive, times::LEASE)
}

fn answer(effect: Effect) -> Option<Input> {
    match effect {
        Effect::Call(hook) => Some(done(hook)),
        Effect::Claim(epoch) => Some(Input::Claimed(epoch, Some(O))),
        Effect::Kill(peer) => Some(Input::Gone(peer)),
        Effect::Lock(_) => Some(Input::Locked { highest: Some((BASE.next(), O)) }),
        _ => None,
    }
}

/// A world in which every order succeeds. Returns the messages to S.
fn go_on(machine: &mut Incumbent, effects: Effects) -> Vec<Message> {
    let mut said = Vec::new();
    let mut todo: std::collections::VecDeque<Effect> = effects.into();
    while let Some(effect) = todo.pop_front() {
        match effect {
            Effect::Send(Peer::Supervisor, frame) => said.push(frame.message),
            other => todo.extend(answer(other).into_iter().flat_map(|input| machine.handle(input))),
        }
    }
    said
}

#[test]
fn resolve_is_answered_in_every_state() {
    for steps in 0..=way().len() {
        let mut o = machine();
        let mut last = Vec::new();
        for input in way().into_iter().take(steps) {
            last = o.handle(input);
        }
        let state = o.state_name();
        let asked = o.handle(frame(HANDOFF, Message::Resolve));
        // what was under way when it was asked goes on first
        last.extend(asked);
        let said = go_on(&mut o, last);
        let answered = said.iter().any(|m| matches!(m, Message::Resumed { .. }));
        assert!(answered, "{state}: {said:?}");
        assert_eq!(o.state_name(), "Active");
        let expected = if steps <= 3 { BASE } else { BASE.next() };
        assert_eq!(o.epoch(), expected, "asked in {state}");
    }
    let mut o = machine();
    for input in way().into_iter().take(4) {
        o.handle(input);
    }
    let started = Stamped { handoff: HANDOFF, epoch: BASE, message: Message::Started };
    o.handle(Input::Received(Peer::Successor, started));
    let said = go_on(&mut o.clone(), o.handle(frame(HANDOFF, Message::Resolve)));
    assert_eq!(said, [Message::Retiring]);
}

/// S called O unresponsive while it was stopped, and asks it about the next handoff.
#[test]
fn resolve_of_a_later_handoff_is_answered_in_every_state() {
    let later = HandoffId(8);
    for steps in 1..=way().len() {
        let mut o = machine();
        let mut last = Vec::new();
        for input in way().into_iter().take(steps) {
            last = o.handle(input);
        }
        let state = o.state_name();
        last.extend(o.handle(frame(later, Message::Resolve)));
        let mut todo = last;
        let mut answers = Vec::new();
        // the stamps count here, so the world of `go_on` is walked by hand
        while let Some(effect) = (!todo.is_empty()).then(|| todo.remove(0)) {
            match effect {
                Effect::Send(Peer::Supervisor, frame) => answers.push((frame.handoff, frame.message)),
                other => todo.extend(answer(other).into_iter().flat_map(|input| o.handle(input))),
            }
        }
        let epoch = o.epoch();
        assert!(answers.contains(&(later, Message::Resumed { epoch })), "{state}: {answers:?}");
        assert_eq!(o.handle(prepare(later)).len(), 1, "refused for ever");
        assert_eq!(o.state_name(), "Active");
    }
}

#[test]
fn frames_of_another_handoff_or_epoch_have_no_effect() {
    for steps in 0..=way().len() {
        let mut o = machine();
        for input in way().into_iter().take(steps) {
            o.handle(input);
        }
        for message in [Message::SealRequest, Message::Retire { grace_ms: 1 }] {
            for (handoff, epoch) in [(HandoffId(6), BASE), (HANDOFF, Epoch(3))] {
                let before = o.clone();
                let frame = Stamped { handoff, epoch, message: message.clone() };
                let effects = o.handle(Input::Received(Peer::Supervisor, frame));
                assert_eq!(o, before);
                assert!(
                    effects
                        .iter()
                        .all(|e| matches!(e, Effect::Send(_, f) if matches!(f.message, Message::Refused(_)))),
                    "{} on {message:?}: {effects:?}",
                    o.state_name()
                );
            }
        }
    }
}

#[test]
fn a_handoff_that_was_resolved_never_begins_again_and_the_next_one_does() {
    let mut o = machine();
    o.handle(frame(HANDOFF, Message::Resolve));
    o.handle(prepare(HANDOFF));
    assert_eq!(o.state_name(), "Active");
    o.handle(prepare(HandoffId(8)));
    assert_eq!(o.state_name(), "Draining");
}

#[test]
fn no_tenure_begins_before_its_claim_is_durable() {
    let mut o = machine();
    let effects = way().into_iter().fold(Vec::new(), |_, input| o.handle(input));
    assert_eq!(effects, [Effect::SyncClaim(BASE.next()), Effect::Call(Hook::Resume)]);
}

#[test]
fn the_lock_is_given_free_before_the_seal_is_told() {
    let mut o = machine();
    let effects = way().into_iter().take(4).fold(Vec::new(), |_, input| o.handle(input));
    assert_eq!(effects[0], Effect::Unlock);
}

/// The explorer's counterexample: N claimed and died, O lost the end of the transfer channel and waited for ever.
#[test]
fn an_overlapping_incumbent_remembers_the_end_of_the_transfer_channel() {
    let mut o = Incumbent::active(O, BASE, Strategy::Overlap, times::LEASE);
    o.handle(prepare(HANDOFF));
    assert_eq!(o.handle(Input::Closed(Peer::Successor)).last(), Some(&Effect::Claim(BASE.next())));
    o.handle(Input::Claimed(BASE.next(), Some(N)));
    o.handle(Input::Exited(Peer::Successor));
    let reclaim = o.handle(Input::Gone(Peer::Successor));
    assert!(reclaim.contains(&Effect::Claim(BASE.next().next())), "{reclaim:?}");
    assert!(o.serves());
    let resumed = o.handle(Input::Claimed(BASE.next().next(), Some(O)));
    assert_eq!(resumed[0], Effect::SyncClaim(BASE.next().next()));
    assert_eq!((o.state_name(), o.epoch()), ("Active", BASE.next().next()));
}

/// Found by the crash matrix (`N.claim.before/drop`): N lost all its channels and came back to S, but nothing brings Started
/// back. O waited for it, ended a healthy N that served, and left nobody.
#[test]
fn who_hears_of_the_successor_only_from_the_supervisor_leaves_it_alone() {
    let sealed = 4;
    let looks = [Input::Closed(Peer::Successor), Input::Expired(Timer::Freeze)];
    let lingers = [looks.to_vec(), vec![Input::Claimed(BASE.next(), Some(N))]].concat();
    for since in [vec![], looks.to_vec(), lingers.clone()] {
        let mut o = machine();
        way().into_iter().take(sealed).chain(since).for_each(|input| drop(o.handle(input)));
        let effects = o.handle(frame(HANDOFF, Message::Retire { grace_ms: 3000 }));
        assert_eq!(o.standing(), Standing::Retiring, "{effects:?}");
        assert!(effects.contains(&Effect::Call(Hook::Retire)));
        assert!(effects.ends_with(&[Effect::Arm(Timer::Grace, Duration::from_secs(3))]), "{effects:?}");
    }
    // control: without that word it is the one who ends N
    let mut o = machine();
    way().into_iter().take(sealed).chain(lingers).for_each(|input| drop(o.handle(input)));
    assert!(o.handle(Input::Expired(Timer::Started)).contains(&Effect::Kill(Peer::Successor)));
    // too late: N is being ended
    o.handle(frame(HANDOFF, Message::Retire { grace_ms: 3000 }));
    assert_ne!(o.standing(), Standing::Retiring);
}
