//! What `run` and demo-server do not start with: the message names the thing and the next step, nothing is left behind.

use crate::cli::{connect, needs, says};
use crate::rig;
use handoff_tests::bins::{Build, Programs};
use handoff_tests::rig::{Finished, Rig, Setup, finish};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

fn not_started() -> Rig {
    Setup::new(Programs::of(Build::Plain)).idle()
}

/// `run` that must end by itself.
fn run_ends(rig: &Rig, code: i32) -> Finished {
    let done = finish(&mut rig.run_command());
    assert_eq!(done.code, Some(code), "{done:?}");
    assert!(rig.instances().is_empty(), "nothing is left behind");
    done
}

#[test]
fn an_address_in_use_is_14() {
    let rig = not_started();
    let _holder = std::net::TcpListener::bind(rig.addr).expect("binds");
    says(&run_ends(&rig, 14), &["address in use", &rig.addr.to_string()]);
}

fn listening_also_on(address: &str) -> Rig {
    Setup::new(Programs::of(Build::Plain)).run_args(&["--listen", &format!("other={address}")]).idle()
}

#[test]
fn a_unix_address_in_use_is_14_and_the_file_stays() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("socket");
    let rig = listening_also_on(&format!("unix:{}", path.display()));
    let _holder = std::os::unix::net::UnixListener::bind(&path).expect("binds");
    says(&run_ends(&rig, 14), &["address in use", &path.display().to_string()]);
    connect(&path);
    std::fs::remove_file(&path).expect("a file of ours");
    std::fs::write(&path, "data").expect("a file of ours");
    says(&run_ends(&rig, 14), &["no socket", &path.display().to_string()]);
    assert_eq!(std::fs::read(&path).expect("still there"), b"data");
}

#[test]
fn an_address_that_cannot_be_is_14() {
    for (address, words) in [
        ("unix:/nonexistent/socket", ["/nonexistent/socket", "create the directory"]),
        ("192.0.2.1:9", ["192.0.2.1:9", "no such address"]),
    ] {
        says(&run_ends(&listening_also_on(address), 14), &words);
    }
}

/// Two servers that share a socket would each get some of the datagrams of a session.
#[test]
fn datagrams_and_no_data_is_14() {
    let programs = Programs::of(Build::Plain);
    let rig = Setup::new(programs)
        .program(&programs.overlap_server)
        .stateless()
        .run_args(&["--listen", "dns=udp:127.0.0.1:0"])
        .idle();
    says(&run_ends(&rig, 14), &["dns", "datagrams", "data directory"]);
}

/// With a data directory there is one writer at a time; this one wants two servers at once.
#[test]
fn data_and_the_overlap_strategy_is_14() {
    let programs = Programs::of(Build::Plain);
    let rig = Setup::new(programs).program(&programs.overlap_server).idle();
    says(&run_ends(&rig, 14), &["overlap", "without --data-dir"]);
}

/// Nobody could connect to it: better no start than a server that serves nobody.
#[test]
fn demo_server_wants_a_stream_listener() {
    let (rig, programs) = (not_started(), Programs::of(Build::Plain));
    let mut run = Command::new(&programs.handoffctl);
    run.arg("run").arg("--run-dir").arg(&rig.run_dir).arg("--data-dir").arg(&rig.data_dir);
    run.args(["--listen", "resp=udp:127.0.0.1:0", "--"]).arg(&programs.demo_server);
    says(finish(&mut run).expect_code(14), &["resp", "datagrams"]);
    let demo = |bind: &str| {
        finish(Command::new(&programs.demo_server).args(["--data", "/nonexistent", "--bind", bind]))
    };
    says(demo("udp:127.0.0.1:1").expect_code(2), &["--bind", "datagrams"]);
    says(demo("localhost").expect_code(2), &["--bind", "localhost", "127.0.0.1:6379"]);
    says(demo("127.0.0.1:1").expect_code(1), &["/nonexistent", "mkdir"]);
}

#[test]
fn a_foreign_journal_is_14_and_stays() {
    let rig = not_started();
    let journal = rig.run_dir.join("journal");
    std::fs::write(&journal, "my notes").expect("a file of ours");
    says(&run_ends(&rig, 14), &[&journal.display().to_string(), "not a journal", "another run dir"]);
    assert_eq!(std::fs::read(&journal).expect("still there"), b"my notes");
}

#[test]
fn a_program_that_is_not_there_or_no_server_is_14() {
    let missing = Setup::new(Programs::of(Build::Plain)).program("/nonexistent/server").idle();
    says(&run_ends(&missing, 14), &["/nonexistent/server"]);
    let other = Setup::new(Programs::of(Build::Plain)).program("/bin/true").idle();
    says(&run_ends(&other, 14), &["/bin/true"]);
}

