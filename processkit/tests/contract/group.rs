//! What a group means: its mechanism, what it does to its members, its numbers, and its end.

use crate::rig::{lives, sh, sleeper, within};
use processkit::{Mechanism, ProcessGroup, ProcessGroupOptions, ProcessRunner, Signal, StreamExt};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(3600);

/// And it stays usable.
#[tokio::test]
async fn an_empty_group_bears_everything() {
    let group = ProcessGroup::new().expect("a group");
    assert!(matches!(group.mechanism(), Mechanism::CgroupV2 | Mechanism::ProcessGroup));
    for _ in 0..2 {
        group.terminate_all().expect("nothing to end");
        group.signal(Signal::Usr1).expect("nobody to tell");
        group.suspend().expect("nothing to stop");
        group.resume().expect("nothing to go on");
        assert!(group.members().expect("a list").is_empty());
        assert_eq!(group.stats().expect("numbers").active_process_count, 0);
        let process = within(group.start(&sleeper())).await.expect("started");
        group.terminate_all().expect("sent");
        assert_eq!(within(process.wait()).await.expect("an end"), None);
    }
    within(group.shutdown()).await.expect("ended");
}

#[tokio::test]
async fn a_shutdown_asks_first() {
    let polite = sh("trap 'exit 7' TERM; echo up; while :; do :; done");
    let group =
        ProcessGroup::with_options(ProcessGroupOptions::default().shutdown_timeout(LONG)).expect("a group");
    let mut process = within(group.start(&polite)).await.expect("started");
    within(process.wait_for_line(|line| line == "up", LONG)).await.expect("up");
    let (ended, code) = within(async { tokio::join!(group.shutdown(), process.wait()) }).await;
    ended.expect("ended");
    assert_eq!(code.expect("an end"), Some(7));

    let stubborn = sh("trap '' TERM; echo up; while :; do sleep 1000; done");
    let short = ProcessGroupOptions::default().shutdown_timeout(Duration::from_millis(50));
    let group = ProcessGroup::with_options(short).expect("a group");
    let mut process = within(group.start(&stubborn)).await.expect("started");
    within(process.wait_for_line(|line| line == "up", LONG)).await.expect("up");
    let (ended, code) = within(async { tokio::join!(group.shutdown(), process.wait()) }).await;
    ended.expect("ended");
    assert_eq!(code.expect("an end"), None);
}

#[tokio::test]
async fn signals_and_stops_reach_the_members() {
    let group = ProcessGroup::new().expect("a group");
    let told = sh("trap 'exit 8' USR2; echo up; while :; do :; done");
    let mut process = within(group.start(&told)).await.expect("started");
    within(process.wait_for_line(|line| line == "up", LONG)).await.expect("up");
    assert!(group.members().expect("a list").contains(&process.pid().expect("a pid")));
    group.suspend().expect("stopped");
    group.resume().expect("going on");
    group.signal(Signal::Usr2).expect("sent");
    assert_eq!(within(process.wait()).await.expect("an end"), Some(8));
    let process = within(group.start(&sleeper())).await.expect("started");
    group.signal(Signal::Other(9)).expect("sent");
    assert_eq!(within(process.wait()).await.expect("an end"), None);
    within(group.shutdown()).await.expect("ended");
}

#[tokio::test]
async fn a_child_of_tokio_is_adopted() {
    let group = ProcessGroup::new().expect("a group");
    let mut child = tokio::process::Command::new("sleep").arg("1000").spawn().expect("started");
    group.adopt(&child).expect("adopted");
    assert_eq!(group.members().expect("a list"), [child.id().expect("a pid")]);
    group.terminate_all().expect("sent");
    assert_eq!(within(child.wait()).await.expect("an end").code(), None);
    group.adopt(&child).expect_err("nobody is left");
    within(group.shutdown()).await.expect("ended");
}

#[tokio::test]
async fn numbers_of_a_group() {
    let group = ProcessGroup::new().expect("a group");
    let _one = within(group.start(&sleeper())).await.expect("started");
    let _two = within(group.start(&sleeper())).await.expect("started");
    let stats = group.stats().expect("numbers");
    assert_eq!(stats.active_process_count, 2);
    let samples: Vec<_> = within(group.sample_stats(Duration::from_millis(1)).take(3).collect()).await;
    assert!(
        samples.len() == 3 && samples.iter().all(|sample| sample.active_process_count == 2),
        "{samples:?}"
    );
    within(group.shutdown()).await.expect("ended");
}

/// As a runner it takes everything into itself.
#[tokio::test]
async fn a_group_is_a_runner() {
    let group = ProcessGroup::new().expect("a group");
    let result = within(group.output(&sh("echo x; exit 3"))).await.expect("a result");
    assert_eq!((result.stdout().as_str(), result.code()), ("x", Some(3)));
    let runner: &dyn ProcessRunner = &group;
    let process = within(runner.start(&sleeper())).await.expect("started");
    let pid = process.pid().expect("a pid");
    assert!(group.members().expect("a list").contains(&pid));
    drop(process);
    assert!(lives(pid));
    within(group.shutdown()).await.expect("ended");
    assert!(!lives(pid));
}
