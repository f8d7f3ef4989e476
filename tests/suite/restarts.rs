//! Servers that die again and again: pauses, a budget, and clients that wait meanwhile.

use crate::cli::says;
use handoff_tests::bins::{Build, Programs};
use handoff_tests::client::Client;
use handoff_tests::load::{Load, Plan};
use handoff_tests::rig::{PATIENCE, Rig, Setup, finish, wait_gone};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::time::Instant;

fn rig_with(args: &[&str]) -> Rig {
    Setup::new(Programs::of(Build::Plain)).run_args(args).start()
}

fn kill_server(rig: &Rig) -> u32 {
    let server = rig.server_pid();
    kill(Pid::from_raw(i32::try_from(server).expect("a pid")), Signal::SIGKILL).expect("a process of ours");
    server
}

/// Kills the server; waits until the next one serves.
fn kill_and_replace(rig: &Rig) {
    let killed = kill_server(rig);
    await_status(rig, |json| json["state"] == "serving" && json["server"]["pid"] != killed);
}

#[track_caller]
fn await_status(rig: &Rig, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let json = rig.status().json();
        if wanted(&json) {
            return json;
        }
        assert!(Instant::now() < deadline, "it does not come to that: {json}\n{}", rig.log());
    }
}

/// What a power loss leaves, as far as processes go: nobody, and nobody was asked to stop.
fn kill_all(rig: &mut Rig) {
    rig.kill_supervisor();
    for pid in rig.instances() {
        kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), Signal::SIGKILL).expect("a process of ours");
        wait_gone(pid);
    }
}

fn text(json: &Value) -> &str {
    json.as_str().unwrap_or_default()
}

#[test]
fn a_client_that_connects_during_the_pause_is_answered_by_the_next_server() {
    // at least half of it has to be enough for all that is looked at within it, also on a busy machine
    let rig = rig_with(&["--restart-backoff", "10s"]);
    Client::connect(rig.addr.into()).and_then(|mut c| c.ask("SET key kept")).expect("is acknowledged");
    let load = Load::start(rig.addr, Plan { busy: 2, fresh: 1, ..Plan::default() });
    // the first death is answered at once, the second one after a pause
    kill_and_replace(&rig);
    let killed = kill_server(&rig);
    let json =
        await_status(&rig, |json| json["state"] == "starting" && text(&json["reason"]).contains("pausing"));
    assert!(text(&json["reason"]).contains("failure 2 of at most 10"), "{json}");
    assert!(text(&json["reason"]).contains("ended by signal 9"), "{json}");
    assert!(rig.instances().is_empty(), "nobody could answer now");
    let mut client = Client::connect(rig.addr.into()).expect("the listener outlives the server");
    assert!(rig.instances().is_empty(), "it waits in the queue");
    client.set_patience(PATIENCE).expect("a socket of ours");
    assert_eq!(client.ask("GET key").expect("is answered").text().as_deref(), Some("kept"));
    assert_ne!(rig.server_pid(), killed);
    rig.wait_until_settled();
    assert!(load.wait_for(50, PATIENCE), "nothing is answered any more\n{}", rig.log());
    rig.upgrade_commits();
    let tally = load.finish();
    tally.assert_nothing_lost();
    assert_eq!(tally.refused, 0, "the listener outlives the server: {tally}");
}

#[test]
fn after_the_budget_it_has_failed_says_why_and_keeps_the_listeners() {
    let mut rig = rig_with(&["--restart-budget", "2", "--restart-backoff", "1ms", "--storm-pause", "1ms"]);
    for _ in 0..2 {
        kill_and_replace(&rig);
    }
    kill_server(&rig);
    let json = await_status(&rig, |json| json["state"] == "failed");
    for word in ["the server died", "restarted 2 times", "ended by signal 9", "next:"] {
        assert!(text(&json["reason"]).contains(word), "{word}: {json}");
    }
    rig.status().expect_code(1);
    assert!(rig.instances().is_empty());
    let refused = rig.upgrade(&[]);
    assert!(text(&refused.expect_code(14).json()["reason"]).contains("no server serves"), "{refused:?}");
    let mut waits = Client::connect(rig.addr.into()).expect("the listeners stay open");
    waits.send(&[b"PING"]).expect("is queued");
    assert_eq!(rig.stop(), Some(0), "{}", rig.log());
    rig.run();
    rig.upgrade_commits();
}

