//! Which build a crashed service restarts with: that of the highest claim, from what the supervisor keeps of it,
//! whatever became of the file.

use handoff_tests::bins::{Build, Programs};
use handoff_tests::client::Client;
use handoff_tests::load::{Load, Plan};
use handoff_tests::rig::{PATIENCE, Rig, Setup, ended_by, wait_gone};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A rig whose programs lie in its own directory, so that a test may replace and remove them.
pub(crate) struct Installed {
    pub(crate) rig: Rig,
    bin: tempfile::TempDir,
}

/// Copies a program, as an installation does, with a mark at its end: another build, that does the same.
pub(crate) fn install(program: &Path, to: &Path, mark: &str) {
    let mut bytes = std::fs::read(program).expect("a program of ours");
    bytes.extend_from_slice(mark.as_bytes());
    let temporary = to.with_extension("new");
    std::fs::write(&temporary, bytes).expect("a file of ours");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&temporary, executable).expect("a file of ours");
    std::fs::rename(temporary, to).expect("a file of ours");
}

impl Installed {
    pub(crate) fn new() -> Self {
        let programs = Programs::of(Build::Plain);
        let bin = tempfile::tempdir().expect("a temporary directory");
        let server = bin.path().join("server");
        install(&programs.demo_server, &server, "build 1");
        let rig = Setup::new(programs).program(&server).start();
        Self { rig, bin }
    }

    pub(crate) fn server(&self) -> PathBuf {
        self.bin.path().join("server")
    }

    pub(crate) fn builds(&self) -> PathBuf {
        self.rig.data_dir.join(".handoff/builds")
    }

    /// Installs another build at the same place.
    pub(crate) fn install(&self, mark: &str) {
        install(&self.rig.programs().demo_server, &self.server(), mark);
    }

    /// Installs another build at the same place, and upgrades to it.
    pub(crate) fn upgrade(&self, mark: &str) -> Value {
        self.install(mark);
        self.rig.upgrade_commits()
    }

    /// The last bytes of the program that serves: its mark.
    pub(crate) fn serving(&self, mark: &str) -> bool {
        let bytes = std::fs::read(format!("/proc/{}/exe", self.rig.server_pid())).expect("a process of ours");
        bytes.ends_with(mark.as_bytes())
    }

    pub(crate) fn instance(&self) -> String {
        self.rig.status().json()["server"]["instance"].as_str().expect("a server").to_owned()
    }

    /// Waits until the build of who serves is kept: that happens beside its start.
    pub(crate) fn wait_until_kept(&self) {
        let wanted = self.builds().join(format!("spec.{}", self.instance()));
        let notify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).expect("inotify");
        notify.add_watch(&self.builds(), AddWatchFlags::IN_MOVED_TO).expect("a directory of ours");
        let deadline = Instant::now() + PATIENCE;
        while !wanted.exists() {
            assert!(ended_by(&notify, deadline), "{} is not kept\n{}", wanted.display(), self.rig.log());
            let _ = notify.read_events();
        }
    }

    pub(crate) fn kill_server(&self) {
        let pid = self.rig.server_pid();
        kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), Signal::SIGKILL).expect("a process of ours");
        wait_gone(pid);
    }

    fn executables(&self) -> usize {
        let names = std::fs::read_dir(self.builds()).expect("a directory of ours");
        names.flatten().filter(|entry| entry.file_name().len() == 64).count()
    }
}

#[test]
fn a_server_that_dies_comes_back_as_the_build_that_was_replaced_on_disk() {
    let it = Installed::new();
    it.upgrade("build 2");
    let load = Load::start(it.rig.addr, Plan { busy: 2, fresh: 1, ..Plan::default() });
    // by rename, as installers do; the running one was never upgraded to it
    install(&it.rig.programs().demo_server, &it.server(), "build 3");
    it.kill_server();
    assert!(load.wait_for(50, PATIENCE), "nothing is answered any more\n{}", it.rig.log());
    it.rig.wait_until_settled();
    assert!(it.serving("build 2"), "{}", it.rig.log());
    // the control: what is configured would have been another one
    it.rig.upgrade_commits();
    assert!(it.serving("build 3"));
    let tally = load.finish();
    tally.assert_nothing_lost();
    assert_eq!(tally.refused, 0, "the listener outlives the server: {tally}");
}

#[test]
fn supervisor_and_server_die_and_the_file_is_gone_and_the_same_build_comes_back() {
    let mut it = Installed::new();
    it.upgrade("build 2");
    let mut client = Client::connect(it.rig.addr.into()).expect("connects");
    client.ask("SET kept yes").expect("is acknowledged");
    it.wait_until_kept();
    for replaced in [true, false] {
        it.rig.kill_supervisor();
        for pid in it.rig.instances() {
            let _ = kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), Signal::SIGKILL);
            wait_gone(pid);
        }
        if replaced {
            install(&it.rig.programs().demo_server, &it.server(), "build 3");
        } else {
            std::fs::remove_file(it.server()).expect("a file of ours");
            // `run` itself must find the program that it is configured with
            install(&it.rig.programs().demo_server, &it.server(), "build 4");
        }
        it.rig.run();
        assert!(it.serving("build 2"), "{}", it.rig.log());
        let mut client = Client::connect(it.rig.addr.into()).expect("connects");
        assert_eq!(client.ask("GET kept").expect("an answer").text().as_deref(), Some("yes"));
    }
    // after a clean stop the configured one wins
    assert_eq!(it.rig.stop(), Some(0), "{}", it.rig.log());
    it.rig.run();
    assert!(it.serving("build 4"), "{}", it.rig.log());
}

