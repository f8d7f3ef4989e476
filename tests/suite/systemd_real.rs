//! The unit of the documentation under a real systemd: what it keeps, whom it kills, and what it calls ready.

use handoff_tests::arrivals::Arrivals;
use handoff_tests::bins::{Build, Programs};
use handoff_tests::client::Client;
use handoff_tests::load::{Load, Plan};
use handoff_tests::rig::{Finished, PATIENCE, finish, free_port};
use handoff_tests::systemd::{LOG, Systemd};
use serde_json::Value;
use std::net::SocketAddrV4;
use std::time::Instant;

const UNIT: &str = "handoff-kv.service";
const SOCKET: &str = "handoff-kv.socket";
const EXAMPLE: &str = include_str!("../../docs/handoff-kv.service");
const EXAMPLE_ADDR: &str = "127.0.0.1:6379";
const SERVER: &str = "/opt/kv/demo-server";
const HANGS: &str = "/opt/kv/bad-hangs-in-warm";
const RUNNING: [(&str, &str); 2] = [("ActiveState", "active"), ("SubState", "running")];

/// The unit under a systemd of its own.
struct Kv {
    systemd: Systemd,
    addr: SocketAddrV4,
}

impl Kv {
    /// None where that is not possible. The unit is the example but for its port, and a drop-in.
    fn new(drop_in: &str) -> Option<Kv> {
        Kv::with_socket(drop_in, "")
    }

    /// The same with a socket unit, if that is not empty.
    fn with_socket(drop_in: &str, socket: &str) -> Option<Kv> {
        if let Some(missing) = Systemd::missing() {
            eprintln!("skipped: {missing}");
            assert!(std::env::var_os("HANDOFF_REQUIRE_ALL").is_none_or(|v| v != "1"), "{missing}");
            return None;
        }
        let programs = Programs::of(Build::Plain);
        let addr = free_port();
        assert!(EXAMPLE.contains(EXAMPLE_ADDR));
        let unit = EXAMPLE.replace(EXAMPLE_ADDR, &addr.to_string());
        let drop_in =
            format!("[Service]\nStandardOutput=append:{LOG}\nStandardError=append:{LOG}\n{drop_in}");
        let socket = socket.replace(EXAMPLE_ADDR, &addr.to_string());
        let units = [(UNIT, &*unit), ("handoff-kv.service.d/test.conf", &drop_in), (SOCKET, &socket)];
        let systemd = Systemd::boot(
            if socket.is_empty() { &units[..2] } else { &units },
            &[
                (&programs.handoffctl, "/usr/bin/handoffctl"),
                (&programs.handoffctl, "/usr/bin/handoffctl-2"),
                (&programs.demo_server, SERVER),
                (&programs.bad_successor, HANGS),
            ],
        );
        Some(Kv { systemd, addr })
    }

    fn started(drop_in: &str) -> Option<Kv> {
        let kv = Kv::new(drop_in)?;
        kv.systemctl("start");
        Some(kv)
    }

    #[track_caller]
    fn systemctl(&self, verb: &str) {
        let done = self.systemd.ctl(&[verb, UNIT]);
        assert_eq!(done.code, Some(0), "{verb}: {done:?}\n{}", self.systemd.log());
    }

    fn show(&self, property: &str) -> String {
        self.systemd.show(UNIT, property)
    }

    #[track_caller]
    fn wait_until(&self, wanted: &[(&str, &str)]) {
        self.systemd.wait_until(UNIT, wanted);
    }

    fn main_pid(&self) -> u64 {
        self.show("MainPID").parse().expect("a number")
    }

    /// `main`: the supervisor alone; `all`: the servers, too.
    #[track_caller]
    fn kill(&self, whom: &str, signal: &str) {
        let words = ["kill", &format!("--kill-whom={whom}"), &format!("--signal={signal}"), UNIT];
        self.systemd.ctl(&words).expect_code(0);
    }

    fn handoffctl(&self, words: &[&str]) -> Finished {
        self.systemd.run(&handoffctl(words))
    }