/// Neither does an upgrade of the supervisor: half of the deaths before it and half after it are all of them.
#[test]
fn deaths_are_not_forgotten_by_a_supervisor_that_replaces_itself() {
    let rig = rig_with(&["--restart-budget", "2", "--restart-backoff", "1ms", "--storm-pause", "1ms"]);
    for _ in 0..2 {
        kill_and_replace(&rig);
        rig.ctl("upgrade", &["--supervisor"]).expect_code(0);
    }
    kill_server(&rig);
    let json = await_status(&rig, |json| json["state"] == "failed");
    assert!(text(&json["reason"]).contains("restarted 2 times"), "{json}");
}

/// The same deaths with more of a budget are no failure: it is the budget that ended it.
#[test]
fn deaths_are_forgotten_when_they_are_a_window_old() {
    let rig = rig_with(&["--restart-budget", "2", "--restart-backoff", "1ms", "--restart-window", "1ms"]);
    for _ in 0..5 {
        kill_and_replace(&rig);
    }
    assert_eq!(rig.status().json()["cold_starts"], 5);
}

#[test]
fn a_server_that_crashed_starts_as_the_build_of_the_highest_claim() {
    let programs = Programs::of(Build::Plain);
    let [first, second] =
        ["crashed-v1", "crashed-v2"].map(|name| programs.named(&programs.demo_server, name));
    let mut rig = Setup::new(programs).program(&first).start();
    let runs = |rig: &Rig, build: &std::path::Path| {
        let json = rig.status().json();
        for side in ["server", "claim"] {
            assert_eq!(text(&json[side]["executable"]), build.display().to_string(), "{side}: {json}");
        }
    };
    runs(&rig, &first);
    rig.upgrade_to(&second).expect_code(0);
    runs(&rig, &second);
    // what `run` was told is the first one: never "the configured", never "the new" by assumption
    kill_and_replace(&rig);
    runs(&rig, &second);
    kill_all(&mut rig);
    // so soon that nobody had noted how it was called: its claim names the program (it was the configured one that came,
    // where both had the same content)
    let builds = rig.data_dir.join(".handoff/builds");
    for entry in std::fs::read_dir(&builds).expect("a directory of ours").flatten() {
        if entry.file_name().to_string_lossy().starts_with("spec.") {
            std::fs::remove_file(entry.path()).expect("a file of ours");
        }
    }
    rig.run();
    runs(&rig, &second);
    // an upgrade that never claimed changes nothing of that
    assert_eq!(rig.upgrade_to(&programs.bad("crashes-in-open")).code, Some(10));
    kill_and_replace(&rig);
    runs(&rig, &second);
    // after a clean stop the operator's word counts again
    assert_eq!(rig.stop(), Some(0), "{}", rig.log());
    rig.run();
    runs(&rig, &first);
}

/// Nobody serves after a power loss: one bad start must not be the end of the service.
#[test]
fn a_first_start_that_fails_is_tried_again_where_somebody_had_served() {
    let marks = tempfile::tempdir().expect("a temporary directory");
    let arm = marks.path().join("arm");
    let setup = Setup::new(Programs::of(Build::Crash));
    let mut rig = setup.supervisor_env("HANDOFF_CRASH", &format!("@{}", arm.display())).start();
    kill_all(&mut rig);
    std::fs::write(&arm, "X.call.Warm.before/exit").expect("a file of ours");
    rig.run();
    assert!(!arm.exists(), "the fault was reached");
    assert_eq!(rig.status().json()["cold_starts"], 1, "{}", rig.log());
    // the control: the first start after a clean stop is not tried again
    assert_eq!(rig.stop(), Some(0), "{}", rig.log());
    std::fs::write(&arm, "X.call.Warm.before/exit").expect("a file of ours");
    says(finish(&mut rig.run_command()).expect_code(14), &["does not serve"]);
    assert!(!arm.exists(), "the fault was reached");
}

#[test]
fn a_budget_of_nothing_ends_a_start_after_a_power_loss_with_14() {
    let marks = tempfile::tempdir().expect("a temporary directory");
    let arm = marks.path().join("arm");
    let setup = Setup::new(Programs::of(Build::Crash)).run_args(&["--restart-budget", "0"]);
    let mut rig = setup.supervisor_env("HANDOFF_CRASH", &format!("@{}", arm.display())).start();
    kill_all(&mut rig);
    std::fs::write(&arm, "X.call.Warm.before/exit").expect("a file of ours");
    let ended = finish(&mut rig.run_command());
    says(ended.expect_code(14), &["exited before it served", "restarted 0 times", "the budget"]);
    assert!(rig.instances().is_empty(), "nothing is left behind");
}
