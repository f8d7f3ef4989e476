//! Every item of the list that programs written for the published 0.9.1 may use, with its exact type. Compiling is the test:
//! nothing here is called.
//!
//! Compiled twice: against this crate, and by `benches/rivals` against the published one, which proves that the list is
//! what was published. What only this crate has is in `ours.rs`.

#![expect(dead_code, reason = "compiling is the test")]
#![deny(unreachable_patterns)]

use processkit::{
    Command, Error, JobRunner, Mechanism, Outcome, OutputBufferPolicy, OverflowMode, Pipeline, ProcessGroup,
    ProcessGroupOptions, ProcessGroupStats, ProcessResult, ProcessRunner, ProcessRunnerExt, ProcessStdin,
    RestartPolicy, Result, RunProfile, RunningProcess, Signal, StatsSampler, Stdin, StdoutLines, StopReason,
    SupervisionOutcome, Supervisor,
};
use std::ffi::{OsStr, OsString};
use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::io;
use std::net::SocketAddr;
use std::ops::BitOr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tokio_stream::Stream;

type Name = &'static str;
/// A builder's step.
type Step<S, A> = fn(S, A) -> S;

/// A future that yields exactly `T` and may move between threads.
fn future<T>(_: impl Future<Output = T> + Send) {}
fn send<T: Send>() {}
fn sync<T: Send + Sync>() {}
fn debug<T: Debug>() {}
/// A value of exactly this type.
fn is<T>(_: T) {}
fn plain<T: Copy + Eq + Debug>() {}
fn cloned<T: Clone + Debug>() {}

fn traits() {
    sync::<Command>();
    cloned::<Command>();
    sync::<Error>();
    debug::<Error>();
    send::<RunningProcess>();
    debug::<RunningProcess>();
    sync::<ProcessGroup>();
    debug::<ProcessGroup>();
    sync::<ProcessGroupOptions>();
    cloned::<ProcessGroupOptions>();
    sync::<ProcessResult<String>>();
    cloned::<ProcessResult<Vec<u8>>>();
    sync::<JobRunner>();
    cloned::<JobRunner>();
    debug::<Pipeline>();
    debug::<SupervisionOutcome>();
    plain::<Mechanism>();
    plain::<Outcome>();
    plain::<OutputBufferPolicy>();
    plain::<OverflowMode>();
    plain::<ProcessGroupStats>();
    plain::<RestartPolicy>();
    plain::<StopReason>();
    fn hashed<T: Copy + Eq + Hash + Debug>() {}
    hashed::<Signal>();
    fn profile<T: Copy + PartialEq + Debug>() {}
    profile::<RunProfile>();
    fn input<T: Clone + Send + 'static>() {}
    input::<Stdin>();
    send::<ProcessStdin>();
    fn stream<T, S: Stream<Item = T> + Unpin + Send>() {}
    stream::<String, StdoutLines>();
    stream::<ProcessGroupStats, StatsSampler<'static>>();
    fn owned<T: 'static>() {}
    owned::<StdoutLines>();
    fn defaults<T: Default>() {}
    defaults::<JobRunner>();
    defaults::<ProcessGroupOptions>();
    fn error<T: std::error::Error + From<io::Error> + Send + Sync + 'static>() {}
    error::<Error>();
    let _: fn(Result<()>) -> std::result::Result<(), Error> = |result| result;
}

