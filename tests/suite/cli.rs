//! The command line as an API: exit codes, JSON, errors that name the thing and the next step.

use crate::rig;
use handoff_tests::bins::{Build, Programs};
use handoff_tests::rig::{Finished, Rig, Setup, finish};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::io::{BufRead as _, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

fn handoffctl(args: &[&str]) -> Finished {
    finish(Command::new(&Programs::of(Build::Plain).handoffctl).args(args))
}

#[track_caller]
pub(crate) fn says(done: &Finished, words: &[&str]) {
    for word in words {
        assert!(done.stderr.contains(word), "{word:?} is not said: {}", done.stderr);
    }
}

#[test]
fn a_wrong_command_line_is_2_and_touches_nothing() {
    let run = |more: &[&str]| {
        let base = ["run", "--run-dir", "/nonexistent/run", "--data-dir", "/nonexistent/data"];
        handoffctl(&[&base[..], more, &["--", "/bin/true"]].concat())
    };
    run(&["--listen", "resp"]).expect_code(2);
    run(&["--listen", "resp=localhost"]).expect_code(2);
    let twice = run(&["--listen", "a=127.0.0.1:1", "--listen", "a=127.0.0.1:2"]);
    says(twice.expect_code(2), &["error: two listeners are named a", "\n\nUsage: handoffctl run"]);
    run(&["--env", "HANDOFF_ROLE=cold"]).expect_code(2);
    run(&["--env", "LISTEN_FDS=1"]).expect_code(2);
    run(&["--env", "=x"]).expect_code(2);
    handoffctl(&["run", "--run-dir", "/nonexistent/run"]).expect_code(2);
    handoffctl(&["run", "--run-dir", "/nonexistent/run", "--"]).expect_code(2);
    handoffctl(&["upgrade"]).expect_code(2);
    handoffctl(&["upgrade", "--run-dir", "/x", "--deadline", "5"]).expect_code(2);
    handoffctl(&["upgrade", "--run-dir", "/x", "--freeze-budget", "0s"]).expect_code(2);
    handoffctl(&["upgrade", "--run-dir", "/x", "--format", "yaml"]).expect_code(2);
    handoffctl(&["status", "--run-dir", "/x", "extra"]).expect_code(2);
    handoffctl(&["frobnicate"]).expect_code(2);
    handoffctl(&[]).expect_code(2);
}

#[test]
fn help_has_examples_and_exit_codes() {
    for command in ["run", "upgrade", "status", "abort", "history"] {
        let help = handoffctl(&[command, "--help"]);
        help.expect_code(0);
        for word in ["Examples:", "Exit codes:", "--run-dir"] {
            assert!(help.stdout.contains(word), "{command}: {word}");
        }
    }
    assert!(handoffctl(&["--help"]).expect_code(0).stdout.contains("Exit codes:"));
    assert!(handoffctl(&["--version"]).expect_code(0).stdout.starts_with("handoffctl "));
}

#[test]
fn without_a_supervisor_it_is_3_and_still_one_json_object() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for path in [dir.path().to_path_buf(), dir.path().join("nowhere")] {
        let path = path.to_str().expect("a path of ours");
        let upgrade = handoffctl(&["upgrade", "--run-dir", path, "--format", "json"]);
        let json = upgrade.expect_code(3).json();
        assert_eq!((&json["schema"], &json["handoff_id"]), (&Value::from(1), &Value::Null), "{json}");
        assert_eq!(json["freeze_ms"], Value::Null, "unknown is null, never 0: {json}");
        says(&upgrade, &["no supervisor", path, "handoffctl run"]);
        let status = handoffctl(&["status", "--run-dir", path, "--format", "json"]);
        assert_eq!(status.expect_code(3).json()["supervisor"], Value::Null);
        says(handoffctl(&["abort", "--run-dir", path]).expect_code(3), &["no supervisor"]);
    }
    // a socket file that nobody listens on any more
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("control.sock")).expect("binds"));
    handoffctl(&["abort", "--run-dir", dir.path().to_str().expect("a path of ours")]).expect_code(3);
}

