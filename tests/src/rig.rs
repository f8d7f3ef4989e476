//! A supervised demo-server of one's own: private directories, a free port, gone when dropped.

use crate::bins::Programs;
use crate::client::Client;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
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

/// What a [`Rig`] is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    programs: &'static Programs,
    program: PathBuf,
    program_args: Vec<String>,
    run_args: Vec<String>,
    supervisor_env: Vec<(String, String)>,
}

impl Setup {
    /// demo-server under `handoffctl run`, from this build.
    #[must_use]
    pub fn new(programs: &'static Programs) -> Setup {
        Setup {
            programs,
            program: programs.demo_server.clone(),
            program_args: Vec::new(),
            run_args: Vec::new(),
            supervisor_env: Vec::new(),
        }
    }

    /// Another server program.
    #[must_use]
    pub fn program(mut self, program: impl Into<PathBuf>) -> Setup {
        self.program = program.into();
        self
    }

    /// More arguments for the server.
    #[must_use]
    pub fn program_args(mut self, args: &[&str]) -> Setup {
        self.program_args.extend(args.iter().map(ToString::to_string));
        self
    }

    /// More arguments for `handoffctl run`.
    #[must_use]
    pub fn run_args(mut self, args: &[&str]) -> Setup {
        self.run_args.extend(args.iter().map(ToString::to_string));
        self
    }

    /// A variable of the supervisor's own environment (crash points).
    #[must_use]
    pub fn supervisor_env(mut self, key: &str, value: &str) -> Setup {
        self.supervisor_env.push((key.into(), value.into()));
        self
    }

    /// Makes the directories and starts; returns when the server answers.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start(self) -> Rig {
        let mut rig = self.idle();
        rig.run();
        rig
    }

    /// Makes the directories and starts nothing.
    ///
    /// # Panics
    /// When the directories cannot be made.
    #[must_use]
    pub fn idle(self) -> Rig {
        let dir = tempfile::Builder::new().prefix("handoff-").tempdir().expect("a temporary directory");
        let (run_dir, data_dir, marks) = (dir.path().join("run"), dir.path().join("data"), dir.path().join("marks"));
        for path in [&run_dir, &data_dir, &marks] {
            std::fs::create_dir(path).expect("a directory of ours");
            let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
            std::fs::set_permissions(path, private).expect("a directory of ours");
        }
        Rig { setup: self, addr: free_port(), run_dir, data_dir, marks, supervisor: None, starts: 0, dir }
    }
}

/// A supervised server.
#[derive(Debug)]
pub struct Rig {
    setup: Setup,
    /// Where the server listens.
    pub addr: SocketAddrV4,
    /// `--run-dir`
    pub run_dir: PathBuf,
    /// `--data-dir`
    pub data_dir: PathBuf,
    /// Where bad successors leave word that they reached their fault.
    pub marks: PathBuf,
    supervisor: Option<Child>,
    starts: u32,
    // last: removed when the processes are gone
    dir: tempfile::TempDir,
}