fn command_builders<I, S>(list: fn() -> I)
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let command: fn(Name) -> Command = Command::new;
    let _: fn(OsString) -> Command = Command::new;
    let _: fn(&'static Path) -> Command = Command::new;
    let _: Step<Command, Name> = Command::arg;
    let _: Step<Command, String> = Command::arg;
    let _: Step<Command, PathBuf> = Command::arg;
    let _: Step<Command, I> = Command::args;
    let _ = command("x").args::<[Name; 1], Name>(["y"]).args(list());
    let _: Step<Command, Name> = Command::current_dir;
    let _: Step<Command, PathBuf> = Command::current_dir;
    let _: fn(Command, Name, String) -> Command = Command::env;
    let _: fn(Command, OsString, PathBuf) -> Command = Command::env;
    let _: Step<Command, &'static OsStr> = Command::env_remove;
    let _: fn(Command) -> Command = Command::env_clear;
    let _: Step<Command, I> = Command::inherit_env;
    let _ = command("x").inherit_env::<[Name; 1], Name>(["PATH"]).inherit_env(list());
    let _: Step<Command, u32> = Command::uid;
    let _: Step<Command, u32> = Command::gid;
    let _: Step<Command, Vec<u32>> = Command::groups;
    let _: Step<Command, [u32; 2]> = Command::groups;
    let _: Step<Command, &'static [u32]> = Command::groups;
    let _: fn(Command) -> Command = Command::setsid;
    let _: fn(Command) -> Command = Command::kill_on_parent_death;
    let _: Step<Command, Stdin> = Command::stdin;
    let _: fn(Command) -> Command = Command::keep_stdin_open;
    let _: fn(Command, Command) -> Pipeline = Command::pipe;
    let _: fn(Command, Command) -> Pipeline = BitOr::bitor;
    let _: fn(Command) -> Command = Command::unchecked;
    let _: Step<Command, Duration> = Command::timeout;
    let _: Step<Command, Duration> = Command::timeout_grace;
    let _: Step<Command, Signal> = Command::timeout_signal;
    let _: Step<Command, [i32; 2]> = Command::ok_codes;
    let _: Step<Command, Vec<i32>> = Command::ok_codes;
    let _: Step<Command, OutputBufferPolicy> = Command::output_buffer;
    let _: Step<Command, tokio_util::sync::CancellationToken> = Command::cancel_on;
    let _: Step<Command, processkit::CancellationToken> = Command::cancel_on;
    let _: for<'a> fn(&'a Command) -> &'a OsStr = Command::program;
    let _: for<'a> fn(&'a Command) -> &'a [OsString] = Command::arguments;
}

fn command_callbacks<L, P>(command: Command, line: fn() -> L, predicate: P) -> Command
where
    L: Fn(&str) + Send + Sync + 'static,
    P: Fn(&Error) -> bool + Send + Sync + 'static,
{
    command
        .on_stdout_line(line())
        .on_stdout_line::<L>(line())
        .on_stderr_line(line())
        .on_stderr_line::<L>(line())
        .retry(3_u32, Duration::ZERO, predicate)
        .on_stdout_line(|line| assert!(line.len() < 10))
        .retry(1, Duration::ZERO, |error| error.is_transient())
}

fn command_verbs<F: Fn(&str) -> bool + Send + Sync>(command: &Command, f: F) {
    future::<Result<RunningProcess>>(command.start());
    future::<Result<ProcessResult<String>>>(command.output_string());
    future::<Result<ProcessResult<Vec<u8>>>>(command.output_bytes());
    future::<Result<i32>>(command.exit_code());
    future::<Result<String>>(command.run());
    future::<Result<bool>>(command.probe());
    future::<Result<Option<String>>>(command.first_line(f));
    future::<Result<Option<String>>>(command.first_line(|line| line.is_empty()));
    future::<Result<String>>(processkit::run("x", ["y"]));
    future::<Result<String>>(processkit::run(OsString::new(), Vec::<String>::new()));
    future::<Result<ProcessResult<String>>>(processkit::output("x", ["y"]));
    future::<Result<ProcessResult<String>>>(processkit::output(PathBuf::new(), Vec::<String>::new()));
}

/// The predicate need not be `Send`; the future is not, then.
fn command_first_line<F: Fn(&str) -> bool>(command: &Command, f: F) {
    drop(command.first_line::<F>(f));
}

