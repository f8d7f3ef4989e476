//! The promises under load, with both mechanisms: many at once, many in a row, and what a crowd leaves behind. Nothing here
//! is about speed: a wait is for an event, with one deadline for what hangs.

#[path = "suite/play.rs"]
#[expect(dead_code, reason = "shared with the suite, which uses all of it")]
mod play;
#[path = "suite/rig.rs"]
#[expect(dead_code, reason = "shared with the suite, which uses all of it")]
mod rig;

use play::{Owner, alone, cast, say, say_played, until_killed};
use processkit::{
    Adopted, CancellationToken, Command, Error, Mechanism, OutputBufferPolicy, OverflowMode, ProcessGroup,
    ProcessGroupOptions, Resource, RestartPolicy, RunningProcess, StopReason, StreamExt, Supervisor,
};
use rig::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

const SLEEPERS: usize = 50;
/// A grace that no test outlives.
const FOREVER: Duration = Duration::from_secs(3600);

/// In a private group of this kind.
fn private(command: Command, options: &ProcessGroupOptions) -> Command {
    command.group_options(options.clone())
}

/// The pids that a process says, so many.
async fn said(process: &mut RunningProcess, count: usize) -> Vec<Adopted> {
    let lines = process.stdout_lines().take(count).collect::<Vec<_>>();
    let pids: Vec<_> =
        within("the pids", lines).await.iter().map(|line| adopted(line.parse().expect("a pid"))).collect();
    assert_eq!(pids.len(), count, "it ended early");
    pids
}

async fn all_gone(members: &[Adopted]) {
    for member in members {
        within("the end of a member", member.gone()).await.expect("gone");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_at_once_into_one_group() {
    for group in groups() {
        let group = Arc::new(group);
        let mut all = JoinSet::new();
        for n in 0..100 {
            let group = Arc::clone(&group);
            all.spawn(async move {
                let process = started(&group, &sh(&format!("echo {n}; exit {n}"))).await;
                let result = within("a result", process.output_string()).await.expect("a result");
                assert_eq!((result.stdout().as_str(), result.code()), (n.to_string().as_str(), Some(n)));
            });
        }
        assert_eq!(all.join_all().await.len(), 100);
        within("emptiness", group.wait_empty()).await.expect("empty");
        // it is as good as new
        let process = started(&group, &sh("echo again")).await;
        assert_eq!(within("a result", process.output_string()).await.expect("a result").stdout(), "again");
        let last = started(&group, &sleeper()).await;
        within("the end", Arc::into_inner(group).expect("the only one").shutdown()).await.expect("gone");
        assert_eq!(within("the exit", last.wait()).await.expect("an exit"), None);
    }
}

/// Did not come to its end in half a minute on a busy machine: without a cgroup, the end of each group took six looks at all
/// processes of the machine, with the environment of every member of the other groups read again at each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_private_groups_at_once() {
    for options in mechanisms() {
        let mut all = JoinSet::new();
        for n in 0..100 {
            let command = private(sh(&format!("sleep 1000 & echo $!; echo {n} >&2; exit {n}")), &options);
            all.spawn(async move {
                let result = within("a result", command.output_string()).await.expect("a result");
                assert_eq!((result.stderr(), result.code()), (n.to_string().as_str(), Some(n)));
                // killed by now: what it left behind ends with it
                gone(result.stdout().parse().expect("a pid")).await;
            });
        }
        assert_eq!(all.join_all().await.len(), 100);
    }
}

/// Spawn and exit, in one group that lives on and in one for each, awaited, dropped and refused. In a process of its own,
/// where nobody else opens anything.
///
/// Was wrong: without a cgroup the group kept the pidfd of every process that had ended in it, until somebody asked for its
/// members. A thousand short runs in one group, and its owner had no descriptor left.
#[tokio::test]
async fn a_thousand_cycles_leave_no_descriptor_and_no_zombie() {
    if !alone("a_thousand_cycles_leave_no_descriptor_and_no_zombie").await {
        return;
    }
    let quick = Command::new("true");
    let refused = quick.clone().rlimit(Resource::Stack, 2, 1);
    for options in mechanisms() {
        let shared = ProcessGroup::with_options(options.clone()).expect("a group");
        let own = private(quick.clone(), &options);
        // the fallback looks at every process of the machine at the end of each group
        let every = if shared.mechanism() == Mechanism::CgroupV2 { 2 } else { 20 };
        let mut before = None; // the runtime and the reaper have theirs by the end of the first round
        for cycles in [20, 1000] {
            for cycle in 1..=cycles {
                let process = match cycle % every {
                    0 => within("the start", own.start()).await.expect("started"),
                    _ => started(&shared, &quick).await,
                };
                assert_eq!(within("the exit", process.wait()).await.expect("an exit"), Some(0));
                if cycle % 10 == 0 {
                    drop(started(&shared, &quick).await);
                    shared.start(&refused).await.expect_err("refused by the child");
                    shared.start(&Command::new("/no/such/program")).await.expect_err("refused before it");
                }
            }
            within("emptiness", shared.wait_empty()).await.expect("empty");
            within("the background", processkit::settled()).await;
            no_children().await;
            no_more_descriptors(&mut before).await;
        }
        within("the end", shared.remove()).await.expect("gone");
    }
}

/// Until as few are open as at the first call. The pipes of a dropped handle are closed when the runtime gets round to it.
async fn no_more_descriptors(bound: &mut Option<usize>) {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let bound = *bound.get_or_insert_with(open_descriptors);
    let closed = async {
        while open_descriptors() > bound {
            tokio::task::yield_now().await;
        }
    };
    within("as few descriptors as before", closed).await;
}

/// Until this process has no child left, not even a zombie: wait(2) for any, without taking it from its owner.
async fn no_children() {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    let waiting = apart(|| {
        while waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).is_ok() {
            std::thread::yield_now();
        }
    });
    within("the last child to be reaped", waiting).await;
}

