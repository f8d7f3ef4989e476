//! New connections at a steady rate during upgrades: the listener never goes away, and its queue is long enough.

use crate::Findings;
use crate::table::{ms, spread};
use handoff_tests::arrivals::Arrivals;
use handoff_tests::bins::Programs;
use handoff_tests::rig::{PATIENCE, Setup};

/// Of how many arrivals a second we have to be short before the figure is not what was asked for.
const RATE_SHORT: f64 = 0.95;
/// Answers between two upgrades.
const BETWEEN: u64 = 1000;

pub(crate) fn measure(programs: &'static Programs, upgrades: u32, rate: u32, findings: &mut Findings) {
    let rig = Setup::new(programs).start();
    println!("{rate} new connections a second, {upgrades} upgrades");
    let (drops, retransmissions) = (counter("ListenDrops"), counter("TCPSynRetrans"));
    let arrivals = Arrivals::start(rig.addr, rate);
    let (mut freezes, mut queues) = (Vec::new(), Vec::new());
    for n in 1..=upgrades {
        let done = rig.upgrade(&[]);
        findings
            .promise(done.code == Some(0), format!("backlog: upgrade {n} commits: {}", done.stdout.trim()));
        let report = done.json();
        freezes.extend(report["freeze_ms"].as_f64());
        queues.extend(report["peak_queue"].as_f64());
        findings.promise(arrivals.wait_for(BETWEEN, PATIENCE), format!("backlog: answers after upgrade {n}"));
    }
    let seen = arrivals.finish();
    spread("freeze_ms", &freezes);
    println!("peak_queue                         max {:>8}", queues.iter().copied().fold(0.0, f64::max));
    println!(
        "{} connections in {:.1} s ({:.0} a second): {} answered, {} refused, {} reset, {} failed otherwise",
        seen.arrived,
        seen.time.as_secs_f64(),
        seen.rate(),
        seen.answered,
        seen.refused,
        seen.reset,
        seen.failed
    );
    println!(
        "longest connect {:.1} ms, longest answer {:.1} ms, {} connects of 1 s and more",
        ms(seen.longest_connect),
        ms(seen.longest_answer),
        seen.retransmitted
    );
    println!(
        "of this whole machine meanwhile: {} SYN dropped by listeners, {} SYN sent again",
        counter("ListenDrops") - drops,
        counter("TCPSynRetrans") - retransmissions
    );
    for fault in &seen.faults {
        println!("  {fault}");
    }
    findings.promise(seen.is_clean(), "backlog: every connection is let in and answered");
    findings.promise(seen.retransmitted == 0, "backlog: no connection takes as long as a lost SYN (1 s)");
    findings.goal(seen.rate() >= f64::from(rate) * RATE_SHORT, format!("{rate} connections a second came"));
}

/// A counter of the kernel's `TcpExt` table.
fn counter(name: &str) -> i64 {
    let text = std::fs::read_to_string("/proc/net/netstat").unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let mut pairs = names.split(' ').zip(values.split(' '));
    pairs.find(|(n, _)| *n == name).and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}
