//! Five kinds of connections that an upgrade may catch in five states, each with its control: with handing over
//! switched off the same check must fail.

use handoff_tests::bins::{Build, Programs};
use handoff_tests::history::Tally;
use handoff_tests::load::{Load, Plan};
use handoff_tests::rig::{PATIENCE, Rig, Setup};

const UPGRADES: usize = 3;

/// What these clients see of a few upgrades.
fn seen(rig: &Rig, plan: Plan) -> Tally {
    let mut load = Load::start(rig.addr, Plan { busy: 1, ..plan });
    for _ in 0..UPGRADES {
        load.hold_back();
        rig.upgrade_commits();
        load.let_go();
        assert!(load.wait_for(20, PATIENCE), "nothing is answered any more\n{}", rig.log());
    }
    load.finish()
}

fn handed_over(plan: Plan) -> Tally {
    seen(&crate::rig(), plan)
}

/// The same server, told to say goodbye to its connections instead.
fn not_handed_over(plan: Plan) -> Tally {
    let setup = Setup::new(Programs::of(Build::Plain)).program_args(&["--connections", "goodbye"]);
    seen(&setup.start(), plan)
}

#[test]
fn fresh_connections() {
    handed_over(Plan { fresh: 2, ..Plan::default() }).assert_clean();
}

/// For new connections the listener is what is handed over: the control stops the server and starts it again.
#[test]
fn fresh_connections_control() {
    let mut rig = crate::rig();
    let load = Load::start(rig.addr, Plan { fresh: 2, ..Plan::default() });
    assert_eq!(rig.stop(), Some(0));
    // clients come every few milliseconds, and a busy machine lets none of them run while nobody listens
    assert!(load.wait_for_refusal(PATIENCE), "the check is blind: nobody came");
    rig.run();
    let tally = load.finish();
    assert!(tally.refused > 0, "the check is blind: {tally}");
    tally.assert_nothing_lost();
}

#[test]
fn idle_connections() {
    handed_over(Plan { idle: 50, ..Plan::default() }).assert_clean();
}

#[test]
fn idle_connections_control() {
    let tally = not_handed_over(Plan { idle: 50, ..Plan::default() });
    assert!(tally.failed >= 50, "the check is blind: {tally}");
    tally.assert_nothing_lost();
}

#[test]
fn connections_with_half_a_command() {
    handed_over(Plan { half: 40, ..Plan::default() }).assert_clean();
}

#[test]
fn connections_with_half_a_command_control() {
    let tally = not_handed_over(Plan { half: 40, ..Plan::default() });
    assert!(tally.failed >= 40, "the check is blind: {tally}");
    tally.assert_nothing_lost();
}

#[test]
fn connections_with_unread_replies() {
    handed_over(Plan { unread: 4, ..Plan::default() }).assert_clean();
}

#[test]
fn connections_with_unread_replies_control() {
    let tally = not_handed_over(Plan { unread: 4, ..Plan::default() });
    assert!(tally.failed >= 4, "the check is blind: {tally}");
    tally.assert_nothing_lost();
}

#[test]
fn subscribed_connections() {
    handed_over(Plan { subscribers: 4, ..Plan::default() }).assert_clean();
}

#[test]
fn subscribed_connections_control() {
    let tally = not_handed_over(Plan { subscribers: 4, ..Plan::default() });
    assert!(tally.failed >= 4, "the check is blind: {tally}");
}
