//! What is on disk when a supervisor starts: leftovers of a power loss, and files that cannot be believed.

use crate::cli::{needs, says};
use handoff_tests::bins::{Build, Programs};
use handoff_tests::client::Client;
use handoff_tests::rig::{Finished, Rig, Setup, alive, cgroup_of, finish, wait_gone};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, chown, geteuid};
use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};

/// What a power loss leaves, as far as processes go: nobody, and nobody was asked to stop.
fn kill_all(rig: &mut Rig) {
    rig.kill_supervisor();
    for pid in rig.instances() {
        kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), Signal::SIGKILL).expect("a process of ours");
        wait_gone(pid);
    }
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).expect("a directory of ours");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

fn claims(rig: &Rig) -> PathBuf {
    rig.data_dir.join(".handoff")
}

fn claim_files(rig: &Rig) -> Vec<PathBuf> {
    let names = names(&claims(rig)).into_iter().filter(|name| name.starts_with("epoch."));
    names.map(|name| claims(rig).join(name)).collect()
}

fn append(path: &Path, bytes: &[u8]) {
    let mut file = std::fs::File::options().append(true).open(path).expect("a file of ours");
    file.write_all(bytes).expect("a file of ours");
}

fn put(path: PathBuf) -> PathBuf {
    std::fs::write(&path, b"half of somethi").expect("a file of ours");
    path
}

fn stale_socket(path: PathBuf) -> PathBuf {
    drop(UnixListener::bind(&path).expect("binds"));
    path
}

/// Another boot, and a pid that somebody else has now.
fn as_after_a_boot(rig: &Rig) {
    for path in claim_files(rig) {
        let bytes = std::fs::read(&path).expect("a claim");
        let mut claim = handoff::claim::Proposal::decode(&bytes).expect("a claim");
        (claim.boot_id, claim.pid) = (claim.boot_id ^ 1, std::process::id());
        std::fs::write(&path, claim.encode()).expect("a claim");
    }
}

fn cleaned(rig: &Rig) -> Vec<String> {
    let json = rig.status().expect_code(0).json();
    let told = json["cleaned"].as_array().unwrap_or_else(|| panic!("{json}")).clone();
    told.iter().map(|text| text.as_str().unwrap_or_default().to_owned()).collect()
}

#[track_caller]
fn told(cleaned: &[String], what: &str) {
    assert!(cleaned.iter().any(|text| text.contains(what)), "{what} is not told: {cleaned:#?}");
}

const ID: &str = "0190c0de000000000000000000000007";

#[test]
fn after_a_power_loss_all_acknowledged_data_is_served_and_what_was_left_is_cleaned_and_told() {
    let mut rig = crate::rig();
    let mut client = Client::connect(rig.addr.into()).expect("connects");
    for n in 0..200 {
        client.ask(&format!("SET key:{n} value-{n}")).expect("is acknowledged");
    }
    rig.upgrade_commits();
    client.ask("SET last word").expect("is acknowledged");
    let before = rig.status().json()["epoch"].as_u64().expect("an epoch");
    let group = cgroup_of(rig.server_pid()).filter(|path| path.ends_with_instance());
    kill_all(&mut rig);

    as_after_a_boot(&rig);
    append(&rig.run_dir.join("journal"), &[40, 0, 0, 0, 1, 2]);
    let instance = handoff::ids::InstanceId::parse(ID).expect("an id").to_string();
    let here = std::process::id();
    let control = claims(&rig);
    let mut planted = vec![
        put(control.join(format!("prop.{instance}.X"))),
        // a temporary file of a pid that is somebody else's by now
        put(control.join(format!("tmp.{here}.1"))),
        put(rig.run_dir.join(format!("tmp.{here}.2"))),
        stale_socket(rig.run_dir.join(format!(".control.sock.{here}"))),
        stale_socket(rig.run_dir.join("ctl").join(format!("{instance}.sock"))),
        stale_socket(rig.run_dir.join("ctl").join(format!(".{instance}.sock.{here}"))),
    ];
    let reported = planted.len();
    planted.push(put(rig.data_dir.join("snapshot.4711")));
    planted.push(put(rig.data_dir.join("manifest.new")));
    let log = names(&rig.data_dir).into_iter().filter(|name| name.starts_with("log."));
    append(&rig.data_dir.join(log.max().expect("a log")), &[90, 0, 0, 0, 7, 7, 7, 7, 1]);

    rig.run();
    let mut client = Client::connect(rig.addr.into()).expect("connects");
    for n in 0..200 {
        let value = client.ask(&format!("GET key:{n}")).expect("is answered").text();
        assert_eq!(value, Some(format!("value-{n}")));
    }
    assert_eq!(client.ask("GET last").expect("is answered").text().as_deref(), Some("word"));
    let status = rig.status().expect_code(0).json();
    assert!(status["epoch"].as_u64() > Some(before), "epochs rise: {before} {status}");
    for path in &planted {
        assert!(path.symlink_metadata().is_err(), "{} is left", path.display());
    }
    let told_of = cleaned(&rig);
    for path in &planted[..reported] {
        told(&told_of, &path.display().to_string());
    }
    told(&told_of, "journal: 6 bytes of an unfinished record");
    if let Some(group) = group {
        assert!(!group.exists(), "{} is left", group.display());
        told(&told_of, "control group of instance");
    }
    let human = rig.ctl("status", &[]);
    assert!(human.expect_code(0).stdout.contains("cleaned"), "{human:?}");
    rig.upgrade_commits();

    // the control: who stopped cleanly left nothing
    assert_eq!(rig.stop(), Some(0), "{}", rig.log());
    rig.run();
    assert_eq!(cleaned(&rig), [""; 0]);
}

