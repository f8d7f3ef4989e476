//! A real systemd: PID 1 of namespaces of its own, in a control group of its own, with the units that it is given and
//! nothing else. Network and machine are shared; its root is a copy of ours that nothing is written back from.

use crate::rig::{Finished, PATIENCE, finish};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

const BOOT: &str = include_str!("boot.sh");
/// The namespaces of its own.
const OWN: [&str; 5] = ["--pid", "--mount", "--cgroup", "--uts", "--ipc"];
/// Targets that every unit depends on, empty here.
const TARGETS: [&str; 4] = ["sysinit", "basic", "shutdown", "network"];
/// Where a unit may let its output go, to be seen when a test fails.
pub const LOG: &str = "/run/service.log";

/// A running systemd. It ends with everything below it when dropped.
#[derive(Debug)]
pub struct Systemd {
    // waits for systemd, and takes it along when it ends
    outer: Child,
    init: u32,
    group: PathBuf,
    dir: tempfile::TempDir,
}

impl Systemd {
    /// What keeps this machine from running one, `None` if nothing does.
    #[must_use]
    pub fn missing() -> Option<String> {
        if !Uid::effective().is_root() {
            return Some("systemd in namespaces of its own needs root".into());
        }
        if !Path::new("/lib/systemd/systemd").exists() {
            return Some("systemd is not installed; apt-get install systemd".into());
        }
        if own_group().is_none() {
            return Some("systemd needs a cgroup2 mount (/proc/self/mountinfo)".into());
        }
        let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
        if !filesystems.split_whitespace().any(|word| word == "overlay") {
            return Some("the kernel has no overlay file system (/proc/filesystems)".into());
        }
        let tried = Command::new("unshare").args(OWN).args(["--fork", "true"]).output();
        match tried {
            Ok(output) if output.status.success() => None,
            Ok(output) => {
                Some(format!("no new namespaces: {}", String::from_utf8_lossy(&output.stderr).trim()))
            }
            Err(e) => Some(format!("unshare is not installed ({e}); apt-get install util-linux")),
        }
    }