fn standard_input<R, S>(reader: R, stream: S) -> [Stdin; 8]
where
    R: tokio::io::AsyncRead + Send + 'static,
    S: Stream<Item = String> + Send + 'static,
{
    let _: fn(String) -> Stdin = Stdin::from_string;
    let _: fn(Vec<u8>) -> Stdin = Stdin::from_bytes;
    let _: fn(&'static Path) -> Stdin = Stdin::from_file;
    [
        Stdin::empty(),
        Stdin::from_string("x"),
        Stdin::from_string(String::new()),
        Stdin::from_bytes(*b"x"),
        Stdin::from_bytes("x"),
        Stdin::from_file(PathBuf::new()),
        Stdin::from_reader(reader),
        Stdin::from_lines(stream),
    ]
}

fn process_stdin(mut stdin: ProcessStdin) {
    future::<io::Result<()>>(stdin.write(b"x"));
    let bytes: &[u8] = &[1];
    future::<io::Result<()>>(stdin.write(bytes));
    future::<io::Result<()>>(stdin.write_line("x"));
    future::<io::Result<()>>(stdin.flush());
    future::<io::Result<()>>(stdin.finish());
}

fn buffer_policies() -> [OutputBufferPolicy; 4] {
    let _: fn(usize) -> OutputBufferPolicy = OutputBufferPolicy::bounded;
    let _: fn() -> OutputBufferPolicy = OutputBufferPolicy::unbounded;
    let _: Step<OutputBufferPolicy, OverflowMode> = OutputBufferPolicy::with_overflow;
    [
        OutputBufferPolicy::bounded(1),
        OutputBufferPolicy::unbounded(),
        OutputBufferPolicy::bounded(1).with_overflow(OverflowMode::DropOldest),
        OutputBufferPolicy::bounded(1).with_overflow(OverflowMode::DropNewest),
    ]
}

fn process_results<T>(result: &ProcessResult<T>) {
    let _: fn(&ProcessResult<T>) -> bool = ProcessResult::is_success;
    let _: fn(&ProcessResult<T>) -> Option<i32> = ProcessResult::code;
    let _: fn(&ProcessResult<T>) -> bool = ProcessResult::timed_out;
    let _: for<'a> fn(&'a ProcessResult<T>) -> &'a T = ProcessResult::stdout;
    let _: for<'a> fn(&'a ProcessResult<T>) -> &'a str = ProcessResult::stderr;
    let _: for<'a> fn(&'a ProcessResult<T>) -> &'a str = ProcessResult::program;
    let _: fn(&ProcessResult<T>) -> Outcome = ProcessResult::outcome;
    let _: fn(&ProcessResult<T>) -> Duration = ProcessResult::duration;
    let _: fn(&ProcessResult<T>) -> bool = ProcessResult::truncated;
    let _: fn(ProcessResult<T>) -> T = ProcessResult::into_stdout;
    let _: fn(&ProcessResult<String>) -> String = ProcessResult::<String>::combined;
    let _: for<'a> fn(&'a ProcessResult<String>) -> &'a str = ProcessResult::<String>::diagnostic;
    let _: fn(ProcessResult<String>) -> Result<ProcessResult<String>> =
        ProcessResult::<String>::ensure_success;
    match result.outcome() {
        Outcome::Exited(code) => is::<i32>(code),
        Outcome::Signalled | Outcome::TimedOut => {}
        _ => {}
    }
}

fn errors(error: Error) {
    let _: fn(&Error) -> bool = Error::is_not_found;
    let _: fn(&Error) -> bool = Error::is_permission_denied;
    let _: fn(&Error) -> bool = Error::is_transient;
    let _: for<'a> fn(&'a Error) -> Option<&'a str> = Error::diagnostic;
    let _: fn(io::Error) -> Error = Error::from;
    let _ = error.to_string();
    match error {
        Error::Spawn { program, source } => is::<(String, io::Error)>((program, source)),
        Error::Exit { program, code, stdout, stderr } => {
            is::<(String, i32, String, String)>((program, code, stdout, stderr));
        }
        Error::Timeout { program, timeout } => is::<(String, Duration)>((program, timeout)),
        Error::NotReady { program, timeout } => is::<(String, Duration)>((program, timeout)),
        Error::Unsupported { operation } => is::<String>(operation),
        Error::Cancelled { program } => is::<String>(program),
        Error::Io(source) => is::<io::Error>(source),
        #[cfg(feature = "limits")]
        Error::ResourceLimit(text) => is::<String>(text),
        _ => {}
    }
}

fn pipelines(pipeline: Pipeline, last: Command) {
    let _: Step<Pipeline, Command> = Pipeline::pipe;
    let _: Step<Pipeline, Duration> = Pipeline::timeout;
    future::<Result<ProcessResult<String>>>(pipeline.output_string());
    future::<Result<String>>(pipeline.run());
    let _: Pipeline = pipeline | last;
}

