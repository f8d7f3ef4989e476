//! A command run again and again, with real processes. The arithmetic of waits is tested where it is written.

use crate::rig::*;
use processkit::{
    CancellationToken, Command, Error, RestartPolicy, Result, StopReason, SupervisionOutcome, Supervisor,
};
use std::future::Future;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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

/// Codes that the command accepts are no crash; a signal is one, and a timeout.
#[tokio::test]
async fn the_command_says_what_a_crash_is() {
    let outcome = Supervisor::new(sh("exit 3").ok_codes([0, 3])).run().await.expect("an outcome");
    assert_eq!((outcome.stopped, outcome.restarts), (StopReason::PolicySatisfied, 0));
    for (crash, timed_out) in [(sh("kill -9 $$"), false), (sleeper().timeout(SHORT), true)] {
        let supervisor = Supervisor::new(crash).max_restarts(1).backoff(SHORT, 1.0);
        let outcome = within("two crashes", supervisor.run()).await.expect("an outcome");
        assert_eq!((outcome.stopped, outcome.restarts), (StopReason::RestartsExhausted, 1));
        assert_eq!((outcome.final_result.code(), outcome.final_result.timed_out()), (None, timed_out));
    }
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
        pending(run.as_mut()).await;
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
            pending(run.as_mut()).await;
        }
        token.cancel();
        ended(run).await;
        assert_eq!(starts(&file(name)), 1);
    }
}

/// Numbers that make no sense: an error that names the number, and nothing is run. The control is the same without them.
#[tokio::test]
async fn bad_numbers_run_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("starts");
    let supervisor = || Supervisor::new(counted(&file, "exit 0"));
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
    assert_eq!(starts(&file), 0);
    supervisor().run().await.expect("control");
    assert_eq!(starts(&file), 1);
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
    let pid = during(&mut run, reader.pid()).await;
    assert!(lives(pid), "control");
    drop(run);
    reader.end().await;
    within("the background", processkit::settled()).await;
    assert!(!lives(pid));
    assert_eq!(starts(&file), 1);
}
