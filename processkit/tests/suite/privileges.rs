//! C14: what a child gives up or is given before its exec, with every mechanism. Most of it needs root.

use crate::play::{Owner, alone};
use crate::rig::*;
use crate::roles::quiet_sleep;
use processkit::{Command, Error, ProcessGroup, ProcessGroupOptions, Resource};
use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::pin::pin;
use std::time::Duration;

/// Nobody in particular.
const UID: u32 = 54_321;
const GID: u32 = 54_322;

/// Whether tests that need root can run; says so if not, and fails where everything is required.
fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        missing("root");
    }
    root
}

/// The words of a line of `/proc/<pid>/status`.
fn field<'a>(status: &'a str, name: &str) -> Vec<&'a str> {
    let line = status.lines().find(|line| line.starts_with(name)).expect("the field");
    line.split_whitespace().skip(1).collect()
}

#[tokio::test]
async fn a_child_has_the_credentials_it_was_given() {
    if !root() {
        return;
    }
    let status = || Command::new("cat").arg("/proc/self/status");
    let (uid, gid) = (UID.to_string(), GID.to_string());
    for options in mechanisms() {
        let text = output(&options, status().uid(UID).gid(GID).groups([7, 70_000]).no_new_privs()).await;
        assert_eq!(field(&text, "Uid:"), [uid.as_str(); 4]);
        assert_eq!(field(&text, "Gid:"), [gid.as_str(); 4]);
        assert_eq!(field(&text, "Groups:"), ["7", "70000"]);
        assert_eq!(field(&text, "NoNewPrivs:"), ["1"]);
        assert_eq!(field(&text, "CapEff:"), ["0000000000000000"]);

        // Who is no longer root has root's groups no longer; who stays root keeps them (the control).
        let text = output(&options, status().groups([7]).uid(0)).await;
        assert_eq!(field(&text, "Groups:"), ["7"]);
        let text = output(&options, status().uid(UID)).await;
        assert_eq!(field(&text, "Groups:"), [""; 0]);
        assert_eq!(field(&text, "Gid:"), ["0"; 4]);
        let text = output(&options, status()).await;
        assert_eq!(field(&text, "Uid:"), ["0"; 4]);
        assert_eq!(field(&text, "NoNewPrivs:"), ["0"], "control");
    }
}

/// A member of another uid is found, ended and reaped as any other.
#[tokio::test]
async fn a_group_holds_whoever_its_members_are() {
    if !root() {
        return;
    }
    for group in groups() {
        let script = "setsid sh -c 'echo $$; exec sleep 1000' & exec sleep 1000";
        let (mut process, mut out) = speaker(&group, sh(script).uid(UID).gid(GID)).await;
        let escapee = out.pid().await;
        let leader = process.pid().expect("a pid");
        let members: BTreeSet<u32> = group.members().expect("members").into_iter().collect();
        assert_eq!(members, BTreeSet::from([leader, escapee]));
        group.kill().expect("killed");
        within("emptiness", group.wait_empty()).await.expect("empty");
        assert_eq!(exit_of(&mut process).await.signal, Some(9));
        assert!(!lives(escapee));
        out.end().await;
        group.remove().await.expect("gone");
    }
}

/// Was wrong: one member that may not be signalled, as a setuid program may not, spared those that came after it. And a
/// shutdown stopped there once, so that what did not obey lived on: it is the third act.
#[tokio::test]
async fn one_that_may_not_be_signalled_spares_nobody() {
    if !root() || !alone("privileges::one_that_may_not_be_signalled_spares_nobody").await {
        return;
    }
    // Not root for the time of a signal. Others are born before and after the one that is somebody else's.
    let root = |root: bool| {
        nix::unistd::seteuid(if root { 0 } else { UID }.into()).expect("root, or not");
        nix::sys::prctl::set_dumpable(true).expect("our own /proc/self as before");
    };
    let acts = |options: ProcessGroupOptions| ["TERM", "KILL", "shutdown"].map(|act| (options.clone(), act));
    for (options, act) in mechanisms().into_iter().flat_map(acts) {
        let options = options.shutdown_timeout(Duration::from_millis(20));
        let group = ProcessGroup::with_options(options).expect("a group");
        if act == "KILL" && group.location().is_some() {
            continue; // the kernel asks nobody there
        }
        let mut members = Vec::new();
        for uid in [UID, UID + 1, UID] {
            members.push(started(&group, &quiet_sleep().uid(uid)).await);
        }
        root(false);
        let sent = match act {
            "TERM" | "KILL" => {
                let sent = if act == "KILL" { group.kill() } else { group.terminate_all() };
                root(true);
                for member in [0, 2] {
                    exit_of(&mut members[member]).await;
                }
                assert_eq!(members[1].try_exit().expect("an answer"), None, "control");
                within("the end", group.remove()).await.expect("gone");
                sent
            }
            _ => {
                tokio::time::pause(); // the grace, until we are root again
                let mut shutdown = pin!(group.shutdown());
                pending(shutdown.as_mut()).await;
                tokio::time::resume();
                root(true);
                within("the end", shutdown).await
            }
        };
        assert!(sent.expect_err("not one of ours").is_permission_denied());
        let signal = if act == "KILL" { 9 } else { 15 };
        for (member, signal) in members.iter_mut().zip([signal, 9, signal]) {
            let exit = exit_of(member).await;
            assert_eq!(exit.signal, Some(signal), "{act}");
        }
    }
}

