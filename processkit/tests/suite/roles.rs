//! Owners in processes of their own: this binary started again with a role. A role ends by being killed, or by its script.

use crate::rig::within;
use processkit::{Command, Mechanism, ProcessGroup, ProcessGroupOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Stdio};
use tokio::sync::{Mutex, MutexGuard};

const ROLE: &str = "PROCESSKIT_TEST_ROLE";
const NAME: &str = "PROCESSKIT_TEST_NAME";

/// A command that plays a role. It speaks on standard output and waits for the end of standard input.
pub(crate) fn play(role: &str, name: &str) -> std::process::Command {
    // not by its path: it may be built again while this runs
    let mut command = std::process::Command::new(format!("/proc/{}/exe", std::process::id()));
    command.args(["--exact", "roles::role", "--nocapture", "--quiet"]).env(ROLE, role).env(NAME, name);
    command
}

/// [`play`], for a group. It says what it says without the end of a line before it.
pub(crate) fn part(role: &str, name: &str) -> Command {
    let play = play(role, name);
    let part = Command::new(play.get_program()).args(play.get_args());
    let part = play.get_envs().fold(part, |part, (key, value)| part.env(key, value.unwrap_or_default()));
    part.stderr(processkit::Stdio::Inherit)
}

/// An owner in a process of its own. One at a time: each sweeps when it starts, and some tests leave things to be swept.
pub(crate) struct Owner {
    process: Child,
    lines: BufReader<ChildStdout>,
    _alone: MutexGuard<'static, ()>,
}

impl Owner {
    pub(crate) async fn play(role: &str, name: &str) -> Owner {
        let alone = alone().await;
        Self::play_more(role, name, alone)
    }

    pub(crate) fn play_more(role: &str, name: &str, alone: MutexGuard<'static, ()>) -> Owner {
        let mut command = play(role, name);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("played");
        let lines = BufReader::new(process.stdout.take().expect("a pipe"));
        Owner { process, lines, _alone: alone }
    }

    /// The next thing it says, past what the test harness says.
    pub(crate) fn line(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.lines.read_line(&mut line).expect("readable"), 0, "the owner ended early");
            if let Some((_, said)) = line.split_once("> ") {
                return said.trim_end().to_owned();
            }
        }
    }

    pub(crate) fn pid(&mut self) -> u32 {
        self.line().parse().expect("a pid")
    }

    /// SIGKILL, no chance to tidy up.
    pub(crate) fn die(mut self) -> MutexGuard<'static, ()> {
        self.process.kill().expect("killed");
        self.process.wait().expect("reaped");
        self._alone
    }

    pub(crate) fn end(mut self) -> MutexGuard<'static, ()> {
        assert!(self.process.wait().expect("reaped").success());
        self._alone
    }
}

async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    let alone = ALONE.lock().await;
    drop(ProcessGroup::new().expect("a group")); // so that our own first sweep is behind us
    within("the background", processkit::settled()).await;
    alone
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
        Ok("one group") => one_group(),
        Ok("few descriptors") => few_descriptors(),
        Ok("settle") => settle(),
        Ok("swallow bounded") => swallow(processkit::OutputBufferPolicy::bounded(10)),
        Ok("swallow unbounded") => swallow(processkit::OutputBufferPolicy::unbounded()),
        Ok("dies") => dies(),
        Ok("dumpable") => dumpable(),
        Ok("closed") => closed(),
        Ok("refused") => crate::privileges::refused(),
        Ok("usage") => usage(),
        Ok("guard") => crate::guardian::guard(&name),
        Ok("bare") => crate::groups::bare(&name),
        Ok("tidy") => crate::groups::tidy(),
        Ok("guards") => crate::guardian::guards(),
        Ok(other) => panic!("no such role: {other}"),
        Err(_) => assert!(play("persist", "x").get_args().any(|a| a == "roles::role")),
    }
}

pub(crate) fn say(line: impl std::fmt::Display) {
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
    use crate::rig::{mechanisms, no_more_descriptors};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut before = None;
        for _ in 0..2 {
            for options in mechanisms() {
                let shared = ProcessGroup::with_options(options.clone()).expect("a group");
                for cycle in 0..200 {
                    let own = (cycle % 4 == 0)
                        .then(|| ProcessGroup::with_options(options.clone()).expect("a group"));
                    let group = own.as_ref().unwrap_or(&shared);
                    let mut process = group.start(&Command::new("true")).await.expect("started");
                    assert!(process.exit().await.expect("an exit").success());
                    drop(group.start(&Command::new("true")).await.expect("started"));
                    let refused = Command::new("true").rlimit(processkit::Resource::Stack, 2, 1);
                    assert!(group.start(&refused).await.is_err());
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
            no_more_descriptors(&mut before).await; // the runtime and the reaper have theirs by the end of the first round
        }
    });
    say("no growth");
}

