//! A command run again and again, with real processes. The arithmetic of waits is tested where it is written.

use crate::rig::*;
use processkit::{
    CancellationToken, Command, Error, JobRunner, ProcessResult, ProcessRunner, RestartPolicy, Result,
    RunningProcess, StopReason, SupervisionOutcome, Supervisor,
};
use std::future::Future;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

const SHORT: Duration = Duration::from_millis(1);
const FOREVER: Duration = Duration::from_secs(100_000);

/// Writes a line into the file at each start.
fn counted(file: &Path, then: &str) -> Command {
    sh(&format!("echo $$ >> '{}'; {then}", file.display()))
}

fn starts(file: &Path) -> usize {
    std::fs::read_to_string(file).map_or(0, |text| text.lines().count())
}

/// Counts the runs.
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

/// By default a crash is run again and a success is not.
#[tokio::test]
async fn it_runs_again_until_it_succeeds() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("starts");
    let third = counted(&file, &format!("test $(wc -l < '{}') -ge 3", file.display()));
    let outcome =
        within("a success", Supervisor::new(third).backoff(SHORT, 2.0).run()).await.expect("an outcome");
    assert_eq!((outcome.stopped, outcome.restarts, starts(&file)), (StopReason::PolicySatisfied, 2, 3));
    assert!(outcome.final_result.is_success());
    assert_eq!(outcome.storm_pauses, 0);
}

#[tokio::test]
async fn policy_budget_and_predicate_end_it() {
    let run = async |script: &str, policy, budget: u32| {
        let runner = Counting::default();
        let supervisor =
            Supervisor::new(sh(script)).with_runner(&runner).restart(policy).max_restarts(budget);
        let outcome = within("an end", supervisor.backoff(SHORT, 1.0).run()).await.expect("an outcome");
        assert_eq!(runner.0.load(Ordering::Relaxed), outcome.restarts + 1);
        (outcome.stopped, outcome.restarts, outcome.final_result.code())
    };
    use RestartPolicy::*;
    use StopReason::*;
    assert_eq!(run("exit 0", Always, 3).await, (RestartsExhausted, 3, Some(0)));
    assert_eq!(run("exit 1", OnCrash, 2).await, (RestartsExhausted, 2, Some(1)));
    assert_eq!(run("exit 1", OnCrash, 0).await, (RestartsExhausted, 0, Some(1)));
    assert_eq!(run("exit 0", OnCrash, 2).await, (PolicySatisfied, 0, Some(0)));
    assert_eq!(run("exit 1", Never, 2).await, (PolicySatisfied, 0, Some(1)));
    assert_eq!(run("kill -9 $$", OnCrash, 1).await, (RestartsExhausted, 1, None));

    let mut seen = 0;
    let supervisor = Supervisor::new(sh("exit 1")).max_restarts(0).backoff(SHORT, 1.0);
    let outcome = supervisor.stop_when(|result| result.code() == Some(1)).run().await.expect("an outcome");
    assert_eq!(outcome.stopped, Predicate, "asked before the budget");
    let supervisor = Supervisor::new(sh("exit 0")).restart(Always).backoff(SHORT, 1.0);
    let supervisor = supervisor.stop_when(move |_| {
        seen += 1;
        seen == 4
    });
    let outcome = within("the fourth", supervisor.run()).await.expect("an outcome");
    assert_eq!((outcome.stopped, outcome.restarts), (Predicate, 3));
}

/// Codes that the command accepts are no crash; a timeout is one.
#[tokio::test]
async fn the_command_says_what_a_crash_is() {
    let outcome = Supervisor::new(sh("exit 3").ok_codes([0, 3])).run().await.expect("an outcome");
    assert_eq!((outcome.stopped, outcome.restarts), (StopReason::PolicySatisfied, 0));
    let late = Command::new("sleep").arg("1000").timeout(SHORT);
    let supervisor = Supervisor::new(late).max_restarts(1).backoff(SHORT, 1.0);
    let outcome = within("two timeouts", supervisor.run()).await.expect("an outcome");
    assert_eq!((outcome.stopped, outcome.restarts), (StopReason::RestartsExhausted, 1));
    assert!(outcome.final_result.timed_out());
}

