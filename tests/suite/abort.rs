//! Upgrades that must not commit: the old server serves on, its clients notice nothing, nothing is left behind.

use crate::rig;
use handoff_tests::load::{Load, Plan};
use handoff_tests::rig::{Finished, PATIENCE, Rig, UNHURRIED};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// An option, and its milliseconds, that ends what does not end by itself.
type Limit<'a> = Option<(&'a str, u64)>;

/// One try. A limit runs before the fault is reached, too.
///
/// This failed once, on a busy machine: the deadline was over before the program that was to hang had been started.
/// Then nothing was tried, and twice the time is given.
fn tried(rig: &Rig, program: &Path, limit: Limit<'_>) -> Finished {
    let program = program.to_str().expect("a path of ours");
    let Some((option, mut ms)) = limit else {
        return rig.upgrade(&[&["--binary", program], UNHURRIED].concat());
    };
    loop {
        let done = rig.upgrade(&["--binary", program, option, &format!("{ms}ms")]);
        let marks = std::fs::read_dir(&rig.marks).expect("a directory of ours");
        if marks.count() > 0 || Duration::from_millis(ms) > PATIENCE {
            return done;
        }
        ms *= 2;
    }
}

/// Tries `program` under load. It must end with `code` and leave the old server alone; a good upgrade follows.
fn tried_under_load(code: i32, limit: Limit<'_>, program: impl FnOnce(&Rig) -> PathBuf) -> (Rig, Finished) {
    let rig = rig();
    let program = program(&rig);
    let mut load = Load::start(
        rig.addr,
        Plan {
            busy: 2,
            library: 1,
            fresh: 1,
            shared: 4,
            idle: 3,
            subscribers: 1,
            half: 3,
            unread: 1,
            ..Plan::default()
        },
    );
    let (server, processes) = (rig.server_pid(), rig.instances());
    load.hold_back();
    let done = tried(&rig, &program, limit);
    assert_eq!(done.code, Some(code), "{}{}\n{}", done.stdout, done.stderr, rig.log());
    assert!(load.wait_for(20, PATIENCE), "nothing is answered any more\n{}", rig.log());
    load.let_go();
    assert_eq!(rig.server_pid(), server, "the old server serves on");
    assert_eq!(rig.instances(), processes, "its whole tree is gone");
    let json = done.json();
    assert_eq!(json["outcome"], if code == 14 { "preflight_failed" } else { "aborted" }, "{json}");
    assert!(json["reason"].as_str().is_some_and(|reason| reason.len() > 10), "a reason is given: {json}");
    rig.status().expect_code(0);
    load.hold_back();
    rig.upgrade_commits();
    load.let_go();
    load.finish().assert_clean();
    (rig, done)
}

macro_rules! bad_successors {
    ($($name:ident: $mode:literal ends with $code:literal because $($why:literal)|+ $(, within $ms:literal of $limit:literal)?;)*) => { $(
        #[test]
        fn $name() {
            let (rig, done) = tried_under_load($code, [$(($limit, $ms))?].first().copied(), |rig| rig.programs().bad($mode));
            assert!(rig.reached($mode), "the successor never came to its fault: this test proves nothing");
            let reason = done.json()["reason"].to_string();
            assert!([$($why),+].iter().any(|why| reason.contains(why)), "not what is wrong with it: {reason}");
        }
    )* };
}

bad_successors! {
    exits_at_once: "exits-at-once" ends with 14 because "before Hello";
    hangs_before_hello: "hangs-before-hello" ends with 14 because "deadline", within 2000 of "--deadline";
    garbage_instead_of_hello: "garbage-instead-of-hello" ends with 14 because "garbage";
    hangs_in_warm: "hangs-in-warm" ends with 14 because "deadline", within 2000 of "--deadline";
    crashes_in_warm: "crashes-in-warm" ends with 14 because "warming";
    fails_in_warm: "fails-in-warm" ends with 14 because "this build cannot load anything";
    garbage_in_warm: "garbage-in-warm" ends with 14 because "warming";
    // After Begin the incumbent watches the successor and the budget by itself. On a busy machine it acts before the
    // supervisor has seen anything, which then tells what it saw of that: its word is right, too.
    crashes_in_open: "crashes-in-open" ends with 10 because "awaited Ready" | "resumed before the successor was ready";
    hangs_in_open: "hangs-in-open" ends with 10 because
        "freeze budget" | "awaited Ready" | "resumed before the successor was ready", within 500 of "--freeze-budget";
    reports_another_digest: "other-digest" ends with 10 because "digest differs";
    looks_at_another_data_dir: "other-data-dir" ends with 14 because "other-data";
    has_other_listeners: "other-listeners" ends with 14 because "listener";
    reads_another_state_format: "other-state-format" ends with 14 because "state format";
}