/// Spawn and exit in a group that lives on.
fn one_group() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for options in crate::rig::mechanisms() {
            let group = ProcessGroup::with_options(options).expect("a group");
            let mut before = None;
            for runs in [5, 100] {
                for _ in 0..runs {
                    let process = group.start(&Command::new("true")).await.expect("started");
                    assert_eq!(process.wait().await.expect("an exit"), Some(0));
                }
                crate::rig::no_more_descriptors(&mut before).await;
            }
            group.remove().await.expect("gone");
        }
    });
    say("no growth");
}

/// Signal more than there are descriptors, which a cgroup once could not. And kill them, with a few left for the walk, and with
/// none at all for a cgroup, whose kill once needed one, so that a drop without any left the tree alive.
fn few_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    use processkit::StreamExt;
    const MEMBERS: usize = 60;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let acts = |options: ProcessGroupOptions| [(options.clone(), false), (options, true)];
        for (options, kill) in crate::rig::mechanisms().into_iter().flat_map(acts) {
            let group = ProcessGroup::with_options(options).expect("a group");
            let script = format!("for i in $(seq {MEMBERS}); do sleep 1000 & echo $i; done; wait");
            let mut tree = group.start(&crate::rig::sh(&script)).await.expect("started");
            let all = tree.stdout_lines().take(MEMBERS).collect::<Vec<_>>();
            assert_eq!(within("the members", all).await.len(), MEMBERS);
            let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
            let few = crate::rig::open_descriptors() + if kill { 8 } else { 40 };
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
    });
    say("ended");
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

/// Read 100 MiB without an end of line, and say the most memory that took.
fn swallow(policy: processkit::OutputBufferPolicy) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let command = Command::new("head").args(["-c", "100M", "/dev/zero"]).output_buffer(policy);
    let result = runtime.block_on(command.output_bytes()).expect("a result");
    assert!(result.is_success());
    let status = std::fs::read_to_string("/proc/self/status").expect("our status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    say(peak.trim().strip_suffix(" kB").expect("kilobytes").parse::<u64>().expect("a number") * 1024);
}

/// Holds nothing open that its starter could wait for.
pub(crate) fn quiet_sleep() -> Command {
    use processkit::Stdio;
    Command::new("sleep").arg("1000").stdout(Stdio::Null).stderr(Stdio::Null)
}

/// Two children that outlive their group, one of them bound to this process; wait to be killed.
fn dies() {
    let options = ProcessGroupOptions::default().force_process_group();
    let mut group = ProcessGroup::with_options(options).expect("a group");
    group.persist();
    for command in [quiet_sleep().kill_on_parent_death(), quiet_sleep()] {
        say(group.start_blocking(&command).expect("started").pid().expect("a pid"));
    }
    let _ = std::io::stdin().read(&mut [0]); // returns when whoever started us ends
}

/// Children of another uid that execute their program, and one that cannot.
fn dumpable() {
    let is_dumpable = || nix::sys::prctl::get_dumpable().expect("an answer");
    assert!(is_dumpable(), "control");
    let group = ProcessGroup::new().expect("a group");
    for program in ["true", "/no/such/program"] {
        let command = Command::new(program).uid(54_321);
        assert_eq!(group.start_blocking(&command).is_ok(), program == "true");
        assert!(is_dumpable());
    }
    say("still dumpable");
}

/// Pass a borrowed descriptor that was closed behind its owner's back.
fn closed() {
    use std::os::fd::{AsFd, AsRawFd};
    let (_reader, writer) = crate::rig::pipe();
    nix::unistd::close(writer.as_raw_fd()).expect("closed");
    let command = Command::new("true").pass_fd(writer.as_fd(), 7);
    std::mem::forget(writer);
    let group = ProcessGroup::new().expect("a group");
    say(group.start_blocking(&command).expect_err("closed"));
    assert!(group.is_empty().expect("an answer"));
}

/// A child that uses memory and time, and the control: one that uses next to nothing, although it lives in the memory of this
/// process until its exec.
fn usage() {
    use crate::rig::{mechanisms, sh};
    use processkit::Stdio;
    let ballast = vec![1u8; 32 << 20];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for options in mechanisms() {
            let group = ProcessGroup::with_options(options).expect("a group");
            // A child of its own uses the memory: that counts, since the shell waits for it.
            let busy = sh("head -c 150000000 /dev/zero | tail -c 120000000 >/dev/null");
            for (command, heavy) in [(busy, true), (Command::new("true"), false)] {
                let command = command.stdout(Stdio::Null).stderr(Stdio::Null);
                let mut process = group.start(&command).await.expect("started");
                assert_eq!(process.usage(), None, "not before the reap");
                assert!(process.exit().await.expect("an exit").success());
                let usage = process.usage().expect("known now");
                if heavy {
                    assert!(usage.cpu_time() > std::time::Duration::ZERO, "{usage:?}");
                    assert!(usage.max_rss_bytes.is_some_and(|bytes| bytes > 100 << 20), "{usage:?}");
                } else {
                    assert_eq!(usage.max_rss_bytes, None, "this process's, not its own: {usage:?}");
                }
            }
            group.remove().await.expect("gone");
        }
    });
    drop(ballast);
    say("told apart");
}
