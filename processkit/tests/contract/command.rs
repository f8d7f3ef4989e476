//! What a command means: its verbs, its environment, its input, its limits, and how it says what went wrong.

use crate::rig::{sh, sleeper, within};
use processkit::{
    CancellationToken, Command, Error, Outcome, OutputBufferPolicy, OverflowMode, Signal, Stdin,
};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_result_tells_everything() {
    let result = within(sh("echo out; echo err >&2; exit 3").output_string()).await.expect("a result");
    assert_eq!((result.code(), result.outcome()), (Some(3), Outcome::Exited(3)));
    assert_eq!((result.stdout().trim_end(), result.stderr().trim_end()), ("out", "err"));
    assert!(!result.is_success() && !result.timed_out() && !result.truncated());
    assert_eq!(result.program(), "/bin/sh");
    assert!(result.duration() > Duration::ZERO);
    assert!(result.combined().contains("out") && result.combined().contains("err"));
    assert_eq!(result.diagnostic().trim_end(), "err");
    assert_eq!(result.clone().into_stdout().trim_end(), "out");
    let error = result.ensure_success().expect_err("it was no success");
    assert_eq!(error.diagnostic().map(str::trim_end), Some("err"));
    let Error::Exit { program, code, stdout, stderr } = error else { panic!("{error:?}") };
    assert_eq!((program.as_str(), code), ("/bin/sh", 3));
    assert_eq!((stdout.trim_end(), stderr.trim_end()), ("out", "err"));

    let result = within(sh("echo fine").output_string()).await.expect("a result");
    assert_eq!(result.diagnostic().trim_end(), "fine");
    assert!(result.ensure_success().expect("a success").is_success());
}

/// Lines joined by a line feed: what ends the last one is not part of it.
#[tokio::test]
async fn text_is_made_of_lines() {
    let cases = [
        ("a\\nb\\n", "a\nb"),
        ("a\\r\\nb", "a\nb"),
        ("a\\n\\n", "a\n"),
        ("a\\377b", "a\u{fffd}b"),
        ("\\n", ""),
        (" a \\n", " a "),
        ("a\\rb\\n", "a\rb"),
        ("a\\r", "a"),
    ];
    for (written, text) in cases {
        let result = within(sh(&format!("printf '{written}' | tee /dev/stderr")).output_string()).await;
        let result = result.expect("a result");
        assert_eq!((result.stdout().as_str(), result.stderr()), (text, text), "{written}");
    }
}

#[tokio::test]
async fn bytes_are_bytes() {
    let result = within(sh("printf 'a\\r\\n\\377\\000b'; printf 'e\\377' >&2").output_bytes())
        .await
        .expect("a result");
    assert_eq!(result.stdout(), b"a\r\n\xff\0b");
    assert_eq!(result.stderr(), "e\u{fffd}");
    assert!(result.is_success());
}

#[tokio::test]
async fn verbs_judge_the_code() {
    assert_eq!(within(sh("printf ' a \\n\\n'").run()).await.expect("a success"), " a");
    assert_eq!(within(sh("exit 7").exit_code()).await.expect("a code"), 7);
    assert!(within(sh("exit 0").probe()).await.expect("an answer"));
    assert!(!within(sh("exit 1").probe()).await.expect("an answer"));
    let error = within(sh("exit 2").probe()).await.expect_err("neither");
    assert!(matches!(error, Error::Exit { code: 2, .. }), "{error:?}");
    let error = within(sh("echo one; echo two; exit 4").run()).await.expect_err("not accepted");
    assert_eq!(error.to_string().lines().count(), 1, "{error}");
    assert!(matches!(error, Error::Exit { code: 4, .. }), "{error:?}");
    assert_eq!(within(sh("echo x; exit 4").ok_codes([0, 4]).run()).await.expect("accepted"), "x");
    let error = within(sh("exit 0").ok_codes([4]).run()).await.expect_err("0 is not listed");
    assert!(matches!(error, Error::Exit { code: 0, .. }), "{error:?}");
    let result = within(sh("exit 4").ok_codes([4]).output_string()).await.expect("a result");
    assert!(result.is_success() && result.ensure_success().is_ok());

    assert_eq!(within(processkit::run("echo", ["a", "b"])).await.expect("a success"), "a b");
    let result = within(processkit::output("sh", ["-c", "exit 5"])).await.expect("a result");
    assert_eq!(result.code(), Some(5));
}