trait Group {
    fn ends_with_instance(&self) -> bool;
}

impl Group for PathBuf {
    fn ends_with_instance(&self) -> bool {
        self.file_name().is_some_and(|name| name.to_string_lossy().starts_with("inst-"))
    }
}

/// The same files where somebody lives: only what is known to be of the dead goes.
#[test]
fn what_belongs_to_a_living_instance_is_not_cleaned() {
    let mut rig = crate::rig();
    let server = rig.server_pid();
    // a supervisor that dies while it copies the build leaves half of a copy, which goes too
    let _kept = rig.settled_footprint();
    rig.kill_supervisor();
    let instance = handoff::ids::InstanceId::parse(ID).expect("an id");
    let living = [
        put(claims(&rig).join(format!("tmp.{server}.1"))),
        put(claims(&rig).join(format!("prop.{}.N", handoff::ids::HandoffId(instance.0)))),
    ];
    let mut gone = std::process::Command::new("true").spawn().expect("a process");
    let dead = gone.id();
    gone.wait().expect("a child of ours");
    let left = put(claims(&rig).join(format!("tmp.{dead}.1")));
    rig.run();
    assert_eq!(rig.server_pid(), server, "taken over");
    for path in &living {
        assert!(path.exists(), "{} is gone", path.display());
    }
    assert!(!left.exists());
    let told_of = cleaned(&rig);
    assert_eq!(told_of.len(), 1, "{told_of:?}");
    told(&told_of, &left.display().to_string());
    rig.upgrade_commits();
}

/// A supervisor that must not start while the server lives on. What is wrong is then put right.
fn refused(rig: &mut Rig, words: &[&str]) -> Finished {
    let server = rig.server_pid();
    rig.kill_supervisor();
    let done = finish(&mut rig.run_command());
    says(done.expect_code(14), words);
    rig.wait_until_served();
    assert!(alive(server), "the service is untouched");
    done
}

fn taken_over(rig: &mut Rig, server: u32) {
    rig.run();
    assert_eq!(rig.server_pid(), server, "taken over, not started again");
    rig.upgrade_commits();
}

/// Damages a file while nobody supervises, and puts it back.
fn with_file(what: impl Fn(&Rig) -> PathBuf, damage: impl Fn(&mut Vec<u8>), words: &[&str]) {
    let mut rig = crate::rig();
    rig.upgrade_commits();
    let server = rig.server_pid();
    let path = what(&rig);
    let good = std::fs::read(&path).expect("a file of ours");
    let mut bad = good.clone();
    damage(&mut bad);
    std::fs::write(&path, &bad).expect("a file of ours");
    let shown = path.display().to_string();
    refused(&mut rig, &[words, &[shown.as_str()]].concat());
    assert_eq!(std::fs::read(&path).expect("still there"), bad, "nothing is repaired by guessing");
    std::fs::write(&path, &good).expect("a file of ours");
    taken_over(&mut rig, server);
}

