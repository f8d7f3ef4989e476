//! Upgrades that commit.

use crate::cli::needs;
use crate::rig;
use handoff_tests::client::Client;
use handoff_tests::load::{Load, Plan};
use handoff_tests::rig::{PATIENCE, finish};
use serde_json::Value;

/// The main promise: busy, fresh, idle, half-command, unread and subscribed clients notice nothing of 20 upgrades.
#[test]
fn twenty_upgrades_under_load_go_unnoticed() {
    let rig = rig();
    let mut load = Load::start(rig.addr, Plan::everything());
    let mut pids = vec![rig.server_pid()];
    for _ in 0..20 {
        load.hold_back();
        let report = rig.upgrade_commits();
        load.let_go();
        assert!(load.wait_for(50, PATIENCE), "nothing is answered any more\n{}", rig.log());
        assert_eq!(report["old"]["pid"].as_u64(), pids.last().map(|pid| u64::from(*pid)), "{report}");
        pids.push(rig.server_pid());
        assert_eq!(report["new"]["pid"].as_u64(), pids.last().map(|pid| u64::from(*pid)), "{report}");
    }
    let tally = load.finish();
    println!("{tally}");
    tally.assert_clean();
    pids.dedup();
    assert_eq!(pids.len(), 21, "each upgrade brings another process");
}

/// A client of the field, with and without kept-alive connections, through as many upgrades as fit in.
#[test]
fn redis_benchmark_notices_nothing() {
    let there = std::process::Command::new("redis-benchmark").arg("--version").output().is_ok();
    if !needs("redis-benchmark (package redis-tools)", there) {
        return;
    }
    let rig = rig();
    for (keep_alive, requests) in [("1", "20000"), ("0", "4000")] {
        let mut benchmark = std::process::Command::new("redis-benchmark");
        benchmark.args(["-p", &rig.addr.port().to_string(), "-t", "ping,set,get,incr,mset", "-q"]);
        benchmark.args(["-k", keep_alive, "-n", requests, "-c", "20"]);
        let (done, upgrades) = std::thread::scope(|scope| {
            let benchmark = scope.spawn(move || finish(&mut benchmark));
            let mut upgrades = 0;
            while !benchmark.is_finished() {
                rig.upgrade_commits();
                upgrades += 1;
            }
            (benchmark.join().expect("no panic"), upgrades)
        });
        done.expect_code(0);
        let said = format!("{}{}", done.stdout, done.stderr).to_lowercase();
        for word in ["error", "reset", "refused", "closed"] {
            assert!(!said.contains(word), "-k {keep_alive}: {done:?}");
        }
        println!("-k {keep_alive}: {upgrades} upgrades while it ran");
        assert!(upgrades > 0);
    }
}

#[test]
fn nothing_grows_from_upgrade_to_upgrade() {
    let rig = rig();
    let mut load = Load::start(rig.addr, Plan { busy: 2, idle: 5, half: 2, ..Plan::default() });
    let settle = |load: &mut Load| {
        load.hold_back();
        rig.upgrade_commits();
        load.let_go();
    };
    // as many as claims, and the builds that they name, are kept
    for _ in 0..20 {
        settle(&mut load);
    }
    // the clients stay, so that only what the upgrades themselves leave could differ
    let before = rig.settled_footprint();
    for _ in 0..20 {
        settle(&mut load);
    }
    rig.assert_no_growth(&before);
    load.finish().assert_clean();
}

