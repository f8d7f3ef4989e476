//! An incumbent whose answer comes when the handoff that it answers is over.

use super::*;

/// The operator aborts, O is silent and was never sealed: S goes on without it, which serves under the first epoch.
fn gives_up(s: &mut Supervisor) {
    let silent = vec![
        Input::Command(Command::Abort),
        Input::Claimed(NEXT, None),
        Input::Expired(Timer::Silent),
        Input::Gone(Peer::Successor),
        Input::Claimed(NEXT, None),
    ];
    give(s, silent);
    assert_eq!((s.state_name(), s.serving()), ("Idle", Some((InstanceId(0).nth(1), BASE))));
}

/// The next upgrade, as far as this.
fn next_upgrade(s: &mut Supervisor, state: &str) {
    let successor = InstanceId(1000);
    goes_back(s, successor);
    let Input::Received(peer, mut frame) = hello(successor, Role::Successor, Strategy::Overlap) else {
        unreachable!("a frame")
    };
    frame.handoff = HandoffId(successor.0);
    match state {
        "Greeting" => {}
        "Warming" => drop(s.handle(Input::Received(peer, frame))),
        "Ending" => drop(s.handle(Input::Exited(Peer::Successor))),
        other => unreachable!("{other}"),
    }
    assert_eq!(s.state_name(), state);
}

// S asked O, and the question was lost with its channel; O answered on the new one when S had given it up as silent,
// and was not asked again: it stayed in a handoff that was over, and would have refused every later one
#[test]
fn an_incumbent_that_is_heard_too_late_is_asked_once_more() {
    let mut s = at("Preparing");
    give(&mut s, vec![Input::Command(Command::Abort), Input::Claimed(NEXT, None)]);
    give(&mut s, vec![Input::Closed(Peer::Incumbent), Input::Expired(Timer::Silent)]);
    let draining = Message::Adopted { standing: Standing::Draining, epoch: BASE, handoff: HANDOFF, peer: N };
    give(&mut s, vec![said(Peer::Incumbent, draining.clone()), Input::Gone(Peer::Successor)]);
    let effects = s.handle(Input::Claimed(NEXT, None));
    assert_eq!(s.state_name(), "Idle");
    assert!(asks(&effects), "{effects:?}");
    // and if it is heard even later
    let effects = s.handle(said(Peer::Incumbent, draining));
    assert!(asks(&effects), "{effects:?}");
    assert!(!asks(&s.handle(said(Peer::Incumbent, adopted()))), "it is in no handoff");
}

// three faults over two upgrades, overlap: S had given O up, which then claimed the next epoch and went on under it; its
// Resumed came when the next upgrade had begun. That was read over: the upgrade ended before O was touched, and S had the
// old epoch in mind from then on, under which O refuses every handoff
#[test]
fn a_late_answer_that_comes_when_the_next_upgrade_has_begun_is_heard() {
    for state in ["Greeting", "Warming", "Ending"] {
        for resumed in [true, false] {
            let mut s = on(Strategy::Overlap, "Readying");
            gives_up(&mut s);
            next_upgrade(&mut s, state);
            let (handoff, peer) = (HandoffId::NIL, InstanceId::NIL);
            let late = match resumed {
                true => Message::Resumed { epoch: NEXT },
                // its Resumed was lost with its channel
                false => Message::Adopted { standing: Standing::Active, epoch: NEXT, handoff, peer },
            };
            s.handle(said(Peer::Incumbent, late));
            assert_eq!(s.state_name(), "Ending");
            s.handle(Input::Gone(Peer::Successor));
            assert_eq!((s.state_name(), s.serving()), ("Idle", Some((InstanceId(0).nth(1), NEXT))));
        }
    }
}

// the same before the next upgrade has touched O: who answers on a new channel that it is in a handoff which is over was asked
// nothing, and so it stayed there
#[test]
fn who_is_in_an_older_handoff_still_is_asked_whatever_has_begun_since() {
    let older = Message::Adopted { standing: Standing::Draining, epoch: BASE, handoff: HANDOFF, peer: N };
    for state in ["Greeting", "Warming", "Ending"] {
        let mut s = on(Strategy::Overlap, "Readying");
        gives_up(&mut s);
        next_upgrade(&mut s, state);
        let effects = s.handle(said(Peer::Incumbent, older.clone()));
        assert!(asks(&effects), "{state}: {effects:?}");
        assert_eq!(s.state_name(), state);
    }
}

// an operator's way back out of a probation was aborted, the server was silent meanwhile: what it says late was read over
#[test]
fn a_server_on_probation_that_answers_an_aborted_way_back_late_is_heard() {
    let mut s = with_probation(Strategy::Overlap, "Probation", Duration::from_secs(10));
    let third = NEXT.next();
    let older =
        Message::Adopted { standing: Standing::Draining, epoch: NEXT, handoff: HandoffId(1000), peer: N };
    let effects = s.handle(said(Peer::Incumbent, older));
    assert!(asks(&effects), "{effects:?}");
    s.handle(said(Peer::Incumbent, Message::Resumed { epoch: third }));
    assert_eq!((s.state_name(), s.serving()), ("Probation", Some((N, third))));
}