impl Rig {
    /// The directory that holds everything; removed at the end.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The build in use.
    #[must_use]
    pub fn programs(&self) -> &'static Programs {
        self.setup.programs
    }

    /// The `handoffctl run` of this rig, not started.
    #[must_use]
    pub fn run_command(&self) -> Command {
        let mut command = Command::new(&self.setup.programs.handoffctl);
        command.arg("run").arg("--run-dir").arg(&self.run_dir).arg("--data-dir").arg(&self.data_dir);
        command.arg("--listen").arg(format!("resp={}", self.addr));
        command.arg("--env").arg(format!("REACHED_DIR={}", self.marks.display()));
        command.args(["--env", "RUST_LOG"]).args(&self.setup.run_args).arg("--").arg(&self.setup.program);
        command.arg("--data").arg(&self.data_dir).args(&self.setup.program_args);
        command.env_remove("HANDOFF_CRASH").env_remove("HANDOFF_CRASH_TRACE");
        if std::env::var_os("RUST_LOG").is_none() {
            command.env("RUST_LOG", "info");
        }
        command.envs(self.setup.supervisor_env.iter().map(|(k, v)| (k, v)));
        command
    }

    /// Other variables for the supervisor's environment from the next start on.
    pub fn set_supervisor_env(&mut self, env: &[(&str, &str)]) {
        self.setup.supervisor_env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    }

    /// Starts the supervisor and returns when the server answers.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn run(&mut self) {
        self.spawn_supervisor();
        self.wait_until_served();
    }

    /// Starts the supervisor and returns when it answers operators.
    ///
    /// # Panics
    /// When it ends instead.
    pub fn spawn_supervisor(&mut self) {
        let notify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).expect("inotify");
        let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        notify.add_watch(&self.run_dir, flags).expect("a directory of ours");
        // what a killed supervisor left is no sign of life
        let _ = std::fs::remove_file(self.socket());
        let log = File::options().create(true).append(true).open(self.log_path()).expect("a log of ours");
        let mut command = self.run_command();
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log of ours")).stderr(log);
        let child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        self.starts += 1;
        let pidfd = processkit::pidfd_open(child.id()).expect("a child of ours");
        self.supervisor = Some(child);
        let deadline = Instant::now() + PATIENCE;
        while !self.socket().exists() {
            let (_, ended) = readable(&notify, &pidfd, deadline);
            if ended {
                panic!("the supervisor ended before it answered:\n{}", self.log());
            }
            let _ = notify.read_events();
        }
    }

    fn socket(&self) -> PathBuf {
        self.run_dir.join("control.sock")
    }

    /// Waits until the server answers a request.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait_until_served(&self) {
        let answer = Client::connect(self.addr.into()).and_then(|mut client| {
            client.set_patience(PATIENCE)?;
            client.ask("PING")
        });
        if let Err(fault) = answer {
            panic!("the server does not answer: {fault}\n{}", self.log());
        }
    }

    /// The supervisor's pid.
    ///
    /// # Panics
    /// When none was started.
    #[must_use]
    pub fn supervisor_pid(&self) -> u32 {
        self.supervisor.as_ref().expect("a supervisor was started").id()
    }

    /// The pid of the server that serves, as `status` says it.
    ///
    /// # Panics
    /// When status knows none.
    #[must_use]
    pub fn server_pid(&self) -> u32 {
        let status = self.status();
        let pid = status.json()["server"]["pid"].as_u64();
        pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or_else(|| panic!("no server: {status:?}\n{}", self.log()))
    }

    /// Sends a signal to the supervisor.
    ///
    /// # Panics
    /// When there is none.
    pub fn signal_supervisor(&self, signal: Signal) {
        kill(pid(self.supervisor_pid()), signal).expect("a child of ours");
    }

    /// Ends the supervisor by SIGKILL. What it started lives on.
    ///
    /// # Panics
    /// When there is none.
    pub fn kill_supervisor(&mut self) {
        let mut child = self.supervisor.take().expect("a supervisor was started");
        child.kill().expect("a child of ours");
        child.wait().expect("a child of ours");
    }

    /// Waits for the end of the supervisor; its exit code.
    ///
    /// # Panics
    /// When it does not end.
    pub fn wait_supervisor(&mut self) -> Option<i32> {
        let mut child = self.supervisor.take().expect("a supervisor was started");
        let pidfd = processkit::pidfd_open(child.id()).expect("a child of ours");
        if !ended_by(&pidfd, Instant::now() + PATIENCE) {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the supervisor does not end:\n{}", self.log());
        }
        child.wait().expect("a child of ours").code()
    }

    /// Stops as a service manager does: SIGTERM, and the exit code.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop(&mut self) -> Option<i32> {
        self.signal_supervisor(Signal::SIGTERM);
        self.wait_supervisor()
    }

    /// `handoffctl COMMAND --run-dir ..`, to its end.
    #[must_use]
    pub fn ctl(&self, command: &str, args: &[&str]) -> Finished {
        finish(&mut self.ctl_command(command, args))
    }

    /// `handoffctl COMMAND --run-dir ..`, not started.
    #[must_use]
    pub fn ctl_command(&self, command: &str, args: &[&str]) -> Command {
        let mut c = Command::new(&self.setup.programs.handoffctl);
        c.arg(command).arg("--run-dir").arg(&self.run_dir).args(args);
        c
    }

    /// `handoffctl upgrade --format json ..`
    #[must_use]
    pub fn upgrade(&self, args: &[&str]) -> Finished {
        self.ctl("upgrade", &[&["--format", "json"], args].concat())
    }

    /// An upgrade to this program.
    #[must_use]
    pub fn upgrade_to(&self, program: &Path) -> Finished {
        self.upgrade(&["--binary", program.to_str().expect("a path of ours")])
    }

    /// An upgrade that must commit; its report.
    ///
    /// # Panics
    /// When it does not commit.
    #[track_caller]
    pub fn upgrade_commits(&self) -> Value {
        let done = self.upgrade(&[]);
        assert_eq!(done.code, Some(0), "{}{}\n{}", done.stdout, done.stderr, self.log());
        let report = done.json();
        assert_eq!(report["outcome"], "committed", "{report}");
        report
    }

    /// `handoffctl status --format json`
    #[must_use]
    pub fn status(&self) -> Finished {
        self.ctl("status", &["--format", "json"])
    }

    /// Whether the bad successor of this mode came to its fault.
    #[must_use]
    pub fn reached(&self, mode: &str) -> bool {
        self.marks.join(mode).exists()
    }

    /// Waits until the bad successor of this mode comes to its fault.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait_for_mark(&self, mode: &str) {
        let notify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).expect("inotify");
        notify.add_watch(&self.marks, AddWatchFlags::IN_CREATE).expect("a directory of ours");
        let deadline = Instant::now() + PATIENCE;
        while !self.reached(mode) {
            assert!(ended_by(&notify, deadline), "{mode} was not reached\n{}", self.log());
            let _ = notify.read_events();
        }
    }

    /// Waits until a supervisor that was just started has found out who serves, and nothing is open or leaving.
    ///
    /// # Panics
    /// When it does not come to that.
    pub fn wait_until_settled(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            let retiring = status.json()["retiring"].as_array().is_some_and(|r| !r.is_empty());
            if status.code == Some(0) && !retiring {
                break;
            }
            assert!(Instant::now() < deadline, "not settled: {status:?}\n{}", self.log());
        }
        let server = self.server_pid();
        self.instances().into_iter().filter(|pid| *pid != server).for_each(wait_gone);
    }

    /// Waits until the supervisor was stopped by a signal.
    ///
    /// # Panics
    /// When there is none.
    pub fn wait_supervisor_stopped(&self) {
        use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
        let id = Id::Pid(pid(self.supervisor_pid()));
        let seen = waitid(id, WaitPidFlag::WSTOPPED | WaitPidFlag::WNOWAIT | WaitPidFlag::WEXITED);
        assert!(matches!(seen, Ok(WaitStatus::Stopped(..))), "{seen:?}\n{}", self.log());
    }

    /// [`Rig::footprint`] when what is leaving has left.
    ///
    /// # Panics
    /// When it does not leave.
    #[must_use]
    pub fn settled_footprint(&self) -> Footprint {
        let server = self.server_pid();
        for pid in self.instances() {
            if pid != server {
                wait_gone(pid);
            }
        }
        self.footprint()
    }

    /// The processes that belong to this rig's supervisor, by their environment; zombies have none.
    #[must_use]
    pub fn instances(&self) -> BTreeSet<u32> {
        let wanted = format!("HANDOFF_RUN_DIR={}", self.run_dir.display());
        let entries = std::fs::read_dir("/proc").expect("/proc");
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|b| *b == 0).any(|var| var == wanted.as_bytes())
        })
        .collect()
    }

    /// What may not grow.
    #[must_use]
    pub fn footprint(&self) -> Footprint {
        let server = self.server_pid();
        Footprint {
            processes: self.instances().len(),
            supervisor_fds: descriptors(self.supervisor_pid()),
            server_fds: descriptors(server),
            supervisor_threads: threads(self.supervisor_pid()),
            server_threads: threads(server),
            cgroups: cgroups_beside(server),
            run_files: files(&self.run_dir),
            control_files: files(&self.data_dir.join(".handoff")),
            temporary_files: files(&self.dir.path().join("marks")),
        }
    }

    /// Where supervisor and servers log.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// The end of the log.
    #[must_use]
    pub fn log(&self) -> String {
        let text = std::fs::read(self.log_path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(80)..].join("\n")
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of {}\n{}\n---", self.run_dir.display(), self.log());
        }
        if let Some(mut child) = self.supervisor.take() {
            let _ = kill(pid_of(&child), Signal::SIGTERM);
            let gone = processkit::pidfd_open(child.id())
                .is_ok_and(|pidfd| ended_by(&pidfd, Instant::now() + Duration::from_secs(20)));
            if !gone {
                let _ = child.kill();
            }
            let _ = child.wait();
        }
        // a supervisor that was killed has left its servers behind
        for pid in self.instances() {
            let pidfd = processkit::pidfd_open(pid);
            let _ = kill(self::pid(pid), Signal::SIGKILL);
            if let Ok(pidfd) = pidfd {
                let _ = ended_by(&pidfd, Instant::now() + Duration::from_secs(10));
            }
        }
    }
}