    /// The supervisor's pid and the server's, when one serves and nothing is open.
    #[track_caller]
    fn settled(&self) -> (u64, u64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.handoffctl(&["status", "--format", "json"]);
            if status.code == Some(0) {
                let json = status.json();
                let pid = |of: &Value| of["pid"].as_u64().expect("a pid");
                return (pid(&json["supervisor"]), pid(&json["server"]));
            }
            assert!(Instant::now() < deadline, "{status:?}\n{}", self.systemd.log());
        }
    }

    #[track_caller]
    fn ask(&self, line: &str) -> String {
        let answer = Client::connect(self.addr.into()).and_then(|mut client| {
            client.set_patience(PATIENCE)?;
            client.ask(line)
        });
        let answer = answer.unwrap_or_else(|fault| panic!("{line}: {fault}\n{}", self.systemd.log()));
        answer.text().expect("text")
    }

    /// After a stop: nobody, no control group, no socket.
    #[track_caller]
    fn nothing_is_left(&self) {
        let sockets = self.systemd.run(&["find", "/run/kv", "-type", "s"]);
        assert_eq!(sockets.expect_code(0).stdout, "", "{}", self.systemd.log());
        // systemd reaps and removes when it has said that the stop is over
        let group = self.systemd.group(&format!("system.slice/{UNIT}"));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let others = self.systemd.others();
            if others.is_empty() && !group.exists() {
                return;
            }
            assert!(Instant::now() < deadline, "{others:?} {}\n{}", group.display(), self.systemd.log());
        }
    }
}

fn handoffctl<'a>(words: &[&'a str]) -> Vec<&'a str> {
    [&["handoffctl", words[0], "--run-dir", "/run/kv"], &words[1..]].concat()
}

/// Story of a deployment: start, reload, a new supervisor, stop, start.
#[test]
fn the_documented_unit_starts_reloads_replaces_its_supervisor_and_stops() {
    let Some(kv) = Kv::started("") else { return };
    // `systemctl start` has returned: it serves
    assert_eq!(kv.ask("SET kept yes"), "OK");
    kv.wait_until(&[RUNNING[0], RUNNING[1], ("NFileDescriptorStore", "2"), ("NRestarts", "0")]);
    let main = kv.main_pid();
    let (supervisor, first) = kv.settled();
    assert_eq!(supervisor, main);
    let status = kv.show("StatusText");
    assert!(
        status.starts_with("serving: epoch ") && status.ends_with(&format!("process {first}")),
        "{status}"
    );

    let load = Load::start(kv.addr, Plan::everything());
    kv.systemctl("reload");
    let (_, second) = kv.settled();
    assert_ne!(second, first, "a reload is an upgrade\n{}", kv.systemd.log());
    kv.handoffctl(&["upgrade", "--supervisor", "--binary", "/usr/bin/handoffctl-2"]).expect_code(0);
    assert_eq!(kv.settled(), (main, second));
    kv.handoffctl(&["upgrade", "--probation", "0s"]).expect_code(0);
    assert!(load.wait_for(20, PATIENCE), "nothing is answered any more\n{}", kv.systemd.log());
    load.finish().assert_clean();
    kv.wait_until(&[RUNNING[0], RUNNING[1], ("NFileDescriptorStore", "2"), ("NRestarts", "0")]);
    assert_eq!(kv.main_pid(), main);

    kv.systemctl("stop");
    kv.wait_until(&[("ActiveState", "inactive"), ("Result", "success"), ("ExecMainStatus", "0")]);
    kv.nothing_is_left();
    kv.systemctl("start");
    assert_eq!(kv.ask("GET kept"), "yes");
}

/// While a handoff is open systemd says that the unit reloads, whoever asked for it.
#[test]
fn an_open_handoff_is_a_reload() {
    let Some(kv) = Kv::started("") else { return };
    let settled = kv.settled();
    let mut upgrade = kv.systemd.command(&handoffctl(&["upgrade", "--binary", HANGS]));
    std::thread::scope(|scope| {
        let upgrade = scope.spawn(move || finish(&mut upgrade));
        kv.wait_until(&[("ActiveState", "reloading"), ("SubState", "reload")]);
        assert_eq!(kv.ask("PING"), "PONG");
        kv.handoffctl(&["abort"]).expect_code(0);
        upgrade.join().expect("no panic").expect_code(14);
    });
    kv.wait_until(&[RUNNING[0], RUNNING[1], ("NRestarts", "0")]);
    assert_eq!(kv.settled(), settled);
}

