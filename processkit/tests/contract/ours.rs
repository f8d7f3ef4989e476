//! What only this crate has: names of ours, and meanings that the published one does not keep.

use crate::rig::{lives, sh, sleeper, within};
use processkit::{
    Adopted, CancellationToken, Command, Error, Exit, Guardian, MechanismReason, Outcome, ProcessGroup,
    ProcessGroupOptions, ProcessIdentity, ProcessResult, Result, RunningProcess, Signal, Stdio,
};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

type Name = &'static str;
type Step<S, A> = fn(S, A) -> S;

fn future<T>(_: impl Future<Output = T> + Send) {}

/// Compiling is the test.
#[expect(dead_code, reason = "compiling is the test")]
fn names(command: &Command, group: ProcessGroup, mut process: RunningProcess, adopted: &Adopted) {
    let _: fn(Command, OwnedFd, i32) -> Command = Command::pass_fd;
    let _: Step<Command, OwnedFd> = Command::exe_fd;
    let _: Step<Command, Stdio> = Command::stdout;
    let _: Step<Command, Stdio> = Command::stderr;
    let _: Step<Command, OwnedFd> = Command::stdout;
    let _: Step<Command, std::fs::File> = Command::stderr;
    let _: Step<Command, Name> = Command::env_pid;
    let _: Step<Command, ProcessGroupOptions> = Command::group_options;
    let _ = [Stdio::Null, Stdio::Inherit, Stdio::Piped];
    let _: Step<ProcessGroupOptions, bool> = ProcessGroupOptions::guardian;
    let _: fn(Name, ProcessGroupOptions) -> Result<ProcessGroup> = ProcessGroup::named;
    let _: fn(Name) -> Result<ProcessGroup> = ProcessGroup::reopen;
    let _: fn(PathBuf) -> Result<ProcessGroup> = ProcessGroup::reopen_by_path;
    let _: fn(OwnedFd) -> Result<ProcessGroup> = ProcessGroup::reopen_by_fd;
    let _: fn(&mut ProcessGroup) = ProcessGroup::persist;
    let _: fn(&mut ProcessGroup) = ProcessGroup::kill_on_drop;
    let _: fn(ProcessGroup) = ProcessGroup::release;
    let _: fn(&ProcessGroup, &RunningProcess) -> Result<()> = ProcessGroup::release_process;
    let _: fn(&ProcessGroup) -> Result<()> = ProcessGroup::kill;
    let _: fn(&ProcessGroup) -> Result<bool> = ProcessGroup::is_empty;
    let _: fn(&ProcessGroup) -> Result<OwnedFd> = ProcessGroup::kill_fd;
    let _: fn(&ProcessGroup) -> Result<OwnedFd> = ProcessGroup::events_fd;
    let _: for<'a> fn(&'a ProcessGroup) -> Option<&'a Path> = ProcessGroup::location;
    let _: for<'a> fn(&'a ProcessGroup) -> Option<&'a Guardian> = ProcessGroup::guardian;
    let _: for<'a> fn(&'a ProcessGroup) -> &'a MechanismReason = ProcessGroup::mechanism_reason;
    let _: fn(&ProcessGroup, &Command) -> Result<RunningProcess> = ProcessGroup::start_blocking;
    let _: fn(OwnedFd) -> Result<Adopted> = Adopted::from_pidfd;
    let _: fn(&Adopted, Signal) -> Result<()> = Adopted::signal;
    let _: fn(&RunningProcess, Signal) -> Result<()> = RunningProcess::signal;
    let _: for<'a> fn(&'a RunningProcess) -> BorrowedFd<'a> = RunningProcess::pidfd;
    let _: fn(&RunningProcess) -> ProcessIdentity = RunningProcess::identity;
    let _: fn(&mut RunningProcess) -> Result<Option<Exit>> = RunningProcess::try_exit;
    let _: fn(&ProcessResult<String>) -> Option<i32> = ProcessResult::signal;
    let _: fn(&ProcessResult<String>) -> bool = ProcessResult::left_open;
    future::<Result<Exit>>(adopted.exit());
    future::<Result<()>>(adopted.gone());
    future::<Result<Exit>>(process.exit());
    future::<Result<()>>(group.wait_empty());
    future::<Result<()>>(group.remove());
    future::<Result<Option<String>>>(command.first_line(|line| line.is_empty()));
    future::<()>(processkit::settled());
}

