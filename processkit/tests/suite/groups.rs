//! The group as a place: what is left of it, who may come in, what it has used.

use crate::containment::{ESCAPE, escape};
use crate::play::{alone, play, to_the_end};
use crate::rig::*;
use processkit::{Command, Error, Mechanism, MechanismReason, ProcessGroup, ProcessGroupOptions, StreamExt};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Whoever makes and removes groups leaves nothing: in a cgroup of its own, where nobody else makes any.
#[tokio::test]
async fn nothing_is_left_of_the_last_group() {
    if !cgroups() || !alone("groups::nothing_is_left_of_the_last_group").await {
        return;
    }
    let group = ProcessGroup::new().expect("a group");
    let all = group.location().and_then(|location| location.parent()).map(PathBuf::from);
    let all = all.expect("a directory of all groups");
    assert!(all.exists());
    drop(group);
    within("the background", processkit::settled()).await;
    assert!(!all.exists(), "gone with the last group");
    // groups come and go while the directory of all is removed under them
    std::thread::scope(|scope| {
        let working: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| (0..50).for_each(|_| drop(ProcessGroup::new().expect("a group")))))
            .collect();
        while working.iter().any(|thread| !thread.is_finished()) {
            let _ = std::fs::remove_dir(&all); // as the tidying of another program does
        }
    });
    let group = ProcessGroup::new().expect("a group");
    accepted(&group).await;
    group.shutdown().await.expect("gone");
    vanished(&all).await; // without being asked, a moment later
}

/// A child of a frozen cgroup would never come to its program, and whoever waits for that would wait with it.
#[tokio::test]
async fn a_suspended_group_takes_nobody() {
    for group in groups() {
        group.suspend().expect("stopped");
        refused(&group).await;
        group.resume().expect("goes on");
        accepted(&group).await;
        group.remove().await.expect("gone");
    }
}

/// Nobody here knows that it is frozen: the group, or one above.
#[tokio::test]
async fn a_group_frozen_from_outside_takes_nobody() {
    if !cgroups() {
        return;
    }
    for options in [ProcessGroupOptions::default(), ProcessGroupOptions::default().without_clone3()] {
        let outer = ProcessGroup::with_options(options.clone()).expect("a group");
        let location = outer.location().expect("a directory").to_owned();
        fs::create_dir(location.join("inner")).expect("made");
        let mut inner = ProcessGroup::reopen_by_path(location.join("inner")).expect("opened");
        let freeze = |on: &str| fs::write(location.join("cgroup.freeze"), on).expect("written");
        for group in [&outer, &inner] {
            freeze("1");
            refused(group).await;
            freeze("0");
            accepted(group).await;
        }
        // no descriptor of a stopped group hinders its end
        freeze("1");
        inner.kill_on_drop();
        drop(inner);
        outer.shutdown().await.expect("gone");
    }
}

async fn accepted(group: &ProcessGroup) {
    let mut process = started(group, &Command::new("true")).await;
    assert!(exit_of(&mut process).await.success());
}

async fn refused(group: &ProcessGroup) {
    let error = group.start(&Command::new("true")).await.expect_err("it stands still");
    assert!(error.to_string().contains("`true`: the group is suspended"), "{error}");
    within("emptiness", group.wait_empty()).await.expect("empty");
}

/// Those that are stopped and started again from outside while children are born: each start ends, one way or the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn freezing_at_any_moment_hangs_nobody() {
    if !cgroups() {
        return;
    }
    for options in [ProcessGroupOptions::default(), ProcessGroupOptions::default().without_clone3()] {
        let group = ProcessGroup::with_options(options).expect("a group");
        let freeze = group.location().expect("a directory").join("cgroup.freeze");
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    fs::write(&freeze, "1").expect("written");
                    std::thread::yield_now();
                    fs::write(&freeze, "0").expect("written");
                    std::thread::yield_now();
                }
            });
            let starts = (0..200).map(|_| group.start_blocking(&Command::new("true")).map(drop));
            let errors: Vec<_> =
                starts.filter_map(|start| start.err().map(|error| error.to_string())).collect();
            stop.store(true, Ordering::Relaxed);
            assert!(errors.iter().all(|error| error.contains("suspended")), "{errors:?}");
        });
        group.remove().await.expect("gone");
    }
}

/// A child of tokio becomes a member; the control has not.
#[tokio::test]
async fn children_of_tokio_are_adopted() {
    for group in groups() {
        let spawn = || tokio::process::Command::new("sleep").arg("1000").spawn().expect("started");
        let (mut adopted, mut control) = (spawn(), spawn());
        group.adopt(&adopted).expect("adopted");
        assert_eq!(group.members().expect("members"), [adopted.id().expect("a pid")]);
        assert!(!group.is_empty().expect("an answer"));
        group.kill().expect("killed");
        within("emptiness", group.wait_empty()).await.expect("empty");
        assert!(group.is_empty().expect("an answer"), "a zombie is no member");
        // what is over cannot be adopted: neither the zombie nor what was reaped
        for _ in 0..2 {
            let error = group.adopt(&adopted).expect_err("it has ended");
            assert!(error.is_not_found() && error.to_string().contains("has ended"), "{error}");
            let status = within("the exit", adopted.wait()).await.expect("its handle has the status");
            assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
        }
        group.shutdown().await.expect("gone");
        assert!(control.try_wait().expect("an answer").is_none());
        control.kill().await.expect("killed");
    }
}

