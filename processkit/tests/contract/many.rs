//! What many runs mean: pipelines, runners, batches and supervision.

use crate::rig::{sh, sleeper, within};
use processkit::{
    Command, Error, JobRunner, Pipeline, ProcessResult, ProcessRunner, ProcessRunnerExt, RestartPolicy,
    Result, RunningProcess, Stdin, StopReason, Supervisor,
};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const SHORT: Duration = Duration::from_millis(1);

#[tokio::test]
async fn a_runner_has_the_verbs() {
    let runner: &dyn ProcessRunner = &JobRunner;
    assert_eq!(within(runner.run(&sh("echo x"))).await.expect("a success"), "x");
    within(runner.run_unit(&sh("echo x"))).await.expect("a success");
    assert!(matches!(within(runner.run_unit(&sh("exit 2"))).await, Err(Error::Exit { code: 2, .. })));
    assert_eq!(within(runner.exit_code(&sh("exit 3"))).await.expect("a code"), 3);
    assert!(!within(runner.probe(&sh("exit 1"))).await.expect("an answer"));
    assert_eq!(within(runner.checked(&sh("echo x"))).await.expect("a success").stdout(), "x");
    assert!(matches!(within(runner.checked(&sh("exit 2"))).await, Err(Error::Exit { code: 2, .. })));
    assert_eq!(
        within(runner.start(&sh("exit 4"))).await.expect("started").wait().await.expect("an end"),
        Some(4)
    );
}

#[tokio::test]
async fn a_batch_keeps_its_order() {
    let commands = (0..20).map(|n| match n {
        7 => Command::new("/no/such/program"),
        n => sh(&format!("echo {n}; exit {}", n % 3)),
    });
    let results = within(processkit::output_all(commands, 4, &JobRunner)).await;
    assert_eq!(results.len(), 20);
    for (n, result) in results.into_iter().enumerate() {
        if n == 7 {
            assert!(result.expect_err("missing").is_not_found());
            continue;
        }
        let result = result.expect("a result");
        assert_eq!((result.stdout().as_str(), result.code()), (n.to_string().as_str(), Some(n as i32 % 3)));
    }
    assert!(within(processkit::output_all([], 4, &JobRunner)).await.is_empty());
    assert_eq!(within(processkit::output_all([sh("")], 0, &JobRunner)).await.len(), 1);
}

/// Counts how many ran.
#[derive(Default)]
struct Counting(AtomicU32);

#[async_trait::async_trait]
impl ProcessRunner for Counting {
    async fn output(&self, command: &Command) -> Result<ProcessResult<String>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        JobRunner.output(command).await
    }

    async fn start(&self, command: &Command) -> Result<RunningProcess> {
        JobRunner.start(command).await
    }
}

fn quick(script: &str) -> Supervisor {
    Supervisor::new(sh(script)).backoff(SHORT, 1.0).jitter(false)
}

#[tokio::test]
async fn supervision_ends_by_its_rules() {
    let outcome = within(quick("exit 0").run()).await.expect("an outcome");
    assert_eq!(
        (outcome.restarts, outcome.stopped, outcome.storm_pauses),
        (0, StopReason::PolicySatisfied, 0)
    );
    assert_eq!(outcome.final_result.code(), Some(0));
    let outcome = within(quick("exit 3").restart(RestartPolicy::Never).run()).await.expect("an outcome");
    assert_eq!((outcome.restarts, outcome.stopped), (0, StopReason::PolicySatisfied));
    let outcome = within(quick("exit 3").max_restarts(2).run()).await.expect("an outcome");
    assert_eq!((outcome.restarts, outcome.stopped), (2, StopReason::RestartsExhausted));
    let runner = Counting::default();
    let always = quick("exit 0").restart(RestartPolicy::Always).max_restarts(3).with_runner(&runner);
    let outcome = within(always.run()).await.expect("an outcome");
    assert_eq!((outcome.restarts, outcome.stopped), (3, StopReason::RestartsExhausted));
    assert_eq!(runner.0.load(Ordering::Relaxed), 4);
    // the predicate is asked first: a success that it takes is no matter of the policy
    let stop = quick("exit 3").stop_when(|result| result.code() == Some(3)).max_restarts(0);
    let outcome = within(stop.run()).await.expect("an outcome");
    assert_eq!((outcome.restarts, outcome.stopped), (0, StopReason::Predicate));
}

#[tokio::test]
async fn supervision_ends_when_nothing_can_start() {
    let missing = Supervisor::new(Command::new("/no/such/program")).backoff(SHORT, 1.0).max_restarts(2);
    let error = within(missing.run()).await.expect_err("nothing to supervise");
    assert!(matches!(error, Error::Spawn { .. }), "{error:?}");
    let token = processkit::CancellationToken::new();
    token.cancel();
    let error = within(Supervisor::new(sh("exit 1").cancel_on(token)).run()).await.expect_err("cancelled");
    assert!(matches!(error, Error::Cancelled { .. }), "{error:?}");
}

#[tokio::test]
async fn pipelines_speak_for_the_first_that_failed() {
    let text = |pipeline: Pipeline| async move { within(pipeline.run()).await };
    let pipeline = sh("printf 'b\\na\\n'") | Command::new("sort") | Command::new("head").arg("-n1");
    assert_eq!(text(pipeline).await.expect("a success"), "a");
    let pipeline = sh("cat; exit 3").stdin(Stdin::from_string("in")).pipe(sh("exit 4")).pipe(sh("exit 5"));
    let result = within(pipeline.output_string()).await.expect("a result");
    assert_eq!((result.code(), result.program()), (Some(3), "/bin/sh"));
    let pipeline = sh("echo x; exit 3").unchecked().pipe(Command::new("cat"));
    let result = within(pipeline.output_string()).await.expect("a result");
    assert_eq!((result.code(), result.stdout().trim_end()), (Some(0), "x"));
    // who reads no more ends the writer, and that is nobody's fault if it is unchecked
    let pipeline = Command::new("yes").unchecked().pipe(Command::new("head").arg("-n2"));
    assert_eq!(text(pipeline).await.expect("a success"), "y\ny");
    let result =
        within(sleeper().pipe(Command::new("cat")).timeout(SHORT).output_string()).await.expect("data");
    assert!(result.timed_out());
    let error = text(sleeper().pipe(Command::new("cat")).timeout(SHORT)).await.expect_err("late");
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
    let error = text(sh("true").pipe(Command::new("/no/such/program"))).await.expect_err("missing");
    assert!(error.is_not_found(), "{error:?}");
}
