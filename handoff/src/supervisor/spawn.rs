//! From a program to a process: exactly the declared descriptors and environment arrive (protocol, section 7).

use super::guest::Streams;
use super::options::SpawnSpec;
use super::preflight::Executable;
use crate::claim::{BuildDigest, KeptSpec};
use crate::ids::{InstanceId, ListenerName};
use crate::os::listeners::Address;
use crate::wire::Role;
use processkit::{Command, Stdio};
use std::ffi::OsString;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

/// Name of the instance's control listener among `LISTEN_FDNAMES`.
pub(crate) const CONTROL: &str = "handoff-ctl";
/// First number of inherited listeners.
const FIRST: RawFd = 3;
/// What builds with crash points pass on, so that a test can arm every role through the supervisor.
const FOR_TESTS: [&str; 5] =
    ["HANDOFF_CRASH", "HANDOFF_CRASH_TRACE", "HANDOFF_TIME_SCALE", "HANDOFF_PLANT", "HANDOFF_SPEAK"];

/// One listener that every instance gets.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) name: ListenerName,
    pub(super) fd: Arc<OwnedFd>,
    /// As it was asked for, where it was.
    pub(super) address: Option<Address>,
}

/// What a program is and how it is called.
#[derive(Clone, Debug)]
pub(super) struct Build {
    pub(super) executable: Executable,
    pub(super) spec: SpawnSpec,
}

impl Build {
    /// What is kept of it beside the executable.
    pub(super) fn kept(&self) -> KeptSpec {
        let bytes = |text: &OsString| text.as_bytes().to_vec();
        KeptSpec {
            digest: self.executable.digest,
            executable: self.executable.path.as_os_str().as_bytes().to_vec(),
            args: self.spec.args.iter().map(bytes).collect(),
            env: self.spec.env.iter().map(|(key, value)| (bytes(key), bytes(value))).collect(),
        }
    }
}

/// Everything a new instance is born with.
#[derive(Debug)]
pub(super) struct Birth<'a> {
    pub(super) instance: InstanceId,
    pub(super) role: Role,
    pub(super) build: &'a Build,
    pub(super) listeners: &'a [Shared],
    /// The instance's own control listener, bound by the supervisor.
    pub(super) control: OwnedFd,
    /// Its end of the channel.
    pub(super) channel: OwnedFd,
    pub(super) lineage: BorrowedFd<'a>,
    /// Where it writes to, if not where this program does.
    pub(super) streams: Option<&'a Streams>,
    pub(super) run_dir: &'a Path,
    pub(super) data_dir: Option<&'a Path>,
}

impl Birth<'_> {
    /// The command that starts it.
    ///
    /// # Errors
    /// A descriptor that cannot be duplicated.
    pub(super) fn command(self) -> io::Result<Command> {
        let Build { executable, spec } = self.build;
        let role = match self.role {
            Role::Successor => "successor",
            Role::Cold | Role::Incumbent | Role::Retiring => "cold",
        };
        let mut names: Vec<&str> = self.listeners.iter().map(|shared| shared.name.as_str()).collect();
        names.push(CONTROL);
        let count = RawFd::try_from(names.len()).map_err(|_| io::Error::other("too many listeners"))?;
        let (channel, lineage) = (FIRST + count, FIRST + count + 1);

        let mut command = Command::new(&executable.path)
            .exe_fd(executable.file.try_clone()?)
            .args(&spec.args)
            // a terminal's signals are the supervisor's; and a stopped member of an orphaned process group gets a HUP
            .setsid()
            .env_clear()
            .stdin_from(Stdio::Null)
            .stdout(stream(self.streams.map(|streams| &streams.output)))
            .stderr(stream(self.streams.map(|streams| &streams.error)));
        for (key, value) in &spec.env {
            command = command.env(key, value);
        }
        if crate::crash::ENABLED {
            for key in FOR_TESTS {
                if let Some(value) = std::env::var_os(key) {
                    command = command.env(key, value);
                }
            }
        }
        command = command
            .env("LISTEN_FDS", count.to_string())
            .env("LISTEN_FDNAMES", names.join(":"))
            .env_pid("LISTEN_PID")
            .env("HANDOFF_ROLE", role)
            .env("HANDOFF_INSTANCE", self.instance.to_string())
            .env("HANDOFF_RUN_DIR", self.run_dir)
            .env("HANDOFF_SOCK_FD", channel.to_string())
            .env("HANDOFF_LINEAGE_FD", lineage.to_string());
        if executable.digest != BuildDigest::UNKNOWN {
            command = command.env("HANDOFF_BUILD_DIGEST", executable.digest.to_string());
        }
        if let Some(data) = self.data_dir {
            command = command.env("HANDOFF_DATA_DIR", data);
        }
        for (number, shared) in (FIRST..).zip(self.listeners) {
            #[cfg(feature = "crash-points")]
            if self.role == Role::Successor && crate::crash::planted("O7") {
                command = command.pass_fd(crate::crash::another_listener(&shared.fd)?, number);
                continue;
            }
            command = command.pass_fd(shared.fd.try_clone()?, number);
        }
        Ok(command
            .pass_fd(self.control, FIRST + count - 1)
            .pass_fd(self.channel, channel)
            .pass_fd(self.lineage.try_clone_to_owned()?, lineage))
    }
}

fn stream(other: Option<&Arc<OwnedFd>>) -> Stdio {
    other.map_or(Stdio::Inherit, |fd| Stdio::Fd(Arc::clone(fd)))
}
