//! One trait for all who run commands, from outside of the crate.

use crate::rig::*;
use processkit::{
    Command, Error, JobRunner, ProcessResult, ProcessRunner, ProcessRunnerExt, Result, RunningProcess,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts, and leaves the rest to another.
#[derive(Default)]
struct Counting {
    outputs: AtomicUsize,
    starts: AtomicUsize,
}

#[async_trait::async_trait]
impl ProcessRunner for Counting {
    async fn output(&self, command: &Command) -> Result<ProcessResult<String>> {
        self.outputs.fetch_add(1, Ordering::Relaxed);
        JobRunner.output(command).await
    }

    async fn start(&self, command: &Command) -> Result<RunningProcess> {
        self.starts.fetch_add(1, Ordering::Relaxed);
        JobRunner.start(command).await
    }
}

/// All verbs, through one runner.
async fn verbs<R: ProcessRunner + ?Sized>(runner: &R) {
    assert_eq!(runner.run(&sh("echo ' a b '; echo; echo")).await.expect("run"), " a b");
    runner.run_unit(&sh("echo x")).await.expect("run");
    assert_eq!(runner.exit_code(&sh("exit 7")).await.expect("a code"), 7);
    assert!(runner.probe(&sh("exit 0")).await.expect("an answer"));
    assert!(!runner.probe(&sh("exit 1")).await.expect("an answer"));
    assert_eq!(runner.checked(&sh("echo x")).await.expect("a result").stdout(), "x");

    let failing = sh("echo out; echo err >&2; exit 2");
    let errors = [
        runner.run(&failing).await.expect_err("2"),
        runner.run_unit(&failing).await.expect_err("2"),
        runner.checked(&failing).await.expect_err("2"),
        runner.probe(&failing).await.expect_err("2"),
    ];
    for error in errors {
        let Error::Exit { code, stdout, stderr, .. } = error else { panic!("{error}") };
        assert_eq!((code, stdout.trim(), stderr.trim()), (2, "out", "err"));
    }
    let result = runner.output(&failing).await.expect("data, not an error");
    assert_eq!((result.code(), result.is_success()), (Some(2), false));

    let missing = runner.output(&Command::new("/no/such")).await.expect_err("missing");
    assert!(missing.is_not_found() && missing.to_string().contains("/no/such"), "{missing}");

    let process = runner.start(&sh("exit 4")).await.expect("started");
    assert_eq!(within("the end", process.wait()).await.expect("an end"), Some(4));
}

/// Also behind a reference, an `Arc` and a box, and as an object.
#[tokio::test]
async fn every_runner_has_the_same_verbs() {
    verbs(&JobRunner).await;
    let counting = Arc::new(Counting::default());
    let boxed: Box<dyn ProcessRunner> = Box::new(Arc::clone(&counting));
    verbs(&boxed).await;
    verbs(boxed.as_ref()).await;
    let counts = [&counting.outputs, &counting.starts].map(|count| count.load(Ordering::Relaxed));
    assert_eq!(counts, [24, 2], "nothing went another way");
    for group in groups() {
        verbs(&group).await;
        verbs(&&group).await;
        group.remove().await.expect("gone");
    }
}

/// A group runs in itself: its end is the end of what was run. The control is run by `JobRunner`.
#[tokio::test]
async fn a_group_runs_in_itself() {
    for group in groups() {
        let (command, mut lines) = Output::of(sh("echo $$; exec sleep 1000"));
        let inside = ProcessRunner::start(&group, &command).await.expect("started");
        let pid = lines.pid().await;
        assert_eq!(group.members().expect("members"), [pid]);
        let outside = JobRunner.start(&command).await.expect("started");
        drop(command);
        let other = lines.pid().await;
        assert_eq!(group.members().expect("members"), [pid], "a private group of its own");
        group.remove().await.expect("gone");
        assert!(!lives(pid) && lives(other));
        drop(inside);
        drop(outside);
        lines.end().await;
    }
}