/// A crowd of handles, and a tree that nobody has handles of.
async fn crowd(group: &ProcessGroup) -> (Vec<RunningProcess>, Vec<Adopted>) {
    let mut handles = Vec::new();
    for _ in 0..SLEEPERS {
        handles.push(started(group, &sleeper()).await);
    }
    let script = format!("for i in $(seq {SLEEPERS}); do sleep 1000 & echo $!; done; exec sleep 1000");
    let mut tree = started(group, &sh(&script)).await;
    let members = said(&mut tree, SLEEPERS).await;
    handles.push(tree);
    (handles, members)
}

/// Every handle gives the same end, and its process is not even a zombie then.
async fn all_reaped(handles: Vec<RunningProcess>, signal: i32) {
    for mut handle in handles {
        let pid = handle.identity().pid;
        let exit = exit_of(&mut handle).await;
        assert_eq!(exit.signal, Some(signal));
        assert_eq!(handle.pid(), None);
        assert!(state(pid).is_none_or(|state| state != 'Z'), "reaped");
    }
}

/// Dropping kills at once, and the background does the rest: no member, no zombie, no directory.
#[tokio::test]
async fn trees_end_by_drop() {
    for group in groups() {
        let location = group.location().map(ToOwned::to_owned);
        let (handles, members) = crowd(&group).await;
        drop(group);
        all_gone(&members).await;
        all_reaped(handles, 9).await;
        if let Some(location) = location {
            vanished(&location).await;
        }
    }
}

#[tokio::test]
async fn trees_end_by_shutdown() {
    for options in mechanisms() {
        let group = ProcessGroup::with_options(options.shutdown_timeout(FOREVER)).expect("a group");
        let (handles, members) = crowd(&group).await;
        within("the shutdown", group.shutdown()).await.expect("gone");
        assert!(members.iter().all(|member| !lives(member.pid())), "gone means gone");
        all_reaped(handles, 15).await;
    }
}