#[test]
fn the_report_says_what_happened() {
    let rig = rig();
    let load = Load::start(rig.addr, Plan { busy: 1, idle: 4, ..Plan::default() });
    let first = rig.status().json()["epoch"].as_u64().expect("an epoch");
    let report = rig.upgrade_commits();
    load.finish().assert_clean();

    assert_eq!(report["schema"], 1);
    assert_eq!(report["reason"], Value::Null);
    assert!(report["handoff_id"].as_str().is_some_and(|id| id.len() == 36), "{report}");
    assert!(report["epoch"].as_u64().is_some_and(|epoch| epoch > first), "{report}");
    for side in ["old", "new"] {
        for key in ["pid", "build", "executable"] {
            assert!(!report[side][key].is_null(), "{side}.{key}: {report}");
        }
    }
    let phases: Vec<&str> =
        report["phases"].as_array().expect("phases").iter().filter_map(|p| p["name"].as_str()).collect();
    assert_eq!(phases, ["spawn", "warm", "drain", "seal", "begin", "commit"], "{report}");
    assert!(report["phases"].as_array().expect("phases").iter().all(|p| p["ms"].is_f64()), "{report}");
    let freeze = report["freeze_ms"].as_f64().expect("a freeze");
    assert!(freeze > 0.0, "{report}");
    assert!(report["connections"]["handed_over"].as_u64().is_some_and(|n| n >= 5), "{report}");
    assert_eq!(report["connections"]["lost"], 0, "{report}");
}

#[test]
fn another_binary_is_taken_and_the_next_upgrade_returns_to_the_configured_one() {
    let rig = rig();
    let other = rig.programs().named(&rig.programs().demo_server, "demo-server-2");
    let report = rig.upgrade_to(&other).expect_code(0).json();
    let executable = |report: &Value| report["new"]["executable"].as_str().unwrap_or_default().to_owned();
    assert!(executable(&report).ends_with("demo-server-2"), "{report}");
    assert_eq!(rig.status().expect_code(0).json()["server"]["pid"], report["new"]["pid"]);
    assert!(executable(&rig.upgrade_commits()).ends_with("/demo-server"));
}

#[test]
fn a_relative_binary_is_relative_to_the_operator() {
    let rig = rig();
    let other = rig.programs().named(&rig.programs().demo_server, "demo-server-relative");
    let mut command = rig.ctl_command("upgrade", &["--format", "json", "--binary", "demo-server-relative"]);
    command.current_dir(other.parent().expect("a directory"));
    let report = finish(&mut command).expect_code(0).json();
    assert_eq!(report["new"]["executable"].as_str(), other.to_str(), "{report}");
}

#[test]
fn a_stopped_service_leaves_nothing_behind_and_its_data_stays() {
    let mut rig = rig();
    let load = Load::start(rig.addr, Plan { busy: 1, ..Plan::default() });
    assert!(load.wait_for(20, PATIENCE));
    rig.upgrade_commits();
    load.finish().assert_clean();
    let mut client = handoff_tests::client::Client::connect(rig.addr.into()).expect("connects");
    client.ask("SET kept yes").expect("is acknowledged");
    assert_eq!(rig.stop(), Some(0), "{}", rig.log());
    assert!(rig.instances().is_empty());
    rig.run();
    let mut client = handoff_tests::client::Client::connect(rig.addr.into()).expect("connects");
    assert_eq!(client.ask("GET kept").expect("an answer").text().as_deref(), Some("yes"));
}

/// It would get so far as to take the connections, and lose some.
#[test]
fn a_successor_that_could_not_hold_the_descriptors_is_refused() {
    let here = std::process::Command::new("prlimit").arg("--version").output().is_ok();
    if !needs("prlimit (util-linux)", here) {
        return;
    }
    let rig = rig();
    let mut clients: Vec<Client> =
        (0..60).map(|_| Client::connect(rig.addr.into()).expect("a connection")).collect();
    // accepted, not only in the queue
    clients.iter_mut().for_each(|client| drop(client.ask("PING").expect("an answer")));
    let limit = |soft: &str| {
        let pid = rig.supervisor_pid().to_string();
        let mut command = std::process::Command::new("prlimit");
        assert!(
            command.args(["--pid", &pid, &format!("--nofile={soft}:")]).status().expect("runs").success()
        );
    };
    limit("120");
    let refused = rig.upgrade(&[]);
    let reason = refused.expect_code(14).json()["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("a successor may have 120") && reason.contains("ulimit -n"), "{reason}");
    // the control: nothing but the limit was in the way
    limit("1024");
    rig.upgrade_commits();
    drop(clients);
}
