//! Counterexamples that the exploration found, as short as it found them, and single rows.

use super::Supervisor;
use crate::ids::{BuildId, Digest, Epoch, HandoffId, InstanceId};
use crate::machine::recovery::{Found, recover};
use crate::machine::restarts::Restarts;
use crate::machine::step::{
    Command, Effect, Effects, Hook, Input, Machine, Peer, Report, Timer, Upgrade, Way, Which,
};
use crate::wire::{Formats, Hello, Message, Role, Stamped, Standing, Strategy};
use std::time::Duration;

mod late;

const N: InstanceId = InstanceId(99);
const HANDOFF: HandoffId = HandoffId(7);
const BASE: Epoch = Epoch(1);
const NEXT: Epoch = Epoch(2);

fn hello(instance: InstanceId, role: Role, strategy: Strategy) -> Input {
    let formats = Formats { reads: vec![1], writes: 1 };
    let hello = Hello {
        role,
        instance,
        pid: 1,
        build: BuildId::default(),
        service: String::new(),
        wire_min: 1,
        wire_max: 1,
        strategy,
        state: formats.clone(),
        connections: formats,
        owner_lock: None,
        epoch: BASE,
        listeners: Vec::new(),
        generation: 0,
        canary: true,
    };
    let peer = if role == Role::Successor { Peer::Successor } else { Peer::Incumbent };
    said(peer, Message::Hello(Box::new(hello)))
}

fn said(peer: Peer, message: Message) -> Input {
    Input::Received(peer, Stamped { handoff: HANDOFF, epoch: BASE, message })
}

fn adopted() -> Message {
    let (handoff, peer) = (HandoffId::NIL, InstanceId::NIL);
    Message::Adopted { standing: Standing::Active, epoch: BASE, handoff, peer }
}

fn sealed() -> Message {
    Message::SealComplete { digest: Digest::default(), connections: 1 }
}

fn ready() -> Message {
    let digest = Some(Digest::default());
    Message::Ready { digest, listeners: Vec::new(), healthy: true, connections: 1 }
}

/// A supervisor whose handoff has come this far.
fn at(state: &str) -> Supervisor {
    on(Strategy::Exclusive, state)
}

fn on(strategy: Strategy, state: &str) -> Supervisor {
    with_probation(strategy, state, Duration::ZERO)
}

fn with_probation(strategy: Strategy, state: &str, probation: Duration) -> Supervisor {
    with(strategy, state, probation, false)
}

fn with(strategy: Strategy, state: &str, probation: Duration, canary: bool) -> Supervisor {
    let upgrade = Upgrade {
        canary,
        handoff: HANDOFF,
        successor: N,
        deadline: Duration::from_secs(300),
        drain_grace: Duration::from_secs(60),
        freeze_budget: Duration::from_secs(2),
        probation,
        way: Way::Forward,
    };
    let way = [
        Input::Command(Command::Start),
        hello(InstanceId(0).nth(1), Role::Cold, strategy),
        said(Peer::Incumbent, Message::Active { epoch: BASE }),
        Input::Command(Command::Upgrade(upgrade)),
        hello(N, Role::Successor, strategy),
        said(Peer::Successor, Message::Warmed { loaded: String::new(), revision: 1 }),
        said(Peer::Incumbent, Message::Drained { open: 1 }),
        said(Peer::Incumbent, sealed()),
        said(Peer::Successor, ready()),
        said(Peer::Successor, Message::Active { epoch: NEXT }),
    ];
    let mut s = Supervisor::new(InstanceId(0), 1);
    let mut way = way.into_iter();
    while s.state_name() != state {
        s.handle(way.next().expect("a state on the way of a handoff"));
    }
    s
}

fn give(s: &mut Supervisor, inputs: Vec<Input>) -> Effects {
    inputs.into_iter().fold(Vec::new(), |_, input| s.handle(input))
}

fn asks(effects: &Effects) -> bool {
    effects.iter().any(|e| matches!(e, Effect::Send(Peer::Incumbent, f) if f.message == Message::Resolve))
}

