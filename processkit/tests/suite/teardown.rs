//! C6, C7: kill means gone, and a grace ends when it is not needed any more.

use crate::play::alone;
use crate::rig::*;
use processkit::{
    Adopted, Command, Mechanism, ProcessGroup, ProcessGroupOptions, Signal, StreamExt, kill_by_fd,
    wait_empty_by_fd,
};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// A grace that no test outlives.
const FOREVER: Duration = Duration::from_secs(3600);
/// Does not obey, nor does what it starts; says so when it is ready.
const STUBBORN: &str = "trap '' TERM; echo $$; sleep 1000; sleep 1000";

/// A child that obeys ends the grace at once: awaited, not awaited (a zombie), and with its handle dropped.
#[tokio::test]
async fn obedience_ends_the_grace() {
    for options in mechanisms() {
        let group = ProcessGroup::with_options(options.shutdown_timeout(FOREVER)).expect("a group");
        let mut awaited = started(&group, &sleeper()).await;
        let zombie = started(&group, &sleeper()).await;
        drop(started(&group, &sleeper()).await);
        let awaiting = async { exit_of(&mut awaited).await };
        let (shut, exit) = tokio::join!(within("the shutdown", group.shutdown()), awaiting);
        shut.expect("gone");
        assert_eq!(exit.signal, Some(15));
        assert_eq!(zombie.pid().and_then(state), Some('Z'), "still its handle's to reap");
    }
}

/// Was a panic: a grace, or a time between two samples, that no clock can tell the end of. It never ends.
#[tokio::test]
async fn a_grace_may_have_no_end() {
    for options in mechanisms() {
        let group = ProcessGroup::with_options(options.shutdown_timeout(Duration::MAX)).expect("a group");
        let mut process = started(&group, &sleeper()).await;
        let mut samples = group.sample_stats(Duration::MAX);
        assert!(samples.next().await.is_some(), "control: the first is at once");
        pending(samples.next()).await;
        drop(samples);
        within("the shutdown", group.shutdown()).await.expect("gone");
        assert_eq!(exit_of(&mut process).await.signal, Some(15), "asked, not killed");
    }
}

/// One that does not obey is killed after the grace, with everything it started.
#[tokio::test]
async fn disobedience_is_killed() {
    for options in mechanisms() {
        let group =
            ProcessGroup::with_options(options.shutdown_timeout(Duration::from_millis(20))).expect("a group");
        let location = group.location().map(ToOwned::to_owned);
        let (mut process, mut out) = speaker(&group, sh(STUBBORN)).await;
        out.pid().await;
        within("the shutdown", group.shutdown()).await.expect("gone");
        out.end().await;
        assert_eq!(exit_of(&mut process).await.signal, Some(9));
        assert!(location.is_none_or(|location| !location.exists()));
    }
}

/// Without escalation it is really spared, and may live on.
#[tokio::test]
async fn without_escalation_it_is_spared() {
    for options in mechanisms() {
        let options = options.shutdown_timeout(Duration::from_millis(20)).escalate_to_kill(false);
        let group = ProcessGroup::with_options(options).expect("a group");
        let location = group.location().map(ToOwned::to_owned);
        let (mut process, mut out) = speaker(&group, sh("trap '' TERM; echo $$; exec sleep 1000")).await;
        let pid = out.pid().await;
        within("the shutdown", group.shutdown()).await.expect("over");
        assert!(lives(pid));
        match location {
            Some(location) => {
                let group = ProcessGroup::reopen_by_path(&location).expect("still there");
                group.remove().await.expect("gone");
                assert!(!location.exists());
            }
            None => process.signal(Signal::Kill).expect("killed"),
        }
        assert_eq!(exit_of(&mut process).await.signal, Some(9));
        out.end().await;
    }
}

/// A handle that is dropped early leaves no zombie when its process ends.
#[tokio::test]
async fn a_dropped_handle_is_reaped() {
    for group in groups() {
        let process = started(&group, &sleeper()).await;
        let pidfd = copy(process.pidfd());
        drop(process);
        let adopted = Adopted::from_pidfd(pidfd.try_clone().expect("a copy")).expect("still alive");
        assert!(lives(adopted.pid()), "a handle owns nothing");
        adopted.signal(Signal::Term).expect("sent");
        reaped(pidfd).await;
        group.remove().await.expect("gone");
    }
}

