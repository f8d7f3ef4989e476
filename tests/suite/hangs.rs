//! An incumbent that stands still in the middle of an upgrade: left alone while it may serve, ended once it cannot.

use handoff_tests::bins::{Build, Programs};
use handoff_tests::client::Client;
use handoff_tests::rig::{Finished, Rig, Setup, alive, stop, wait_gone};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The protocol's times are a quarter: a silent incumbent is given up after 4 s.
fn hurried() -> Setup {
    Setup::new(Programs::of(Build::Crash)).supervisor_env("HANDOFF_TIME_SCALE", "25")
}

fn reason(done: &Finished) -> String {
    done.json()["reason"].as_str().unwrap_or_default().to_owned()
}

fn kept(rig: &Rig) {
    let value = Client::connect(rig.addr.into()).and_then(|mut client| client.ask("GET kept"));
    assert_eq!(value.expect("is answered").text().as_deref(), Some("yes"));
}

#[test]
fn an_incumbent_that_hangs_before_the_seal_is_left_alone() {
    let rig = hurried().start();
    Client::connect(rig.addr.into()).and_then(|mut client| client.ask("SET kept yes")).expect("acknowledged");
    let server = rig.server_pid();
    stop(server);
    let done = rig.upgrade(&["--drain-grace", "500ms"]);
    assert!(reason(done.expect_code(10)).contains("unresponsive"), "{done:?}");
    assert!(alive(server), "it may serve again");
    kill(Pid::from_raw(i32::try_from(server).expect("a pid")), Signal::SIGCONT).expect("a process of ours");
    kept(&rig);
    rig.wait_until_settled();
    assert_eq!(rig.server_pid(), server);
    rig.upgrade_commits();
}

#[test]
fn an_incumbent_that_hangs_sealed_is_ended_and_a_server_started_from_disk() {
    let rig = hurried().supervisor_env("HANDOFF_CRASH", "O.send.SealComplete.after/stop").start();
    Client::connect(rig.addr.into()).and_then(|mut client| client.ask("SET kept yes")).expect("acknowledged");
    let server = rig.server_pid();
    let done = rig.upgrade(&["--freeze-budget", "500ms"]);
    done.expect_code(11);
    assert!(reason(&done).contains("silent and was ended"), "{done:?}");
    wait_gone(server);
    kept(&rig);
    rig.wait_until_settled();
    assert_ne!(rig.server_pid(), server);
}