fn running(
    mut process: RunningProcess,
    other: RunningProcess,
    third: RunningProcess,
    fourth: RunningProcess,
) {
    let _: fn(&RunningProcess) -> Option<u32> = RunningProcess::pid;
    let _: fn(&RunningProcess) -> SystemTime = RunningProcess::start_time;
    let _: fn(&RunningProcess) -> Duration = RunningProcess::elapsed;
    let _: fn(&RunningProcess) -> Option<Duration> = RunningProcess::cpu_time;
    let _: fn(&RunningProcess) -> Option<u64> = RunningProcess::peak_memory_bytes;
    let _: fn(&RunningProcess) -> usize = RunningProcess::stdout_line_count;
    let _: fn(&RunningProcess) -> usize = RunningProcess::stderr_line_count;
    let _: fn(&mut RunningProcess) -> Option<ProcessStdin> = RunningProcess::standard_input;
    let _: fn(&mut RunningProcess) -> Result<()> = RunningProcess::start_kill;
    let lines: StdoutLines = process.stdout_lines();
    let _: fn(&mut RunningProcess) -> StdoutLines = RunningProcess::stdout_lines;
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    future::<Result<String>>(process.wait_for_line(|line| line.is_empty(), Duration::ZERO));
    future::<Result<()>>(process.wait_for(|| async { true }, Duration::ZERO));
    future::<Result<()>>(process.wait_for_port(address, Duration::ZERO));
    future::<Result<Option<i32>>>(process.wait());
    future::<Result<ProcessResult<String>>>(other.output_string());
    future::<Result<ProcessResult<Vec<u8>>>>(third.output_bytes());
    future::<Result<RunProfile>>(fourth.profile(Duration::ZERO));
    drop(lines);
}

fn probes<P, F, Fut>(process: &mut RunningProcess, line: P, check: F)
where
    P: Fn(&str) -> bool,
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    drop(process.wait_for_line(line, Duration::ZERO));
    drop(process.wait_for::<F, Fut>(check, Duration::ZERO));
}

fn streamed(process: RunningProcess) {
    future::<Result<(Option<i32>, String)>>(process.finish_streamed());
}

fn waits(list: &mut [&mut RunningProcess]) {
    future::<Result<(usize, Option<i32>)>>(processkit::wait_any(list));
    future::<Result<Vec<Option<i32>>>>(processkit::wait_all(list));
}

fn mechanisms(mechanism: Mechanism) {
    match mechanism {
        Mechanism::JobObject | Mechanism::CgroupV2 | Mechanism::ProcessGroup | Mechanism::None => {}
        _ => {}
    }
}

fn signals(signal: Signal) {
    match signal {
        Signal::Term | Signal::Kill | Signal::Int | Signal::Hup => {}
        Signal::Quit | Signal::Usr1 | Signal::Usr2 => {}
        Signal::Other(number) => is::<i32>(number),
        _ => {}
    }
}

fn groups(group: ProcessGroup, command: &Command, child: &tokio::process::Child) {
    let _: fn() -> Result<ProcessGroup> = ProcessGroup::new;
    let _: fn(ProcessGroupOptions) -> Result<ProcessGroup> = ProcessGroup::with_options;
    let _: Step<ProcessGroupOptions, Duration> = ProcessGroupOptions::shutdown_timeout;
    let _: Step<ProcessGroupOptions, bool> = ProcessGroupOptions::escalate_to_kill;
    let _: fn(&ProcessGroup) -> Result<()> = ProcessGroup::terminate_all;
    let _: fn(&ProcessGroup) -> Mechanism = ProcessGroup::mechanism;
    let _: fn(&ProcessGroup, &tokio::process::Child) -> Result<()> = ProcessGroup::adopt;
    let _: fn(&ProcessGroup, Signal) -> Result<()> = ProcessGroup::signal;
    let _: fn(&ProcessGroup) -> Result<()> = ProcessGroup::suspend;
    let _: fn(&ProcessGroup) -> Result<()> = ProcessGroup::resume;
    let _: fn(&ProcessGroup) -> Result<Vec<u32>> = ProcessGroup::members;
    let _: fn(&ProcessGroup) -> Result<ProcessGroupStats> = ProcessGroup::stats;
    let _: for<'a> fn(&'a ProcessGroup, Duration) -> StatsSampler<'a> = ProcessGroup::sample_stats;
    let _ = group.adopt(child);
    future::<Result<RunningProcess>>(group.start(command));
    future::<Result<()>>(group.shutdown());
}

#[cfg(feature = "limits")]
fn limits() {
    let _: Step<ProcessGroupOptions, u64> = ProcessGroupOptions::memory_max;
    let _: Step<ProcessGroupOptions, u32> = ProcessGroupOptions::max_processes;
    let _: Step<ProcessGroupOptions, f64> = ProcessGroupOptions::cpu_quota;
}

fn stats(stats: ProcessGroupStats, profile: RunProfile) {
    let ProcessGroupStats { active_process_count, total_cpu_time, peak_memory_bytes, .. } = stats;
    is::<(usize, Option<Duration>, Option<u64>)>((active_process_count, total_cpu_time, peak_memory_bytes));
    let RunProfile { exit_code, duration, cpu_time, peak_memory_bytes, samples, .. } = profile;
    is::<(Option<i32>, Duration)>((exit_code, duration));
    is::<(Option<Duration>, Option<u64>, usize)>((cpu_time, peak_memory_bytes, samples));
}