/// It has loaded the right data: only its own word is against it. Nobody writes here, so that it can know the digest.
#[test]
fn says_that_it_is_not_healthy() {
    let rig = rig();
    let load = Load::start(rig.addr, Plan { idle: 2, half: 2, ..Plan::default() });
    let (server, bad) = (rig.server_pid(), rig.programs().bad("unhealthy"));
    let done = rig.upgrade_to(&bad);
    let reason = done.expect_code(10).json()["reason"].to_string();
    assert!(reason.contains("not healthy"), "{reason}");
    assert!(rig.reached("unhealthy"));
    assert_eq!(rig.server_pid(), server, "the old server serves on");
    rig.upgrade_commits();
    load.finish().assert_clean();
}

/// A script that knows nothing of us; `body` follows after it has left its mark.
fn script(rig: &Rig, body: &str) -> PathBuf {
    let path = rig.dir().join("script");
    std::fs::write(&path, format!("#!/bin/sh\n: > \"$REACHED_DIR/script\"\n{body}\n"))
        .expect("a file of ours");
    mode(&path, 0o755);
    path
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("a file of ours");
}

#[test]
fn a_script_that_ends() {
    let (rig, _) = tried_under_load(14, None, |rig| script(rig, "exit 0"));
    assert!(rig.reached("script"));
}

/// Also its grandchildren, in a session of their own, are gone afterwards.
#[test]
fn a_script_that_hangs_with_children() {
    let body = "setsid sleep 1000 & sleep 1000 & wait";
    let (rig, _) = tried_under_load(14, Some(("--deadline", 2000)), |rig| script(rig, body));
    assert!(rig.reached("script"));
}

#[test]
fn a_script_that_is_talkative() {
    let (rig, _) = tried_under_load(14, Some(("--deadline", 3000)), |rig| script(rig, "exec cat /dev/zero"));
    assert!(rig.reached("script"));
}

#[test]
fn a_binary_that_is_not_there() {
    let (_, done) = tried_under_load(14, None, |rig| rig.dir().join("nowhere"));
    assert!(
        done.json()["reason"].as_str().is_some_and(|r| r.contains("nowhere")),
        "the guilty is named: {done:?}"
    );
}

#[test]
fn a_binary_that_is_not_executable() {
    let (_, done) = tried_under_load(14, None, |rig| {
        let path = script(rig, "");
        mode(&path, 0o644);
        path
    });
    assert!(done.json()["reason"].as_str().is_some_and(|r| r.contains("executable")), "{done:?}");
}

#[test]
fn a_binary_that_is_a_directory() {
    let _ = tried_under_load(14, None, |rig| rig.dir().to_path_buf());
}

#[test]
fn a_binary_that_others_may_write() {
    let (rig, done) = tried_under_load(14, None, |rig| {
        let path = script(rig, "");
        mode(&path, 0o777);
        path
    });
    assert!(!rig.reached("script"), "it was not even started");
    assert!(done.json()["reason"].as_str().is_some_and(|r| r.contains("writ")), "{done:?}");
}

#[test]
fn a_binary_that_is_no_program() {
    let (_, done) = tried_under_load(14, None, |rig| {
        let path = rig.dir().join("noise");
        std::fs::write(&path, [0x7f, b'E', b'L', b'F', 9, 9, 9]).expect("a file of ours");
        mode(&path, 0o755);
        path
    });
    assert!(done.json()["reason"].as_str().is_some_and(|r| r.contains("noise")), "{done:?}");
}

/// The file is there, what its first line names is not: "no such file" alone would send people astray.
#[test]
fn a_script_whose_interpreter_is_not_there() {
    let (_, done) = tried_under_load(14, None, |rig| {
        let path = rig.dir().join("script");
        std::fs::write(&path, "#!/nonexistent/interpreter\n").expect("a file of ours");
        mode(&path, 0o755);
        path
    });
    assert!(done.json()["reason"].as_str().is_some_and(|r| r.contains("interpreter")), "{done:?}");
}

/// Aborting by the operator, and the answers of everybody who asks meanwhile.
#[test]
fn an_operator_aborts_and_a_second_upgrade_is_refused_meanwhile() {
    let rig = rig();
    let load = Load::start(rig.addr, Plan { busy: 2, idle: 2, ..Plan::default() });
    rig.ctl("abort", &[]).expect_code(16);
    let server = rig.server_pid();
    let hangs = rig.programs().bad("hangs-in-warm");
    let (first, second) = std::thread::scope(|scope| {
        let first = scope.spawn(|| rig.upgrade_to(&hangs));
        rig.wait_for_mark("hangs-in-warm");
        let status = rig.status();
        status.expect_code(13);
        assert!(status.json()["handoff"]["handoff_id"].is_string(), "{status:?}");
        let second = rig.upgrade(&[]);
        rig.ctl("abort", &[]).expect_code(0);
        (first.join().expect("no panic"), second)
    });
    assert_eq!(second.expect_code(13).json()["handoff_id"], serde_json::Value::Null, "it was never begun");
    first.expect_code(14);
    assert_eq!(first.json()["outcome"], "preflight_failed");
    assert_eq!(rig.server_pid(), server);
    rig.ctl("abort", &[]).expect_code(16);
    rig.upgrade_commits();
    load.finish().assert_clean();
}
