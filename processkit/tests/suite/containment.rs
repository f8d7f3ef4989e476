//! C1, C2: nothing leaves its group, and nothing is held longer than needed.

use crate::play::alone;
use crate::rig::*;
use processkit::{Adopted, Mechanism, MechanismReason, ProcessGroup, ProcessGroupOptions, Signal};
use std::fs;

/// Leaves its parent, its process group and its session, and says its pid; its parents end at once.
pub(crate) const ESCAPE: &str = "setsid sh -c 'echo $$; exec sleep 1000' &";
/// The same without the environment it was started with.
const ESCAPE_BARE: &str = "env -i PATH=\"$PATH\" setsid sh -c 'echo $$; exec sleep 1000' &";

/// Start an escape in the group, and wait until its starter is reaped. The output ends when the last one has died.
pub(crate) async fn escape(group: &ProcessGroup, script: &str) -> (Adopted, Output) {
    let (mut process, mut out) = speaker(group, sh(script)).await;
    let escapee = adopted(out.pid().await);
    assert!(exit_of(&mut process).await.success());
    (escapee, out)
}

/// Was missed now and then: an escapee that executes a program again and again, `exec sh -c "$0" "$0"`, and has no
/// environment to be known by in the middle of each.
#[tokio::test]
async fn an_escapee_that_executes_in_a_loop_is_a_member_at_every_look() {
    const LOOP: &str = "setsid sh -c 'echo $$; exec sh -c \"$0\" \"$0\"' 'exec sh -c \"$0\" \"$0\"' &";
    for group in groups() {
        let (escapee, mut out) = escape(&group, LOOP).await;
        for look in 0..300 {
            assert_eq!(group.members().expect("members"), [escapee.pid()], "look {look}");
        }
        group.remove().await.expect("gone");
        assert!(!lives(escapee.pid()));
        out.end().await;
    }
}

/// The control: a kill of the process group alone, which is what is done elsewhere, does not reach it.
#[tokio::test]
async fn a_process_group_alone_does_not_hold_it() {
    let group =
        ProcessGroup::with_options(ProcessGroupOptions::default().force_process_group()).expect("a group");
    let (mut process, mut out) = speaker(&group, sh(ESCAPE)).await;
    let leader = nix::unistd::Pid::from_raw(process.pid().expect("a pid") as i32);
    let escapee = out.pid().await;
    let _ = nix::sys::signal::killpg(leader, nix::sys::signal::Signal::SIGKILL); // its leader may have ended
    exit_of(&mut process).await;
    assert!(lives(escapee), "control: out of reach of killpg");
    assert_eq!(group.members().expect("members"), [escapee], "but not of the walk");
    group.remove().await.expect("gone");
    assert!(!lives(escapee));
}

/// What the walk cannot find, a cgroup holds: the stronger mechanism is stronger.
///
/// In a process of its own. Was found all the same, once on a busy machine: another test's tree had looked while the mark
/// was still there, before `env -i`, and what one walk reads all trees of a program know.
#[tokio::test]
async fn only_a_cgroup_holds_one_without_a_trace() {
    if !alone("containment::only_a_cgroup_holds_one_without_a_trace").await {
        return;
    }
    for group in groups() {
        let (escapee, mut out) = escape(&group, ESCAPE_BARE).await;
        let held = group.mechanism() == Mechanism::CgroupV2;
        assert_eq!(group.members().expect("members").contains(&escapee.pid()), held);
        group.remove().await.expect("gone");
        assert_eq!(lives(escapee.pid()), !held);
        escapee.signal(Signal::Kill).expect("cleaned up");
        let exit = within("its end", escapee.exit()).await.expect("an exit");
        assert!(!exit.is_known() || exit.signal == Some(9), "{exit}");
        out.end().await;
    }
}

/// Never a silent downgrade.
#[tokio::test]
async fn the_mechanism_has_a_reason() {
    let forced =
        ProcessGroup::with_options(ProcessGroupOptions::default().force_process_group()).expect("a group");
    assert_eq!(forced.mechanism(), Mechanism::ProcessGroup);
    assert_eq!(forced.mechanism_reason(), &MechanismReason::Forced);
    assert_eq!(forced.location(), None);
    for error in [forced.kill_fd().expect_err("no such file"), forced.events_fd().expect_err("no such file")]
    {
        assert!(matches!(error, processkit::Error::Unsupported { .. }), "{error}");
    }
    if cgroups() {
        let group = ProcessGroup::new().expect("a group");
        assert_eq!(group.mechanism(), Mechanism::CgroupV2);
        assert_eq!(group.mechanism_reason(), &MechanismReason::Strongest);
        assert!(group.location().expect("a directory").join("cgroup.procs").exists());
    }
}

/// An escapee is still a member, of its own group and of no other, and ends with it.
#[tokio::test]
async fn groups_are_apart() {
    for options in mechanisms() {
        let one = ProcessGroup::with_options(options.clone()).expect("a group");
        let two = ProcessGroup::with_options(options).expect("a group");
        let (first, mut out) = escape(&one, ESCAPE).await;
        let (second, _out) = escape(&two, ESCAPE).await;
        assert_eq!(one.members().expect("members"), [first.pid()]);
        assert_eq!(two.members().expect("members"), [second.pid()]);
        assert!(!one.is_empty().expect("an answer"));
        one.kill().expect("killed");
        within("emptiness", one.wait_empty()).await.expect("empty");
        assert!(one.is_empty().expect("an answer"));
        within("its death", first.gone()).await.expect("gone");
        out.end().await;
        one.remove().await.expect("gone");
        lived_until_now(&second).await;
        two.remove().await.expect("gone");
    }
}

/// Directories that the processes made inside go as well, members in them included.
#[tokio::test]
async fn nested_groups_go_too() {
    if !cgroups() {
        return;
    }
    let group = ProcessGroup::new().expect("a group");
    let location = group.location().expect("a directory").to_owned();
    let script = "mkdir -p \"$G/a/b\" \"$G/c\"; echo $$ > \"$G/a/b/cgroup.procs\"; echo $$; exec sleep 1000";
    let (_process, mut out) = speaker(&group, sh(script).env("G", &location)).await;
    let pid = out.pid().await;
    assert!(
        fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its cgroup").trim_end().ends_with("/a/b")
    );
    assert_eq!(group.members().expect("members"), [pid]);
    group.shutdown().await.expect("gone");
    assert!(!location.exists());
}

/// Several threads spawn at once: nobody gets another's child, mask or descriptors.
#[tokio::test]
async fn spawns_may_run_at_once() {
    for group in groups() {
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let group = &group;
                scope.spawn(move || {
                    runtime().block_on(async {
                        for _ in 0..10 {
                            let mut process = started(group, &sh(&format!("exit {thread}"))).await;
                            let exit = exit_of(&mut process).await;
                            assert_eq!(exit.code, Some(thread));
                        }
                    });
                });
            }
        });
        group.remove().await.expect("gone");
    }
}