#[tokio::test]
async fn a_first_line_that_is_cancelled_is_an_error() {
    let token = CancellationToken::new();
    let command = sleeper().cancel_on(token.clone());
    let cancel = async {
        tokio::task::yield_now().await;
        token.cancel();
    };
    let (line, ()) = within(async { tokio::join!(command.first_line(|_| true), cancel) }).await;
    assert!(matches!(line, Err(Error::Cancelled { .. })), "{line:?}");
}

/// A run that had already exited when the token fired keeps its result.
#[tokio::test]
async fn a_late_cancellation_changes_nothing() {
    let token = CancellationToken::new();
    let mut process = within(sh("echo x; exit 3").cancel_on(token.clone()).start()).await.expect("started");
    within(process.exit()).await.expect("an exit");
    token.cancel();
    let result = within(process.output_string()).await.expect("a result");
    assert_eq!((result.stdout().as_str(), result.code()), ("x", Some(3)));
}

#[tokio::test]
async fn the_signal_can_be_asked_for() {
    let result = within(sh("kill -9 $$").output_string()).await.expect("a result");
    assert_eq!((result.outcome(), result.signal()), (Outcome::Signalled, Some(9)));
}

/// Without escalation it is really spared, and may end as it likes.
#[tokio::test]
async fn the_stubborn_are_spared_if_asked_for() {
    let patience = Duration::from_millis(50);
    let options = ProcessGroupOptions::default().shutdown_timeout(patience).escalate_to_kill(false);
    for options in [options.clone(), options.force_process_group()] {
        let group = ProcessGroup::with_options(options).expect("a group");
        let stubborn = sh("trap '' TERM; echo up; read line; exit 5").keep_stdin_open();
        let mut process = within(group.start(&stubborn)).await.expect("started");
        let stdin = process.standard_input().expect("it was kept open");
        within(process.wait_for_line(|line| line == "up", Duration::from_secs(3600))).await.expect("up");
        within(group.shutdown()).await.expect("over");
        assert!(lives(process.pid().expect("not reaped")));
        drop(stdin);
        assert_eq!(within(process.wait()).await.expect("an end"), Some(5));
    }
}

/// At once, so that one that lives shortly is seen as well.
#[tokio::test]
async fn a_profile_has_looked_at_it() {
    let mut process = within(sh("read line; exit 5").keep_stdin_open().start()).await.expect("started");
    let stdin = process.standard_input().expect("it was kept open");
    // it lives until it was looked at
    let release = async {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        stdin.finish().await.expect("closed");
    };
    let profile = process.profile(Duration::from_millis(1));
    let (profile, ()) = within(async { tokio::join!(profile, release) }).await;
    let profile = profile.expect("a profile");
    assert_eq!(profile.exit_code, Some(5));
    assert!(profile.duration > Duration::ZERO);
    assert!(
        profile.cpu_time.is_some() && profile.peak_memory_bytes.is_some() && profile.samples > 0,
        "{profile:?}"
    );
}

/// The clock starts before the spawn: one that is at its end when the spawn returns has taken its time all the same.
#[tokio::test]
async fn a_run_took_at_least_what_it_used() {
    for _ in 0..20 {
        let mut process = within(sh("exit 0").start()).await.expect("started");
        within(process.exit()).await.expect("an exit");
        let used = process.usage().expect("known once it is reaped").cpu_time();
        let took = within(process.output_string()).await.expect("a result").duration();
        assert!(took >= used, "{took:?} < {used:?}");
    }
}
