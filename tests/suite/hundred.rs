//! Upgrade after upgrade under loads that nobody here wrote, and with new connections arriving all the time.
//! The long forms, with figures, are `cargo measure hundred` and `cargo measure backlog`.

use handoff_tests::arrivals::Arrivals;
use handoff_tests::load::{Load, Plan};
use handoff_tests::redis_benchmark::{COUNTER, RedisBenchmark, Seen, miscounted};
use handoff_tests::rig::{PATIENCE, Rig};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// As many upgrades as fit.
const MOST: usize = 30;
const LIMIT: Duration = Duration::from_secs(25);
/// Fewer prove little, however slow the machine.
const LEAST: usize = 5;

/// Upgrades until there were enough; `between` returns when clients have been answered by the new server.
fn upgrade_again_and_again(rig: &Rig, mut between: impl FnMut(usize)) -> usize {
    let began = Instant::now();
    let mut upgrades = 0;
    while upgrades < LEAST || (upgrades < MOST && began.elapsed() < LIMIT) {
        rig.upgrade_commits();
        upgrades += 1;
        between(upgrades);
    }
    println!("{upgrades} upgrades in {:?}", began.elapsed());
    upgrades
}

#[test]
fn many_upgrades_in_a_row_under_the_redis_crate() {
    let rig = crate::rig();
    let load = Load::start(rig.addr, Plan { busy: 0, library: 6, ..Plan::everything() });
    upgrade_again_and_again(&rig, |n| {
        assert!(load.wait_for(100, PATIENCE), "no answers after {n}\n{}", rig.log())
    });
    load.finish().assert_clean();
}

/// `redis-benchmark` ends at its first error, and with it the round.
fn under_redis_benchmark(keep_alive: bool) {
    if let Some(missing) = RedisBenchmark::missing() {
        eprintln!("skipped: {missing}");
        assert!(std::env::var_os("HANDOFF_REQUIRE_ALL").is_none_or(|v| v != "1"), "{missing}");
        return;
    }
    let rig = crate::rig();
    let benchmark = RedisBenchmark::start(rig.addr, keep_alive);
    upgrade_again_and_again(&rig, |_| {});
    let seen = benchmark.finish();
    println!("{} requests in {} rounds", seen.requests, seen.rounds);
    assert!(seen.faults.is_empty(), "{seen:#?}\n{}", rig.log());
    assert!(seen.rounds > 0, "nothing was asked: the load was not there");
    assert_eq!(miscounted(rig.addr, &[&seen]), None);
}

#[test]
fn many_upgrades_in_a_row_under_redis_benchmark_kept_alive() {
    under_redis_benchmark(true);
}

#[test]
fn many_upgrades_in_a_row_under_redis_benchmark_always_anew() {
    under_redis_benchmark(false);
}

/// Without a server: who does not notice that would not notice an upgrade either.
#[test]
fn redis_benchmark_and_arrivals_control() {
    if RedisBenchmark::missing().is_some() {
        // the tests above have said so
        return;
    }
    let mut rig = crate::rig();
    let arrivals = Arrivals::start(rig.addr, 500);
    assert!(arrivals.wait_for(100, PATIENCE));
    assert_eq!(rig.stop(), Some(0));
    let seen = under_hangups();
    assert!(!seen.faults.is_empty() && seen.rounds == 0, "the check is blind: {seen:?}");
    let seen = arrivals.finish();
    assert!(seen.refused > 0 && !seen.is_clean(), "the check is blind: {seen:?}");
    rig.run();
    let one_more = Seen { rounds: 1, requests: 1, increments: 1, faults: Vec::new() };
    assert!(miscounted(rig.addr, &[&one_more]).is_some_and(|wrong| wrong.contains(COUNTER)));
}

/// What `redis-benchmark` says of somebody who accepts and hangs up. (Where nobody listens it may never end.)
fn under_hangups() -> Seen {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let SocketAddr::V4(addr) = listener.local_addr().expect("it is bound") else {
        unreachable!("bound to IPv4")
    };
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| listener.incoming().take_while(|_| !over.load(Ordering::Relaxed)).for_each(drop));
        let seen = RedisBenchmark::start(addr, true).finish();
        over.store(true, Ordering::Relaxed);
        // the last one, who ends it
        let _ = TcpStream::connect(addr);
        seen
    })
}

/// 2,000 new connections a second: none is refused, none is reset, all are answered.
#[test]
fn new_connections_arrive_all_the_time() {
    let rig = crate::rig();
    let arrivals = Arrivals::start(rig.addr, 2000);
    for n in 0..8 {
        rig.upgrade_commits();
        assert!(arrivals.wait_for(200, PATIENCE), "no answers after {n}\n{}", rig.log());
    }
    let seen = arrivals.finish();
    println!("{seen:?}, {:.0} a second", seen.rate());
    assert!(seen.is_clean(), "{seen:#?}\n{}", rig.log());
}