/// An adopted server's build is known to the new supervisor too, and survives the file.
#[test]
fn a_supervisor_that_was_killed_restarts_the_server_with_its_own_build() {
    let mut it = Installed::new();
    it.upgrade("build 2");
    let load = Load::start(it.rig.addr, Plan { busy: 2, ..Plan::default() });
    it.wait_until_kept();
    it.rig.kill_supervisor();
    install(&it.rig.programs().demo_server, &it.server(), "build 3");
    it.rig.run();
    it.kill_server();
    assert!(load.wait_for(50, PATIENCE), "nothing is answered any more\n{}", it.rig.log());
    it.rig.wait_until_settled();
    assert!(it.serving("build 2"), "{}", it.rig.log());
    load.finish().assert_nothing_lost();
}

/// A hard link would have gone with the file.
#[test]
fn a_write_in_place_does_not_reach_what_is_kept() {
    let mut it = Installed::new();
    it.wait_until_kept();
    it.rig.kill_supervisor();
    for pid in it.rig.instances() {
        let _ = kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), Signal::SIGKILL);
        wait_gone(pid);
    }
    // no process runs from it: the kernel does not refuse
    let script = b"#!/bin/sh\nexit 3\n";
    std::fs::write(it.server(), script).expect("a file of ours");
    it.rig.run();
    assert!(it.serving("build 1"), "{}", it.rig.log());
}

#[test]
fn a_build_that_is_gone_is_replaced_by_the_configured_one_only_if_that_reads_the_format() {
    for (program, code) in [("demo-server", 0), ("bad-other-state-format", 14)] {
        let mut it = Installed::new();
        it.wait_until_kept();
        it.rig.kill_supervisor();
        for pid in it.rig.instances() {
            let _ = kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), Signal::SIGKILL);
            wait_gone(pid);
        }
        std::fs::remove_dir_all(it.builds()).expect("a directory of ours");
        let programs = it.rig.programs();
        if code == 0 {
            install(&programs.demo_server, &it.server(), "build 2");
            it.rig.run();
            assert!(it.serving("build 2"), "{program}: {}", it.rig.log());
            assert!(it.rig.log().contains("the build of the highest claim is gone"), "{}", it.rig.log());
            continue;
        }
        // it chooses its fault by the name it is called by
        let bad = it.bin.path().join(program);
        install(&programs.bad_successor, &bad, "");
        std::fs::remove_file(it.server()).expect("a file of ours");
        let args: Vec<_> = it.rig.run_command().get_args().map(std::ffi::OsStr::to_owned).collect();
        let mut command = std::process::Command::new(&programs.handoffctl);
        let args =
            args.into_iter().map(|arg| if arg == it.server().as_os_str() { bad.clone().into() } else { arg });
        let done = handoff_tests::rig::finish(command.args(args));
        done.expect_code(code);
        assert!(done.stderr.contains("state format 1 is on disk"), "{done:?}");
        assert!(done.stderr.contains("next: start a build that reads it"), "{done:?}");
    }
}

#[test]
fn the_claim_names_the_build_by_its_content_and_nothing_is_kept_twice() {
    let it = Installed::new();
    it.upgrade("build 2");
    it.rig.upgrade_commits();
    it.wait_until_kept();
    assert_eq!(it.executables(), 2, "build 2 was installed once and started twice");
    let digests: BTreeSet<String> = {
        let claims = handoff::os::claims::Claims::observe(&it.rig.data_dir.join(".handoff")).expect("claims");
        let all = claims.claimed().expect("a list");
        all.iter().map(|e| claims.read(*e).expect("read").expect("there").build_digest.to_string()).collect()
    };
    assert_eq!(digests.len(), 2, "{digests:?}");
    for digest in &digests {
        assert!(it.builds().join(digest).is_file(), "{digest} is kept");
    }
}

/// After as many upgrades as claims are kept, the first build is named by nobody.
#[test]
fn a_build_that_no_claim_names_is_removed() {
    let it = Installed::new();
    it.upgrade("build 2");
    for _ in 0..17 {
        it.rig.upgrade_commits();
    }
    it.rig.wait_until_settled();
    // the clean-up runs beside the end of an upgrade: that of the next one at the latest
    it.rig.upgrade_commits();
    it.rig.wait_until_settled();
    let notify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).expect("inotify");
    notify.add_watch(&it.builds(), AddWatchFlags::IN_DELETE).expect("a directory of ours");
    let deadline = Instant::now() + PATIENCE;
    while it.executables() > 1 {
        assert!(ended_by(&notify, deadline), "{} builds are kept\n{}", it.executables(), it.rig.log());
        let _ = notify.read_events();
    }
}
