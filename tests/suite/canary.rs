//! A request that is tried on the new server before it may claim, and again while it is on probation.

use crate::builds::Installed;
use crate::cli::says;
use handoff::supervisor::protocol::Reply;
use handoff::supervisor::report::{StatusReport, SupervisorReport};
use handoff_tests::bins::{Build, Programs};
use handoff_tests::client::{Client, Fault};
use handoff_tests::load::{Load, Plan};
use handoff_tests::rig::{Finished, PATIENCE, Rig, Setup, finish, wait_gone};
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

const PING: [&str; 2] = ["--canary", r"PING\r\n=>+PONG"];
/// A busy machine must not decide: the freeze and the canary have all the time they may need.
pub(crate) const PATIENT: [&str; 4] = ["--freeze-budget", "60s", "--canary-timeout", "30s"];
const SHORT: [&str; 4] = ["--freeze-budget", "60s", "--canary-timeout", "300ms"];
pub(crate) const LONG: [&str; 2] = ["--probation", "120s"];

fn exclusive() -> Rig {
    crate::rig()
}

fn overlap() -> Rig {
    let programs = Programs::of(Build::Plain);
    Setup::new(programs).program(&programs.overlap_server).stateless().start()
}

pub(crate) fn plan() -> Plan {
    Plan { busy: 2, fresh: 1, idle: 5, half: 2, subscribers: 1, ..Plan::default() }
}

/// Clients of an overlap server ask all the time; none may be without an answer.
fn unnoticed<T>(rig: &Rig, body: impl FnOnce() -> T) -> T {
    let (done, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let clients: Vec<_> = [false, true]
            .map(|fresh| {
                let (done, answers) = (&done, &answers);
                scope.spawn(move || {
                    let connect = || {
                        let mut client = Client::connect(rig.addr.into())?;
                        client.set_patience(PATIENCE)?;
                        Ok::<_, Fault>(client)
                    };
                    let mut client = connect()?;
                    while !done.load(Ordering::Relaxed) {
                        if fresh {
                            client = connect()?;
                        }
                        client.ask("PING")?;
                        answers.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok::<_, Fault>(())
                })
            })
            .into();
        let value = body();
        let enough = answers.load(Ordering::Relaxed) + 20;
        while answers.load(Ordering::Relaxed) < enough && !clients.iter().any(|c| c.is_finished()) {
            std::thread::yield_now();
        }
        done.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("no panic").unwrap_or_else(|fault| panic!("{fault}\n{}", rig.log()));
        }
        value
    })
}

fn reason(report: &Value) -> &str {
    report["reason"].as_str().unwrap_or_default()
}

/// The old server serves on, the reason names all this, and so does whoever asks later.
#[track_caller]
fn aborted(rig: &Rig, done: &Finished, server: u32, words: &[&str]) {
    assert_eq!(done.code, Some(10), "{done:?}\n{}", rig.log());
    let report = done.json();
    assert_eq!(report["outcome"], "aborted", "{report}");
    assert!(words.iter().all(|word| reason(&report).contains(word)), "{words:?}: {report}");
    assert!(report["canary_ms"].is_f64(), "{report}");
    rig.wait_until_settled();
    assert_eq!(rig.server_pid(), server, "the old server serves on");
    let status = rig.status().json();
    assert_eq!(status["last"]["reason"], report["reason"], "{status}");
    let history = rig.ctl("history", &["--format", "json"]);
    let newest: Value =
        serde_json::from_str(history.stdout.lines().next().unwrap_or_default()).expect("json");
    assert_eq!(newest["reason"], report["reason"], "{newest}");
    assert_eq!(newest["canary_ms"], report["canary_ms"], "{newest}");
}

#[track_caller]
fn committed(rig: &Rig, done: &Finished) -> Value {
    assert_eq!(done.code, Some(0), "{done:?}\n{}", rig.log());
    let report = done.json();
    assert_eq!(report["outcome"], "committed", "{report}");
    assert!(report["canary_ms"].is_f64(), "{report}");
    report
}

fn upgrade(rig: &Rig, args: &[&[&str]]) -> Finished {
    rig.upgrade(&args.concat())
}

