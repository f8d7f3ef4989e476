//! C8: the end of an owner that had no chance to tidy up.

use crate::play::{Owner, alone, say, until_killed};
use crate::rig::*;
use crate::roles::quiet_sleep;
use processkit::{Adopted, Command, ProcessGroup, ProcessGroupOptions, Signal, Stdio, sweep_leaked};
use std::fs;
use std::path::PathBuf;

/// Two members, one of which has left its parent, its process group and its session. Each says its pid.
const TREE: &str = "setsid sh -c 'echo \"> $$\"; exec sleep 1000' & echo \"> $$\"; exec sleep 1000";
const BALLAST: usize = 64 << 20;

/// Make a group with a tree in it, say the guardian's pid and the group's directory, and wait to be killed.
pub(crate) fn guard(how: &str) {
    let ballast = std::hint::black_box(vec![1u8; BALLAST]);
    let mut options = ProcessGroupOptions::default().guardian(!how.contains("unguarded"));
    if how.contains("fallback") {
        options = options.force_process_group();
    }
    let mut group = ProcessGroup::with_options(options).expect("a group");
    say(group.guardian().and_then(|guardian| guardian.pid()).unwrap_or(0));
    say(group.location().map_or_else(|| "nowhere".into(), |location| location.display().to_string()));
    if how.contains("persisted") {
        group.persist();
    }
    drop(group.start_blocking(&sh(TREE).stdout(Stdio::Inherit)).expect("started"));
    until_killed();
    drop((group, ballast));
}

struct Scene {
    owner: Owner,
    guardian: u32,
    location: Option<PathBuf>,
    members: [Adopted; 2],
}

fn scene(how: &str) -> Scene {
    let mut owner = Owner::play("guard", how);
    let guardian = owner.pid();
    let location = Some(PathBuf::from(owner.line())).filter(|location| location.is_absolute());
    let members = [(); 2].map(|()| adopted(owner.pid()));
    Scene { owner, guardian, location, members }
}

fn hows() -> Vec<&'static str> {
    if cgroups() { vec!["fallback", "cgroup"] } else { vec!["fallback"] }
}

/// The controls: without a guardian the tree lives on, and so does a group that was persisted.
#[tokio::test]
async fn without_a_guardian_the_tree_lives_on() {
    if !alone("guardian::without_a_guardian_the_tree_lives_on").await {
        return;
    }
    for how in hows() {
        for what in ["unguarded", "persisted"] {
            let scene = scene(&format!("{how} {what}"));
            assert_eq!(scene.guardian == 0, what == "unguarded");
            scene.owner.die();
            for member in &scene.members {
                assert!(lives(member.pid()), "{how} {what}");
                lived_until_now(member).await;
            }
            sweep_leaked().expect("swept");
            if let Some(location) = scene.location {
                vanished(&location).await;
            }
        }
    }
}

fn comm(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default()
}

/// Recognisable, out of the way, and small: whatever its owner has, it gives back. And it does what it is there for.
#[tokio::test]
async fn a_guardian_outlives_its_owner_and_nobody_else() {
    for how in hows() {
        let scene = scene(how);
        let guardian = adopted(scene.guardian);
        let proc = PathBuf::from(format!("/proc/{}", scene.guardian));
        assert_eq!(comm(scene.guardian), "pk-guardian\n");
        assert_eq!(fs::read_to_string(proc.join("cmdline")).expect("readable"), "");
        let open: Vec<String> = fs::read_dir(proc.join("fd"))
            .expect("readable")
            .map(|entry| {
                fs::read_link(entry.expect("an entry").path()).expect("a link").display().to_string()
            })
            .collect();
        let kill = open.iter().filter(|open| open.ends_with("/cgroup.kill")).count();
        assert_eq!(kill, usize::from(scene.location.is_some()), "{open:?}");
        assert_eq!(open.len(), 2 + kill, "its socket and its owner's pidfd: {open:?}");
        let status = fs::read_to_string(proc.join("status")).expect("readable");
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect(name);
            line.split_whitespace().next().expect("a number").parse::<usize>().expect("a number")
        };
        assert!(number("RssAnon:") * 1024 < BALLAST / 16, "{status}");
        let blocked = u64::from_str_radix(
            status.lines().find_map(|line| line.strip_prefix("SigBlk:")).expect("a mask").trim(),
            16,
        );
        assert_eq!(blocked.expect("a mask") | 1 << 8 | 1 << 18, u64::MAX, "all but KILL and STOP");
        let stat = fs::read_to_string(proc.join("stat")).expect("readable");
        let session = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(3)).expect("a session");
        assert_eq!(session, scene.guardian.to_string());
        if let Some(location) = &scene.location {
            let members = fs::read_to_string(location.join("cgroup.procs")).expect("readable");
            assert!(!members.lines().any(|pid| pid == session), "not in what it guards");
        }
        scene.owner.die();
        for member in scene.members {
            within("the end of a member", member.gone()).await.expect("gone");
        }
        within("the guardian's end", guardian.gone()).await.expect("gone");
        if let Some(location) = scene.location {
            assert!(!location.exists(), "removed before the guardian ends");
        }
    }
}

