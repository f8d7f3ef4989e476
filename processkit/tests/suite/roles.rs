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
        Ok("leak") => leak(),
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
fn leak() {
    let group = ProcessGroup::new().expect("a group");
    let member = group.start_blocking(&quiet_sleep()).expect("started");
    say(member.pid().expect("a pid"));
    say(group.location().expect("a directory").display());
    let _ = std::io::stdin().read(&mut [0]); // returns when whoever started us ends
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
