//! What the tests share: groups with names of their own, events with one deadline, and eyes on `/proc`.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use processkit::{
    Adopted, Command, Mechanism, ProcessGroup, ProcessGroupOptions, RunningProcess, pidfd_open,
};
use std::fmt::{Debug, Display};
use std::fs::File;
use std::future::Future;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::unix::pipe;

/// Far more than anything here takes on a machine that does ten other things. Reached only if something hangs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// The result of a wait, or a panic that says what did not happen.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// What comes of something while something else goes on: a panic if that ends first.
pub(crate) async fn during<T>(run: impl Future<Output: Debug>, other: impl Future<Output = T>) -> T {
    tokio::select! {
        biased;
        early = run => panic!("too early: {early:?}"),
        result = other => result,
    }
}

/// One look at what is not to end yet.
pub(crate) async fn pending(run: impl Future<Output: Debug>) {
    during(run, tokio::task::yield_now()).await;
}

/// Whether tests that need a cgroup can run; says what is missing, and fails where everything is required.
pub(crate) fn cgroups() -> bool {
    let group = ProcessGroup::new().expect("a group");
    if group.mechanism() == Mechanism::CgroupV2 {
        return true;
    }
    missing(format!("cgroup v2: {}", group.mechanism_reason()));
    false
}

/// Something is not tested because of this; a failure where everything is required.
pub(crate) fn missing(what: impl Display) {
    assert!(std::env::var_os("HANDOFF_REQUIRE_ALL").is_none_or(|v| v != "1"), "missing: {what}");
    eprintln!("not tested, missing: {what}");
}

/// Both mechanisms, as far as they are there.
pub(crate) fn mechanisms() -> Vec<ProcessGroupOptions> {
    let mut all = vec![ProcessGroupOptions::default().force_process_group()];
    if cgroups() {
        all.push(ProcessGroupOptions::default());
        all.push(ProcessGroupOptions::default().without_clone3());
    }
    all
}

/// A group of each mechanism, one after the other.
pub(crate) fn groups() -> impl Iterator<Item = ProcessGroup> {
    mechanisms().into_iter().map(|options| ProcessGroup::with_options(options).expect("a group"))
}

/// For a test that is not in one.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A name no other test has.
pub(crate) fn unique(name: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("test-{name}-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// `sh -c script`.
pub(crate) fn sh(script: &str) -> Command {
    Command::new("/bin/sh").arg("-c").arg(script)
}

/// Sleeps for as long as anybody may wait.
pub(crate) fn sleeper() -> Command {
    Command::new("sleep").arg("1000")
}

/// A process of a group.
pub(crate) async fn started(group: &ProcessGroup, command: &Command) -> RunningProcess {
    within("the start", group.start(command)).await.expect("started")
}

/// A process of a group, and what it says. The end of that comes when nobody can write any more.
pub(crate) async fn speaker(group: &ProcessGroup, command: Command) -> (RunningProcess, Output) {
    let (command, output) = Output::of(command);
    (started(group, &command).await, output)
}

/// A process by its pid, while it is there.
pub(crate) fn adopted(pid: u32) -> Adopted {
    Adopted::from_pidfd(pidfd_open(pid).expect("a pidfd")).expect("adopted")
}

/// A pipe whose end for reading stays here.
pub(crate) fn pipe() -> (File, OwnedFd) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    (File::from(OwnedFd::from(reader)), writer.into())
}

/// The lines of a command's standard output, as they come.
pub(crate) struct Output(Lines<BufReader<pipe::Receiver>>);

impl Output {
    /// The command with its standard output led here. Drop the command after the start, or the end of the file never comes.
    pub(crate) fn of(command: Command) -> (Command, Output) {
        let (output, writer) = Output::pipe();
        (command.stdout(writer), output)
    }

    /// Lines for whoever gets a copy of the writer. The end comes when every copy is closed.
    pub(crate) fn pipe() -> (Output, OwnedFd) {
        let (reader, writer) = pipe();
        let receiver = pipe::Receiver::from_file(reader).expect("a pipe for the runtime");
        (Output(BufReader::new(receiver).lines()), writer)
    }

    pub(crate) async fn next_line(&mut self) -> Option<String> {
        within("a line of output, or its end", self.0.next_line()).await.expect("readable")
    }

    pub(crate) async fn line(&mut self) -> String {
        self.next_line().await.expect("a line before the end")
    }

    pub(crate) async fn pid(&mut self) -> u32 {
        let line = self.line().await;
        line.trim().parse().unwrap_or_else(|_| panic!("not a pid: {line}"))
    }

    pub(crate) async fn end(&mut self) {
        assert_eq!(self.next_line().await, None);
    }
}

/// Run a command to its end in a group of its own, and give its output.
pub(crate) async fn output(options: &ProcessGroupOptions, command: Command) -> String {
    let group = ProcessGroup::with_options(options.clone()).expect("a group");
    let (mut reader, writer) = pipe();
    let mut process = started(&group, &command.stdout(writer)).await;
    let exit = within("the end of the command", process.exit()).await.expect("an exit");
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("text");
    assert!(exit.success(), "{exit}: {text}");
    group.remove().await.expect("removed");
    text
}

/// Alive, and not a zombie.
pub(crate) fn lives(pid: u32) -> bool {
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// The state in `/proc/<pid>/stat`; `None` without such a process.
pub(crate) fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// How many descriptors this process has open.
pub(crate) fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("a list").count()
}

/// Do what blocks in a thread that nobody waits for: a runtime would wait for its own, and hide the panic of a wait in vain.
pub(crate) async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || sender.send(work()).ok());
    receiver.await.expect("no panic")
}