#[test]
fn a_good_answer_commits_and_nobody_notices() {
    let rig = exclusive();
    let mut load = Load::start(rig.addr, plan());
    let mut client = Client::connect(rig.addr.into()).expect("connects");
    client.ask("SET written yes").expect("is acknowledged");
    // it answers from the data that it has loaded, the last write too
    for canary in [r"PING\r\n=>+PONG", r"GET written\r\n=>$3\r\nyes\r\n", r"*1\r\n$6\r\nDBSIZE\r\n=>:"] {
        load.hold_back();
        let report = committed(&rig, &upgrade(&rig, &[&["--canary", canary], &PATIENT]));
        load.let_go();
        assert!(report["freeze_ms"].as_f64() > report["canary_ms"].as_f64(), "part of the freeze: {report}");
        let phases: Vec<_> = report["phases"].as_array().into_iter().flatten().map(|p| &p["name"]).collect();
        assert_eq!(phases, ["spawn", "warm", "drain", "seal", "begin", "canary", "commit"], "{report}");
        assert!(load.wait_for(50, PATIENCE), "nothing is answered any more\n{}", rig.log());
    }
    // none was wanted, and none was tried
    assert!(rig.upgrade_commits()["canary_ms"].is_null());
    load.finish().assert_clean();

    let rig = overlap();
    unnoticed(&rig, || {
        for _ in 0..3 {
            committed(&rig, &upgrade(&rig, &[&["--canary", r"SING\r\n=>+tirili\r\n"], &PATIENT]));
        }
    });
}

