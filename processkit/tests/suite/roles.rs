//! Owners in processes of their own: this binary started again with a role. A role ends by being killed, or by its script.

use processkit::{Command, ProcessGroup, ProcessGroupOptions};
use std::io::{Read, Write};

const ROLE: &str = "PROCESSKIT_TEST_ROLE";
const NAME: &str = "PROCESSKIT_TEST_NAME";

/// A command that plays a role. It speaks on standard output and waits for the end of standard input.
pub(crate) fn play(role: &str, name: &str) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().expect("our own path"));
    command.args(["--exact", "roles::role", "--nocapture", "--quiet"]).env(ROLE, role).env(NAME, name);
    command
}

/// One role in this process if it was started for that; the list of roles is checked otherwise.
#[test]
fn role() {
    let name = std::env::var(NAME).unwrap_or_default();
    match std::env::var(ROLE).as_deref() {
        Ok("persist") => persist(&name),
        Ok("leak") => leak(false),
        Ok("leak persisted") => leak(true),
        Ok("cycles") => cycles(),
        Ok("settle") => settle(),
        Ok(other) => panic!("no such role: {other}"),
        Err(_) => assert!(play("persist", "x").get_args().any(|a| a == "roles::role")),
    }
}

fn say(line: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "> {line}").expect("a reader");
    out.flush().expect("a reader");
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
    let _ = std::io::stdin().read(&mut [0]); // returns when whoever started us ends
}

/// Spawn and exit, in one group and in one for each, successfully and not: the number of descriptors stays.
fn cycles() {
    use crate::rig::{mechanisms, open_descriptors};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut before = None;
        for round in 0..2 {
            for options in mechanisms() {
                let shared = ProcessGroup::with_options(options.clone()).expect("a group");
                for cycle in 0..200 {
                    let own = (cycle % 4 == 0)
                        .then(|| ProcessGroup::with_options(options.clone()).expect("a group"));
                    let group = own.as_ref().unwrap_or(&shared);
                    let mut process = group.start(&Command::new("true")).await.expect("started");
                    assert!(process.exit().await.expect("an exit").success());
                    drop(group.start(&Command::new("true")).await.expect("started"));
                    assert!(
                        group
                            .start(&Command::new("/no/such/program"))
                            .await
                            .expect_err("missing")
                            .is_not_found()
                    );
                }
                shared.wait_empty().await.expect("empty");
                shared.remove().await.expect("gone");
            }
            processkit::settled().await;
            no_children().await;
            let now = open_descriptors();
            if round == 0 {
                before = Some(now); // the runtime and the reaper have theirs by now
            } else {
                assert_eq!(before, Some(now));
            }
        }
    });
    say("no growth");
}

/// Until this process has no child left, not even a zombie: wait(2) for any, without taking it from its owner.
async fn no_children() {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    let waiting = tokio::task::spawn_blocking(|| {
        while waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).is_ok() {
            std::thread::yield_now();
        }
    });
    crate::rig::within("the last child to be reaped", waiting).await.expect("no panic");
}

/// Make a first group, as any program does, and wait for the background.
fn settle() {
    let group = ProcessGroup::new().expect("a group");
    drop(group);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(processkit::settled());
    say("settled");
}

/// Holds nothing open that its starter could wait for.
fn quiet_sleep() -> Command {
    use processkit::Stdio;
    Command::new("sleep").arg("1000").stdout(Stdio::Null).stderr(Stdio::Null)
}
