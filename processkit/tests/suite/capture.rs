//! C4, C10, C11: what is kept of an output, and whom it does not wait for.

use crate::play::played;
use crate::rig::*;
use processkit::{Command, OutputBufferPolicy, OverflowMode, ProcessGroup, Stdio, StreamExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[tokio::test]
async fn both_streams_are_drained_at_once() {
    let script = "head -c 8M /dev/zero & head -c 8M /dev/zero >&2; wait";
    for options in mechanisms() {
        let result =
            within("the run", sh(script).group_options(options).output_bytes()).await.expect("a result");
        assert_eq!((result.stdout().len(), result.stderr().len()), (8 << 20, 8 << 20));
        assert!(result.is_success() && !result.truncated());
    }
}

/// Discarded means discarded: the process has `/dev/null`, not a pipe that somebody throws away. The control has a pipe.
#[tokio::test]
async fn discarded_output_goes_nowhere() {
    let script = "exec 3>&1; readlink /proc/self/fd/3 >&2";
    let command = sh(script).stdout(Stdio::Null);
    let result = within("the run", command.output_string()).await.expect("a result");
    assert_eq!((result.stderr(), result.stdout().as_str()), ("/dev/null", ""));
    let result = within("the run", sh(script).output_string()).await.expect("a result");
    assert!(result.stderr().starts_with("pipe:"), "control: {}", result.stderr());
}

#[tokio::test]
async fn bytes_honour_the_bound() {
    let keep = |policy| async move {
        let command = Command::new("seq").arg("100000").output_buffer(policy);
        within("the run", command.output_bytes()).await.expect("a result")
    };
    let oldest = keep(OutputBufferPolicy::bounded(2)).await;
    assert_eq!((oldest.stdout().as_slice(), oldest.truncated()), (&b"99999\n100000\n"[..], true));
    let newest = keep(OutputBufferPolicy::bounded(2).with_overflow(OverflowMode::DropNewest)).await;
    assert_eq!((newest.stdout().as_slice(), newest.truncated()), (&b"1\n2\n"[..], true));
    let all = keep(OutputBufferPolicy::unbounded()).await;
    assert_eq!((all.stdout().len(), all.truncated()), (588_895, false));
}

/// 100 MiB without an end of line, in a process of its own: a bound holds the memory, without one it is all there.
#[test]
fn a_line_without_an_end_costs_little() {
    let peak = |role| played(role)[0].parse::<u64>().expect("a number");
    let (bounded, unbounded) = (peak("swallow bounded"), peak("swallow unbounded"));
    assert!(bounded < 50 << 20, "{bounded} bytes");
    assert!(unbounded > 100 << 20, "control: {unbounded} bytes");
}

/// What a process leaves behind in its private group ends with it, and does not hold its result. In a shared group it lives
/// on, and the result says that somebody may still write.
#[tokio::test]
async fn a_grandchild_does_not_hold_the_result() {
    let script = "sleep 1000 & echo $!; echo err >&2; exit 3";
    for (escape, options) in mechanisms().into_iter().flat_map(|o| [("", o.clone()), ("setsid ", o)]) {
        let command = sh(&format!("{escape}{script}"));
        let private = command.clone().group_options(options.clone());
        let result = within("the result", private.output_string()).await.expect("a result");
        assert_eq!((result.code(), result.stderr(), result.left_open()), (Some(3), "err", false));
        assert!(!result.truncated());
        gone(result.stdout().parse().expect("a pid")).await;

        let group = ProcessGroup::with_options(options).expect("a group");
        let process = started(&group, &command).await;
        let result = within("the result", process.output_string()).await.expect("a result");
        assert_eq!((result.code(), result.stderr(), result.left_open()), (Some(3), "err", true));
        assert!(result.truncated());
        let pid = result.stdout().parse().expect("a pid");
        assert!(lives(pid), "control: nothing ended it");
        within("the end of the group", group.remove()).await.expect("gone");
        gone(pid).await;
    }
}

/// Everything the process itself wrote is there although somebody else still has the pipe.
#[tokio::test]
async fn a_short_drain_loses_nothing_of_its_own() {
    for group in groups() {
        let process = started(&group, &sh("sleep 1000 & seq 100000")).await;
        let result = within("the result", process.output_string()).await.expect("a result");
        assert!(result.left_open());
        assert_eq!(result.stdout().lines().count(), 100_000);
        group.remove().await.expect("gone");
    }
}

#[tokio::test]
async fn a_callback_that_panics_loses_nothing() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let command = sh("echo one; echo two; echo three").on_stdout_line(move |line| {
        count.fetch_add(1, Ordering::Relaxed);
        assert_ne!(line, "two", "a panic on purpose");
    });
    let result = within("the run", command.output_string()).await.expect("a result");
    assert_eq!(result.stdout(), "one\ntwo\nthree");
    assert_eq!(calls.load(Ordering::Relaxed), 2, "not asked again after the panic");
}

/// A process that was started outside of a runtime is drained from the first wait on.
#[test]
fn outside_of_a_runtime() {
    let group = ProcessGroup::new().expect("a group");
    let stdin = processkit::Stdin::from_bytes(vec![b'x'; 1 << 20]);
    let process = group.start_blocking(&Command::new("cat").stdin(stdin)).expect("started");
    let mut other = group.start_blocking(&Command::new("seq").arg("100000")).expect("started");
    runtime().block_on(async {
        let result = within("the result", process.output_bytes()).await.expect("a result");
        assert_eq!(result.stdout().len(), 1 << 20);
        assert!(exit_of(&mut other).await.success());
    });

    // Was a wait for ever: a task of a runtime that is gone reads nothing any more, and what is missing is told. The control
    // was read to its end before.
    for (script, is_missing) in [("echo one; exec sleep 1000", true), ("echo one", false)] {
        let command = sh(script).stderr(Stdio::Null);
        let first = runtime();
        let mut process = first.block_on(async {
            let mut process = started(&group, &command).await;
            if !is_missing {
                exit_of(&mut process).await;
                let mut lines = process.stdout_lines();
                assert_eq!(within("a line", lines.next()).await.as_deref(), Some("one"));
                assert_eq!(within("the end", lines.next()).await, None);
            }
            process
        });
        drop(first);
        process.start_kill().expect("killed");
        let result = runtime().block_on(within("the result", process.output_string())).expect("a result");
        assert_eq!(result.truncated(), is_missing, "{script}");
    }

    // and one may be waited for in one runtime after the other
    let mut sleeper = group.start_blocking(&sleeper()).expect("started");
    for last in [false, true] {
        runtime().block_on(async {
            pending(sleeper.exit()).await;
            if last {
                sleeper.start_kill().expect("killed");
                exit_of(&mut sleeper).await;
            }
        });
    }
    runtime().block_on(group.remove()).expect("gone");
}