/// Somebody else listens there: nothing is believed, nothing is claimed to be known.
#[test]
fn garbage_from_the_operator_socket_is_no_answer() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let listener = std::os::unix::net::UnixListener::bind(dir.path().join("control.sock")).expect("binds");
    let path = dir.path().to_str().expect("a path of ours");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for stream in listener.incoming().take(3) {
                let mut stream = stream.expect("a client");
                let mut request = String::new();
                std::io::BufReader::new(&stream).read_line(&mut request).expect("a request");
                stream.write_all(b"\x1b[2J{\"reply\":\n").expect("is taken");
            }
        });
        let upgrade = handoffctl(&["upgrade", "--run-dir", path, "--format", "json"]);
        assert_eq!(upgrade.expect_code(12).json()["outcome"], "unknown", "{upgrade:?}");
        says(&upgrade, &["cannot be read", "another version", "handoffctl status"]);
        let status = handoffctl(&["status", "--run-dir", path, "--format", "json"]);
        assert_eq!(status.expect_code(70).json()["state"], "unknown", "{status:?}");
        says(handoffctl(&["abort", "--run-dir", path]).expect_code(70), &["cannot be read"]);
        assert!(!upgrade.stderr.contains('\x1b'), "a terminal is not driven by a peer: {upgrade:?}");
    });
}

#[test]
fn a_supervisor_that_dies_during_an_upgrade_is_12_at_once() {
    let mut rig = rig();
    let hangs = rig.programs().bad("hangs-in-warm");
    let mut command =
        rig.ctl_command("upgrade", &["--format", "json", "--binary", hangs.to_str().expect("a path")]);
    // longer than anybody here waits: it is not the deadline that ends it
    command.args(["--deadline", "1h"]);
    let done = std::thread::scope(|scope| {
        let upgrade = scope.spawn(move || finish(&mut command));
        rig.wait_for_mark("hangs-in-warm");
        rig.kill_supervisor();
        upgrade.join().expect("no panic")
    });
    assert_eq!(done.expect_code(12).json()["outcome"], "unknown");
    says(&done, &["handoffctl status"]);
    // the next supervisor cleans up and serves on
    rig.run();
    rig.wait_until_settled();
    rig.upgrade_commits();
}

#[test]
fn status_tells_who_serves() {
    let rig = Setup::new(Programs::of(Build::Plain)).run_args(&["--name", "shop"]).start();
    let json = rig.status().expect_code(0).json();
    assert_eq!(json["schema"], 1);
    assert_eq!(json["state"], "serving", "{json}");
    assert_eq!(json["supervisor"]["pid"], rig.supervisor_pid(), "{json}");
    assert_eq!(json["supervisor"]["name"], "shop", "{json}");
    assert_eq!(json["listeners"][0]["address"], rig.addr.to_string(), "{json}");
    assert_eq!(json["claim"]["pid"], json["server"]["pid"], "{json}");
    let human = rig.ctl("status", &[]);
    for word in ["serving", "shop", &rig.server_pid().to_string(), &rig.addr.to_string()] {
        assert!(human.expect_code(0).stdout.contains(word), "{word}: {}", human.stdout);
    }
}

#[test]
fn history_is_newest_first_and_needs_no_supervisor() {
    let mut rig = rig();
    assert_eq!(rig.ctl("history", &[]).expect_code(0).stdout, "");
    let first = rig.upgrade_commits();
    let refused = rig.upgrade_to(&rig.programs().bad("crashes-in-open"));
    let last = rig.upgrade_commits();
    let check = |rig: &Rig| {
        let history = rig.ctl("history", &["--format", "json"]);
        let entries: Vec<Value> = history
            .expect_code(0)
            .stdout
            .lines()
            .map(|l| serde_json::from_str(l).expect("an object"))
            .collect();
        assert_eq!(entries, [last.clone(), refused.json(), first.clone()]);
        let human = rig.ctl("history", &[]);
        assert_eq!(human.expect_code(0).stdout.lines().count(), 3, "{human:?}");
        assert!(human.stdout.contains("aborted") && human.stdout.contains("committed"), "{human:?}");
    };
    check(&rig);
    assert_eq!(rig.stop(), Some(0));
    check(&rig);
    assert_eq!(rig.status().expect_code(3).json()["state"], "stopped");
}