/// What members use is seen, at once and then again and again; what they have used stays, where a cgroup counts it.
#[tokio::test]
async fn what_a_group_uses_is_seen() {
    for group in groups() {
        let nothing = group.stats().expect("stats");
        assert_eq!((nothing.active_process_count, nothing.peak_memory_bytes), (0, Some(0)));
        assert_eq!(nothing.total_cpu_time, Some(Duration::ZERO), "control: nobody, nothing");
        let _busy = started(&group, &sh("while :; do :; done")).await;
        let _idle = started(&group, &sleeper()).await;

        let mut rare = group.sample_stats(Duration::from_secs(3600));
        let first = within("the first sample", rare.next()).await.expect("no end");
        assert_eq!(first.active_process_count, 2);
        let mut samples = group.sample_stats(Duration::ZERO);
        let busy = async {
            loop {
                let sample = samples.next().await.expect("no end");
                if sample.total_cpu_time.expect("known") >= Duration::from_millis(30) {
                    break sample;
                }
            }
        };
        let sample = within("CPU time", busy).await;
        assert!(sample.peak_memory_bytes.expect("known") > 64 << 10, "{sample:?}");
        drop((rare, samples));

        group.kill().expect("killed");
        within("emptiness", group.wait_empty()).await.expect("empty");
        let past = group.stats().expect("stats");
        assert_eq!(past.active_process_count, 0);
        if group.mechanism() == Mechanism::CgroupV2 {
            assert!(past.total_cpu_time >= sample.total_cpu_time, "{past:?}");
        }
        group.remove().await.expect("gone");
    }
}

/// A limit is in force, or it is an error that names it, and then nothing was made.
#[cfg(feature = "limits")]
#[tokio::test]
async fn limits_are_kept_or_refused() {
    type Set = fn(ProcessGroupOptions) -> ProcessGroupOptions;
    let limits: [(&str, &str, Set); 3] = [
        ("memory_max", "memory.max", |options| options.memory_max(64 << 20)),
        ("max_processes", "pids.max", |options| options.max_processes(9)),
        ("cpu_quota", "cpu.max", |options| options.cpu_quota(0.5)),
    ];
    for (limit, file, set) in limits {
        let fallback = ProcessGroupOptions::default().force_process_group();
        let error = ProcessGroup::with_options(set(fallback)).expect_err("nobody to enforce it");
        assert!(matches!(&error, Error::ResourceLimit(text) if text.starts_with(limit)), "{error}");
        if !cgroups() {
            continue;
        }
        let name = unique("limited");
        match ProcessGroup::named(&name, set(ProcessGroupOptions::default())) {
            Ok(group) => {
                let told = group.location().expect("a directory").join(file);
                assert!(!fs::read_to_string(told).expect("a limit").starts_with("max"));
                group.remove().await.expect("gone");
            }
            Err(Error::ResourceLimit(text)) => {
                assert!(text.starts_with(limit) && text.contains("controller"), "{text}");
            }
            Err(other) => panic!("{other}"),
        }
        assert!(ProcessGroup::reopen(&name).expect_err("nothing is left").is_not_found());
    }
}

/// The weaker mechanism where it is really needed: in a mount namespace without cgroup2, and in one that hides it.
#[tokio::test]
async fn without_cgroup2_the_fallback_is_in_force() {
    let unshare = |script: &str| {
        let mut command = std::process::Command::new("unshare");
        command.args(["--mount", "sh", "-ec", &format!("{script}; exec \"$@\""), "sh"]);
        command
    };
    let permitted = unshare("umount -Rl /sys/fs/cgroup").arg("true").output().expect("unshare(1)");
    if !permitted.status.success() {
        return missing(format!("a mount namespace: {}", String::from_utf8_lossy(&permitted.stderr)));
    }
    let (gone, hidden) = ("umount -Rl /sys/fs/cgroup", "mount -t tmpfs none /sys/fs/cgroup");
    for (script, name) in [(gone, "gone"), (hidden, "hidden"), ("true", "control")] {
        let role = play("bare", name);
        let mut command = unshare(script);
        command.arg(role.get_program()).args(role.get_args());
        command.envs(role.get_envs().filter_map(|(key, value)| Some((key, value?))));
        to_the_end(&mut command);
    }
}

pub(crate) async fn bare(name: &str) {
    let group = ProcessGroup::new().expect("a group");
    let reason = group.mechanism_reason();
    match name {
        "gone" => assert_eq!(reason, &MechanismReason::NoCgroup2Mount),
        "hidden" => assert!(
            matches!(reason, MechanismReason::NotWritable { .. } | MechanismReason::NoCgroupKill),
            "{reason}"
        ),
        _ => return, // as everywhere else
    }
    assert_eq!(group.mechanism(), Mechanism::ProcessGroup);
    let error = ProcessGroup::named("x", ProcessGroupOptions::default()).expect_err("no names here");
    assert!(
        matches!(&error, Error::Unsupported { operation } if operation.contains(&reason.to_string())),
        "{error}"
    );
    let (escapee, mut out) = escape(&group, ESCAPE).await;
    assert_eq!(group.members().expect("members"), [escapee.pid()]);
    group.remove().await.expect("gone");
    within("its death", escapee.gone()).await.expect("gone");
    out.end().await;
}
