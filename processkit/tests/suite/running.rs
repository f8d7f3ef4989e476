//! One handle: what it owns, what it knows, and what waiting means.

use crate::rig::*;
use processkit::ProcessGroup;
use std::path::PathBuf;
use std::time::Duration;

/// Where the cgroup of a process is, if it has one of ours.
fn directory_of(pid: u32) -> Option<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?.to_owned();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?.split(' ').nth(4)?.to_owned();
    Some(PathBuf::from(mount + &path)).filter(|path| path.to_string_lossy().contains("/processkit/"))
}

/// Dropping a private one ends the tree, and nothing of its group stays; so does its end by itself.
#[tokio::test]
async fn a_private_group_goes_with_its_process() {
    for options in mechanisms() {
        let command = sh("setsid sleep 1000 & echo $!; read line; exit 5").keep_stdin_open();
        let command = command.group_options(options.clone());
        for dropped in [true, false] {
            let mut process = command.start().await.expect("started");
            let pid = process.pid().expect("a pid");
            let directory = directory_of(pid);
            let line = process.wait_for_line(|_| true, DEADLINE).await.expect("a line");
            let child: u32 = line.parse().expect("a pid");
            assert!(lives(child));
            if dropped {
                drop(process);
            } else {
                // the end of its input is its end
                let (code, _) = within("the end", process.finish_streamed()).await.expect("an end");
                assert_eq!(code, Some(5));
            }
            gone(child).await;
            gone(pid).await;
            if let Some(directory) = directory {
                within("the background", processkit::settled()).await;
                assert!(!directory.exists(), "{}", directory.display());
            }
        }
    }
}

/// A kill reaches the whole private group, and only the process in a shared one.
#[tokio::test]
async fn a_kill_is_for_what_it_owns() {
    for options in mechanisms() {
        let command = sh("sleep 1000 & echo $!; wait");
        let mut process = command.clone().group_options(options.clone()).start().await.expect("started");
        let line = process.wait_for_line(|_| true, DEADLINE).await.expect("a line");
        process.start_kill().expect("killed");
        gone(line.parse().expect("a pid")).await;
        assert_eq!(exit_of(&mut process).await.signal, Some(9));
        assert_eq!(within("the end", process.wait()).await.expect("an end"), None);

        let group = ProcessGroup::with_options(options).expect("a group");
        let mut process = started(&group, &command).await;
        let line = process.wait_for_line(|_| true, DEADLINE).await.expect("a line");
        process.start_kill().expect("killed");
        assert_eq!(exit_of(&mut process).await.signal, Some(9));
        assert!(lives(line.parse().expect("a pid")));
        group.remove().await.expect("gone");
    }
}

/// Samples while it lives, the first at once, and the kernel's account in the end.
#[tokio::test]
async fn a_profile_is_taken() {
    let script =
        "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo up; read line; head -c 1M /dev/zero; exit 4";
    for options in mechanisms() {
        let mut process = sh(script).keep_stdin_open().group_options(options).start().await.expect("started");
        let stdin = process.standard_input().expect("a pipe");
        within("a line", process.wait_for_line(|line| line == "up", DEADLINE)).await.expect("up");
        let run = async { tokio::join!(process.profile(Duration::MAX), stdin.finish()).0 };
        let profile = within("the run", run).await.expect("a profile");
        assert_eq!(profile.exit_code, Some(4), "its output did not block it");
        assert_eq!(profile.samples, 1);
        assert!(profile.cpu_time.is_some_and(|time| time > Duration::ZERO), "{profile:?}");
        assert!(profile.peak_memory_bytes.is_some_and(|bytes| bytes > 100_000), "{profile:?}");
        assert!(profile.duration >= profile.cpu_time.expect("checked") / 2, "one thread: {profile:?}");
    }
}

/// Live numbers, and those that stay after the end.
#[tokio::test]
async fn numbers_are_there_while_it_lives_and_after() {
    let mut process = sleeper().start().await.expect("started");
    assert!(process.cpu_time().is_some());
    assert!(process.peak_memory_bytes().is_some_and(|bytes| bytes > 0));
    process.start_kill().expect("killed");
    exit_of(&mut process).await;
    assert_eq!(process.cpu_time(), process.usage().map(|usage| usage.cpu_time()));
    assert_eq!(process.pid(), None);
}

/// A wait that is dropped takes its process along: it is the run.
#[tokio::test]
async fn a_run_that_is_given_up_ends() {
    for options in mechanisms() {
        let (command, mut out) = Output::of(sh("echo $$; exec sleep 1000").group_options(options));
        gone(during(command.output_string(), out.pid()).await).await;
    }
}
