//! Processes of their own: this binary started again, for one test, or with a role to play. A role ends by being killed, or by
//! its script.

use crate::rig::within;
use processkit::{Command, ProcessGroup};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Stdio};

const ALONE: &str = "PROCESSKIT_TEST_ALONE";
const ROLE: &str = "PROCESSKIT_TEST_ROLE";
const NAME: &str = "PROCESSKIT_TEST_NAME";
/// What the binary says when it came to the end of a role: a filter that fits no test is a success, too.
const PLAYED: &str = "played";

/// This binary. Not by its path: it may be built again while this runs.
fn own_program() -> String {
    format!("/proc/{}/exe", std::process::id())
}

/// Whether this is the place for a test that needs a process to itself: one in a group of its own, so that nobody else makes or
/// sweeps groups where it does. Otherwise the test of this name is run in such a place.
pub(crate) async fn alone(test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        drop(ProcessGroup::new().expect("a group")); // so that our own first sweep is behind us
        within("the background", processkit::settled()).await;
        return true;
    }
    let command = Command::new(own_program()).args(["--exact", test, "--nocapture"]).env(ALONE, "1");
    let run = command.stderr(processkit::Stdio::Inherit).output_string().await; // each wait in there has its deadline
    let result = run.expect("a result");
    assert!(result.is_success() && result.stdout().contains("1 passed"), "{}", result.stdout());
    false
}

/// A command that plays a role. It speaks on standard output and waits for the end of standard input.
pub(crate) fn play(role: &str, name: &str) -> std::process::Command {
    let mut command = std::process::Command::new(own_program());
    command.args(["--exact", "roles::role", "--nocapture", "--quiet"]).env(ROLE, role).env(NAME, name);
    command
}

/// Play a role to its end: what it said.
pub(crate) fn played(role: &str) -> Vec<String> {
    to_the_end(&mut play(role, ""))
}

/// Run what plays a role to its end: what it said.
pub(crate) fn to_the_end(play: &mut std::process::Command) -> Vec<String> {
    let output = play.stdin(Stdio::null()).output().expect("started");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut said: Vec<String> = text.lines().filter_map(said).collect();
    let end = said.pop();
    let ended = output.status.success() && end.is_some_and(|end| end == PLAYED);
    assert!(ended, "{text}{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// What a role said in this line, which may begin with something of the test harness.
fn said(line: &str) -> Option<String> {
    Some(line.split_once("> ")?.1.trim_end().to_owned())
}

/// In the role: its name, and that of what it is about. `None` in a run of the tests.
pub(crate) fn cast() -> Option<(String, String)> {
    Some((std::env::var(ROLE).ok()?, std::env::var(NAME).unwrap_or_default()))
}

/// In the role: say a line.
pub(crate) fn say(line: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "> {line}").expect("a reader");
    out.flush().expect("a reader");
}

/// In the role: it came to its end.
pub(crate) fn say_played() {
    say(PLAYED);
}

/// In the role: wait to be killed.
pub(crate) fn until_killed() {
    let _ = std::io::stdin().read(&mut [0]); // returns when whoever started us ends
}

/// An owner in a process of its own. It sweeps when it starts.
pub(crate) struct Owner {
    process: Child,
    lines: BufReader<ChildStdout>,
}

impl Owner {
    pub(crate) fn play(role: &str, name: &str) -> Owner {
        let mut command = play(role, name);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("played");
        let lines = BufReader::new(process.stdout.take().expect("a pipe"));
        Owner { process, lines }
    }

    /// The next thing it says, past what the test harness says.
    pub(crate) fn line(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.lines.read_line(&mut line).expect("readable"), 0, "the owner ended early");
            if let Some(said) = said(&line) {
                return said;
            }
        }
    }

    pub(crate) fn pid(&mut self) -> u32 {
        self.line().parse().expect("a pid")
    }

    /// SIGKILL, no chance to tidy up.
    pub(crate) fn die(mut self) {
        self.process.kill().expect("killed");
        self.process.wait().expect("reaped");
    }

    /// Its own end.
    pub(crate) fn end(mut self) {
        assert_eq!(self.line(), PLAYED);
        assert!(self.process.wait().expect("reaped").success());
    }
}