#[test]
fn a_broken_channel_is_made_anew_and_the_question_is_asked_again() {
    let mut s = at("Preparing");
    let effects = s.handle(Input::Closed(Peer::Incumbent));
    assert!(effects.contains(&Effect::Reconnect(Peer::Incumbent)), "{effects:?}");
    let effects = s.handle(Input::Claimed(NEXT, None));
    assert!(asks(&effects), "{effects:?}");
    // the first question went into the broken channel
    let effects = s.handle(said(Peer::Incumbent, adopted()));
    assert!(asks(&effects), "{effects:?}");
}

// while a canary was under way the successor had lost the supervisor for its lease and claimed by itself; its Active was
// read over, S waited for another one, and ended a healthy server
#[test]
fn a_successor_that_claimed_by_itself_during_a_canary_has_committed() {
    let mut s = with(Strategy::Overlap, "Canary", Duration::ZERO, true);
    let effects = s.handle(said(Peer::Successor, Message::Active { epoch: NEXT }));
    assert!(effects.contains(&Effect::Cancel(Hook::Canary)), "{effects:?}");
    assert!(effects.contains(&Effect::Promote), "{effects:?}");
    assert_eq!(s.state_name(), "Idle");
}

// the frame with a canary may be lost with its channel: that is no answer, and no fault of a server that serves
#[test]
fn a_canary_that_is_lost_with_its_channel_votes_nobody_down() {
    let mut s = with(Strategy::Exclusive, "Canary", Duration::from_secs(10), true);
    let answered = Input::Done(Hook::Canary, Ok(Report::Nothing));
    give(&mut s, vec![answered, said(Peer::Successor, Message::Active { epoch: NEXT })]);
    give(&mut s, vec![Input::Expired(Timer::Canary)]);
    let effects = s.handle(Input::Closed(Peer::Incumbent));
    assert!(effects.contains(&Effect::Cancel(Hook::Canary)), "{effects:?}");
    let effects = s.handle(said(Peer::Incumbent, adopted()));
    assert!(effects.iter().any(|e| matches!(e, Effect::Arm(Timer::Canary, _))), "tried again: {effects:?}");
}

#[test]
fn the_last_word_of_a_dead_successor_does_not_commit() {
    let mut s = at("Activating");
    let effects = give(
        &mut s,
        vec![
            Input::Exited(Peer::Successor),
            Input::Claimed(NEXT, Some(N)),
            said(Peer::Successor, Message::Active { epoch: NEXT }),
        ],
    );
    assert!(effects.is_empty(), "{effects:?}");
    assert_eq!(s.state_name(), "Resolving (N owns, ending it)");
}

#[test]
fn the_last_word_of_a_dead_incumbent_decides_nothing() {
    for last in [Message::Resumed { epoch: BASE }, Message::SealFailed { error: String::new() }] {
        let mut s = at("Sealing");
        give(&mut s, vec![Input::Exited(Peer::Incumbent), Input::Claimed(NEXT, None)]);
        let before = s.clone();
        assert!(s.handle(said(Peer::Incumbent, last)).is_empty());
        assert_eq!(s, before);
    }
    for state in ["Readying", "Activating"] {
        let mut s = at(state);
        s.handle(Input::Exited(Peer::Incumbent));
        assert!(s.handle(said(Peer::Incumbent, Message::Resumed { epoch: NEXT })).is_empty());
        assert_eq!(s.state_name(), state);
    }
}

#[test]
fn a_dying_incumbent_is_not_called_silent() {
    let mut s = at("Preparing");
    give(&mut s, vec![Input::Expired(Timer::Drain), Input::Claimed(NEXT, None)]);
    s.handle(Input::Exited(Peer::Incumbent));
    assert!(s.handle(Input::Expired(Timer::Silent)).is_empty());
    assert_eq!(s.state_name(), "Resolving (asking O)");

    // it was silent because it was dying: nobody may be left without a server
    let mut s = at("Preparing");
    give(
        &mut s,
        vec![
            Input::Expired(Timer::Drain),
            Input::Claimed(NEXT, None),
            Input::Expired(Timer::Silent),
            Input::Exited(Peer::Incumbent),
            Input::Gone(Peer::Successor),
            Input::Gone(Peer::Incumbent),
            Input::Claimed(NEXT, None),
        ],
    );
    assert_eq!(s.state_name(), "Starting");
}

