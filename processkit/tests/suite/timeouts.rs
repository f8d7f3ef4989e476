//! What ends a run from outside: a limit of time, a token.

use crate::rig::*;
use processkit::{CancellationToken, Error, Outcome, ProcessGroup, ProcessResult, Result, Signal, StreamExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const SHORT: Duration = Duration::from_millis(50);
const FOREVER: Duration = Duration::from_secs(3600);

/// Its pid and that of what it started, once both are there; then both wait for ever.
const PAIR: &str = "sleep 1000 & echo $! $$; wait";

fn pids(text: &str) -> Vec<u32> {
    text.split_whitespace().map(|pid| pid.parse().expect("a pid")).collect()
}

/// A run whose limit may be too short for it to have said anything, with longer limits until it has.
async fn said(run: impl AsyncFn(Duration) -> Result<ProcessResult<String>>) -> ProcessResult<String> {
    let mut limit = SHORT;
    loop {
        let result = within("the limit", run(limit)).await.expect("a result");
        if !result.stdout().is_empty() {
            return result;
        }
        limit *= 2;
    }
}

/// A private group ends whole, also what left its session. In a shared group only the process does: the control.
#[tokio::test]
async fn a_timeout_ends_the_whole_private_group() {
    for options in mechanisms() {
        for script in [PAIR, "setsid sleep 1000 & echo $! $$; wait"] {
            let command = sh(script).group_options(options.clone());
            let result = said(async |limit| command.clone().timeout(limit).output_string().await).await;
            assert_eq!((result.outcome(), result.signal()), (Outcome::TimedOut, Some(9)));
            assert!(!result.left_open(), "nobody is left to write");
            for pid in pids(result.stdout()) {
                gone(pid).await;
            }
        }

        let group = ProcessGroup::with_options(options).expect("a group");
        let shared = async |limit| started(&group, &sh(PAIR).timeout(limit)).await.output_string().await;
        let result = said(shared).await;
        assert!(result.timed_out() && result.left_open());
        let child = pids(result.stdout())[0];
        assert!(lives(child), "control");
        group.remove().await.expect("gone");
    }
}

/// One that obeys ends the grace, one that does not is killed after it.
#[tokio::test]
async fn a_grace_is_for_those_who_obey() {
    for options in mechanisms() {
        let ended = async |script: &str, grace| {
            let command = sh(script).group_options(options.clone()).timeout_grace(grace);
            said(async |limit| command.clone().timeout(limit).output_string().await).await
        };
        let polite = "trap 'echo asked; exit 3' TERM; echo up; while :; do sleep 1000 & wait; done";
        let result = ended(polite, FOREVER).await;
        assert_eq!((result.outcome(), result.code()), (Outcome::TimedOut, None));
        assert_eq!((result.stdout().as_str(), result.exit().code), ("up\nasked", Some(3)));

        let result = ended("trap '' TERM; echo up; while :; do sleep 1000; done", SHORT).await;
        assert_eq!((result.outcome(), result.signal()), (Outcome::TimedOut, Some(9)));
    }
}

/// The clock runs from the spawn on and for nobody in particular: a run whose lines are only streamed ends as well.
#[tokio::test]
async fn the_limit_needs_nobody_who_waits() {
    for options in mechanisms() {
        let command = sh(PAIR).group_options(options).timeout(Duration::from_millis(500));
        let mut process = command.start().await.expect("started");
        let mut lines = process.stdout_lines();
        let mut last = None;
        while let Some(line) = within("a line or the end", lines.next()).await {
            last = Some(line);
        }
        assert!(last.is_none_or(|line| pids(&line).len() == 2));
        let exit = exit_of(&mut process).await;
        assert_eq!(exit.signal, Some(9));
        let result = within("the result", process.output_string()).await.expect("a result");
        assert!(result.timed_out());
        assert!(matches!(result.ensure_success(), Err(Error::Timeout { .. })));
    }
}

/// Without grace, and the whole group.
#[tokio::test]
async fn a_cancellation_ends_the_whole_private_group() {
    for options in mechanisms() {
        let token = CancellationToken::new();
        let deaf = sh("trap '' TERM; sleep 1000 & echo $! $$; while :; do wait; done");
        let command =
            deaf.group_options(options).cancel_on(token.clone()).timeout(FOREVER).timeout_grace(FOREVER);
        let mut process = command.start().await.expect("started");
        let line = process.wait_for_line(|_| true, DEADLINE).await.expect("a line");
        token.cancel();
        let error = within("the end", process.output_string()).await.expect_err("cancelled");
        assert!(matches!(&error, Error::Cancelled { program } if program == "/bin/sh"), "{error:?}");
        for pid in pids(&line) {
            gone(pid).await;
        }
    }
}

/// A cancellation does not wait for the grace of a timeout either.
#[tokio::test]
async fn a_cancellation_ends_a_grace() {
    let token = CancellationToken::new();
    let deaf = sh("trap 'echo asked' TERM; echo up; while :; do sleep 1000 & wait $!; done");
    let command = deaf.cancel_on(token.clone()).timeout(SHORT).timeout_grace(FOREVER);
    let cancel = token.clone();
    let command = command.on_stdout_line(move |line| {
        if line == "asked" {
            cancel.cancel();
        }
    });
    // asked before the trap was set, it obeys
    loop {
        match within("the end", command.output_string()).await {
            Err(error) => break assert!(matches!(error, Error::Cancelled { .. }), "{error:?}"),
            Ok(result) => assert!(result.timed_out() && !token.is_cancelled(), "{result:?}"),
        }
    }
}

/// One that had ended before keeps its result, although nobody had looked; the control lives and loses it.
#[tokio::test]
async fn who_had_ended_keeps_its_result() {
    let token = CancellationToken::new();
    let process = sh("echo done; exit 3").cancel_on(token.clone()).start().await.expect("started");
    let control = sh("echo done; exec sleep 1000").cancel_on(token.clone()).start().await.expect("started");
    ended(&process).await;
    token.cancel();
    let result = within("the result", process.output_string()).await.expect("its own");
    assert_eq!((result.code(), result.stdout().as_str()), (Some(3), "done"));
    let error = within("the end", control.output_string()).await.expect_err("control");
    assert!(matches!(error, Error::Cancelled { .. }), "{error:?}");
}

/// Tried again until it works, and no more than that; a cancellation is final.
#[tokio::test]
async fn a_retry_ends_with_success() {
    let directory = tempfile::tempdir().expect("a directory");
    let script = "echo x >> runs; test $(wc -l < runs) -ge 3 || exit 9; echo third";
    let command = sh(script).current_dir(directory.path()).retry(10, Duration::ZERO, |_| true);
    assert_eq!(within("three runs", command.run()).await.expect("a success"), "third");
    let runs = std::fs::read_to_string(directory.path().join("runs")).expect("it ran");
    assert_eq!(runs.lines().count(), 3);

    let token = CancellationToken::new();
    let (cancel, asked) = (token.clone(), Arc::new(AtomicU32::new(0)));
    let count = Arc::clone(&asked);
    let command = sh("exit 9").cancel_on(token).retry(10, FOREVER, move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        cancel.cancel();
        true
    });
    let error = within("the end", command.run()).await.expect_err("cancelled");
    assert!(matches!(error, Error::Cancelled { .. }), "{error:?}");
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

/// A limit beyond the clock is none.
#[tokio::test]
async fn limits_may_be_huge() {
    let command = sh("echo x").timeout(Duration::MAX).timeout_grace(Duration::MAX);
    assert_eq!(within("the run", command.run()).await.expect("a success"), "x");
    let command = sh("sleep 1000").timeout(Duration::ZERO);
    assert!(within("the run", command.output_string()).await.expect("a result").timed_out());
}

/// A stream of lines, and the first line that fits, once ended only when nobody could write any more: a process that its
/// command had left in the background held them up for as long as it lived, and no limit helped, since the command itself
/// had ended in time. With the command, its private group ends.
#[tokio::test]
async fn what_is_left_in_the_background_holds_no_stream() {
    for options in mechanisms() {
        let command = sh("sleep 1000 & echo $!").group_options(options).timeout(FOREVER);
        let mut process = command.start().await.expect("started");
        let mut lines = process.stdout_lines();
        let left = within("a line", lines.next()).await.expect("its pid");
        assert_eq!(within("the end of the stream", lines.next()).await, None);
        gone(left.parse().expect("a pid")).await;
        assert!(within("its end", process.wait()).await.expect("an end").is_some());

        let found = within("no line", command.first_line(|_| false)).await.expect("an answer");
        assert_eq!(found, None);
    }
}

/// A limit whose signal cannot be sent once gave up, and whoever waited for the process waited for ever.
#[tokio::test]
async fn a_signal_that_cannot_be_sent_is_followed_by_a_kill() {
    for options in mechanisms() {
        let command = sleeper().group_options(options);
        let command = command.timeout(SHORT).timeout_grace(SHORT).timeout_signal(Signal::Other(200));
        let process = command.start().await.expect("started");
        assert_eq!(within("the kill", process.wait()).await.expect("an end"), None);
        assert!(within("the kill", command.output_string()).await.expect("a result").timed_out());
    }
}

/// A cancellation is always told as one: a probe once said that the process was not ready. So it is by who wants a line.
#[tokio::test]
async fn a_probe_that_is_cancelled_says_so() {
    let token = CancellationToken::new();
    let command = sh("echo begun; exec sleep 1000").cancel_on(token.clone());
    let mut process = command.start().await.expect("started");
    within("a line", process.wait_for_line(|line| line == "begun", FOREVER)).await.expect("the line");
    token.cancel();
    let error = within("the answer", process.wait_for_line(|_| false, FOREVER)).await.expect_err("no line");
    assert!(matches!(error, Error::Cancelled { .. }), "{error}");

    let token = CancellationToken::new();
    let command = sleeper().cancel_on(token.clone());
    let cancel = async {
        tokio::task::yield_now().await;
        token.cancel();
    };
    let (line, ()) = within("an answer", async { tokio::join!(command.first_line(|_| true), cancel) }).await;
    assert!(matches!(line, Err(Error::Cancelled { .. })), "{line:?}");
}