/// Waits can be given up and taken up again.
#[tokio::test]
async fn waits_are_cancel_safe() {
    for group in groups() {
        let mut process = started(&group, &sleeper()).await;
        for _ in 0..5 {
            pending(process.exit()).await;
            pending(group.wait_empty()).await;
        }
        group.kill().expect("killed");
        let (empty, exit) =
            within("the end", async { tokio::join!(group.wait_empty(), process.exit()) }).await;
        empty.expect("empty");
        assert_eq!(exit.expect("an exit").signal, Some(9));
        group.remove().await.expect("gone");
    }
}

/// Operations on an empty group succeed, and it stays usable after a kill or a TERM for all.
#[tokio::test]
async fn a_group_stays_usable() {
    for group in groups() {
        for _ in 0..2 {
            group.kill().expect("nothing to kill");
            group.terminate_all().expect("nothing to end");
            group.signal(Signal::Usr1).expect("nobody to tell");
            group.suspend().expect("nothing to stop");
            group.resume().expect("nothing to go on");
            assert_eq!(group.members().expect("members"), [0u32; 0]);
            within("emptiness", group.wait_empty()).await.expect("empty");
            let mut process = started(&group, &sleeper()).await;
            group.terminate_all().expect("sent");
            assert_eq!(exit_of(&mut process).await.signal, Some(15));
        }
        group.shutdown().await.expect("gone");
    }
}

#[tokio::test]
async fn signals_reach_the_whole_tree() {
    for group in groups() {
        let each = "trap 'echo told; exit' USR1; echo ready; while :; do sleep 1000 & wait; done";
        let (_process, mut out) = speaker(&group, sh(&format!("setsid sh -c \"{each}\" & {each}"))).await;
        for _ in 0..2 {
            assert_eq!(out.line().await, "ready");
        }
        group.signal(Signal::Usr1).expect("sent");
        for _ in 0..2 {
            assert_eq!(out.line().await, "told");
        }
        group.remove().await.expect("gone");
        out.end().await;
    }
}

/// A suspended tree stands still, and can obey when it is asked to end.
#[tokio::test]
async fn a_suspended_group_can_be_shut_down() {
    for options in mechanisms() {
        let group = ProcessGroup::with_options(options.shutdown_timeout(FOREVER)).expect("a group");
        let mut process = started(&group, &sleeper()).await;
        group.suspend().expect("stopped");
        match group.location() {
            Some(location) => frozen(&location.join("cgroup.events")).await,
            None => stopped(copy(process.pidfd())).await,
        }
        within("the shutdown", group.shutdown()).await.expect("gone");
        assert_eq!(exit_of(&mut process).await.signal, Some(15), "asked, not killed");
    }
}

async fn frozen(events: &std::path::Path) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::io::{Read, Seek};
    let mut events = std::fs::File::open(events).expect("opened");
    let waiting = apart(move || {
        loop {
            let mut text = String::new();
            events.rewind().expect("rewound");
            events.read_to_string(&mut text).expect("read");
            if text.contains("frozen 1") {
                return;
            }
            poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], PollTimeout::NONE).expect("polled");
        }
    });
    within("the freeze", waiting).await;
}

async fn stopped(pidfd: OwnedFd) {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    let waiting = apart(move || {
        waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WSTOPPED | WaitPidFlag::WNOWAIT).expect("stopped");
    });
    within("the stop", waiting).await;
}