#[test]
fn the_end_of_a_sealed_incumbents_channel_does_not_abort() {
    let mut s = at("Readying");
    assert_eq!(s.handle(Input::Closed(Peer::Incumbent)), [Effect::Reconnect(Peer::Incumbent)]);
    give(&mut s, vec![Input::Exited(Peer::Incumbent), Input::Gone(Peer::Incumbent)]);
    s.handle(said(Peer::Successor, ready()));
    assert_eq!(s.state_name(), "Activating");
    s.handle(said(Peer::Successor, Message::Active { epoch: NEXT }));
    assert_eq!(s.serving(), Some((N, NEXT)));
}

#[test]
fn the_record_stands_before_the_request_to_seal() {
    let mut s = at("Preparing");
    let points: Vec<_> =
        s.handle(said(Peer::Incumbent, Message::Drained { open: 1 })).iter().map(Effect::point).collect();
    assert_eq!(points, ["disarm.drain", "persist.seal_requested", "send.SealRequest", "arm.freeze"]);
}

#[test]
fn the_successor_is_not_ended_before_the_incumbent_has_answered() {
    let mut s = at("Readying");
    let resolve = s.handle(Input::Expired(Timer::Freeze));
    let ask = s.handle(Input::Claimed(NEXT, None));
    let kills = |effects: &Effects| effects.contains(&Effect::Kill(Peer::Successor));
    assert!(!kills(&resolve) && !kills(&ask) && asks(&ask));
    assert!(kills(&s.handle(said(Peer::Incumbent, Message::Resumed { epoch: NEXT }))));
}

/// The explorer's counterexample: without a seal N, or O itself, may claim while the silent O is given up.
#[test]
fn who_was_silent_and_never_sealed_is_judged_by_a_last_look_at_the_claim() {
    for (owner, state, serving) in [
        (None, "Idle", BASE),
        (Some(InstanceId(0).nth(1)), "Idle", NEXT),
        (Some(N), "Resolving (asking O to reclaim)", BASE),
    ] {
        let mut s = on(Strategy::Overlap, "Readying");
        give(
            &mut s,
            vec![
                Input::Command(Command::Abort),
                Input::Claimed(NEXT, None),
                Input::Expired(Timer::Silent),
                Input::Gone(Peer::Successor),
            ],
        );
        s.handle(Input::Claimed(NEXT, owner));
        assert_eq!((s.state_name(), s.serving()), (state, Some((InstanceId(0).nth(1), serving))));
    }
}

/// Nothing was sealed, whatever was sent to N: O may serve although it is silent.
#[test]
fn an_overlapping_incumbent_is_not_ended_because_it_is_silent() {
    let mut s = on(Strategy::Overlap, "Readying");
    s.handle(said(Peer::Successor, ready()));
    give(&mut s, vec![Input::Expired(Timer::Active), Input::Claimed(NEXT, None)]);
    assert_eq!(s.handle(Input::Expired(Timer::Silent)), [Effect::Kill(Peer::Successor)]);
}

/// The server dies; what is done until the next one is started, or nothing is any more.
fn dies(s: &mut Supervisor) -> Effects {
    let mut effects = give(s, vec![Input::Exited(Peer::Incumbent), Input::Gone(Peer::Incumbent)]);
    if s.state_name() == "Pausing" {
        effects.extend(s.handle(Input::Expired(Timer::Backoff)));
    }
    effects
}

fn serves(s: &mut Supervisor, n: u32) {
    give(
        s,
        vec![
            hello(InstanceId(0).nth(n), Role::Cold, Strategy::Exclusive),
            said(Peer::Incumbent, Message::Active { epoch: BASE }),
        ],
    );
    assert_eq!(s.state_name(), "Idle");
}

#[test]
fn a_crash_loop_is_over_at_the_budget_and_a_forgotten_death_is_one_more_restart() {
    let rules = Restarts { budget: 3, ..Restarts::default() };
    let mut s = at("Idle").with_restarts(rules);
    for n in 1..=3 {
        let effects = dies(&mut s);
        assert!(effects.contains(&Effect::Arm(Timer::Forgive(n), rules.window)), "{effects:?}");
        serves(&mut s, n + 1);
    }
    // whatever goes on: time passes in every state
    s.handle(Input::Expired(Timer::Forgive(1)));
    dies(&mut s);
    serves(&mut s, 5);
    dies(&mut s);
    assert_eq!(s.state_name(), "Failed");
    assert!(s.failed().is_some_and(|why| why.contains("restarted 3 times")), "{:?}", s.failed());
    let again = s.handle(Input::Command(Command::Start));
    let disarmed = [3, 4, 5].map(|n| Effect::Disarm(Timer::Forgive(n)));
    assert!(disarmed.iter().all(|effect| again.contains(effect)), "{again:?}");
    serves(&mut s, 6);
}