    /// Starts one with these units (name, text) and files (from, to), and a user `kv`; returns when it is up.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn boot(units: &[(&str, &str)], files: &[(&Path, &str)]) -> Systemd {
        static BOOTS: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("handoff-systemd-{}-{}", std::process::id(), BOOTS.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::Builder::new().prefix("handoff-").tempdir().expect("a temporary directory");
        let work = dir.path().join("work");
        std::fs::create_dir(&work).expect("a directory of ours");
        let script = dir.path().join("boot.sh");
        std::fs::write(&script, BOOT).expect("a file of ours");
        let mut pairs: Vec<(PathBuf, String)> =
            files.iter().map(|(from, to)| (from.to_path_buf(), (*to).to_owned())).collect();
        let empty = "[Unit]\nDefaultDependencies=no\n";
        let targets = TARGETS.map(|name| (format!("{name}.target"), empty));
        let units = units.iter().map(|(name, text)| ((*name).to_owned(), *text));
        for (name, text) in targets.into_iter().chain(units) {
            let from = dir.path().join(name.replace('/', "-"));
            std::fs::write(&from, text).expect("a file of ours");
            pairs.push((from, format!("/etc/handoff-units/{name}")));
        }
        let up = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).expect("a name"))
            .expect("a socket");
        up.set_read_timeout(Some(PATIENCE)).expect("a socket of ours");
        let group = own_group().expect("see missing()").join(&name);
        std::fs::create_dir(&group).expect("a control group");
        let said = std::fs::File::create(dir.path().join("boot.log")).expect("a file of ours");
        // if this thread ends without dropping it, systemd goes too
        let outer = Command::new("sh")
            .arg("-c")
            .arg("echo $$ >\"$1/cgroup.procs\" && shift && exec setpriv --pdeathsig=KILL \"$@\"")
            .arg("sh")
            .arg(&group)
            .arg("unshare")
            .args(OWN)
            .args(["--fork", "--kill-child", "sh"])
            .args([&script, &work])
            .arg(format!("@{name}"))
            .args(pairs.iter().flat_map(|(from, to)| [from.as_os_str(), to.as_ref()]))
            .stdin(Stdio::null())
            .stdout(said.try_clone().expect("a file of ours"))
            .stderr(said)
            .spawn()
            .expect("sh");
        let mut systemd = Systemd { outer, init: 0, group, dir };
        let mut bytes = [0; 4096];
        let heard = up.recv(&mut bytes).map(|length| String::from_utf8_lossy(&bytes[..length]).into_owned());
        assert!(heard.as_ref().is_ok_and(|said| said.contains("READY=1")), "{heard:?}: {}", systemd.log());
        let outer = systemd.outer.id();
        let children = std::fs::read_to_string(format!("/proc/{outer}/task/{outer}/children"));
        systemd.init = children.expect("/proc").trim().parse().expect("unshare has one child");
        systemd
    }

    /// A program beside it, not started: the same processes, files and control groups. Another name for a process
    /// here than there: only this one knows those of systemd.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.init)).args(OWN).arg("--").args(words);
        command
    }

    /// A program beside it, to its end.
    #[must_use]
    pub fn run(&self, words: &[&str]) -> Finished {
        finish(&mut self.command(words))
    }

    /// `systemctl ..`, to its end.
    #[must_use]
    pub fn ctl(&self, words: &[&str]) -> Finished {
        self.run(&[&["systemctl"], words].concat())
    }

    /// A property of a unit, as systemd sees it now.
    ///
    /// # Panics
    /// When systemd does not answer.
    #[must_use]
    pub fn show(&self, unit: &str, property: &str) -> String {
        let done = self.ctl(&["show", unit, "--value", "--property", property]);
        done.expect_code(0).stdout.trim().to_owned()
    }

    /// Waits until a unit's properties are these.
    ///
    /// # Panics
    /// When they do not come to be.
    #[track_caller]
    pub fn wait_until(&self, unit: &str, wanted: &[(&str, &str)]) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen: Vec<(&str, String)> =
                wanted.iter().map(|(property, _)| (*property, self.show(unit, property))).collect();
            if wanted.iter().zip(&seen).all(|((_, wanted), (_, seen))| wanted == seen) {
                return;
            }
            assert!(Instant::now() < deadline, "{seen:?} instead of {wanted:?}\n{}", self.log());
        }
    }

    /// The processes beside systemd, by their command lines.
    ///
    /// # Panics
    /// When that cannot be asked.
    #[must_use]
    pub fn others(&self) -> Vec<String> {
        let done = self.run(&["ps", "-eo", "pid,args", "--no-headers"]);
        let lines = done.expect_code(0).stdout.lines().map(|line| line.trim().to_owned());
        lines.filter(|line| !line.starts_with("1 ") && !line.contains("ps -eo")).collect()
    }

    /// A control group of systemd's, as we see it.
    #[must_use]
    pub fn group(&self, path: &str) -> PathBuf {
        self.group.join(path.trim_start_matches('/'))
    }

    /// What the boot, systemd and the service said.
    #[must_use]
    pub fn log(&self) -> String {
        let inside = |path: &str| PathBuf::from(format!("/proc/{}/root{path}", self.init));
        let paths = [self.dir.path().join("boot.log"), inside("/dev/kmsg"), inside(LOG)];
        let texts = paths.map(|path| {
            let text = std::fs::read(&path).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            format!("--- {}\n{}", path.display(), lines[lines.len().saturating_sub(80)..].join("\n"))
        });
        texts.join("\n")
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        // the end of the first process is the end of its namespace
        let first = if self.init == 0 { self.outer.id() } else { self.init };
        if let Ok(first) = i32::try_from(first) {
            // gone already is gone
            let _ = kill(Pid::from_raw(first), Signal::SIGKILL);
        }
        let _ = self.outer.wait();
        if let Err(error) = remove(&self.group) {
            eprintln!("{}: {error}", self.group.display());
        }
    }
}

/// Removes a control group and all below it; nobody is in them any more.
fn remove(group: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(group)? {
        let path = entry?.path();
        if path.is_dir() {
            remove(&path)?;
        }
    }
    std::fs::remove_dir(group)
}

/// The control group of this process.
fn own_group() -> Option<PathBuf> {
    crate::rig::cgroup_of(std::process::id())
}