/// What may not grow from one upgrade to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Processes of the service.
    pub processes: usize,
    /// Descriptors of the supervisor.
    pub supervisor_fds: usize,
    /// Descriptors of the server.
    pub server_fds: usize,
    /// Threads of the supervisor.
    pub supervisor_threads: usize,
    /// Threads of the server.
    pub server_threads: usize,
    /// Control groups beside the server's own.
    pub cgroups: usize,
    /// Files in the run dir.
    pub run_files: BTreeSet<String>,
    /// Claims, proposals and locks.
    pub control_files: BTreeSet<String>,
    /// Anything else.
    pub temporary_files: BTreeSet<String>,
}

impl Footprint {
    /// # Panics
    /// When anything grew against `before`. The names of claims and sockets change; their number may not grow beyond
    /// what is kept for good.
    #[track_caller]
    pub fn assert_no_growth(&self, before: &Footprint) {
        let pairs = [
            ("processes", self.processes, before.processes),
            ("descriptors of the supervisor", self.supervisor_fds, before.supervisor_fds),
            ("descriptors of the server", self.server_fds, before.server_fds),
            ("control groups", self.cgroups, before.cgroups),
            ("files in the run dir", self.run_files.len(), before.run_files.len()),
        ];
        for (what, now, then) in pairs {
            assert!(now <= then, "{what}: {then} grew to {now}\nbefore {before:#?}\nafter {self:#?}");
        }
        let kept = |f: &Footprint| f.control_files.iter().filter(|f| !f.starts_with("epoch.")).count();
        assert!(kept(self) <= kept(before), "control files grew\nbefore {before:#?}\nafter {self:#?}");
        let claims = self.control_files.iter().filter(|f| f.starts_with("epoch.")).count();
        assert!(claims <= CLAIMS_KEPT, "{claims} claims are kept: {self:#?}");
    }
}