/// A runner from outside, as `#[async_trait]` writes it.
struct Outside;

#[async_trait::async_trait]
impl ProcessRunner for Outside {
    async fn output(&self, command: &Command) -> Result<ProcessResult<String>> {
        JobRunner.output(command).await
    }

    async fn start(&self, command: &Command) -> Result<RunningProcess> {
        JobRunner.start(command).await
    }
}

fn runners(group: &ProcessGroup, object: &dyn ProcessRunner, command: &Command) {
    fn runner<R: ProcessRunner + ?Sized>(_: &R) {}
    runner(group);
    runner(&group);
    runner(&JobRunner);
    runner(&&JobRunner);
    runner(&Outside);
    runner(object);
    runner(&object);
    let _: Box<dyn ProcessRunner> = Box::new(Outside);
    future::<Result<ProcessResult<String>>>(object.output(command));
    future::<Result<RunningProcess>>(object.start(command));
    future::<Result<String>>(object.run(command));
    future::<Result<()>>(object.run_unit(command));
    future::<Result<i32>>(object.exit_code(command));
    future::<Result<bool>>(object.probe(command));
    future::<Result<ProcessResult<String>>>(object.checked(command));
    future::<Result<String>>(Outside.run(command));
    future::<Result<String>>(ProcessRunnerExt::run(group, command));
    type Slots = Vec<Result<ProcessResult<String>>>;
    future::<Slots>(processkit::output_all(vec![command.clone()], 4_usize, object));
    future::<Slots>(processkit::output_all([command.clone()], 4_usize, &JobRunner));
    future::<Slots>(processkit::output_all([command.clone()], 4_usize, group));
}

fn supervisors<R, R2, F>(supervisor: Supervisor<R>, runner: R2, predicate: F)
where
    R: ProcessRunner,
    R2: ProcessRunner,
    F: Fn(&ProcessResult<String>) -> bool + Send + Sync + 'static,
{
    let _: fn(Command) -> Supervisor<JobRunner> = Supervisor::new;
    let _: fn(Command) -> Supervisor = Supervisor::new;
    let _: Step<Supervisor<R>, RestartPolicy> = Supervisor::restart;
    let _: Step<Supervisor<R>, u32> = Supervisor::max_restarts;
    let _: fn(Supervisor<R>, Duration, f64) -> Supervisor<R> = Supervisor::backoff;
    let _: Step<Supervisor<R>, Duration> = Supervisor::max_backoff;
    let _: Step<Supervisor<R>, bool> = Supervisor::jitter;
    let _: Step<Supervisor<R>, Duration> = Supervisor::storm_pause;
    let _: Step<Supervisor<R>, Duration> = Supervisor::failure_decay;
    let _: Step<Supervisor<R>, f64> = Supervisor::failure_threshold;
    let _: fn(Supervisor<R>, R2) -> Supervisor<R2> = Supervisor::with_runner;
    let supervisor = supervisor.stop_when(|result| result.is_success()).stop_when(predicate);
    let other: Supervisor<R2> = supervisor.with_runner::<R2>(runner);
    future::<Result<SupervisionOutcome>>(other.run());
    future::<Result<SupervisionOutcome>>(Supervisor::new(Command::new("x")).run());
}

fn outcomes(outcome: SupervisionOutcome, policy: RestartPolicy) {
    let SupervisionOutcome { final_result, restarts, stopped, storm_pauses, .. } = outcome;
    is::<(ProcessResult<String>, u32, u32)>((final_result, restarts, storm_pauses));
    match stopped {
        StopReason::Predicate | StopReason::PolicySatisfied | StopReason::RestartsExhausted => {}
        _ => {}
    }
    match policy {
        RestartPolicy::Always | RestartPolicy::OnCrash | RestartPolicy::Never => {}
        _ => {}
    }
}

/// The re-exported extension trait is tokio-stream's own.
async fn reexports(mut lines: StdoutLines) -> Option<String> {
    use processkit::StreamExt;
    fn same<S: Stream + Unpin>(stream: &mut S) -> impl Future<Output = Option<S::Item>> {
        tokio_stream::StreamExt::next(stream)
    }
    same(&mut lines).await;
    lines.next().await
}
