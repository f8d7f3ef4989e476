//! Programs that run to their end, and what /proc says of processes.

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Everything that a test waits for comes within this, or the test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How a program ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it said.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Finished {
    /// The one JSON object on the one line of stdout.
    ///
    /// # Panics
    /// When there is not exactly that.
    #[must_use]
    pub fn json(&self) -> Value {
        assert_eq!(self.stdout.matches('\n').count(), 1, "one line is promised: {self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// # Panics
    /// When the exit code is another one.
    #[track_caller]
    pub fn expect_code(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }
}

/// Runs a program to its end.
///
/// # Panics
/// When it cannot be started or does not end in time.
#[must_use]
pub fn finish(command: &mut Command) -> Finished {
    let began = Instant::now();
    let shown = format!("{command:?}");
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{shown}: {e}"));
    let pid = pid_of(&child);
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    let output = match ended.recv_timeout(PATIENCE * 5) {
        Ok(output) => output.unwrap_or_else(|e| panic!("{shown}: {e}")),
        Err(_) => {
            let _ = kill(pid, Signal::SIGKILL);
            panic!("{shown}: still running after {:?}", began.elapsed());
        }
    };
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: began.elapsed(),
    }
}

/// Open descriptors of a process.
#[must_use]
pub fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Threads of a process.
#[must_use]
pub fn threads(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

/// Whether a process is there and no zombie.
#[must_use]
pub fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// The control group of a process, if the machine has cgroup v2.
#[must_use]
pub fn cgroup_of(pid: u32) -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        right.starts_with("cgroup2 ").then(|| left.split(' ').nth(4))?
    })?;
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(Path::new(mount).join(path.trim_start_matches('/')))
}

/// Waits until one of the two is readable, or panics at the deadline.
pub(super) fn readable(one: &impl AsFd, other: &impl AsFd, deadline: Instant) -> (bool, bool) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds =
        [PollFd::new(one.as_fd(), PollFlags::POLLIN), PollFd::new(other.as_fd(), PollFlags::POLLIN)];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(0) => panic!("nothing happened in time"),
            Ok(_) => return (fds[0].any().unwrap_or(false), fds[1].any().unwrap_or(false)),
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => panic!("poll: {e}"),
        }
    }
}

/// Waits for the end of a process; false at the deadline.
#[must_use]
pub fn ended_by(pidfd: &impl AsFd, deadline: Instant) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => panic!("poll: {e}"),
        }
    }
}

/// Waits until something that names in a directory show is so; false when it does not come to that.
pub(super) fn watch(dir: &Path, is: impl Fn() -> bool) -> bool {
    let notify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).expect("inotify");
    let names = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVE | AddWatchFlags::IN_DELETE;
    match notify.add_watch(dir, names) {
        Ok(_) => {}
        // what is not there has no names
        Err(nix::errno::Errno::ENOENT) => return is(),
        Err(e) => panic!("{}: {e}", dir.display()),
    }
    let deadline = Instant::now() + PATIENCE;
    while !is() {
        if !ended_by(&notify, deadline) {
            return false;
        }
        let _ = notify.read_events();
    }
    true
}

/// Waits for the end of a process by its number.
///
/// # Panics
/// When it does not end in time.
pub fn wait_gone(pid: u32) {
    // gone already is gone
    let Ok(pidfd) = processkit::pidfd_open(pid) else { return };
    assert!(ended_by(&pidfd, Instant::now() + PATIENCE), "process {pid} does not end");
}

/// Stops a process, and waits until each of its threads stands still.
///
/// The signal alone is a request: a thread on another core goes on for a moment, and may accept or answer meanwhile.
///
/// # Panics
/// When there is no such process of ours, or it does not stop.
pub fn stop(process: u32) {
    nix::sys::signal::kill(pid(process), nix::sys::signal::Signal::SIGSTOP).expect("a process of ours");
    let deadline = Instant::now() + PATIENCE;
    while !stands_still(process) {
        assert!(Instant::now() < deadline, "process {process} does not stop");
        std::thread::yield_now();
    }
}

fn stands_still(process: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("a process of ours");
    tasks.filter_map(Result::ok).all(|task| {
        // a thread that has ended meanwhile has no file
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['T', 'Z', 'X']))
    })
}

pub(super) fn pid(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).expect("a pid"))
}

pub(super) fn pid_of(child: &Child) -> Pid {
    pid(child.id())
}
