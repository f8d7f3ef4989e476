//! C12: stages talk to each other without us.

use crate::rig::*;
use processkit::{CancellationToken, Command, Error, OutputBufferPolicy, Pipeline, ProcessGroup, Stdin};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Whether this process holds a descriptor of that name (`pipe:[inode]`).
fn held(name: &str) -> bool {
    let entries = std::fs::read_dir("/proc/self/fd").expect("a list").flatten();
    entries.filter_map(|entry| std::fs::read_link(entry.path()).ok()).any(|link| link.as_os_str() == name)
}

/// A stage that says on descriptor 3 what its stream is, and goes on. By a copy of the stream: a shell may redirect its own
/// for the time of a command.
fn tells(stream: u32, then: &str, teller: &OwnedFd) -> Command {
    let script = format!("exec 4<&0 5>&1; readlink /proc/$$/fd/{} >&3; {then}", stream + 4);
    sh(&script).pass_fd(teller.try_clone().expect("a copy"), 3)
}

/// Both ends of what lies between two stages are one pipe, and we hold neither. The control is a process whose output we
/// read ourselves.
#[tokio::test]
async fn a_pipe_goes_from_stage_to_stage() {
    let (mut lines, teller) = Output::pipe();
    let pipeline = tells(1, "exec sleep 1000", &teller) | tells(0, "exec cat", &teller);
    let mut run = Box::pin(pipeline.output_string());
    let mut names = Vec::new();
    for _ in 0..2 {
        names.push(during(&mut run, lines.line()).await);
    }
    assert!(names[0].starts_with("pipe:["), "{names:?}");
    assert_eq!(names[0], names[1], "one pipe");
    // We may be between a start and the closing of our copies, which nothing waits for.
    let closed = async {
        while held(&names[0]) {
            pending(&mut run).await;
        }
    };
    within("our copies are closed", closed).await;
    drop(run);

    let group = ProcessGroup::new().expect("a group");
    let process = started(&group, &tells(1, "exec sleep 1000", &teller)).await;
    assert!(held(&lines.line().await), "control");
    drop((process, pipeline));
    group.remove().await.expect("gone");
    drop(teller);
    lines.end().await;
}

#[tokio::test]
async fn what_goes_in_comes_out() {
    let text = "b\na\nc\n";
    let sorted = Command::new("cat").stdin(Stdin::from_string(text)).pipe(Command::new("sort"));
    let result = within("two", sorted.output_string()).await.expect("a result");
    assert!(result.is_success());
    assert_eq!((result.stdout().as_str(), result.program()), ("a\nb\nc", "sort"));
    assert_eq!(
        within("three", sorted.pipe(Command::new("head").args(["-n", "1"])).run()).await.expect("run"),
        "a"
    );

    // more than any pipe holds, through more stages than processors
    let large = "0123456789abcde\n".repeat(200_000);
    let cat = || Command::new("cat");
    let pipeline = cat().stdin(Stdin::from_string(large.clone())) | cat() | cat() | cat() | cat();
    let result = within("much", pipeline.output_string()).await.expect("a result");
    assert!(result.stdout() == large.trim_end(), "{} of {} bytes", result.stdout().len(), large.len());
    // a pipeline is a value: run it once more
    assert_eq!(within("again", pipeline.run()).await.expect("run").len(), large.len() - 1);
}

/// The first stage that failed speaks, by name, code and what it said; the last if none did.
#[tokio::test]
async fn the_first_that_failed_speaks() {
    let fails = |code| sh(&format!("cat >/dev/null; echo said {code} >&2; exit {code}"));
    let good = || sh("cat >/dev/null; echo fine; echo noise >&2");
    let speaks = async |pipeline: Pipeline| {
        let result = within("a pipeline", pipeline.output_string()).await.expect("a result");
        (result.code(), result.stderr().trim().to_owned())
    };
    assert_eq!(speaks(good() | fails(3) | fails(4)).await, (Some(3), "said 3".into()));
    assert_eq!(speaks(fails(2) | good() | good()).await, (Some(2), "said 2".into()));
    assert_eq!(speaks(good() | good() | fails(5)).await, (Some(5), "said 5".into()));
    assert_eq!(speaks(fails(2).unchecked() | fails(3) | good()).await, (Some(3), "said 3".into()));
    assert_eq!(speaks(fails(2).unchecked() | good()).await, (Some(0), "noise".into()));
    // the last speaks when nobody else may, whatever it did
    assert_eq!(speaks(good() | fails(6).unchecked()).await, (Some(6), "said 6".into()));
    assert_eq!(speaks(fails(7).ok_codes([7]) | good()).await, (Some(0), "noise".into()));

    let error = within("an error", (good() | fails(3) | good()).run()).await.expect_err("3");
    let Error::Exit { program, code, stderr, .. } = error else { panic!("{error}") };
    assert_eq!((program.as_str(), code, stderr.trim()), ("/bin/sh", 3, "said 3"));
}