/// Until a file or directory is not there any more: told by the kernel, not by a clock.
pub(crate) async fn vanished(path: &Path) {
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
    let path = path.to_owned();
    let waiting = apart(move || {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC).expect("inotify");
        let parent = path.parent().expect("a parent");
        match inotify.add_watch(parent, AddWatchFlags::IN_DELETE) {
            Err(nix::Error::ENOENT) => return, // the directory of all groups went with the last one
            other => other.expect("a watch"),
        };
        while path.exists() {
            inotify.read_events().expect("events");
        }
    });
    within("the removal of a directory", waiting).await;
}

/// Until the process is not even a zombie any more: the kernel hangs its pidfd up (Linux 6.9).
pub(crate) async fn reaped(pidfd: OwnedFd) {
    told("a zombie to be reaped", pidfd, PollFlags::empty()).await;
}

/// Until nothing of this process runs any more.
pub(crate) async fn gone(pid: u32) {
    let Ok(pidfd) = pidfd_open(pid) else { return };
    let Ok(adopted) = Adopted::from_pidfd(pidfd) else { return };
    within("the end of a process", adopted.gone()).await.expect("watched");
}

/// Until a child of ours has ended, whoever takes its status.
pub(crate) async fn ended(process: &RunningProcess) {
    told("the end of a process", copy(process.pidfd()), PollFlags::POLLIN).await;
}

/// Until the kernel says one of these of a descriptor, or that it hung up.
async fn told(what: &str, fd: OwnedFd, flags: PollFlags) {
    let waiting = apart(move || {
        poll(&mut [PollFd::new(fd.as_fd(), flags)], PollTimeout::NONE).expect("polled");
    });
    within(what, waiting).await;
}

pub(crate) fn copy(fd: BorrowedFd<'_>) -> OwnedFd {
    fd.try_clone_to_owned().expect("a copy")
}

/// How it ended, once it has.
pub(crate) async fn exit_of(process: &mut RunningProcess) -> processkit::Exit {
    within("the exit", process.exit()).await.expect("an exit")
}

/// It lived until now: it ends by a signal that nobody else sends. (To look whether it lives says less: a kill takes a moment.)
pub(crate) async fn lived_until_now(process: &Adopted) {
    process.signal(processkit::Signal::Term).expect("sent");
    let exit = within("the end of a process", process.exit()).await.expect("an exit");
    assert!(!exit.is_known() || exit.signal == Some(15), "somebody else ended it: {exit}");
}
