//! Listening sockets: they outlive every server, and nobody is refused.

use handoff_tests::bins::{Build, Programs};
use handoff_tests::client::Client;
use handoff_tests::load::{Load, Plan};
use handoff_tests::rig::{PATIENCE, Setup, stop};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The inodes of the sockets that listen on this port.
fn listening(port: u16) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("/proc/net/tcp");
    let wanted = format!(":{port:04X}");
    let fields = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    // local address, state 0A = LISTEN, inode
    fields.filter(|f| f[1].ends_with(&wanted) && f[3] == "0A").map(|f| f[9].to_owned()).collect()
}

#[test]
fn the_socket_stays_the_same() {
    let rig = crate::rig();
    let before = listening(rig.addr.port());
    assert_eq!(before.len(), 1);
    for _ in 0..3 {
        rig.upgrade_commits();
        assert_eq!(listening(rig.addr.port()), before);
    }
    let _ = rig.upgrade_to(&rig.programs().bad("crashes-in-open"));
    assert_eq!(listening(rig.addr.port()), before);
}

/// How often the kernel threw a connection away because the queue of a listener was full.
fn thrown_away() -> u64 {
    let table = std::fs::read_to_string("/proc/net/netstat").expect("/proc/net/netstat");
    let mut rows = table.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (rows.next().expect("names"), rows.next().expect("values"));
    let counts = names.split(' ').zip(values.split(' ').map(|value| value.parse::<u64>().unwrap_or(0)));
    counts.filter(|(name, _)| matches!(*name, "ListenOverflows" | "ListenDrops")).map(|(_, n)| n).sum()
}

/// Many more new connections than one server accepts at a time: none refused, none reset, none that had to send its
/// SYN twice, which takes a second. A busy machine takes one, too: it counts where something was thrown away.
#[test]
fn a_stream_of_new_connections_sees_no_upgrade() {
    let rig = crate::rig();
    let before = thrown_away();
    let load = Load::start(rig.addr, Plan { fresh: 8, ..Plan::default() });
    for _ in 0..5 {
        rig.upgrade_commits();
        assert!(load.wait_for(200, PATIENCE), "nothing is answered any more\n{}", rig.log());
    }
    let tally = load.finish();
    println!("{tally}");
    tally.assert_clean();
    let slow = tally.longest_connect >= Duration::from_secs(1);
    assert!(!slow || thrown_away() == before, "a SYN was sent twice: {tally}");
}

/// A connection that waits in the backlog while nobody accepts is served by the next server.
///
/// This failed once: the signal that stops the server had been sent, but a thread of it still ran on the other core and
/// accepted the connection before it stood still. Then its end is this connection's end, rightly.
#[test]
fn who_waits_in_the_backlog_of_a_dead_server_is_served_by_the_next() {
    let rig = crate::rig();
    let server = rig.server_pid();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(server).expect("a pid"));
    // stopped, it accepts nothing more; the connection below can only wait in the queue
    stop(server);
    let mut client = Client::connect(rig.addr.into()).expect("the kernel accepts");
    client.send(&[b"PING"]).expect("the kernel takes it");
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("a process of ours");
    assert_eq!(client.reply().expect("the next server answers").text().as_deref(), Some("PONG"));
    assert_ne!(rig.server_pid(), server);
}

#[test]
fn more_listeners_of_other_kinds_are_handed_over() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("kv.sock");
    let unix = format!("more=unix:{}", path.display());
    let rig = Setup::new(Programs::of(Build::Plain)).run_args(&[
        "--listen",
        &unix,
        "--listen",
        "u=udp:127.0.0.1:0",
    ]);
    let rig = rig.start();
    let listeners = rig.status().json()["listeners"].clone();
    assert_eq!(listeners.as_array().map(Vec::len), Some(3), "{listeners}");
    rig.upgrade_commits();
    assert_eq!(rig.status().json()["listeners"], listeners, "the same after an upgrade");
    // demo-server does not accept on it; the kernel does, since the socket lives
    let mut stream = UnixStream::connect(&path).expect("somebody holds the listener");
    stream.write_all(b"PING\r\n").expect("the kernel takes it");
    stream.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
    let _ = stream.read(&mut [0; 16]);
}
