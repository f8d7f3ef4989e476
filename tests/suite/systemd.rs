//! Under a service manager: what it hears, and what it keeps over a SIGKILL. The manager is a stand-in that speaks the
//! real datagram protocol.

use crate::cli::says;
use handoff_tests::bins::{Build, Programs};
use handoff_tests::client::Client;
use handoff_tests::rig::{PATIENCE, Rig, Setup, alive, finish, stop, wait_gone};
use handoff_tests::service_manager::{Heard, ServiceManager};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

fn supervised(watchdog: Duration) -> (Rig, ServiceManager) {
    let rig = Setup::new(Programs::of(Build::Plain)).idle();
    let mut manager = ServiceManager::new(&rig, watchdog);
    manager.start(&rig);
    (rig, manager)
}

fn names(manager: &ServiceManager) -> Vec<&str> {
    let mut names: Vec<&str> = manager.store.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names
}

const STORED: [&str; 2] = ["handoff-lineage", "handoff-listen-resp"];

#[track_caller]
fn reloading(heard: &[Heard]) {
    let found = heard.iter().find(|heard| heard.says("RELOADING=1")).expect("it reloads first");
    let at: u64 = found.value("MONOTONIC_USEC").expect("systemd wants it").parse().expect("a number");
    assert!(at > 0, "{found:?}");
}

#[test]
fn a_service_manager_hears_of_everything_from_the_same_main_process() {
    let (rig, mut manager) = supervised(LONG);
    let main = manager.main_pid();
    let mut all = manager.hear_until("READY=1");
    let ready = all.last().expect("the last").clone();
    assert_eq!(ready.value("MAINPID"), Some(main.to_string().as_str()), "{ready:?}");
    assert!(ready.value("STATUS").is_some_and(|s| s.contains("serving") && s.contains("epoch")), "{ready:?}");
    assert_eq!(names(&manager), STORED);
    assert!(!all.iter().any(|heard| heard.says("RELOADING=1")), "{all:?}");

    rig.upgrade_commits();
    let heard = manager.hear_until("READY=1");
    reloading(&heard);
    all.extend(heard);

    let other = rig.programs().named(&rig.programs().handoffctl, "handoffctl-2");
    let binary = other.to_str().expect("a path of ours");
    rig.ctl("upgrade", &["--supervisor", "--binary", binary]).expect_code(0);
    let heard = manager.hear_until("READY=1");
    reloading(&heard);
    let ready = heard.last().expect("the last");
    assert_eq!(ready.value("MAINPID"), Some(main.to_string().as_str()), "{ready:?}");
    all.extend(heard);
    assert_eq!(names(&manager), STORED, "the same ones again");

    manager.signal(nix::libc::SIGTERM);
    all.extend(manager.hear_until("STOPPING=1"));
    assert_eq!(manager.wait(), Some(0), "{}", rig.log());
    while let Some(heard) = manager.next(Duration::ZERO) {
        all.push(heard);
    }
    // NotifyAccess=main: nobody else is heard
    assert!(all.iter().all(|heard| heard.pid == main), "{all:?}");
    assert_eq!(names(&manager), STORED[1..], "the lineage is over, the listeners wait for a restart");
}

#[test]
fn the_watchdog_hears_the_loop_and_not_a_stopped_one() {
    let (_rig, mut manager) = supervised(Duration::from_millis(600));
    manager.hear_until("READY=1");
    for _ in 0..3 {
        manager.hear_until("WATCHDOG=1");
    }
    stop(manager.main_pid());
    // what was said before
    while manager.next(Duration::ZERO).is_some() {}
    assert_eq!(manager.next(Duration::from_millis(1200)), None, "a process that stands still gives no sign");
    manager.signal(nix::libc::SIGCONT);
    manager.hear_until("WATCHDOG=1");
}

/// SIGKILL for everybody: nobody is refused, and nobody else may have the data meanwhile.
#[test]
fn listeners_and_lineage_outlive_supervisor_and_server() {
    let (rig, mut manager) = supervised(LONG);
    manager.hear_until("READY=1");
    let mut client = Client::connect(rig.addr.into()).expect("connects");
    client.ask("SET kept yes").expect("is acknowledged");
    let server = rig.server_pid();
    manager.signal(nix::libc::SIGKILL);
    manager.wait();
    assert!(alive(server), "it does not need its supervisor");
    kill(Pid::from_raw(i32::try_from(server).expect("a pid")), Signal::SIGKILL).expect("a process of ours");
    wait_gone(server);
    while manager.next(Duration::ZERO).is_some() {}
    assert_eq!(names(&manager), STORED);
    // nobody lives, and a client is queued
    let mut queued = Client::connect(rig.addr.into()).expect("queued, not refused");
    let mut stranger = Setup::new(Programs::of(Build::Plain)).idle();
    stranger.data_dir.clone_from(&rig.data_dir);
    says(finish(&mut stranger.run_command()).expect_code(13), &["in use"]);
    manager.start(&rig);
    manager.hear_until("READY=1");
    queued.set_patience(PATIENCE).expect("a socket");
    assert_eq!(queued.ask("GET kept").expect("is answered").text().as_deref(), Some("yes"));
    rig.upgrade_commits();
    manager.signal(nix::libc::SIGTERM);
    assert_eq!(manager.wait(), Some(0), "{}", rig.log());
}

/// The control of the test above: without a store the same is a refusal.
#[test]
fn without_a_store_a_client_is_refused() {
    let (rig, mut manager) = supervised(LONG);
    manager.hear_until("READY=1");
    let server = rig.server_pid();
    manager.signal(nix::libc::SIGKILL);
    manager.wait();
    kill(Pid::from_raw(i32::try_from(server).expect("a pid")), Signal::SIGKILL).expect("a process of ours");
    wait_gone(server);
    while manager.next(Duration::ZERO).is_some() {}
    manager.store.clear();
    assert!(std::net::TcpStream::connect(rig.addr).is_err());
}

/// A restart with another address: what was kept for the old one is not used and not kept any longer.
///
/// On a busy machine the supervisor ended before its thread had said the last words, and lineage.lock stayed in the store.
#[test]
fn a_listener_that_is_not_asked_for_any_more_is_forgotten() {
    let (rig, mut manager) = supervised(LONG);
    manager.hear_until("READY=1");
    manager.signal(nix::libc::SIGTERM);
    assert_eq!(manager.wait(), Some(0), "{}", rig.log());
    while manager.next(Duration::ZERO).is_some() {}
    assert_eq!(names(&manager), STORED[1..]);
    let mut moved = Setup::new(Programs::of(Build::Plain)).idle();
    (moved.run_dir, moved.data_dir) = (rig.run_dir.clone(), rig.data_dir.clone());
    assert_ne!(moved.addr, rig.addr);
    let mut second = ServiceManager::new(&moved, LONG);
    second.store = std::mem::take(&mut manager.store);
    second.start(&moved);
    let heard = second.hear_until("READY=1");
    assert!(heard.iter().any(|heard| heard.says("FDSTOREREMOVE=1")), "{heard:?}");
    moved.wait_until_served();
    assert!(std::net::TcpStream::connect(rig.addr).is_err(), "nobody listens there any more");
    second.signal(nix::libc::SIGTERM);
    assert_eq!(second.wait(), Some(0), "{}", moved.log());
}