fn journal(rig: &Rig) -> PathBuf {
    rig.run_dir.join("journal")
}

#[test]
fn a_journal_of_a_newer_version_is_14_and_the_server_serves_on() {
    let newer = |bytes: &mut Vec<u8>| {
        bytes[8] = 2;
        let checksum = crc32c::crc32c(&bytes[..12]).to_le_bytes();
        bytes[12..16].copy_from_slice(&checksum);
    };
    with_file(journal, newer, &["journal format 2", "reads up to 1", "next:"]);
}

#[test]
fn a_journal_with_a_hole_is_14_and_the_server_serves_on() {
    with_file(journal, |bytes| bytes[30] ^= 1, &["damaged at byte 16", "move the journal aside"]);
}

/// The word of a damaged journal is not needed: the claims say who serves.
#[test]
fn a_journal_that_was_moved_aside_costs_nothing() {
    let mut rig = crate::rig();
    let server = rig.server_pid();
    std::fs::write(journal(&rig), b"damaged, and long enough to be none").expect("a file of ours");
    refused(&mut rig, &["not a journal"]);
    std::fs::rename(journal(&rig), rig.run_dir.join("journal.aside")).expect("a file of ours");
    taken_over(&mut rig, server);
}

#[test]
fn a_damaged_highest_claim_is_14_and_the_server_serves_on() {
    let highest = |rig: &Rig| claim_files(rig).pop().expect("a claim");
    with_file(highest, |bytes| bytes[40] ^= 1, &["who served last is not known", "checksum", "next:"]);
}

/// Claims are tidied, and a disk may bring some back: only the highest counts.
#[test]
fn gaps_between_claims_do_not_matter() {
    let mut rig = crate::rig();
    for _ in 0..3 {
        rig.upgrade_commits();
    }
    let before = rig.status().json()["epoch"].as_u64().expect("an epoch");
    let files = claim_files(&rig);
    std::fs::remove_file(&files[1]).expect("a claim");
    let server = rig.server_pid();
    rig.kill_supervisor();
    taken_over(&mut rig, server);
    kill_all(&mut rig);
    rig.run();
    assert!(rig.status().json()["epoch"].as_u64() > Some(before + 1));
}

/// Somebody who is none of ours has claimed the next epoch: no handoff can win it.
#[test]
fn a_claim_of_a_stranger_stops_an_upgrade_before_it_begins() {
    let mut rig = crate::rig();
    let server = rig.server_pid();
    let own = claim_files(&rig).pop().expect("a claim");
    let mut claim =
        handoff::claim::Proposal::decode(&std::fs::read(&own).expect("a claim")).expect("a claim");
    claim.instance = handoff::ids::InstanceId::parse(ID).expect("an id");
    let foreign = claims(&rig).join(format!("epoch.{:020}", 2));
    std::fs::write(&foreign, claim.encode()).expect("a file of ours");
    let refused = rig.upgrade(&[]);
    let reason = refused.expect_code(14).json()["reason"].as_str().unwrap_or_default().to_owned();
    for word in ["epoch 2", &claim.instance.to_string(), "next:", "stop the service"] {
        assert!(reason.contains(word), "{word}: {reason}");
    }
    rig.wait_until_served();
    assert_eq!(rig.server_pid(), server, "the service is untouched");
    // the next step that it names
    assert_eq!(rig.stop(), Some(0), "{}", rig.log());
    rig.run();
    assert_eq!(rig.status().json()["epoch"], 3);
    rig.upgrade_commits();
}