/// A token ends a run, the wait between runs, and the pause of a storm; before the first run nothing is started.
#[tokio::test]
async fn cancelled_wherever_it_waits() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name| directory.path().join(name);
    let supervisor = |name, then: &str| {
        let token = CancellationToken::new();
        (Supervisor::new(counted(&file(name), then).cancel_on(token.clone())).jitter(false), token)
    };
    let ended = async |run: Pin<&mut dyn Future<Output = Result<SupervisionOutcome>>>| {
        let error = within("the end", run).await.expect_err("cancelled");
        assert!(matches!(error, Error::Cancelled { ref program } if program == "/bin/sh"), "{error}");
    };

    let (running, token) = supervisor("running", "exec sleep 1000");
    let mut run = pin!(running.run());
    while starts(&file("running")) == 0 {
        going_on(&mut run).await;
    }
    token.cancel();
    ended(run).await;
    assert_eq!(starts(&file("running")), 1);

    let (never, token) = supervisor("never", "exit 1");
    token.cancel();
    ended(pin!(never.run())).await;
    assert_eq!(starts(&file("never")), 0);

    // The predicate is asked after the run, so it waits once that was called and it is pending.
    for name in ["waiting", "paused"] {
        let (supervisor, token) = supervisor(name, "exit 1");
        let supervisor = match name {
            "waiting" => supervisor.backoff(FOREVER, 1.0).max_backoff(FOREVER),
            _ => supervisor.backoff(SHORT, 1.0).storm_pause(FOREVER).failure_threshold(0.5),
        };
        let ran = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&ran);
        let supervisor = supervisor.stop_when(move |_| {
            asked.store(true, Ordering::Relaxed);
            false
        });
        let mut run = pin!(supervisor.run());
        while !ran.load(Ordering::Relaxed) {
            going_on(&mut run).await;
        }
        token.cancel();
        ended(run).await;
        assert_eq!(starts(&file(name)), 1);
    }
}

/// One more look at a supervision that is to be pending.
async fn going_on(run: &mut Pin<&mut impl Future<Output = Result<SupervisionOutcome>>>) {
    tokio::select! {
        biased;
        outcome = run.as_mut() => panic!("too early: {outcome:?}"),
        () = tokio::task::yield_now() => {}
    }
}

/// A missing program is missing the next time, too: the error at once, by name.
#[tokio::test]
async fn what_cannot_be_started_ends_it() {
    let runner = Counting::default();
    let supervisor = Supervisor::new(Command::new("/no/such")).with_runner(&runner).backoff(FOREVER, 1.0);
    let error = within("an error", supervisor.run()).await.expect_err("missing");
    assert!(error.is_not_found() && error.to_string().contains("/no/such"), "{error}");
    assert_eq!(runner.0.load(Ordering::Relaxed), 1);
}

/// Numbers that make no sense: an error that names the number, and nothing is run. The control is the same without them.
#[tokio::test]
async fn bad_numbers_run_nothing() {
    let runner = Counting::default();
    let supervisor = || Supervisor::new(sh("exit 0")).with_runner(&runner);
    let zero = Duration::ZERO;
    let bad = [
        (supervisor().backoff(SHORT, 0.0), "factor"),
        (supervisor().backoff(SHORT, -1.0), "factor"),
        (supervisor().backoff(SHORT, f64::NAN), "factor"),
        (supervisor().backoff(SHORT, f64::INFINITY), "factor"),
        (supervisor().backoff(zero, 2.0), "base"),
        (supervisor().max_backoff(zero), "maximum"),
        (supervisor().failure_threshold(f64::NAN), "threshold"),
        (supervisor().failure_threshold(0.0), "threshold"),
        (supervisor().failure_decay(zero), "half-life"),
        (supervisor().storm_pause(zero), "storm pause"),
    ];
    for (supervisor, name) in bad {
        let error = supervisor.run().await.expect_err(name);
        let Error::Io(error) = error else { panic!("{error}") };
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains(name), "{error}");
    }
    assert_eq!(runner.0.load(Ordering::Relaxed), 0);
    supervisor().run().await.expect("control");
    assert_eq!(runner.0.load(Ordering::Relaxed), 1);
}

/// Dropped in the middle of a run: the process ends, and no other follows.
#[tokio::test]
async fn a_dropped_supervisor_ends_its_process() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("starts");
    let (mut reader, writer) = Output::pipe();
    let supervisor = Supervisor::new(counted(&file, "echo $$ >&3; exec sleep 1000").pass_fd(writer, 3))
        .restart(RestartPolicy::Always)
        .backoff(SHORT, 1.0);
    let mut run = Box::pin(supervisor.run());
    let pid = tokio::select! {
        outcome = &mut run => panic!("too early: {outcome:?}"),
        pid = reader.pid() => pid,
    };
    assert!(lives(pid), "control");
    drop(run);
    reader.end().await;
    within("the background", processkit::settled()).await;
    assert!(!lives(pid));
    assert_eq!(starts(&file), 1);
}