#[tokio::test]
async fn twenty_kills_are_joined() {
    for options in mechanisms() {
        let shared = ProcessGroup::with_options(options.clone()).expect("a group");
        let own = private(sleeper(), &options);
        let mut processes = Vec::new();
        for n in 0..20 {
            processes.push(match n % 2 {
                0 => started(&shared, &sleeper()).await,
                _ => within("the start", own.start()).await.expect("started"),
            });
        }
        for process in &mut processes {
            process.start_kill().expect("killed");
        }
        let mut all: Vec<&mut RunningProcess> = processes.iter_mut().collect();
        let ends = within("all of them", processkit::wait_all(&mut all)).await.expect("their ends");
        assert_eq!(ends, [None; 20]);
        assert!(processes.iter().all(|process| process.pid().is_none()), "reaped");
        shared.remove().await.expect("gone");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_cancellations_at_once() {
    for options in mechanisms() {
        let token = CancellationToken::new();
        let command = private(sh("sleep 1000 & echo $!; wait"), &options).cancel_on(token.clone());
        let mut members = Vec::new();
        let mut all = JoinSet::new();
        for n in 0..50 {
            let mut process = within("the start", command.start()).await.expect("started");
            members.extend(said(&mut process, 1).await);
            all.spawn(async move {
                match n % 2 {
                    0 => process.wait().await.map(drop),
                    _ => process.output_string().await.map(drop),
                }
            });
        }
        token.cancel();
        for end in within("all of them", all.join_all()).await {
            assert!(matches!(end, Err(Error::Cancelled { ref program }) if program == "/bin/sh"), "{end:?}");
        }
        all_gone(&members).await;
        assert!(matches!(command.start().await, Err(Error::Cancelled { .. })));
    }
}

/// Nobody reads: the child writes on all the same, and what the policy keeps is kept.
#[tokio::test]
async fn a_hundred_thousand_lines_block_nobody() {
    let first = (1..=10).map(|n| n.to_string()).collect::<Vec<_>>().join("\n");
    let last = (99_991..=100_000).map(|n| n.to_string()).collect::<Vec<_>>().join("\n");
    for options in mechanisms() {
        let shared = ProcessGroup::with_options(options.clone()).expect("a group");
        for (overflow, kept) in [(OverflowMode::DropOldest, &last), (OverflowMode::DropNewest, &first)] {
            let seen = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&seen);
            let command = private(Command::new("seq").arg("100000"), &options)
                .output_buffer(OutputBufferPolicy::bounded(10).with_overflow(overflow))
                .on_stdout_line(move |_| _ = count.fetch_add(1, Ordering::Relaxed));
            for in_shared in [false, true] {
                let mut process = match in_shared {
                    true => started(&shared, &command).await,
                    false => within("the start", command.start()).await.expect("started"),
                };
                let exit = exit_of(&mut process).await;
                assert!(exit.success(), "not blocked, not broken: {exit}");
                let result = within("a result", process.output_string()).await.expect("a result");
                assert_eq!((result.stdout(), result.truncated()), (kept, true));
                assert_eq!(seen.swap(0, Ordering::Relaxed), 100_000);
            }
        }
        shared.remove().await.expect("gone");
    }
}

/// Every sixth failure trips the guard; each run is a real one, in a group of its own. In the control the guard is off, and
/// then there are only successes.
#[tokio::test]
async fn a_restart_storm_trips_the_guard() {
    for options in mechanisms() {
        let runs = tempfile::NamedTempFile::new().expect("a file");
        let storm = |then| {
            let script = format!("echo run >> \"$RUNS\"; {then}");
            Supervisor::new(private(sh(&script).env("RUNS", runs.path()), &options))
                .max_restarts(30)
                .backoff(Duration::from_millis(1), 1.0)
                .failure_decay(FOREVER)
        };
        let supervisor = storm("exit 1").restart(RestartPolicy::OnCrash).failure_threshold(5.0);
        let supervisor = supervisor.storm_pause(Duration::from_millis(2));
        let outcome = within("the outcome", supervisor.run()).await.expect("an outcome");
        assert_eq!((outcome.restarts, outcome.stopped), (30, StopReason::RestartsExhausted));
        assert_eq!(outcome.storm_pauses, 5);
        assert_eq!(outcome.final_result.code(), Some(1));
        assert_eq!(std::fs::read_to_string(runs.path()).expect("text").lines().count(), 31);
        let calm = storm("exit 0").restart(RestartPolicy::Always).failure_threshold(0.5);
        for control in [storm("exit 1"), calm.storm_pause(Duration::from_millis(2))] {
            let outcome = within("the control", control.max_restarts(10).run()).await.expect("an outcome");
            assert_eq!((outcome.restarts, outcome.storm_pauses), (10, 0));
        }
    }
}

/// A session of their own, or a parent that ended: they are members all the same.
#[tokio::test]
async fn escapees_are_caught() {
    const EACH: usize = 10;
    let script = format!(
        "for i in $(seq {EACH}); do
            setsid sh -c 'echo $$; exec sleep 1000' &
            (sh -c 'echo $$; exec sleep 1000' &)
            (setsid sh -c 'sleep 1000 & echo $!' &)
        done; wait"
    );
    for options in mechanisms() {
        let group = ProcessGroup::with_options(options.clone()).expect("a group");
        let mut process = started(&group, &sh(&script)).await;
        let escapees = said(&mut process, 3 * EACH).await;
        let members = group.members().expect("members");
        assert!(escapees.iter().all(|escapee| members.contains(&escapee.pid())), "{members:?}");
        within("the end", group.remove()).await.expect("gone");
        assert!(escapees.iter().all(|escapee| !lives(escapee.pid())), "killed means gone");

        let mut process = within("the start", private(sh(&script), &options).start()).await.expect("started");
        let escapees = said(&mut process, 3 * EACH).await;
        drop(process);
        all_gone(&escapees).await;
    }
}

/// The owner has no chance to tidy up; the control without a guardian is in the suite.
#[tokio::test]
async fn a_guardian_ends_every_tree_of_a_killed_owner() {
    let mut owner = Owner::play("guarded", "");
    let count: usize = owner.line().parse().expect("a number");
    let members: Vec<Adopted> = (0..count).map(|_| adopted(owner.pid())).collect();
    assert!(count >= 50 && members.iter().all(|member| lives(member.pid())));
    owner.die();
    all_gone(&members).await;
}

/// Trees of every kind, said and kept until we are killed.
async fn guarded() {
    let mut kept = Vec::new();
    let mut pids = Vec::new();
    for options in mechanisms() {
        let options = options.guardian(true);
        for _ in 0..5 {
            let group = ProcessGroup::with_options(options.clone()).expect("a guarded group");
            let script = "for i in 1 2 3 4 5; do setsid sh -c 'echo $$; exec sleep 1000' & done; wait";
            let mut tree = started(&group, &sh(script)).await;
            pids.extend(said(&mut tree, 5).await.iter().map(Adopted::pid));
            pids.extend(tree.pid());
            kept.push((group, tree));
        }
    }
    say(pids.len());
    pids.iter().for_each(say);
    until_killed();
    drop(kept);
}

mod roles {
    /// One role in this process if it was started for that.
    #[tokio::test]
    async fn role() {
        match super::cast().as_ref().map(|(role, _)| role.as_str()) {
            Some("guarded") => super::guarded().await,
            Some(other) => panic!("no such role: {other}"),
            None => return,
        }
        super::say_played();
    }
}