/// A writer without a reader gets SIGPIPE: nobody, and least of all we, holds the other end.
#[tokio::test]
async fn a_writer_without_a_reader_ends() {
    let head = || Command::new("head").args(["-n", "1"]);
    for options in mechanisms() {
        let accepted = Command::new("yes").unchecked().group_options(options) | head();
        assert_eq!(within("the end of yes", accepted.run()).await.expect("run"), "y");
    }
    let result =
        within("the end of yes", (Command::new("yes") | head()).output_string()).await.expect("a result");
    assert_eq!((result.program(), result.code(), result.is_success()), ("yes", None, false), "by its signal");
}

/// A stage that cannot be started ends those that were, and is named.
#[tokio::test]
async fn a_stage_that_is_missing_ends_the_others() {
    let (mut lines, teller) = Output::pipe();
    let pipeline = tells(1, "exec sleep 1000", &teller) | Command::new("/no/such") | Command::new("cat");
    drop(teller);
    let error = within("an error", pipeline.output_string()).await.expect_err("missing");
    assert!(error.is_not_found() && error.to_string().contains("/no/such"), "{error}");
    drop(pipeline);
    while lines.next_line().await.is_some() {}
}

/// The limit of the whole ends every stage, and what they started.
#[tokio::test]
async fn a_limit_holds_for_the_whole() {
    let (mut lines, teller) = Output::pipe();
    let slow = move || tells(0, "sleep 1000 & exec sleep 1000", &teller);
    let pipeline = (slow() | slow()).timeout(Duration::from_millis(300));
    let result = within("the limit", pipeline.output_string()).await.expect("a result");
    assert!(result.timed_out() && !result.is_success());
    assert_eq!(result.code(), None);
    let error = within("the limit", pipeline.run()).await.expect_err("late");
    assert!(
        matches!(error, Error::Timeout { timeout, .. } if timeout == Duration::from_millis(300)),
        "{error}"
    );
    drop((pipeline, slow));
    while lines.next_line().await.is_some() {}

    let quick = (Command::new("echo").arg("x") | Command::new("cat")).timeout(Duration::from_secs(1000));
    assert!(!within("control", quick.output_string()).await.expect("a result").timed_out());
}

/// Dropped in the middle: every stage ends, whichever mechanism holds them.
#[tokio::test]
async fn a_dropped_pipeline_ends_its_stages() {
    for options in mechanisms() {
        let (mut lines, teller) = Output::pipe();
        let script = "echo $$ >&3; sleep 1000 & exec sleep 1000";
        let stage = move || sh(script).pass_fd(teller.try_clone().expect("a copy"), 3);
        let pipeline = stage().group_options(options) | stage() | stage();
        drop(stage);
        let mut run = Box::pin(pipeline.output_string());
        let mut pids = Vec::new();
        for _ in 0..3 {
            pids.push(during(&mut run, lines.pid()).await);
        }
        assert!(pids.iter().all(|pid| lives(*pid)), "control");
        drop(run);
        drop(pipeline);
        lines.end().await;
    }
}

/// What a stage leaves behind ends with the pipeline, and does not hold its result.
#[tokio::test]
async fn a_process_left_behind_holds_nothing() {
    for options in mechanisms() {
        let (mut lines, teller) = Output::pipe();
        let leaves = sh("sleep 1000 & echo $! >&3; echo x").pass_fd(teller, 3).group_options(options);
        let pipeline = leaves | sh("read line; echo $line; sleep 1000 &");
        let result = within("a result", pipeline.output_string()).await.expect("a result");
        assert_eq!((result.stdout().as_str(), result.is_success()), ("x", true));
        assert!(!result.truncated() && !result.left_open());
        assert!(!lives(lines.pid().await));
    }
}

/// A token of any stage ends the whole.
#[tokio::test]
async fn one_token_cancels_all() {
    let (mut lines, teller) = Output::pipe();
    let token = CancellationToken::new();
    let stage = move || sh("echo $$ >&3; exec sleep 1000").pass_fd(teller.try_clone().expect("a copy"), 3);
    let pipeline = stage() | stage().cancel_on(token.clone());
    drop(stage);
    let mut run = Box::pin(pipeline.output_string());
    for _ in 0..2 {
        during(&mut run, lines.pid()).await;
    }
    token.cancel();
    let error = within("the end", run).await.expect_err("cancelled");
    assert!(matches!(error, Error::Cancelled { .. }), "{error}");
    let error = within("nothing is started", pipeline.output_string()).await.expect_err("cancelled");
    assert!(matches!(error, Error::Cancelled { .. }), "{error}");
    drop(pipeline);
    while lines.next_line().await.is_some() {}
}

/// What a stage says on its standard error is always taken, and kept only up to its bound.
#[tokio::test]
async fn errors_of_stages_are_drained_and_bounded() {
    let noisy = sh("cat; seq 1 100000 >&2; exit 9").output_buffer(OutputBufferPolicy::bounded(10));
    let pipeline = Command::new("echo").arg("x").pipe(noisy).pipe(Command::new("cat"));
    let result = within("the noise", pipeline.output_string()).await.expect("a result");
    assert_eq!(result.code(), Some(9));
    assert!(result.stderr().lines().count() <= 10 && result.truncated(), "{}", result.stderr());
}