#[tokio::test]
async fn a_first_line_ends_the_wait() {
    let command = sh("echo one; echo two; exec sleep 1000");
    assert_eq!(
        within(command.first_line(|line| line.starts_with('t'))).await.expect("a line").as_deref(),
        Some("two")
    );
    let command = sh("echo one; echo two; exit 3");
    assert_eq!(within(command.first_line(|line| line == "three")).await.expect("an end"), None);
}

#[tokio::test]
async fn a_signal_is_no_code() {
    let result = within(sh("kill -9 $$").output_string()).await.expect("a result");
    assert_eq!((result.code(), result.outcome()), (None, Outcome::Signalled));
    assert!(!result.is_success() && !result.timed_out());
    let command = sh("kill -9 $$");
    for error in [
        result.ensure_success().expect_err("no success"),
        within(command.run()).await.expect_err("no success"),
        within(command.exit_code()).await.expect_err("no code"),
        within(command.probe()).await.expect_err("no answer"),
    ] {
        assert!(matches!(error, Error::Io(_)), "{error:?}");
    }
}

#[tokio::test]
async fn environments() {
    let show = |command: Command| async move { within(command.run()).await.expect("a success") };
    // any variable that we have and a shell does not set by itself
    let plain = |key: &str| {
        key.bytes().all(|byte| byte.is_ascii_uppercase())
            && !["PATH", "PWD", "OLDPWD", "SHLVL"].contains(&key)
    };
    let (key, _) =
        std::env::vars().find(|(key, value)| plain(key) && !value.is_empty()).expect("an environment");
    let command = sh(&format!("echo \"$A-$B-${{{key}:+set}}\""));
    assert_eq!(show(command.clone().env("A", "1").env("B", "2")).await, "1-2-set");
    assert_eq!(show(command.clone().env("A", "1").env_remove("A").env_remove(&key)).await, "--");
    assert_eq!(show(command.clone().env_clear().env("B", "2")).await, "-2-");
    assert_eq!(show(command.clone().inherit_env(["PATH"]).env("A", "1")).await, "1--");
    assert_eq!(show(command.clone().env("A", "1").inherit_env([&key])).await, "1--set");
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let error = within(Command::new("/no/such/program").output_string()).await.expect_err("missing");
    assert!(error.is_not_found() && !error.is_permission_denied() && !error.is_transient(), "{error:?}");
    assert!(matches!(&error, Error::Spawn { program, .. } if program == "/no/such/program"), "{error:?}");
    assert_eq!(error.diagnostic(), None);
    let error = within(Command::new("/etc/passwd").run()).await.expect_err("not executable");
    assert!(error.is_permission_denied() && !error.is_not_found(), "{error:?}");

    let here = std::env::temp_dir().canonicalize().expect("a directory");
    assert_eq!(
        within(sh("pwd -P").current_dir(&here).run()).await.expect("a success"),
        here.to_string_lossy()
    );
    let missing = within(sh("").current_dir("/no/such/directory").run()).await.expect_err("missing");
    assert!(matches!(&missing, Error::Spawn { source, .. } if source.kind() == std::io::ErrorKind::NotFound));
    assert!(missing.to_string().contains("working directory does not exist"), "{missing}");
    let file = within(sh("").current_dir("/etc/passwd").run()).await.expect_err("a file");
    assert!(
        matches!(&file, Error::Spawn { source, .. } if source.kind() == std::io::ErrorKind::NotADirectory)
    );
    assert!(file.to_string().contains("is not a directory"), "{file}");
}