/// Whoever holds the descriptors can end the group and wait for it: another uid, too.
#[tokio::test]
async fn descriptors_are_enough() {
    if !cgroups() {
        return;
    }
    let group = ProcessGroup::new().expect("a group");
    let outside = ProcessGroup::new().expect("another group");
    for by_other_uid in [false, true] {
        let mut process = started(&group, &sleeper()).await;
        let events = group.events_fd().expect("events");
        // Two waiters on one open file, as after a pass over a socket: a poll of one must not hide the event from the other.
        let shared = events.try_clone().expect("a copy");
        let waiting = async { tokio::join!(wait_empty_by_fd(events), wait_empty_by_fd(shared)) };
        let kill = group.kill_fd().expect("kill");
        let killing = async {
            if by_other_uid {
                let nobody =
                    ["--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", "-c", "echo 1 >&3"];
                let command = Command::new("setpriv").args(nobody).pass_fd(kill, 3);
                let mut killer = started(&outside, &command).await;
                assert!(within("the killer", killer.exit()).await.expect("an exit").success());
            } else {
                tokio::task::yield_now().await;
                kill_by_fd(kill.as_fd()).expect("killed");
            }
        };
        let ((one, two), ()) = within("emptiness", async { tokio::join!(waiting, killing) }).await;
        one.expect("empty");
        two.expect("empty");
        assert_eq!(exit_of(&mut process).await.signal, Some(9));
    }
    let (kill, events) = (group.kill_fd().expect("kill"), group.events_fd().expect("events"));
    group.remove().await.expect("gone");
    kill_by_fd(kill.as_fd()).expect("gone is fine");
    wait_empty_by_fd(events).await.expect("gone is empty");
    outside.remove().await.expect("gone");
}

/// A removed group takes nobody in, and says so.
#[tokio::test]
async fn a_removed_group_takes_nobody() {
    if !cgroups() {
        return;
    }
    let name = unique("removed");
    let group = ProcessGroup::named(&name, Default::default()).expect("a group");
    let again = ProcessGroup::reopen(&name).expect("the same");
    again.remove().await.expect("gone");
    let error = group.start(&Command::new("true")).await.expect_err("nowhere to go");
    assert!(error.to_string().contains("cgroup was removed"), "{error}");
    assert!(group.is_empty().expect("an answer"));
    group.kill().expect("nothing to kill");
    group.wait_empty().await.expect("empty");
    group.shutdown().await.expect("gone already");
}

/// Was wrong: what had more members than its owner had descriptors left was killed in part without a cgroup, and with one could
/// not be signalled at all. Nor killed without any descriptor left, so that a drop then left the tree alive.
#[tokio::test]
async fn few_descriptors_are_enough_to_end_many() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    const MEMBERS: usize = 60;
    if !alone("teardown::few_descriptors_are_enough_to_end_many").await {
        return;
    }
    let acts = |options: ProcessGroupOptions| [(options.clone(), false), (options, true)];
    for (options, kill) in mechanisms().into_iter().flat_map(acts) {
        let group = ProcessGroup::with_options(options).expect("a group");
        let script = format!("for i in $(seq {MEMBERS}); do sleep 1000 & echo $i; done; wait");
        let mut tree = started(&group, &sh(&script)).await;
        let all = tree.stdout_lines().take(MEMBERS).collect::<Vec<_>>();
        assert_eq!(within("the members", all).await.len(), MEMBERS);
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        let few = open_descriptors() + if kill { 8 } else { 40 };
        setrlimit(Resource::RLIMIT_NOFILE, few as u64, hard).expect("limited");
        let mut held = Vec::new();
        if kill && group.mechanism() == Mechanism::CgroupV2 {
            held.extend(std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()));
            assert!(group.is_empty().is_err(), "control: no descriptor is left");
        }
        let sent = if kill { group.kill() } else { group.terminate_all() };
        sent.expect("sent");
        drop(held);
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("as before");
        within("emptiness", group.wait_empty()).await.expect("empty");
    }
}

/// Was left for good: the directory of a group that was dropped when there was no descriptor left to watch it by.
#[tokio::test]
async fn a_group_dropped_without_descriptors_goes_when_there_are_some() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if !cgroups() || !alone("teardown::a_group_dropped_without_descriptors_goes_when_there_are_some").await {
        return;
    }
    let group = ProcessGroup::new().expect("a group");
    let location = group.location().expect("a directory").to_owned();
    let mut process = started(&group, &sleeper()).await;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, open_descriptors() as u64 + 8, hard).expect("limited");
    let held: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    drop(group);
    assert_eq!(exit_of(&mut process).await.signal, Some(9));
    assert!(location.exists(), "control: nobody can look whether it is empty");
    drop(held);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("as before");
    within("the background", processkit::settled()).await;
    assert!(!location.exists(), "{}", location.display());
}