#[test]
fn the_way_back_is_owed_whatever_the_budget_says_and_counts() {
    for budget in [0, 1] {
        let rules = Restarts { budget, ..Restarts::default() };
        let window = Duration::from_secs(10);
        let mut s = with_probation(Strategy::Exclusive, "Probation", window).with_restarts(rules);
        let effects = dies(&mut s);
        let previous = Which::Of(InstanceId(0).nth(1));
        let next = InstanceId(0).nth(2);
        assert!(effects.contains(&Effect::Spawn(Peer::Incumbent, next, previous)), "{effects:?}");
        assert!(effects.contains(&Effect::Arm(Timer::Forgive(1), rules.window)), "{effects:?}");
        assert_eq!((s.state_name(), s.failures()), ("Starting", (1, budget)));
        // what fails after it is a failure like others
        if budget > 0 {
            serves(&mut s, 2);
        }
        dies(&mut s);
        assert_eq!(s.state_name(), "Failed");
    }
}

/// A crash loop does not begin anew because an operator replaced the supervisor in the middle of it.
#[test]
fn failures_that_are_carried_over_count_and_are_forgotten_in_time() {
    let rules = Restarts { budget: 2, ..Restarts::default() };
    let soon = [Duration::from_secs(1), Duration::from_secs(2)];
    let mut s = at("Idle").with_restarts(rules);
    let armed = s.carry_failures(&soon);
    assert_eq!(armed, [1, 2].map(|n| Effect::Arm(Timer::Forgive(n), soon[n as usize - 1])));
    assert_eq!(s.failures(), (2, 2));
    let mut patient = s.clone();
    dies(&mut s);
    assert_eq!(s.state_name(), "Failed");
    patient.handle(Input::Expired(Timer::Forgive(1)));
    let effects = dies(&mut patient);
    assert!(effects.contains(&Effect::Arm(Timer::Forgive(3), rules.window)), "{effects:?}");
    assert_eq!((patient.state_name(), patient.failures()), ("Starting", (2, 2)));
}

/// A server on probation that says it is ill, and the way back from it, as far as this.
fn turning_back(strategy: Strategy, back: InstanceId) -> Supervisor {
    let mut s = with_probation(strategy, "Probation", Duration::from_secs(10));
    let ill = said(Peer::Incumbent, Message::Unhealthy { why: "ill".to_owned() });
    assert!(s.handle(ill).contains(&Effect::TurnBack(InstanceId(0).nth(1))));
    goes_back(&mut s, back);
    s
}

fn goes_back(s: &mut Supervisor, back: InstanceId) {
    let upgrade = Upgrade {
        canary: false,
        handoff: HandoffId(back.0),
        successor: back,
        deadline: Duration::from_secs(60),
        drain_grace: Duration::from_secs(5),
        freeze_budget: Duration::from_secs(2),
        probation: Duration::ZERO,
        way: Way::Back,
    };
    s.handle(Input::Command(Command::Upgrade(upgrade)));
    assert_eq!(s.state_name(), "Greeting");
}

/// The build before does not come up.
fn does_not_come_up(s: &mut Supervisor) -> Effects {
    give(s, vec![Input::Exited(Peer::Successor), Input::Gone(Peer::Successor)])
}

/// The build before comes up, and the server that is ill takes itself back.
fn is_aborted(s: &mut Supervisor, back: InstanceId) -> Effects {
    let Input::Received(peer, mut frame) = hello(back, Role::Successor, Strategy::Exclusive) else {
        unreachable!("a frame")
    };
    frame.handoff = HandoffId(back.0);
    s.handle(Input::Received(peer, frame));
    let of =
        |peer, message| Input::Received(peer, Stamped { handoff: HandoffId(back.0), epoch: NEXT, message });
    give(
        s,
        vec![
            of(Peer::Successor, Message::Warmed { loaded: String::new(), revision: 1 }),
            of(Peer::Incumbent, Message::Drained { open: 0 }),
            of(Peer::Incumbent, Message::SealFailed { error: "it cannot".to_owned() }),
            Input::Gone(Peer::Successor),
        ],
    )
}