#[tokio::test]
async fn input_comes_from_anywhere() {
    let cat = || Command::new("cat");
    let large = "x".repeat(1 << 20);
    let path = std::env::temp_dir().join(format!("processkit-contract-{}", std::process::id()));
    std::fs::write(&path, "file").expect("written");
    let lines = tokio_stream::iter(["a".to_owned(), "b".to_owned()]);
    let cases: [(Stdin, &str); 7] = [
        (Stdin::empty(), ""),
        (Stdin::from_string("text"), "text"),
        (Stdin::from_bytes(*b"bytes"), "bytes"),
        (Stdin::from_file(&path), "file"),
        (Stdin::from_reader(&b"reader"[..]), "reader"),
        (Stdin::from_lines(lines), "a\nb\n"),
        (Stdin::from_string(large.clone()), &large),
    ];
    for (stdin, text) in cases {
        let result = within(cat().stdin(stdin).output_bytes()).await.expect("a result");
        assert!(result.stdout() == text.as_bytes(), "{text:.20}");
    }
    std::fs::remove_file(&path).expect("removed");
    // no input is the end of it, not ours
    assert_eq!(within(cat().run()).await.expect("a success"), "");
    // who does not read is no error
    assert_eq!(
        within(sh("echo done").stdin(Stdin::from_string(large)).run()).await.expect("a success"),
        "done"
    );
    // what can be read once is empty for the second
    let once = cat().stdin(Stdin::from_reader(&b"reader"[..]));
    assert_eq!(within(once.run()).await.expect("a success"), "reader");
    assert_eq!(within(once.run()).await.expect("a success"), "");
    let again = cat().stdin(Stdin::from_string("x"));
    for _ in 0..2 {
        assert_eq!(within(again.clone().run()).await.expect("a success"), "x");
    }
}

#[tokio::test]
async fn a_timeout_is_data_or_an_error() {
    let command = sh("echo before; exec sleep 1000").timeout(SHORT);
    let result = within(command.output_string()).await.expect("data");
    assert!(result.timed_out() && !result.is_success());
    assert_eq!((result.code(), result.outcome()), (None, Outcome::TimedOut));
    assert!(matches!(result.ensure_success(), Err(Error::Timeout { timeout: SHORT, .. })));
    let result = within(command.output_bytes()).await.expect("data");
    assert!(result.timed_out());
    let process = within(command.start()).await.expect("started");
    assert_eq!(within(process.wait()).await.expect("data"), None);
    for error in [
        within(command.run()).await.expect_err("late"),
        within(command.exit_code()).await.expect_err("late"),
        within(command.probe()).await.expect_err("late"),
        within(command.first_line(|line| line == "never")).await.expect_err("late"),
    ] {
        assert!(
            matches!(&error, Error::Timeout { program, timeout: SHORT } if program == "/bin/sh"),
            "{error:?}"
        );
    }
    assert!(within(sh("exit 0").timeout(LONG).output_string()).await.expect("in time").is_success());

    // with a grace it is asked first, by the signal of choice, and may still say something
    let polite = sh("trap 'echo asked; exit 0' USR1; echo up; while :; do :; done")
        .timeout_grace(LONG)
        .timeout_signal(Signal::Usr1);
    let mut limit = SHORT;
    loop {
        let result = within(polite.clone().timeout(limit).output_string()).await.expect("data");
        assert!(result.timed_out(), "{result:?}");
        if result.stdout().starts_with("up") {
            assert_eq!(result.stdout(), "up\nasked");
            break;
        }
        limit *= 2; // asked before it was up
    }
}

