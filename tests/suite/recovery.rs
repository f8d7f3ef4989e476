//! Deaths outside of an upgrade, and data that changes behind everybody's back. Deaths inside one are in `crash`.

use handoff_tests::bins::{Build, Programs};
use handoff_tests::client::Client;
use handoff_tests::crashes::{Crashes, Order, Point};
use handoff_tests::load::{Load, Plan};
use handoff_tests::rig::{PATIENCE, Rig, Setup, ended_by, stop};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

fn armed(point: &str) -> Setup {
    Setup::new(Programs::of(Build::Crash)).supervisor_env("HANDOFF_CRASH", point)
}

/// Release programs have no crash points, whatever is in the environment.
#[test]
fn plain_programs_have_no_crash_points() {
    let trace = tempfile::NamedTempFile::new().expect("a temporary file");
    let path = trace.path().to_str().expect("a path of ours");
    let rig = Setup::new(Programs::of(Build::Plain))
        .supervisor_env("HANDOFF_CRASH", "S.send.Begin.before/kill9")
        .supervisor_env("HANDOFF_CRASH_TRACE", path)
        .start();
    rig.upgrade_commits();
    assert_eq!(std::fs::read_to_string(path).expect("the trace"), "");
}

#[test]
fn a_supervisor_that_was_killed_is_replaced_without_a_failed_request() {
    let mut rig = crate::rig();
    let load = Load::start(rig.addr, Plan { idle: 5, subscribers: 1, ..Plan::everything() });
    let server = rig.server_pid();
    for _ in 0..3 {
        rig.kill_supervisor();
        assert!(load.wait_for(50, PATIENCE), "the server serves on without a supervisor");
        let status = rig.status();
        status.expect_code(3);
        let json = status.json();
        assert!(json["supervisor"].is_null(), "{json}");
        assert_eq!(json["claim"]["pid"].as_u64(), Some(u64::from(server)), "{json}");
        rig.run();
        rig.wait_until_settled();
        assert_eq!(rig.server_pid(), server, "taken over, not started again");
    }
    rig.upgrade_commits();
    load.finish().assert_clean();
}

/// Was ended, and another one started from disk: on a machine so busy (found by the crash matrix at a load of 25) that it was
/// late twice. The second look is the one before the end: its answer to Adopt has as long as its Hello.
#[test]
fn a_server_that_answers_late_is_adopted_and_not_ended() {
    let crashes = Crashes::new();
    let programs = Setup::new(Programs::of(Build::Crash));
    let mut rig =
        crashes.env().iter().fold(programs, |setup, (key, value)| setup.supervisor_env(key, value)).start();
    let server = rig.server_pid();
    let goes_on = || {
        kill(Pid::from_raw(i32::try_from(server).expect("a pid")), Signal::SIGCONT)
            .expect("a process of ours");
    };
    rig.kill_supervisor();
    stop(server);
    let answer = Point { name: "O.send.Adopted.before".into(), hit: 1 };
    crashes.arm(&answer, "stop", Order::LeavesLast);
    rig.launch_supervisor();
    let deadline = Instant::now() + PATIENCE;
    while !rig.log().contains("waiting for it") {
        assert!(Instant::now() < deadline, "nobody waits for it\n{}", rig.log());
        std::thread::yield_now();
    }
    goes_on();
    assert_eq!(crashes.strike_within(PATIENCE).map(|hit| hit.pid), Some(server), "it answers Adopt");
    stop(server);
    // longer than the 800 ms of the first look
    let server_fd = processkit::pidfd_open(server).expect("a process of ours");
    let later = Instant::now() + Duration::from_millis(1200);
    assert!(
        !ended_by(&server_fd, later),
        "it was ended
{}",
        rig.log()
    );
    goes_on();
    rig.wait_until_settled();
    assert_eq!(rig.server_pid(), server, "taken over, not started again\n{}", rig.log());
    rig.upgrade_commits();
}

#[test]
fn a_server_that_dies_is_started_again() {
    let rig = crate::rig();
    let load = Load::start(rig.addr, Plan { busy: 2, fresh: 1, ..Plan::default() });
    let server = rig.server_pid();
    kill(Pid::from_raw(i32::try_from(server).expect("a pid")), Signal::SIGKILL).expect("a process of ours");
    rig.wait_until_served();
    assert!(load.wait_for(50, PATIENCE), "nothing is answered any more\n{}", rig.log());
    assert_ne!(rig.server_pid(), server);
    assert_eq!(rig.status().json()["cold_starts"], 1);
    rig.upgrade_commits();
    let tally = load.finish();
    tally.assert_nothing_lost();
    assert_eq!(tally.refused, 0, "the listener outlives the server: {tally}");
}

/// Whoever sealed must find the same bytes again: one flipped byte is an abort, not a silent takeover.
#[test]
fn a_byte_flipped_between_seal_and_begin_aborts() {
    let rig = armed("S.send.Begin.before/stop").start();
    let mut client = Client::connect(rig.addr.into()).expect("connects");
    for n in 0..100 {
        client.ask(&format!("SET key:{n} value-{n}")).expect("is acknowledged");
    }
    let done = std::thread::scope(|scope| {
        let upgrade = scope.spawn(|| rig.upgrade(&["--freeze-budget", "30s"]));
        rig.wait_supervisor_stopped();
        flip_a_byte(&rig);
        rig.signal_supervisor(Signal::SIGCONT);
        upgrade.join().expect("no panic")
    });
    // nobody may go on from these bytes by himself: the old server's memory is not what is on disk any more
    assert!([10, 11].contains(&done.code.unwrap_or(-1)), "{done:?}\n{}", rig.log());
    assert_eq!(done.code, Some(10), "{done:?}\n{}", rig.log());
}

/// Flips one bit in the middle of the largest log file.
fn flip_a_byte(rig: &Rig) {
    use std::os::unix::fs::FileExt as _;
    let mut logs = Vec::new();
    let mut open = vec![rig.data_dir.clone()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).expect("the data").flatten() {
            let path = entry.path();
            if path.ends_with(".handoff") {
                continue;
            }
            if path.is_dir() {
                open.push(path);
            } else {
                logs.push((entry.metadata().expect("a file of ours").len(), path));
            }
        }
    }
    let (len, path) = logs.into_iter().max().expect("a log");
    let file = std::fs::File::options().read(true).write(true).open(&path).expect("the log");
    let mut byte = [0];
    file.read_exact_at(&mut byte, len / 2).expect("a byte");
    byte[0] ^= 1;
    file.write_all_at(&byte, len / 2).expect("a byte");
}
