//! What only this crate has: names of ours, and meanings that the published one does not keep.

use crate::rig::{sh, within};
use processkit::{
    Adopted, Command, Exit, Guardian, MechanismReason, ProcessGroup, ProcessGroupOptions, ProcessIdentity,
    ProcessResult, Result, RunningProcess, Signal, Stdio,
};
use std::cell::Cell;
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
    let (one, two) = (Cell::new(true), Cell::new(true)); // may be sent, not shared
    future::<Result<Option<String>>>(command.first_line(move |_| one.get()));
    future::<Result<String>>(process.wait_for_line(move |_| two.get(), Duration::ZERO));
    future::<()>(processkit::settled());
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