#[test]
fn a_data_dir_that_is_not_there_is_14() {
    let mut rig = not_started();
    rig.data_dir = rig.dir().join("nowhere");
    let path = rig.data_dir.display().to_string();
    says(&run_ends(&rig, 14), &[&path, "mkdir -p"]);
}

#[test]
fn a_data_dir_that_is_a_file_is_14() {
    let mut rig = not_started();
    rig.data_dir = rig.dir().join("file");
    std::fs::write(&rig.data_dir, b"").expect("a file of ours");
    let path = rig.data_dir.display().to_string();
    says(&run_ends(&rig, 14), &[&path]);
}

#[test]
fn a_run_dir_that_others_may_enter_is_14() {
    let rig = not_started();
    std::fs::set_permissions(&rig.run_dir, std::fs::Permissions::from_mode(0o777))
        .expect("a directory of ours");
    let path = rig.run_dir.display().to_string();
    says(&run_ends(&rig, 14), &[&path, "chmod 700"]);
}

#[test]
fn a_run_dir_of_another_user_is_14() {
    if !needs("root, to give a directory away", nix::unistd::geteuid().is_root()) {
        return;
    }
    let rig = not_started();
    let nobody = nix::unistd::Uid::from_raw(65534);
    nix::unistd::chown(&rig.run_dir, Some(nobody), None).expect("root may");
    let path = rig.run_dir.display().to_string();
    says(&run_ends(&rig, 14), &[&path]);
}

/// A small file system of our own; unmounted when dropped.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn tmpfs(at: &Path, options: &str) -> Option<Mounted> {
        let done = finish(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at));
        needs(&format!("mount: {}", done.stderr), done.code == Some(0)).then(|| Mounted(at.to_path_buf()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = finish(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

#[test]
fn a_data_dir_that_is_read_only_is_14() {
    let rig = not_started();
    let Some(_mounted) = Mounted::tmpfs(&rig.data_dir, "ro") else { return };
    let path = rig.data_dir.display().to_string();
    says(&run_ends(&rig, 14), &[&path]);
}

/// The old server serves on a full disk, an upgrade commits or is refused, and with room again it commits.
#[test]
fn a_full_data_dir_costs_no_server() {
    let mut rig = not_started();
    let Some(mounted) = Mounted::tmpfs(&rig.data_dir, "size=1m,mode=700") else { return };
    rig.run();
    let mut client = handoff_tests::client::Client::connect(rig.addr.into()).expect("connects");
    client.ask("SET kept yes").expect("is acknowledged");
    let filler = rig.data_dir.join("filler");
    let mut file = std::fs::File::create(&filler).expect("a file of ours");
    while file.write_all(&[0; 4096]).is_ok() {}
    while file.write_all(&[0; 1]).is_ok() {}
    drop(file);
    let done = rig.upgrade(&[]);
    assert!([0, 10, 14].contains(&done.code.unwrap_or(-1)), "{done:?}\n{}", rig.log());
    assert_eq!(client.ask("GET kept").expect("reads go on").text().as_deref(), Some("yes"));
    std::fs::remove_file(&filler).expect("a file of ours");
    rig.upgrade_commits();
    client.ask("SET kept still").expect("writes go on");
    assert_eq!(rig.stop(), Some(0), "{}", rig.log());
    // before the directory below it goes, or that stays
    drop(mounted);
}

#[test]
fn a_second_run_on_the_same_dirs_is_13() {
    let rig = rig();
    let second = finish(&mut rig.run_command());
    says(second.expect_code(13), &["in use", &rig.supervisor_pid().to_string()]);
    // another run dir, the same data
    let mut other = not_started();
    other.data_dir.clone_from(&rig.data_dir);
    let third = finish(&mut other.run_command());
    says(third.expect_code(13), &["in use"]);
    rig.status().expect_code(0);
    rig.upgrade_commits();
}

#[test]
fn demo_server_refuses_two_data_dirs() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (one, other) = (dir.path().join("one"), dir.path().join("other"));
    std::fs::create_dir(&one).and_then(|()| std::fs::create_dir(&other)).expect("directories of ours");
    let mut command = Command::new(&Programs::of(Build::Plain).demo_server);
    command.arg("--data").arg(&one).env("HANDOFF_DATA_DIR", &other);
    let done = finish(&mut command);
    says(done.expect_code(2), &[&one.display().to_string(), &other.display().to_string()]);
}