#[tokio::test]
async fn limits_umask_and_oom_score_arrive() {
    for options in mechanisms() {
        let command = sh("ulimit -Sn; ulimit -Hn; ulimit -c; umask; cat /proc/self/oom_score_adj")
            .pass_fd(pipe().1, 200)
            .rlimit(Resource::OpenFiles, 64, 128)
            .rlimit(Resource::Core, 0, 0)
            .umask(0o27)
            .oom_score_adj(700);
        let own = fs::read_to_string("/proc/self/oom_score_adj").expect("ours");
        let text = output(&options, command).await;
        assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["64", "128", "0", "0027", "700"]);
        assert_eq!(fs::read_to_string("/proc/self/oom_score_adj").expect("ours"), own, "not ours");
        let umask = output(&options, sh("umask")).await;
        assert_ne!(umask, "0027\n", "control, and our own is as it was");
    }
}

/// Privileged steps are done while there is privilege, whatever uid comes after; the directory is entered as the new user.
#[tokio::test]
async fn privileges_go_after_what_needs_them() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    fs::set_permissions(directory.path(), Permissions::from_mode(0o700)).expect("ours alone");
    for options in mechanisms() {
        let text = output(
            &options,
            sh("ulimit -Hn; cat /proc/self/oom_score_adj; id -u")
                .uid(UID)
                .rlimit(Resource::OpenFiles, 64, 128)
                .oom_score_adj(300),
        )
        .await;
        assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["128", "300", "54321"]);

        let group = ProcessGroup::with_options(options).expect("a group");
        let command = Command::new("true").current_dir(directory.path());
        let error = group.start(&command.clone().uid(UID)).await.expect_err("not for this user");
        assert!(error.is_permission_denied() && error.to_string().contains("working directory"), "{error}");
        assert!(
            within("the exit", group.start(&command).await.expect("control: for us").exit()).await.is_ok()
        );
        group.remove().await.expect("gone");
    }
}

/// A step that is refused is named; no process is left, and no other has what it was to have.
#[tokio::test]
async fn a_refused_step_is_named() {
    let mut cases = vec![
        (Command::new("true").rlimit(Resource::Stack, 2, 1), ErrorKind::InvalidInput, "the limit Stack"),
        (Command::new("true").oom_score_adj(2000), ErrorKind::InvalidInput, "oom_score_adj"),
    ];
    if root() {
        cases.push((
            Command::new("true").uid(u32::MAX).gid(u32::MAX).groups([u32::MAX]),
            ErrorKind::InvalidInput,
            "groups",
        ));
    } else {
        cases.push((Command::new("true").uid(0), ErrorKind::PermissionDenied, "the uid"));
        cases.push((Command::new("true").gid(0), ErrorKind::PermissionDenied, "the gid"));
        cases.push((Command::new("true").groups([0]), ErrorKind::PermissionDenied, "groups"));
    }
    for group in groups() {
        for (command, kind, says) in &cases {
            let error = group.start(command).await.expect_err("refused");
            let Error::Spawn { source, .. } = &error else { panic!("{error}") };
            assert!(
                source.kind() == *kind && error.to_string().contains(says),
                "{error:?} does not say {says}"
            );
        }
        assert!(group.is_empty().expect("an answer"));
        group.remove().await.expect("gone");
    }
}

/// A child whose parent is killed goes as well, without a group that would see to it; the control stays.
#[tokio::test]
async fn a_child_may_die_with_its_parent() {
    let mut owner = Owner::play("dies", "");
    let (watched, control) = (adopted(owner.pid()), adopted(owner.pid()));
    owner.die();
    within("its end", watched.gone()).await.expect("gone");
    assert!(lives(control.pid()), "control");
    lived_until_now(&control).await;
}

/// A child that changes its uid in our memory leaves it as it was: we can be traced and dump core as before.
#[tokio::test]
async fn memory_is_ours_again_after_the_exec() {
    if !root() || !alone("privileges::memory_is_ours_again_after_the_exec").await {
        return;
    }
    let is_dumpable = || nix::sys::prctl::get_dumpable().expect("an answer");
    assert!(is_dumpable(), "control");
    let group = ProcessGroup::new().expect("a group");
    for program in ["true", "/no/such/program"] {
        let command = Command::new(program).uid(54_321);
        assert_eq!(group.start_blocking(&command).is_ok(), program == "true");
        assert!(is_dumpable());
    }
}