/// The highest claims are kept; see the protocol's clean-up.
const CLAIMS_KEPT: usize = 17;

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

fn cgroups_beside(pid: u32) -> usize {
    let Some(parent) = cgroup_of(pid).and_then(|path| path.parent().map(Path::to_path_buf)) else { return 0 };
    let entries = std::fs::read_dir(parent).map_or_else(|_| Vec::new(), |dir| dir.flatten().collect());
    entries.iter().filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir())).count()
}

fn files(dir: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                open.push(path);
            } else if let Ok(name) = path.strip_prefix(dir) {
                found.insert(name.display().to_string());
            }
        }
    }
    found
}

/// A loopback port below the range that outgoing connections take theirs from.
fn free_port() -> SocketAddrV4 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(61);
    for _ in 0..10_000 {
        let n = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        let port = 20_000 + u16::try_from(n).unwrap_or(0);
        let addr = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        if TcpListener::bind(addr).is_ok() {
            return addr;
        }
    }
    panic!("no free port on the loopback");
}

/// Waits until one of the two is readable, or panics at the deadline.
fn readable(one: &impl AsFd, other: &impl AsFd, deadline: Instant) -> (bool, bool) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(one.as_fd(), PollFlags::POLLIN), PollFd::new(other.as_fd(), PollFlags::POLLIN)];
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

/// Waits for the end of a process by its number.
///
/// # Panics
/// When it does not end in time.
pub fn wait_gone(pid: u32) {
    // gone already is gone
    let Ok(pidfd) = processkit::pidfd_open(pid) else { return };
    assert!(ended_by(&pidfd, Instant::now() + PATIENCE), "process {pid} does not end");
}

fn pid(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).expect("a pid"))
}

fn pid_of(child: &Child) -> Pid {
    pid(child.id())
}
