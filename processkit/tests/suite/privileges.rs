//! C14: what a child gives up or is given before its exec, with every mechanism. Most of it needs root.

use crate::rig::*;
use crate::roles;
use processkit::{Command, Error, ProcessGroup, ProcessGroupOptions, Resource};
use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::future::{Future, poll_fn};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

/// Nobody in particular.
const UID: u32 = 54_321;
const GID: u32 = 54_322;

/// Whether tests that need root can run; says so if not, and fails where everything is required.
fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    assert!(root || std::env::var_os("HANDOFF_REQUIRE_ALL").is_none_or(|v| v != "1"), "root is missing");
    if !root {
        eprintln!("not tested: root is missing");
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
    for options in mechanisms() {
        let group = ProcessGroup::with_options(options).expect("a group");
        let script = "setsid sh -c 'echo $$; exec sleep 1000' & exec sleep 1000";
        let (command, mut out) = Output::of(sh(script).uid(UID).gid(GID));
        let mut process = group.start(&command).await.expect("started");
        drop(command);
        let escapee = out.pid().await;
        let leader = process.pid().expect("a pid");
        let members: BTreeSet<u32> = group.members().expect("members").into_iter().collect();
        assert_eq!(members, BTreeSet::from([leader, escapee]));
        group.kill().expect("killed");
        within("emptiness", group.wait_empty()).await.expect("empty");
        assert_eq!(within("the exit", process.exit()).await.expect("an exit").signal, Some(9));
        assert!(!lives(escapee));
        out.end().await;
        group.remove().await.expect("gone");
    }
}

/// Was wrong: one member that may not be signalled, as a setuid program may not, spared those that came after it.
#[tokio::test]
async fn one_that_may_not_be_signalled_spares_nobody() {
    if !root() {
        return;
    }
    let output = roles::play("refused", "").stdin(std::process::Stdio::null()).output().expect("played");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("> nobody spared"), "{text}");
}

/// The role: not root for the time of a signal. Others are born before and after the one that is somebody else's.
///
/// A shutdown stopped there once, and what did not obey lived on: it is the third act.
pub(crate) fn refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let root = |root: bool| {
        nix::unistd::seteuid(if root { 0 } else { UID }.into()).expect("root, or not");
        nix::sys::prctl::set_dumpable(true).expect("our own /proc/self as before");
    };
    let acts = |options: ProcessGroupOptions| ["TERM", "KILL", "shutdown"].map(|act| (options.clone(), act));
    runtime.block_on(async {
        for (options, act) in mechanisms().into_iter().flat_map(acts) {
            let options = options.shutdown_timeout(Duration::from_millis(20));
            let group = ProcessGroup::with_options(options).expect("a group");
            if act == "KILL" && group.location().is_some() {
                continue; // the kernel asks nobody there
            }
            let mut members = Vec::new();
            for uid in [UID, UID + 1, UID] {
                members.push(group.start(&roles::quiet_sleep().uid(uid)).await.expect("started"));
            }
            root(false);
            let sent = match act {
                "TERM" | "KILL" => {
                    let sent = if act == "KILL" { group.kill() } else { group.terminate_all() };
                    root(true);
                    for member in [0, 2] {
                        within("the exit", members[member].exit()).await.expect("an exit");
                    }
                    assert_eq!(members[1].try_exit().expect("an answer"), None, "control");
                    within("the end", group.remove()).await.expect("gone");
                    sent
                }
                _ => {
                    tokio::time::pause(); // the grace, until we are root again
                    let mut shutdown = pin!(group.shutdown());
                    poll_fn(|context| Poll::Ready(assert!(shutdown.as_mut().poll(context).is_pending())))
                        .await;
                    tokio::time::resume();
                    root(true);
                    within("the end", shutdown).await
                }
            };
            assert!(sent.expect_err("not one of ours").is_permission_denied());
            let signal = if act == "KILL" { 9 } else { 15 };
            for (member, signal) in members.iter_mut().zip([signal, 9, signal]) {
                let exit = within("the exit", member.exit()).await.expect("an exit");
                assert_eq!(exit.signal, Some(signal), "{act}");
            }
        }
    });
    roles::say("nobody spared");
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
    for options in mechanisms() {
        let group = ProcessGroup::with_options(options).expect("a group");
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
    use tokio::io::{AsyncBufReadExt, BufReader};
    let mut owner = tokio::process::Command::from(roles::play("dies", ""))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("played");
    let mut lines = BufReader::new(owner.stdout.take().expect("a pipe")).lines();
    let mut pids = Vec::new();
    while pids.len() < 2 {
        let line = within("a pid", lines.next_line()).await.expect("readable").expect("a line");
        pids.extend(line.strip_prefix("> ").map(|pid| pid.parse::<u32>().expect("a pid")));
    }
    let [bound, free] = pids[..] else { panic!("{pids:?}") };
    let watched =
        processkit::Adopted::from_pidfd(processkit::pidfd_open(bound).expect("alive")).expect("adopted");
    let control =
        processkit::Adopted::from_pidfd(processkit::pidfd_open(free).expect("alive")).expect("adopted");
    owner.kill().await.expect("killed");
    within("its end", watched.gone()).await.expect("gone");
    assert!(lives(free), "control");
    control.signal(processkit::Signal::Kill).expect("ended");
    within("its end", control.gone()).await.expect("gone");
}

/// A child that changes its uid in our memory leaves it as it was: we can be traced and dump core as before.
#[tokio::test]
async fn memory_is_ours_again_after_the_exec() {
    if !root() {
        return;
    }
    let output = roles::play("dumpable", "").stdin(std::process::Stdio::null()).output().expect("played");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("> still dumpable"), "{text}");
}
