//! Many commands at once.

use crate::rig::*;
use processkit::{Command, JobRunner, ProcessResult, ProcessRunner, Result, RunningProcess, output_all};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Barrier;

fn texts(results: Vec<Result<ProcessResult<String>>>) -> Vec<String> {
    let text = |result: Result<ProcessResult<String>>| match result {
        Ok(result) if result.is_success() => result.stdout().trim().to_owned(),
        Ok(result) => format!("code {:?}", result.code()),
        Err(error) if error.is_not_found() => "missing".to_owned(),
        Err(error) => panic!("{error}"),
    };
    results.into_iter().map(text).collect()
}

/// The first ends last: it waits for a word of the second. An error in one slot stops nothing.
#[tokio::test]
async fn results_stand_where_their_commands_stood() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let commands = [
        sh("read word; echo $word").stdin_from(OwnedFd::from(reader)),
        Command::new("/no/such"),
        sh("exit 3"),
        sh("echo last; echo go >&3").pass_fd(writer, 3),
    ];
    let results = within("a batch", output_all(commands, 4, &JobRunner)).await;
    assert_eq!(texts(results), ["go", "missing", "code Some(3)", "last"]);
}

/// Runs only when `crew` of them run at once, and counts.
struct Crew {
    barrier: Barrier,
    now: AtomicUsize,
    most: AtomicUsize,
}

#[async_trait::async_trait]
impl ProcessRunner for Crew {
    async fn output(&self, command: &Command) -> Result<ProcessResult<String>> {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        self.barrier.wait().await;
        let result = JobRunner.output(command).await;
        self.now.fetch_sub(1, Ordering::SeqCst);
        result
    }

    async fn start(&self, command: &Command) -> Result<RunningProcess> {
        JobRunner.start(command).await
    }
}

/// As many as allowed, and never more. More commands than the runtime has threads, each slot with its own result.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrency_is_used_and_kept() {
    for (concurrency, crew) in [(0, 1), (1, 1), (3, 3), (12, 12), (1000, 12)] {
        let runner =
            Crew { barrier: Barrier::new(crew), now: AtomicUsize::new(0), most: AtomicUsize::new(0) };
        let commands = (0..12).map(|n| Command::new("echo").arg(n.to_string()));
        let results = within("a batch", output_all(commands, concurrency, &runner)).await;
        assert_eq!(texts(results), (0..12).map(|n| n.to_string()).collect::<Vec<_>>());
        assert_eq!(runner.most.into_inner(), crew, "of {concurrency}");
    }
    assert!(output_all([], 7, &JobRunner).await.is_empty());
}

#[tokio::test]
async fn a_dropped_batch_ends_its_processes() {
    dropped().await;
}

/// Where each run is in a task of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_batch_ends_its_processes_on_all_threads() {
    dropped().await;
}

/// A batch that is dropped ends what runs; before that, all of it lives.
async fn dropped() {
    const COUNT: usize = 8;
    let (mut lines, writer) = Output::pipe();
    let mut commands = Vec::new();
    for _ in 0..COUNT {
        let writer = writer.try_clone().expect("a copy");
        commands.push(sh("echo $$ >&3; sleep 1000 & exec sleep 1000").pass_fd(writer, 3));
    }
    drop(writer);
    let mut batch = Box::pin(output_all(commands, COUNT, &JobRunner));
    let mut pids = Vec::new();
    for _ in 0..COUNT {
        pids.push(during(&mut batch, lines.pid()).await);
    }
    assert!(pids.iter().all(|pid| lives(*pid)), "control");
    drop(batch);
    lines.end().await;
    within("the background", processkit::settled()).await;
    assert!(!pids.iter().any(|pid| lives(*pid)));
}