#[tokio::test]
async fn a_cancellation_is_always_an_error() {
    let cancelled = |error: Error| matches!(error, Error::Cancelled { ref program } if program == "sleep");
    let token = CancellationToken::new();
    token.cancel();
    // before anything is spawned, and before anything is looked at
    let missing = Command::new("/no/such/program").cancel_on(token.clone());
    assert!(matches!(missing.output_string().await, Err(Error::Cancelled { .. })));
    assert!(cancelled(sleeper().cancel_on(token).start().await.expect_err("cancelled")));

    let token = CancellationToken::new();
    let command = sleeper().cancel_on(token.clone()).timeout(LONG).timeout_grace(LONG);
    let process = within(command.start()).await.expect("started");
    let (waited, output, bytes, run, code, probe, ()) = within(async {
        tokio::join!(
            process.wait(),
            command.output_string(),
            command.output_bytes(),
            command.run(),
            command.exit_code(),
            command.probe(),
            async {
                tokio::task::yield_now().await;
                token.cancel();
            },
        )
    })
    .await;
    assert!(cancelled(waited.expect_err("wait")));
    assert!(cancelled(output.expect_err("output_string")));
    assert!(cancelled(bytes.expect_err("output_bytes")));
    assert!(cancelled(run.expect_err("run")));
    assert!(cancelled(code.expect_err("exit_code")));
    assert!(cancelled(probe.expect_err("probe")));
}

#[tokio::test]
async fn lines_are_told_as_they_come() {
    let (out, err) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
    let collect = |to: &Arc<Mutex<Vec<String>>>| {
        let to = Arc::clone(to);
        move |line: &str| to.lock().expect("no panic").push(line.to_owned())
    };
    let script = "printf 'a\\r\\nb\\n\\nlast'; printf 'x\\ny' >&2";
    let command = sh(script).on_stdout_line(collect(&out)).on_stderr_line(collect(&err));
    assert!(within(command.output_string()).await.expect("a result").is_success());
    assert_eq!(*out.lock().expect("no panic"), ["a", "b", "", "last"]);
    assert_eq!(*err.lock().expect("no panic"), ["x", "y"]);
}

#[tokio::test]
async fn buffers_are_bounded() {
    let keep = |policy| async move {
        let result = within(sh("seq 10").output_buffer(policy).output_string()).await.expect("a result");
        (result.stdout().lines().map(str::to_owned).collect::<Vec<_>>(), result.truncated())
    };
    let own = |lines: [&str; 3]| lines.map(str::to_owned).to_vec();
    let bounded = OutputBufferPolicy::bounded(3);
    assert_eq!(keep(bounded).await, (own(["8", "9", "10"]), true));
    assert_eq!(keep(bounded.with_overflow(OverflowMode::DropOldest)).await, (own(["8", "9", "10"]), true));
    assert_eq!(keep(bounded.with_overflow(OverflowMode::DropNewest)).await, (own(["1", "2", "3"]), true));
    assert_eq!(keep(OutputBufferPolicy::unbounded()).await.0.len(), 10);
    assert!(!keep(OutputBufferPolicy::bounded(10)).await.1);
}

#[tokio::test]
async fn a_retry_is_for_what_the_predicate_takes() {
    let counted = |takes: bool| {
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        let predicate = move |error: &Error| {
            count.fetch_add(1, Ordering::Relaxed);
            takes && matches!(error, Error::Exit { .. })
        };
        (sh("echo run >> \"$F\"; exit 9").retry(3, Duration::from_millis(1), predicate), asked)
    };
    let path = std::env::temp_dir().join(format!("processkit-retry-{}", std::process::id()));
    for (takes, runs, questions) in [(true, 3, 2), (false, 1, 1)] {
        let (command, asked) = counted(takes);
        let error = within(command.env("F", &path).run()).await.expect_err("never a success");
        assert!(matches!(error, Error::Exit { code: 9, .. }), "{error:?}");
        let text = std::fs::read_to_string(&path).expect("it ran");
        std::fs::remove_file(&path).expect("removed");
        assert_eq!((text.lines().count(), asked.load(Ordering::Relaxed)), (runs, questions));
    }
}

#[test]
fn a_command_can_be_read() {
    let command = Command::new("a").arg("b").args(["c", "d"]);
    assert_eq!(command.program(), "a");
    assert_eq!(command.arguments(), ["b", "c", "d"]);
    let copy = command.clone().arg("e");
    assert_eq!((command.arguments().len(), copy.arguments().len()), (3, 4));
}
