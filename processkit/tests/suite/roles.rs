//! What this binary plays when it is started again (see [`crate::play`]), as far as it does not stand beside its test.

use crate::play::{cast, say, say_played, until_killed};
use crate::rig::*;
use processkit::{Command, OutputBufferPolicy, ProcessGroup, ProcessGroupOptions, Stdio};

/// One role in this process if it was started for that.
#[tokio::test]
async fn role() {
    let Some((role, name)) = cast() else { return };
    match role.as_str() {
        "persist" => persist(&name),
        "leak" => leak(false),
        "leak persisted" => leak(true),
        "settle" => settle().await,
        "swallow bounded" => swallow(OutputBufferPolicy::bounded(10)).await,
        "swallow unbounded" => swallow(OutputBufferPolicy::unbounded()).await,
        "dies" => dies(),
        "usage" => usage().await,
        "bare" => crate::groups::bare(&name).await,
        "guard" => crate::guardian::guard(&name),
        other => panic!("no such role: {other}"),
    }
    say_played();
}

/// Make a named group with a member, persist it, and end without a word.
fn persist(name: &str) {
    let mut group = ProcessGroup::named(name, ProcessGroupOptions::default()).expect("a named group");
    let member = group.start_blocking(&quiet_sleep()).expect("started");
    group.persist();
    say(member.pid().expect("a pid"));
}

/// Make a private group with a member, and wait to be killed.
fn leak(persist: bool) {
    let mut group = ProcessGroup::new().expect("a group");
    let member = group.start_blocking(&quiet_sleep()).expect("started");
    if persist {
        group.persist();
    }
    say(member.pid().expect("a pid"));
    say(group.location().expect("a directory").display());
    until_killed();
}

/// Make a first group, as any program does, and wait for the background.
async fn settle() {
    drop(ProcessGroup::new().expect("a group"));
    processkit::settled().await;
}

/// Read 100 MiB without an end of line, and say the most memory that took.
async fn swallow(policy: OutputBufferPolicy) {
    let command = Command::new("head").args(["-c", "100M", "/dev/zero"]).output_buffer(policy);
    let result = within("the run", command.output_bytes()).await.expect("a result");
    assert!(result.is_success());
    let status = std::fs::read_to_string("/proc/self/status").expect("our status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    say(peak.trim().strip_suffix(" kB").expect("kilobytes").parse::<u64>().expect("a number") * 1024);
}

/// Holds nothing open that its starter could wait for.
pub(crate) fn quiet_sleep() -> Command {
    sleeper().stdout(Stdio::Null).stderr(Stdio::Null)
}

/// Two children that outlive their group, one of them bound to this process; wait to be killed.
fn dies() {
    let options = ProcessGroupOptions::default().force_process_group();
    let mut group = ProcessGroup::with_options(options).expect("a group");
    group.persist();
    for command in [quiet_sleep().kill_on_parent_death(), quiet_sleep()] {
        say(group.start_blocking(&command).expect("started").pid().expect("a pid"));
    }
    until_killed();
}

/// A child that uses memory and time, and the control: one that uses next to nothing, although it lives in the memory of this
/// process until its exec.
async fn usage() {
    let ballast = vec![1u8; 32 << 20];
    for group in groups() {
        // A child of its own uses the memory: that counts, since the shell waits for it.
        let busy = sh("head -c 150000000 /dev/zero | tail -c 120000000 >/dev/null");
        for (command, heavy) in [(busy, true), (Command::new("true"), false)] {
            let mut process = started(&group, &command.stdout(Stdio::Null).stderr(Stdio::Null)).await;
            assert_eq!(process.usage(), None, "not before the reap");
            assert!(exit_of(&mut process).await.success());
            let usage = process.usage().expect("known now");
            if heavy {
                assert!(usage.cpu_time() > std::time::Duration::ZERO, "{usage:?}");
                assert!(usage.max_rss_bytes.is_some_and(|bytes| bytes > 100 << 20), "{usage:?}");
            } else {
                assert_eq!(usage.max_rss_bytes, None, "this process's, not its own: {usage:?}");
            }
        }
        group.remove().await.expect("gone");
    }
    drop(ballast);
}