#[test]
fn people_get_one_block_with_phases_and_freeze() {
    let rig = rig();
    let done = rig.ctl("upgrade", &[]);
    done.expect_code(0);
    for word in ["committed", "phases", "warm", "freeze", " ms", "handed over"] {
        assert!(done.stdout.contains(word), "{word}: {}", done.stdout);
    }
    assert_eq!(done.stderr, "", "progress is for terminals");
}

/// A test that needs a privilege or a tool says so, and fails where all are required.
pub(crate) fn needs(what: &str, there: bool) -> bool {
    if !there {
        println!("missing: {what}");
        assert!(std::env::var_os("HANDOFF_REQUIRE_ALL").is_none(), "HANDOFF_REQUIRE_ALL: {what}");
    }
    there
}

#[test]
fn garbage_and_silence_on_the_sockets_change_nothing() {
    let rig = rig();
    let server = rig.server_pid();
    let mut sockets = vec![rig.run_dir.join("control.sock")];
    let ctl = std::fs::read_dir(rig.run_dir.join("ctl")).expect("control sockets");
    sockets.extend(ctl.flatten().map(|entry| entry.path()));
    assert!(sockets.len() > 1, "{sockets:?}");
    let mut silent = Vec::new();
    for path in &sockets {
        for garbage in
            [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 200_000], b"{\"op\":\"upgrade\"}\n", b"\n", b""]
        {
            let mut stream = connect(path);
            // refused in the middle is fine
            let _ = stream.write_all(garbage);
            silent.push(stream);
        }
    }
    rig.status().expect_code(0);
    rig.upgrade_commits();
    assert_ne!(rig.server_pid(), server);
    rig.upgrade_commits();
    // and a client that talks nonsense is told so
    let mut stream = connect(&sockets[0]);
    stream.write_all(b"nonsense\n").expect("is taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.contains("handoffctl"), "{answer}");
}

pub(crate) fn connect(path: &Path) -> UnixStream {
    UnixStream::connect(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn a_second_signal_ends_a_server_that_does_not_drain() {
    let mut rig = rig();
    handoff_tests::rig::stop(rig.server_pid());
    let began = std::time::Instant::now();
    rig.signal_supervisor(Signal::SIGTERM);
    rig.signal_supervisor(Signal::SIGINT);
    assert_eq!(rig.wait_supervisor(), Some(0), "{}", rig.log());
    assert!(began.elapsed() < std::time::Duration::from_secs(8), "{:?}", began.elapsed());
    assert!(rig.instances().is_empty());
}

#[test]
fn the_environment_of_the_server_is_declared() {
    let setup = Setup::new(Programs::of(Build::Plain)).run_args(&["--env", "GIVEN=x=y", "--env", "COPIED"]);
    let rig = setup.supervisor_env("COPIED", "copied").supervisor_env("NOT_DECLARED", "secret").start();
    let environ =
        std::fs::read(format!("/proc/{}/environ", rig.server_pid())).expect("the server's environment");
    let environ = String::from_utf8_lossy(&environ).into_owned();
    let vars: Vec<&str> = environ.split('\0').collect();
    assert!(vars.contains(&"GIVEN=x=y") && vars.contains(&"COPIED=copied"), "{vars:?}");
    assert!(!environ.contains("secret") && !vars.iter().any(|v| v.starts_with("PATH=")), "{vars:?}");
}
