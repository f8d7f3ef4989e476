//! Lines as they come, for whoever reads them and however slowly.

use crate::rig::*;
use processkit::{Command, OutputBufferPolicy, ProcessGroup, Stdio, StreamExt};

/// A reader that reads nothing does not block the process, and memory stays bounded. The control has a pipe that nobody
/// drains.
#[tokio::test]
async fn a_slow_reader_blocks_nobody() {
    for group in groups() {
        let many = Command::new("seq").arg("100000");
        let (reader, writer) = pipe();
        let mut control = started(&group, &many.clone().stdout(writer)).await;

        let mut process = started(&group, &many.output_buffer(OutputBufferPolicy::bounded(10))).await;
        let lines = process.stdout_lines();
        assert!(exit_of(&mut process).await.success());
        let drained = async {
            while process.stdout_line_count() < 100_000 {
                tokio::task::yield_now().await;
            }
        };
        within("the last line", drained).await;
        let kept: Vec<String> = within("the rest", lines.collect()).await;
        assert_eq!(kept.len(), 10);
        assert_eq!(kept[9], "100000");

        drop(reader);
        assert_eq!(
            exit_of(&mut control).await.signal,
            Some(libc::SIGPIPE),
            "control: it waited for a reader"
        );
        group.remove().await.expect("gone");
    }
}

/// Every line arrives once, whoever takes it, and waiting goes on meanwhile.
#[tokio::test]
async fn lines_go_to_one_reader_each() {
    for options in mechanisms() {
        let command = Command::new("seq").arg("20000").group_options(options);
        let mut process = command.start().await.expect("started");
        let (one, two) = (process.stdout_lines(), process.stdout_lines());
        let (one, two, end) = within("the run", async {
            tokio::join!(one.collect::<Vec<_>>(), two.collect::<Vec<_>>(), process.finish_streamed())
        })
        .await;
        assert_eq!(end.expect("an end"), (Some(0), String::new()));
        let mut all: Vec<u32> = one.iter().chain(&two).map(|line| line.parse().expect("a number")).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(1..=20_000));
    }
}

/// What was not streamed is in the result.
#[tokio::test]
async fn what_is_left_is_in_the_result() {
    let mut process = sh("echo one; echo two; echo three").start().await.expect("started");
    let mut lines = process.stdout_lines();
    assert_eq!(within("a line", lines.next()).await.as_deref(), Some("one"));
    drop(lines);
    let line = within("a line", process.wait_for_line(|line| line == "two", DEADLINE)).await;
    assert_eq!(line.expect("a line"), "two");
    let result = within("the result", process.output_string()).await.expect("a result");
    assert_eq!(result.stdout(), "three");
}

/// A stream ends when its process is dropped, although somebody could still write; what came before is there.
#[tokio::test]
async fn a_stream_outlives_its_process() {
    let group = ProcessGroup::new().expect("a group");
    let mut process = started(&group, &sh("echo one; exec sleep 1000")).await;
    let mut lines = process.stdout_lines();
    assert_eq!(within("a line", lines.next()).await.as_deref(), Some("one"));
    drop(process);
    assert_eq!(within("the end", lines.next()).await, None);
    group.remove().await.expect("gone");
}

/// Without a pipe there is nothing to stream.
#[tokio::test]
async fn a_stream_of_nothing_ends() {
    let mut process = sh("echo one").stdout(Stdio::Null).start().await.expect("started");
    assert_eq!(within("the end", process.stdout_lines().next()).await, None);
    assert_eq!(within("the end", process.wait()).await.expect("an end"), Some(0));
}