#[test]
fn a_way_back_that_is_aborted_is_tried_once_more_and_then_gone_from_disk() {
    let previous = InstanceId(0).nth(1);
    let mut s = turning_back(Strategy::Exclusive, InstanceId(1000));
    let effects = is_aborted(&mut s, InstanceId(1000));
    assert!(effects.contains(&Effect::TurnBack(previous)), "{effects:?}");
    assert_eq!((s.state_name(), s.probation()), ("Probation (turning back)", Some(HANDOFF)));
    goes_back(&mut s, InstanceId(1001));
    let effects = is_aborted(&mut s, InstanceId(1001));
    assert!(effects.contains(&Effect::Kill(Peer::Incumbent)), "{effects:?}");
    let effects = s.handle(Input::Gone(Peer::Incumbent));
    let spawned = effects
        .iter()
        .any(|e| matches!(e, Effect::Spawn(Peer::Incumbent, _, Which::Of(id)) if *id == previous));
    assert!(spawned, "{effects:?}");
    assert_eq!(s.probation(), Some(HANDOFF), "it ends as rolled back");
}

/// To end a server that serves for one that does not start would leave nobody.
#[test]
fn nobody_is_ended_for_a_build_that_did_not_come_up() {
    let mut s = turning_back(Strategy::Exclusive, InstanceId(1000));
    let effects = does_not_come_up(&mut s);
    assert!(effects.iter().any(|e| matches!(e, Effect::TurnBack(_))), "{effects:?}");
    goes_back(&mut s, InstanceId(1001));
    let effects = does_not_come_up(&mut s);
    assert!(!effects.contains(&Effect::Kill(Peer::Incumbent)), "{effects:?}");
    let told = effects.iter().find_map(|e| match e {
        Effect::Report(ended) if ended.handoff == HANDOFF => ended.reason.clone(),
        _ => None,
    });
    let told = told.expect("who waits for the probation hears of it");
    assert!(told.contains("ill") && told.contains("tried twice") && told.contains("serves on"), "{told}");
    assert_eq!((s.state_name(), s.serving(), s.probation()), ("Idle", Some((N, NEXT)), None));
}

#[test]
fn an_operator_calls_the_way_back_off() {
    let mut s = turning_back(Strategy::Exclusive, InstanceId(1000));
    let effects = give(&mut s, vec![Input::Command(Command::Abort), Input::Gone(Peer::Successor)]);
    assert!(!effects.iter().any(|e| matches!(e, Effect::TurnBack(_))), "{effects:?}");
    assert_eq!((s.state_name(), s.probation()), ("Idle", None));
    // a rollback that an operator wanted leaves the server on probation when it is aborted
    let mut s = with_probation(Strategy::Exclusive, "Probation", Duration::from_secs(10));
    goes_back(&mut s, InstanceId(1000));
    let effects = does_not_come_up(&mut s);
    assert!(effects.contains(&Effect::Arm(Timer::Probation, Duration::from_secs(10))), "{effects:?}");
    assert_eq!((s.state_name(), s.probation()), ("Probation", Some(HANDOFF)));
}

#[test]
fn one_bad_start_is_the_end_only_where_nobody_had_served() {
    for (served, stopped, state) in
        [(true, false, "Starting"), (true, true, "Failed"), (false, false, "Failed")]
    {
        let highest = served.then_some((BASE, N));
        let (open, trial, instances, base) = (None, None, Vec::new(), InstanceId(0));
        let found = Found { base, generation: 2, open, trial, highest, stopped, instances };
        let mut s = recover(found).supervisor;
        let way = vec![
            Input::Command(Command::Start),
            Input::Exited(Peer::Incumbent),
            Input::Gone(Peer::Incumbent),
        ];
        give(&mut s, way);
        assert_eq!(s.state_name(), state, "served {served}, stopped {stopped}");
        assert_eq!(s.cold_starts(), u64::from(state == "Starting"));
    }
}