#[test]
fn another_answer_aborts_and_nobody_notices() {
    let rig = exclusive();
    let mut load = Load::start(rig.addr, plan());
    let server = rig.server_pid();
    load.hold_back();
    let done = upgrade(&rig, &[&["--canary", r"PING\r\n=>+PANG"], &PATIENT]);
    load.let_go();
    let got = r#"sent "PING\r\n", expected "+PANG", got "+PONG\r\n""#;
    aborted(&rig, &done, server, &["the canary failed", got]);
    says(&done, &[got]);
    assert!(load.wait_for(50, PATIENCE), "nothing is answered any more\n{}", rig.log());
    // and the next one commits
    committed(&rig, &upgrade(&rig, &[&PING, &PATIENT]));
    load.finish().assert_clean();

    let rig = overlap();
    let server = rig.server_pid();
    let done = unnoticed(&rig, || upgrade(&rig, &[&["--canary", r"DANCE\r\n=>+"], &PATIENT]));
    aborted(&rig, &done, server, &["the canary failed", r#"expected "+", got "-what"#]);
}

/// Half a command: no server can answer that.
#[test]
fn no_answer_aborts_when_its_time_is_over() {
    let rig = exclusive();
    let mut load = Load::start(rig.addr, plan());
    let server = rig.server_pid();
    load.hold_back();
    let done = upgrade(&rig, &[&["--canary", "PIN=>+"], &SHORT]);
    load.let_go();
    aborted(&rig, &done, server, &[r#"sent "PIN""#, "got nothing; no more within 300ms"]);
    committed(&rig, &upgrade(&rig, &[&PING, &PATIENT]));
    load.finish().assert_clean();

    let rig = overlap();
    let server = rig.server_pid();
    let done = unnoticed(&rig, || upgrade(&rig, &[&["--canary", "PIN=>+"], &SHORT]));
    aborted(&rig, &done, server, &["got nothing; no more within 300ms"]);
}

/// The freeze budget rules: the incumbent does not wait for a canary that has more time than that left.
#[test]
fn the_freeze_budget_ends_a_canary() {
    let rig = exclusive();
    let load = Load::start(rig.addr, plan());
    let server = rig.server_pid();
    let time = ["--freeze-budget", "1s", "--canary-timeout", "999ms"];
    let done = upgrade(&rig, &[&["--canary", "PIN=>+"], &time]);
    assert_eq!(done.code, Some(10), "{done:?}\n{}", rig.log());
    rig.wait_until_settled();
    assert_eq!(rig.server_pid(), server);
    load.finish().assert_clean();
}

/// Before its claim the new server writes nothing: another one may still become the owner of the data.
#[test]
fn a_write_is_refused_and_aborts() {
    let rig = exclusive();
    let load = Load::start(rig.addr, plan());
    let server = rig.server_pid();
    let mut client = Client::connect(rig.addr.into()).expect("connects");
    client.ask("SET there before").expect("is acknowledged");
    for write in ["SET there after", "SET new key", "INCR counter", "DEL there", "FLUSHALL", "EXPIRE there 1"]
    {
        let canary = format!(r"{write}\r\n=>+OK");
        let done = upgrade(&rig, &[&["--canary", &canary], &PATIENT]);
        aborted(&rig, &done, server, &[write, r#"got "-READONLY "#]);
    }
    assert_eq!(client.ask("GET there").expect("an answer").text().as_deref(), Some("before"));
    assert_eq!(client.ask("EXISTS new counter").expect("an answer").text().as_deref(), Some("0"));
    // what was refused is no part of what it loaded
    let canary = r"SET there after\r\nGET there\r\n=>-READONLY";
    committed(&rig, &upgrade(&rig, &[&["--canary", canary], &PATIENT]));
    assert_eq!(client.ask("GET there").expect("an answer").text().as_deref(), Some("before"));
    assert!(client.ask("SET there after").is_ok(), "it writes when it serves");
    load.finish().assert_clean();
}

#[test]
fn a_program_decides() {
    let rig = exclusive();
    let load = Load::start(rig.addr, plan());
    let script = |name: &str, text: &str| -> PathBuf {
        let path = rig.dir().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a file of ours");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("a file of ours");
        path
    };
    let run = |path: &PathBuf, time: &[&str]| {
        upgrade(&rig, &[&["--canary-program", path.to_str().expect("a path of ours")], time])
    };
    let by_streams =
        script("streams", r#"printf 'PING\r\n'; read -r a; case $a in +PONG*) exit 0;; esac; exit 3"#);
    let by_3 =
        script("three", r#"printf 'PING\r\n' >&3; read -r a <&3; case $a in +PONG*) exit 0;; esac; exit 3"#);
    for path in [&by_streams, &by_3] {
        committed(&rig, &run(path, &PATIENT));
    }
    let server = rig.server_pid();
    let bad = script("bad", r#"printf 'NOSUCH\r\n'; read -r a; case $a in +*) exit 0;; esac; exit 3"#);
    aborted(&rig, &run(&bad, &PATIENT), server, &["bad", "exited with code 3"]);
    // it and all that it started are ended
    let pids = rig.dir().join("pids");
    let text = r#"sh -c 'echo $$ >> PIDS; read -r a <&3' & echo $$ >> PIDS; read -r a"#;
    let hangs = script("hangs", &text.replace("PIDS", pids.to_str().expect("a path of ours")));
    aborted(&rig, &run(&hangs, &SHORT), server, &["hangs", "did not end within 300ms"]);
    // it may have been ended before it came to that
    let started = std::fs::read_to_string(&pids).unwrap_or_default();
    started.lines().filter_map(|pid| pid.parse().ok()).for_each(wait_gone);
    let done = run(&rig.dir().join("missing"), &PATIENT);
    done.expect_code(14);
    says(&done, &["--canary-program", "missing"]);
    let plain = rig.dir().join("log");
    says(&run(&plain, &PATIENT), &["--canary-program", "chmod +x"]);
    load.finish().assert_clean();
}

/// The old server is not touched, and the reason says what can be done.
#[test]
fn a_server_that_knows_no_canary_is_14() {
    let rig = exclusive();
    let server = rig.server_pid();
    let other = rig.programs().bad("unhealthy");
    let done = upgrade(&rig, &[&["--binary", other.to_str().expect("a path of ours")], &PING, &PATIENT]);
    let report = done.expect_code(14).json();
    assert_eq!(report["outcome"], "preflight_failed", "{report}");
    assert!(["answers no canary", "--canary"].iter().all(|word| reason(&report).contains(word)), "{report}");
    assert!(!rig.reached("unhealthy"), "it was not told to begin");
    assert!(report["canary_ms"].is_null(), "{report}");
    rig.wait_until_settled();
    assert_eq!(rig.server_pid(), server);
}

/// An older supervisor reads over what it does not know: it is asked first, and no upgrade is sent to it.
#[test]
fn a_supervisor_that_knows_no_canary_is_14() {
    let rig = Setup::new(Programs::of(Build::Plain)).idle();
    let socket = UnixListener::bind(rig.run_dir.join("control.sock")).expect("a socket of ours");
    let supervisor = SupervisorReport { version: "0.0.9".to_owned(), ..SupervisorReport::default() };
    let status = Box::new(StatusReport { supervisor: Some(supervisor), ..StatusReport::default() });
    let mut answer = serde_json::to_value(Reply::Status { status }).expect("json");
    answer["status"]["supervisor"]
        .as_object_mut()
        .expect("an object")
        .remove("canary")
        .expect("it was there");
    let (asked, done) = std::thread::scope(|scope| {
        let ctl = scope.spawn(|| upgrade(&rig, &[&PING, &PATIENT]));
        let (stream, _) = socket.accept().expect("a client");
        let mut asked = String::new();
        BufReader::new(&stream).read_line(&mut asked).expect("a line");
        (&stream).write_all(format!("{answer}\n").as_bytes()).expect("written");
        drop(stream);
        (asked, ctl.join().expect("no panic"))
    });
    assert!(asked.contains("status"), "{asked}");
    done.expect_code(14);
    says(&done, &["0.0.9", "--canary", "--supervisor"]);
}

#[test]
fn a_wrong_canary_is_2_and_touches_nothing() {
    let rig = Setup::new(Programs::of(Build::Plain)).idle();
    for (args, words) in [
        (&["--canary", "PING"][..], &["--canary", r"'PING\r\n=>+PONG'"][..]),
        (&["--canary", r"PING\t=>x"], &["--canary", r"\t is no escape", r"'PING\r\n=>+PONG'"]),
        (&["--canary", "a=>b", "--canary-timeout", "2s"], &["--canary-timeout", "--freeze-budget"]),
        (&["--canary-timeout", "1s"], &["--canary-timeout", "--canary 'PING"]),
    ] {
        let done = upgrade(&rig, &[args]);
        done.expect_code(2);
        says(&done, words);
    }
}

#[test]
fn a_new_server_that_dies_of_it_aborts() {
    let rig = overlap();
    let (server, programs) = (rig.server_pid(), rig.programs());
    let other = programs.named(&programs.overlap_server, "overlap-croaks");
    let to = ["--binary", other.to_str().expect("a path of ours")];
    let done = unnoticed(&rig, || upgrade(&rig, &[&to, &["--canary", r"SING\r\n=>+"], &PATIENT]));
    aborted(&rig, &done, server, &["canary"]);
}

/// Upgrades with a long probation; what the upgrade ends with when `then` has been done on the new server.
fn on_probation(rig: &Rig, args: &[&str], then: impl FnOnce()) -> Finished {
    let old = rig.server_pid();
    let mut command = rig.ctl_command("upgrade", &[&["--format", "json", "--wait-probation"], args].concat());
    std::thread::scope(|scope| {
        let upgrade = scope.spawn(|| finish(command.stdin(Stdio::null())));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = rig.status().json();
            if status["probation"].is_string() && status["server"]["pid"].as_u64() != Some(old.into()) {
                break;
            }
            // it may be over already
            if upgrade.is_finished() {
                break;
            }
            assert!(Instant::now() < deadline, "{status}\n{}", rig.log());
        }
        then();
        upgrade.join().expect("no panic")
    })
}

#[track_caller]
fn rolled_back(rig: &Rig, done: &Finished, words: &[&str]) {
    assert_eq!(done.code, Some(15), "{done:?}\n{}", rig.log());
    let report = done.json();
    assert_eq!(report["outcome"], "rolled_back", "{report}");
    assert!(words.iter().all(|word| reason(&report).contains(word)), "{words:?}: {report}");
    rig.wait_until_settled();
    let status = rig.status().json();
    assert_eq!(status["last"]["outcome"], "rolled_back", "{status}");
    assert_eq!(status["last"]["reason"], report["reason"], "{status}");
}

/// What it answered well before the commit it answers otherwise afterwards: the build before takes over, nobody notices.
#[test]
fn a_wrong_answer_on_probation_goes_back() {
    let it = Installed::new();
    let load = Load::start(it.rig.addr, plan());
    let mut client = Client::connect(it.rig.addr.into()).expect("connects");
    client.ask("SET canary well").expect("is acknowledged");
    it.install("build 2");
    let canary = ["--canary", r"GET canary\r\n=>$4\r\nwell"];
    let done = on_probation(&it.rig, &[&canary[..], &PATIENT, &LONG].concat(), || {
        assert!(it.serving("build 2"));
        client.ask("SET canary ill").expect("is acknowledged");
    });
    rolled_back(&it.rig, &done, &["the canary failed on probation", r#"got "$3\r\nill"#]);
    assert!(it.serving("build 1"), "{}", it.rig.log());
    assert!(load.wait_for(50, PATIENCE), "nothing is answered any more\n{}", it.rig.log());
    it.rig.upgrade_commits();
    load.finish().assert_clean();

    let rig = overlap();
    let first = rig.status().json()["server"]["executable"].clone();
    let programs = rig.programs();
    let other = programs.named(&programs.overlap_server, "overlap-hoarse");
    let to = ["--binary", other.to_str().expect("a path of ours"), "--canary", r"SING\r\n=>+"];
    let done = unnoticed(&rig, || on_probation(&rig, &[&to[..], &PATIENT, &LONG].concat(), || {}));
    rolled_back(&rig, &done, &["the canary failed on probation", r#"got "-hoarse"#]);
    assert_eq!(rig.status().json()["server"]["executable"], first);
}

/// The control: who answers well again and again stands its probation.
#[test]
fn good_answers_on_probation_change_nothing() {
    let it = Installed::new();
    let load = Load::start(it.rig.addr, plan());
    it.install("build 2");
    let done = upgrade(&it.rig, &[&PING, &PATIENT, &["--probation", "8s", "--wait-probation"]]);
    committed(&it.rig, &done);
    assert!(it.serving("build 2"), "{}", it.rig.log());
    // it was asked meanwhile
    let log = std::fs::read_to_string(it.rig.log_path()).expect("a log of ours");
    assert!(
        log.matches("the canary was answered well").count() >= 2,
        "before the commit and after it: {log}"
    );
    load.finish().assert_clean();
}