/// The rest of its life: who inherits, when it ends, what becomes of one that is killed.
#[tokio::test]
async fn the_life_of_a_guardian() {
    if !alone("guardian::the_life_of_a_guardian").await {
        return;
    }
    for options in mechanisms() {
        let options = options.guardian(true);
        heirs(&options).await;
        idle(&options).await;
        revived(&options).await;
    }
}

fn guardian_of(group: &ProcessGroup) -> Adopted {
    adopted(group.guardian().expect("a guardian").pid().expect("a pid"))
}

/// Only the owner holds the socket whose end ends the groups; the control is the owner.
async fn heirs(options: &ProcessGroupOptions) {
    let held = sockets_of("self");
    let group = ProcessGroup::with_options(options.clone()).expect("a group");
    assert_eq!(sockets_of("self"), held + 1, "control: ours");
    let ours = started(&group, &quiet_sleep()).await;
    assert_eq!(sockets_of(&ours.pid().expect("a pid").to_string()), 0);
    let mut other = std::process::Command::new("sleep");
    let mut other = other.arg("1000").spawn().expect("started");
    assert_eq!(sockets_of(&other.id().to_string()), 0);
    other.kill().expect("killed");
    other.wait().expect("reaped");
    group.remove().await.expect("gone");
}

fn sockets_of(process: &str) -> usize {
    let entries = fs::read_dir(format!("/proc/{process}/fd")).expect("readable");
    let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
}

/// One guardian for all groups, which ends and is reaped with the last.
async fn idle(options: &ProcessGroupOptions) {
    let one = ProcessGroup::with_options(options.clone()).expect("a group");
    let two = ProcessGroup::with_options(options.clone()).expect("a group");
    let guardian = guardian_of(&one);
    assert_eq!(guardian_of(&two).pid(), guardian.pid());
    one.release();
    assert!(lives(guardian.pid()));
    two.shutdown().await.expect("gone");
    reaped(copy(guardian.pidfd())).await;

    let mut again = ProcessGroup::with_options(options.clone()).expect("a group");
    let guardian = guardian_of(&again);
    again.persist();
    assert!(again.guardian().is_none());
    reaped(copy(guardian.pidfd())).await;
    again.kill_on_drop();
    assert!(lives(guardian_of(&again).pid()));
    again.remove().await.expect("gone");
}

/// The next group that asks for one brings it back, for all of them.
async fn revived(options: &ProcessGroupOptions) {
    let one = ProcessGroup::with_options(options.clone()).expect("a group");
    let first = guardian_of(&one);
    first.signal(processkit::Signal::Kill).expect("sent");
    let lost = async {
        while one.guardian().expect("asked for").pid().is_some() {
            tokio::task::yield_now().await;
        }
    };
    within("the news of its end", lost).await;
    let two = ProcessGroup::with_options(options.clone()).expect("a group");
    let second = guardian_of(&one);
    assert_ne!(second.pid(), first.pid());
    let watched = fs::read_dir(format!("/proc/{}/fd", second.pid())).expect("readable").count();
    assert_eq!(watched, if one.location().is_some() { 4 } else { 2 }, "both, not only the one that asked");
    let mut process = started(&one, &Command::new("true")).await;
    assert!(exit_of(&mut process).await.success());
    drop((one, two));
    reaped(copy(second.pidfd())).await;
}

/// Was blocked for ten seconds: a drop waited for the answer of a guardian that somebody had stopped, in whatever thread it was.
/// Whoever waits in vain kills it (the control is that it lives).
#[tokio::test]
async fn a_drop_does_not_wait_for_the_guardian() {
    if !alone("guardian::a_drop_does_not_wait_for_the_guardian").await {
        return;
    }
    for options in mechanisms() {
        let group = ProcessGroup::with_options(options.guardian(true)).expect("a group");
        let pid = group.guardian().and_then(|guardian| guardian.pid()).expect("a guardian");
        let guardian = adopted(pid);
        guardian.signal(Signal::Other(nix::libc::SIGSTOP)).expect("stopped");
        while state(pid) != Some('T') {
            tokio::task::yield_now().await;
        }
        drop(group);
        assert_eq!(state(pid), Some('T'), "nobody has waited for it");
        guardian.signal(Signal::Other(nix::libc::SIGCONT)).expect("continued");
        within("the background", processkit::settled()).await;
        within("its end", guardian.gone()).await.expect("watched");
    }
}