#[test]
fn a_supervisor_that_is_killed_is_started_again_and_adopts() {
    let Some(kv) = Kv::started("[Unit]\nStartLimitIntervalSec=0") else { return };
    let (mut main, server) = kv.settled();
    let load = Load::start(kv.addr, Plan { idle: 5, ..Plan::everything() });
    for n in 1..=5 {
        kv.kill("main", "KILL");
        kv.wait_until(&[
            ("NRestarts", &n.to_string()),
            RUNNING[0],
            RUNNING[1],
            ("NFileDescriptorStore", "2"),
        ]);
        let (supervisor, adopted) = kv.settled();
        assert_eq!(adopted, server, "adopted, not started again\n{}", kv.systemd.log());
        assert_ne!(supervisor, main);
        main = kv.main_pid();
        assert_eq!(supervisor, main);
        assert!(load.wait_for(20, PATIENCE), "nothing is answered any more\n{}", kv.systemd.log());
    }
    kv.systemctl("reload");
    load.finish().assert_clean();
    kv.systemctl("stop");
    kv.nothing_is_left();
}

/// The control of the test above: why the unit says `KillMode=process`.
#[test]
fn with_another_kill_mode_the_server_dies_with_its_supervisor() {
    let Some(kv) = Kv::started("KillMode=mixed") else { return };
    let (_, server) = kv.settled();
    kv.kill("main", "KILL");
    kv.wait_until(&[("NRestarts", "1"), RUNNING[0], RUNNING[1]]);
    assert_ne!(kv.settled().1, server);
}

/// The listeners are in the store: who comes meanwhile waits, and is answered by the next server.
#[test]
fn supervisor_and_server_are_killed_and_nobody_is_refused() {
    let Some(kv) = Kv::started("") else { return };
    let (_, server) = kv.settled();
    assert_eq!(kv.ask("SET kept yes"), "OK");
    let arrivals = Arrivals::start(kv.addr, 50);
    assert!(arrivals.wait_for(5, PATIENCE));
    kv.kill("all", "KILL");
    kv.wait_until(&[("NRestarts", "1"), RUNNING[0], RUNNING[1], ("NFileDescriptorStore", "2")]);
    let (supervisor, next) = kv.settled();
    assert_eq!(supervisor, kv.main_pid());
    assert_ne!(next, server);
    assert_eq!(kv.ask("GET kept"), "yes");
    assert!(arrivals.wait_for(5, PATIENCE));
    let seen = arrivals.finish();
    // who was talking to the server that was killed has lost its connection
    assert_eq!((seen.refused, seen.failed), (0, 0), "{seen:?}");
    kv.systemctl("stop");
    kv.nothing_is_left();
}

/// The control of the test above.
#[test]
fn without_a_store_clients_are_refused() {
    let Some(kv) = Kv::started("FileDescriptorStoreMax=0\nRestart=no") else { return };
    kv.kill("all", "KILL");
    kv.wait_until(&[("ActiveState", "failed"), ("NFileDescriptorStore", "0")]);
    assert!(std::net::TcpStream::connect(kv.addr).is_err());
}

/// `systemctl restart` ends the servers; the listeners wait in the store for the next ones.
#[test]
fn a_restart_refuses_nobody() {
    let Some(kv) = Kv::started("") else { return };
    let arrivals = Arrivals::start(kv.addr, 50);
    assert!(arrivals.wait_for(5, PATIENCE));
    kv.systemctl("restart");
    kv.settled();
    assert!(arrivals.wait_for(5, PATIENCE));
    let seen = arrivals.finish();
    assert_eq!((seen.refused, seen.failed), (0, 0), "{seen:?}");
}

