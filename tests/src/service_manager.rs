//! A stand-in for systemd: it speaks the datagram protocol of sd_notify(3) for real, keeps descriptors, and passes them
//! to the next start as sd_listen_fds(3) says.

use crate::rig::{PATIENCE, Rig};
use nix::cmsg_space;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, UnixAddr, UnixCredentials, recvmsg, setsockopt, sockopt,
};
use processkit::{Command, ProcessGroup, ProcessGroupOptions, RunningProcess, Signal, Stdio};
use std::fs::File;
use std::io::IoSliceMut;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

/// The most descriptors of one message.
const MOST_FDS: usize = 16;

/// One datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Who sent it, by the kernel's word.
    pub pid: u32,
    /// Its assignments.
    pub states: Vec<String>,
}

impl Heard {
    /// Whether it says this.
    #[must_use]
    pub fn says(&self, state: &str) -> bool {
        self.states.iter().any(|said| said == state)
    }

    /// The value of a variable.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.states.iter().find_map(|said| said.strip_prefix(name)?.strip_prefix('='))
    }
}

/// The service manager of one rig's supervisor.
#[derive(Debug)]
pub struct ServiceManager {
    socket: UnixDatagram,
    /// What it keeps, by name.
    pub store: Vec<(String, OwnedFd)>,
    watchdog: Duration,
    runtime: tokio::runtime::Runtime,
    // the process before its group: dropping the group ends whatever is left
    main: Option<RunningProcess>,
    group: Option<ProcessGroup>,
}

impl ServiceManager {
    /// Listens in the rig's directory.
    ///
    /// # Panics
    /// When it cannot.
    #[must_use]
    pub fn new(rig: &Rig, watchdog: Duration) -> ServiceManager {
        let socket = UnixDatagram::bind(rig.dir().join("notify")).expect("a directory of ours");
        setsockopt(&socket, sockopt::PassCred, &true).expect("a socket of ours");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let group = {
            let _inside = runtime.enter();
            ProcessGroup::with_options(ProcessGroupOptions::default()).expect("a group")
        };
        ServiceManager { socket, store: Vec::new(), watchdog, runtime, main: None, group: Some(group) }
    }

    /// Starts `handoffctl run`, with what is in the store.
    ///
    /// # Panics
    /// When it cannot.
    pub fn start(&mut self, rig: &Rig) {
        let plain = rig.run_command();
        let log = File::options().create(true).append(true).open(rig.log_path()).expect("a log of ours");
        let mut command = Command::new(plain.get_program())
            .args(plain.get_args())
            .stdin_from(Stdio::Null)
            .stdout(log.try_clone().expect("a log of ours"))
            .stderr(log)
            .env("NOTIFY_SOCKET", rig.dir().join("notify"))
            .env("WATCHDOG_USEC", self.watchdog.as_micros().to_string());
        for (key, value) in plain.get_envs() {
            command = match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        if !self.store.is_empty() {
            let names: Vec<&str> = self.store.iter().map(|(name, _)| name.as_str()).collect();
            command = command
                .env_pid("LISTEN_PID")
                .env("LISTEN_FDS", names.len().to_string())
                .env("LISTEN_FDNAMES", names.join(":"));
            for (number, (_, fd)) in (3..).zip(&self.store) {
                command = command.pass_fd(fd.try_clone().expect("a descriptor"), number);
            }
        }
        let group = self.group.as_ref().expect("a group");
        let started = self.runtime.block_on(group.start(&command));
        self.main = Some(started.expect("handoffctl starts"));
    }

    /// The pid of the main process.
    ///
    /// # Panics
    /// When nothing was started.
    #[must_use]
    pub fn main_pid(&self) -> u32 {
        self.main.as_ref().expect("it was started").identity().pid
    }

    /// Sends a signal to the main process, and to nobody else.
    ///
    /// # Panics
    /// When there is none.
    pub fn signal(&self, signal: i32) {
        self.main.as_ref().expect("it was started").signal(Signal::Other(signal)).expect("a process of ours");
    }

    /// Waits for the end of the main process; its exit code.
    ///
    /// # Panics
    /// When it does not end.
    pub fn wait(&mut self) -> Option<i32> {
        let mut main = self.main.take().expect("it was started");
        let exit = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, main.exit()).await });
        exit.expect("it ends in time").expect("it is watched").code
    }

    /// The next datagram, none within this time. Descriptors to be kept are kept, those to be forgotten are forgotten.
    ///
    /// # Panics
    /// When the socket fails.
    pub fn next(&mut self, patience: Duration) -> Option<Heard> {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX)).expect("poll") == 0 {
            return None;
        }
        let mut bytes = [0; 4096];
        let mut room = cmsg_space!([RawFd; MOST_FDS], UnixCredentials);
        let (text, pid, numbers) = {
            let mut iov = [IoSliceMut::new(&mut bytes)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let got = recvmsg::<UnixAddr>(self.socket.as_raw_fd(), &mut iov, Some(&mut room), flags)
                .expect("a datagram");
            let (mut pid, mut numbers) = (0, Vec::new());
            for message in got.cmsgs().expect("whole") {
                match message {
                    ControlMessageOwned::ScmRights(fds) => numbers.extend(fds),
                    ControlMessageOwned::ScmCredentials(sender) => pid = sender.pid(),
                    _ => {}
                }
            }
            let length = got.bytes;
            (String::from_utf8(bytes[..length].to_vec()).expect("text"), pid, numbers)
        };
        let heard = Heard {
            pid: u32::try_from(pid).expect("a pid"),
            states: text.lines().map(str::to_owned).collect(),
        };
        let name = heard.value("FDNAME").unwrap_or("stored").to_owned();
        for number in numbers {
            self.keep(&name, own(number));
        }
        if heard.says("FDSTOREREMOVE=1") {
            self.store.retain(|(stored, _)| *stored != name);
        }
        Some(heard)
    }

    /// Duplicates are dropped, as systemd does.
    fn keep(&mut self, name: &str, fd: OwnedFd) {
        let id = |fd: &OwnedFd| nix::sys::stat::fstat(fd).map(|s| (s.st_dev, s.st_ino)).expect("open");
        if !self.store.iter().any(|(_, other)| id(other) == id(&fd)) {
            self.store.push((name.to_owned(), fd));
        }
    }

    /// Everything that is heard until this is said, that included.
    ///
    /// # Panics
    /// When it is not said in time.
    #[track_caller]
    pub fn hear_until(&mut self, state: &str) -> Vec<Heard> {
        let deadline = Instant::now() + PATIENCE;
        let mut all = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(heard) = self.next(left) else { panic!("{state} was not said: {all:?}") };
            let found = heard.says(state);
            all.push(heard);
            if found {
                return all;
            }
        }
    }
}

impl Drop for ServiceManager {
    fn drop(&mut self) {
        if let Some(group) = self.group.take() {
            // what a failed test left
            let _ = self.runtime.block_on(group.remove());
        }
    }
}

/// A received descriptor comes as a number: the kernel makes an owned copy of it.
fn own(number: RawFd) -> OwnedFd {
    let me = processkit::pidfd_open(std::process::id()).expect("this process");
    let copy = handoff::os::fds::copy_from(me.as_fd(), number).expect("a descriptor of ours");
    nix::unistd::close(number).expect("a descriptor of ours");
    copy
}