#[test]
fn a_control_socket_that_says_nothing_holds_nobody() {
    let mut rig = Setup::new(Programs::of(Build::Plain)).start();
    let server = rig.server_pid();
    rig.kill_supervisor();
    let instance = handoff::ids::InstanceId::parse(ID).expect("an id");
    let path = rig.run_dir.join("ctl").join(format!("{instance}.sock"));
    let _silent = UnixListener::bind(&path).expect("binds");
    taken_over(&mut rig, server);
    assert!(!rig.log().contains("waiting for it"), "{}", rig.log());
    assert!(rig.log().contains("an instance does not answer") && rig.log().contains(&instance.to_string()));
    assert!(!path.exists(), "its socket is gone");
}

fn give(dir: &Path, to: Uid) {
    chown(dir, Some(to), None).expect("root may");
    for entry in std::fs::read_dir(dir).expect("a directory of ours") {
        let path = entry.expect("an entry").path();
        let kind = path.symlink_metadata().expect("an entry").file_type();
        if kind.is_dir() {
            give(&path, to);
        } else if !kind.is_symlink() {
            chown(&path, Some(to), None).expect("root may");
        }
    }
}

/// The unit was given another user, and so was half of what it uses.
#[test]
fn a_supervisor_of_another_user_is_14_and_the_server_serves_on() {
    if !needs("root, to start a supervisor as somebody else", geteuid().is_root()) {
        return;
    }
    let mut rig = crate::rig();
    let server = rig.server_pid();
    rig.kill_supervisor();
    let nobody = Uid::from_raw(65534);
    std::fs::set_permissions(rig.dir(), std::fs::Permissions::from_mode(0o755)).expect("a directory of ours");
    // all of it is somebody else's: nothing is touched
    let run_as_nobody = |rig: &Rig| finish(rig.run_command().uid(65534).gid(65534));
    says(run_as_nobody(&rig).expect_code(14), &[&rig.run_dir.display().to_string(), "own"]);
    // only the data are
    give(&rig.run_dir, nobody);
    says(run_as_nobody(&rig).expect_code(14), &[&rig.data_dir.display().to_string(), "own"]);
    rig.wait_until_served();
    assert!(alive(server), "the service is untouched");
    give(&rig.run_dir, geteuid());
    taken_over(&mut rig, server);
}

/// A process that ends with its owner.
struct Running(std::process::Child);

impl Running {
    fn kill(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).expect("a child of ours");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // it has ended where the test went well
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The server runs as one user, and the unit was given another one: what it says is not believed, nor is it ended.
#[test]
fn an_instance_of_another_user_is_14_and_serves_on() {
    if !needs("root, to start supervisors as others", geteuid().is_root()) {
        return;
    }
    const THEIRS: u32 = 65534;
    const OURS: u32 = 65533;
    let rig = Setup::new(Programs::of(Build::Plain)).idle();
    std::fs::set_permissions(rig.dir(), std::fs::Permissions::from_mode(0o755)).expect("a directory of ours");
    let as_user = |uid: u32| {
        for dir in [&rig.run_dir, &rig.data_dir, &rig.marks] {
            give(dir, Uid::from_raw(uid));
        }
        let mut command = rig.run_command();
        command.uid(uid).gid(uid);
        command
    };
    let run = |mut command: std::process::Command| {
        let log = std::fs::File::options().create(true).append(true).open(rig.log_path()).expect("a log");
        command.stdin(std::process::Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        let child = Running(command.spawn().expect("a program of ours"));
        // before it answers operators, it has not bound its listeners
        rig.wait_until_settled();
        rig.wait_until_served();
        child
    };
    let mut supervisor = run(as_user(THEIRS));
    let server = rig.server_pid();
    supervisor.kill();
    let refused = finish(&mut as_user(OURS));
    let socket = rig.run_dir.join("ctl").display().to_string();
    says(refused.expect_code(14), &[socket.as_str(), "uid 65534", "uid 65533", "next:"]);
    rig.wait_until_served();
    assert!(alive(server), "the service is untouched");
    let mut supervisor = run(as_user(THEIRS));
    assert_eq!(rig.server_pid(), server, "taken over, not started again");
    rig.upgrade_commits();
    let pid = i32::try_from(supervisor.0.id()).expect("a pid");
    kill(Pid::from_raw(pid), Signal::SIGTERM).expect("a child of ours");
    assert_eq!(supervisor.0.wait().expect("a child of ours").code(), Some(0), "{}", rig.log());
}