/// A socket unit beside it: systemd listens from the boot on, and passes the same socket twice after a restart, as its
/// own and as the stored one.
#[test]
fn the_socket_of_a_socket_unit_is_used() {
    let socket = format!("[Socket]\nListenStream={EXAMPLE_ADDR}\nFileDescriptorName=resp\n");
    let Some(kv) = Kv::with_socket("", &socket) else { return };
    kv.systemd.ctl(&["start", SOCKET]).expect_code(0);
    kv.wait_until(&[("ActiveState", "inactive")]);
    assert_eq!(kv.ask("SET kept yes"), "OK", "a client starts it");
    kv.wait_until(&RUNNING);
    kv.kill("all", "KILL");
    kv.wait_until(&[("NRestarts", "1"), RUNNING[0], RUNNING[1]]);
    assert_eq!(kv.ask("GET kept"), "yes");
    kv.systemctl("reload");
    let (_, server) = kv.settled();
    kv.kill("main", "KILL");
    kv.wait_until(&[("NRestarts", "2"), RUNNING[0], RUNNING[1]]);
    assert_eq!(kv.settled().1, server, "adopted, not started again\n{}", kv.systemd.log());
    kv.systemctl("stop");
    kv.nothing_is_left();
    assert_eq!(kv.ask("GET kept"), "yes", "the socket unit still listens");
}

/// The watchdog ends a supervisor that stands still, and the next one adopts.
#[test]
fn a_supervisor_that_stands_still_is_ended_by_the_watchdog() {
    let Some(kv) = Kv::started("WatchdogSec=3s") else { return };
    let (main, server) = kv.settled();
    let load = Load::start(kv.addr, Plan { idle: 5, ..Plan::everything() });
    kv.kill("main", "STOP");
    kv.wait_until(&[("NRestarts", "1"), RUNNING[0], RUNNING[1], ("NFileDescriptorStore", "2")]);
    let (supervisor, adopted) = kv.settled();
    assert_ne!(supervisor, main);
    assert_eq!(adopted, server, "adopted, not started again\n{}", kv.systemd.log());
    assert!(load.wait_for(20, PATIENCE), "nothing is answered any more\n{}", kv.systemd.log());
    load.finish().assert_clean();
}

/// A stop that the supervisor does not hear: it alone is killed, and the next start adopts the servers.
#[test]
fn a_supervisor_that_does_not_stop_is_killed_alone() {
    // a signal that means nothing to it
    let Some(kv) = Kv::started("KillSignal=SIGCONT\nTimeoutStopSec=1s") else { return };
    let (_, server) = kv.settled();
    let load = Load::start(kv.addr, Plan { idle: 5, ..Plan::everything() });
    kv.systemctl("stop");
    kv.wait_until(&[("ActiveState", "failed"), ("Result", "timeout")]);
    assert!(load.wait_for(20, PATIENCE), "nothing is answered any more\n{}", kv.systemd.log());
    kv.systemctl("start");
    assert_eq!(kv.settled().1, server, "adopted, not started again\n{}", kv.systemd.log());
    load.finish().assert_clean();
}

/// systemd gives up on a supervisor that dies too often. The servers do not notice, and the next start adopts them: the
/// run dir has to be there then, which `RuntimeDirectoryPreserve=restart` took away.
#[test]
fn after_systemds_start_limit_the_server_serves_on() {
    // the limit is of the [Unit] section
    let limit = "[Unit]\nStartLimitIntervalSec=1h\nStartLimitBurst=2";
    let Some(kv) = Kv::started(limit) else { return };
    let (_, server) = kv.settled();
    let load = Load::start(kv.addr, Plan { idle: 5, ..Plan::everything() });
    kv.kill("main", "KILL");
    kv.wait_until(&[("NRestarts", "1"), RUNNING[0], RUNNING[1]]);
    kv.kill("main", "KILL");
    kv.wait_until(&[("ActiveState", "failed")]);
    assert!(load.wait_for(20, PATIENCE), "nothing is answered any more\n{}", kv.systemd.log());
    kv.handoffctl(&["status"]).expect_code(3);
    kv.systemctl("reset-failed");
    kv.systemctl("start");
    assert_eq!(kv.settled().1, server, "adopted, not started again\n{}", kv.systemd.log());
    kv.systemctl("reload");
    load.finish().assert_clean();
    kv.systemctl("stop");
    kv.nothing_is_left();
}
