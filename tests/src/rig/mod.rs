//! A supervised demo-server of one's own: private directories, a free port, gone when dropped.

mod footprint;
mod held;
mod process;
mod setup;

pub use footprint::Footprint;
pub use held::{EXECUTABLE, held, more};
pub use process::{
    Finished, PATIENCE, alive, cgroup_of, descriptors, ended_by, finish, stop, threads, wait_gone,
};
pub use setup::{Setup, free_port};

use crate::bins::Programs;
use crate::client::Client;
use footprint::files;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{Signal, kill};
use process::{pid, pid_of, readable, watch};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::File;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// On a busy machine the default budget may be over before anything goes wrong: an abort, rightly.
pub const UNHURRIED: &[&str] = &["--freeze-budget", "20s"];

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
        command.arg("run").arg("--run-dir").arg(&self.run_dir);
        if !self.setup.stateless {
            command.arg("--data-dir").arg(&self.data_dir);
        }
        command.arg("--listen").arg(format!("resp={}", self.addr));
        command.arg("--env").arg(format!("REACHED_DIR={}", self.marks.display()));
        command.args(["--env", "RUST_LOG"]).args(&self.setup.run_args).arg("--").arg(&self.setup.program);
        if !self.setup.stateless {
            command.arg("--data").arg(&self.data_dir);
        }
        command.args(&self.setup.program_args);
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
        // the server may answer clients before its supervisor has heard that it serves
        self.wait_until_settled();
    }

    /// Starts the supervisor and returns when it answers operators.
    ///
    /// # Panics
    /// When it ends instead.
    pub fn spawn_supervisor(&mut self) {
        let notify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).expect("inotify");
        let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        notify.add_watch(&self.run_dir, flags).expect("a directory of ours");
        let pidfd = processkit::pidfd_open(self.launch_supervisor()).expect("a child of ours");
        let deadline = Instant::now() + PATIENCE;
        while !self.socket().exists() {
            let (_, ended) = readable(&notify, &pidfd, deadline);
            if ended {
                panic!("the supervisor ended before it answered:\n{}", self.log());
            }
            let _ = notify.read_events();
        }
    }

    /// Starts the supervisor and waits for nothing; its pid.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn launch_supervisor(&mut self) -> u32 {
        // what a killed supervisor left is no sign of life
        let _ = std::fs::remove_file(self.socket());
        let log = File::options().create(true).append(true).open(self.log_path()).expect("a log of ours");
        let mut command = self.run_command();
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log of ours")).stderr(log);
        let child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        self.starts += 1;
        let pid = child.id();
        self.supervisor = Some(child);
        pid
    }

    /// Leaves the directories where they are at the end, for somebody to look at; where that is.
    pub fn keep(&mut self) -> PathBuf {
        self.dir.disable_cleanup(true);
        self.dir.path().to_path_buf()
    }

    /// The socket that operators talk to.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
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
        pid.and_then(|pid| u32::try_from(pid).ok())
            .unwrap_or_else(|| panic!("no server: {status:?}\n{}", self.log()))
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
    /// When it does not end, or leaves a control group behind.
    pub fn stop(&mut self) -> Option<i32> {
        self.signal_supervisor(Signal::SIGTERM);
        let code = self.wait_supervisor();
        self.nothing_is_left();
        code
    }

    /// A supervisor that ends because it was told to leaves no control group behind.
    fn nothing_is_left(&self) {
        let left = self.groups();
        assert!(left.is_empty(), "a supervisor that was told to stop left {left:?}\n{}", self.log());
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

    /// `handoffctl upgrade --format json ..`; without a probation, unless one is named: a death afterwards is a
    /// death then.
    #[must_use]
    pub fn upgrade(&self, args: &[&str]) -> Finished {
        let probation: &[&str] = if args.contains(&"--probation") { &[] } else { &["--probation", "0s"] };
        self.ctl("upgrade", &[&["--format", "json"], args, probation].concat())
    }

    /// An upgrade to this program, however long its freeze takes.
    #[must_use]
    pub fn upgrade_to(&self, program: &Path) -> Finished {
        self.upgrade(&[&["--binary", program.to_str().expect("a path of ours")], UNHURRIED].concat())
    }

    /// An upgrade that must commit, however long its freeze takes; its report.
    ///
    /// # Panics
    /// When it does not commit.
    #[track_caller]
    pub fn upgrade_commits(&self) -> Value {
        let done = self.upgrade(UNHURRIED);
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
        assert!(watch(&self.marks, || self.reached(mode)), "{mode} was not reached\n{}", self.log());
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
            cgroups: self.containers(server),
            run_files: files(&self.run_dir),
            control_files: files(&self.data_dir.join(".handoff")),
            temporary_files: files(&self.dir.path().join("marks")),
        }
    }

    /// How many control groups of this rig's instances there are, of all that its history names.
    fn containers(&self, server: u32) -> usize {
        let Some(beside) = cgroup_of(server).and_then(|path| path.parent().map(Path::to_path_buf)) else {
            return 0;
        };
        let history = self.ctl("history", &["--format", "json"]);
        let reports = history.stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let sides =
            reports.flat_map(|report| [report["old"]["instance"].clone(), report["new"]["instance"].clone()]);
        let instances: BTreeSet<String> = sides.filter_map(|id| id.as_str().map(str::to_owned)).collect();
        let names = std::fs::read_dir(beside).into_iter().flatten().flatten().map(|entry| entry.file_name());
        names.filter(|name| instances.iter().any(|id| name.to_string_lossy().contains(id.as_str()))).count()
    }

    /// Where supervisor and servers log.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// The end of the log.
    #[must_use]
    pub fn log(&self) -> String {
        let text = self.whole_log();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(80)..].join("\n")
    }

    fn whole_log(&self) -> String {
        let text = std::fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Control groups that there are of servers whose start the log tells, whether or not anything lives in them.
    fn groups(&self) -> BTreeSet<PathBuf> {
        let log = self.whole_log();
        let started =
            log.split("started instance=").skip(1).filter_map(|rest| rest.split_whitespace().next());
        let groups = started.filter_map(|id| processkit::ProcessGroup::reopen(&format!("inst-{id}")).ok());
        groups.filter_map(|group| group.location().map(Path::to_path_buf)).collect()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of {}\n{}\n---", self.run_dir.display(), self.log());
        }
        let mut left = BTreeSet::new();
        if let Some(mut child) = self.supervisor.take() {
            let _ = kill(pid_of(&child), Signal::SIGTERM);
            let gone = processkit::pidfd_open(child.id())
                .is_ok_and(|pidfd| ended_by(&pidfd, Instant::now() + Duration::from_secs(20)));
            if !gone {
                let _ = child.kill();
            }
            let _ = child.wait();
            if gone {
                left = self.groups();
            }
        }
        // a supervisor that was killed has left its servers behind, and their control groups
        let mut groups = BTreeSet::new();
        for pid in self.instances() {
            groups.extend(cgroup_of(pid).filter(|path| path.file_name().is_some_and(is_group)));
            let pidfd = processkit::pidfd_open(pid);
            let _ = kill(process::pid(pid), Signal::SIGKILL);
            if let Ok(pidfd) = pidfd {
                let _ = ended_by(&pidfd, Instant::now() + Duration::from_secs(10));
            }
        }
        groups.extend(self.groups());
        remove(groups);
        if !left.is_empty() && !std::thread::panicking() {
            panic!("a supervisor that was told to stop left control groups behind: {left:?}\n{}", self.log());
        }
    }
}

/// Ends what lives in these control groups, and removes them: the kernel may take its time over a process that was killed.
fn remove(groups: BTreeSet<PathBuf>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for path in groups {
        // gone already
        let Ok(group) = processkit::ProcessGroup::reopen_by_path(&path) else { continue };
        let removed = runtime.block_on(async { tokio::time::timeout(PATIENCE, group.remove()).await });
        if !matches!(removed, Ok(Ok(()))) {
            eprintln!("{} is left: {removed:?}", path.display());
        }
    }
}

/// Whether a control group was made for an instance, and is not one of the machine's own.
fn is_group(name: &std::ffi::OsStr) -> bool {
    name.to_string_lossy().starts_with("inst-")
}
