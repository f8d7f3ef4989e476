//! `cargo demo`: the main job on real input. Starts a durable server under `handoffctl run`, lets clients at it,
//! replaces its binary several times, tries one bad binary, and says what the clients saw.
//!
//! Ends with 0 when every promise held, with 1 when one was broken; the last line is the verdict.

use clap::Parser;
use handoff_tests::bins::{Build, Programs};
use handoff_tests::fill::fill;
use handoff_tests::history::percentile;
use handoff_tests::load::{Load, Plan};
use handoff_tests::rig::{Rig, Setup};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Upgrades a live server under load and prints what its clients saw.
#[derive(Debug, Parser)]
struct Args {
    /// How many good upgrades
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    upgrades: u32,
    /// How much data the server holds, in megabytes
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    megabytes: u32,
    /// How long all of it may take, in seconds
    #[arg(long, default_value_t = 100)]
    limit: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    // a promise that a helper asserts is a promise broken, too: the verdict is printed whatever happens
    match std::panic::catch_unwind(|| demo(&args)) {
        Ok(broken) if broken.is_empty() => {
            println!("\nverdict: every promise held");
            ExitCode::SUCCESS
        }
        Ok(broken) => {
            println!();
            for promise in &broken {
                println!("broken: {promise}");
            }
            println!("verdict: {} broken", broken.len());
            ExitCode::FAILURE
        }
        Err(_) => {
            println!("\nverdict: broken, the demo did not come to its end");
            ExitCode::FAILURE
        }
    }
}

#[derive(Debug, Default)]
struct Seen {
    freezes: Vec<f64>,
    broken: Vec<String>,
}

fn demo(args: &Args) -> Vec<String> {
    println!("building handoffctl, demo-server and a bad successor (release) ..");
    let programs = Programs::of(Build::Release);
    let began = Instant::now();
    let limit = Duration::from_secs(args.limit);
    let rig = Setup::new(programs).start();
    println!(
        "demo-server (pid {}) serves on {} under handoffctl (pid {})",
        rig.server_pid(),
        rig.addr,
        rig.supervisor_pid()
    );

    if let Err(fault) = fill(rig.addr.into(), args.megabytes) {
        return vec![format!("{} MB of data are taken ({fault})", args.megabytes)];
    }
    println!("data: {} MB", args.megabytes);

    let plan = Plan::everything();
    let mut load = Load::start(rig.addr, plan);
    println!(
        "clients: {} kept alive, {} through the redis crate, {} making new connections, {} idle, {} subscribed,\n\
         \x20        {} with half a command sent, {} with unread replies\n",
        plan.busy, plan.library, plan.fresh, plan.idle, plan.subscribers, plan.half, plan.unread
    );

    let mut seen = Seen::default();
    for n in 1..=args.upgrades {
        if began.elapsed() > limit {
            seen.broken.push(format!("{} upgrades took longer than {limit:?}", n - 1));
            break;
        }
        good(&rig, &mut load, n, &mut seen);
        if n == args.upgrades.div_ceil(2) {
            bad(&rig, &load, &mut seen);
        }
    }
    let answered = load.answered();
    let tally = load.finish();

    println!("\nrequests            {answered}");
    println!("failures            {}", tally.failed);
    println!("connections closed  {}", tally.closed);
    println!("lost writes         {}", tally.lost);
    println!("out of order        {}", tally.reordered);
    let figure =
        |p| percentile(&seen.freezes, p).map_or_else(|| "unknown".to_owned(), |ms| format!("{ms:.1} ms"));
    println!("freeze p50 / max    {} / {}", figure(50.0), figure(100.0));
    println!("longest client wait {:.1} ms", tally.longest.as_secs_f64() * 1e3);
    println!("longest connect     {:.1} ms", tally.longest_connect.as_secs_f64() * 1e3);
    for fault in &tally.faults {
        println!("  {fault}");
    }
    if !tally.is_clean() {
        seen.broken.push("no client notices an upgrade".into());
    }
    let mut rig = rig;
    match rig.stop() {
        Some(0) => {}
        code => seen.broken.push(format!("the supervisor stops cleanly (it ended with {code:?})")),
    }
    if !rig.instances().is_empty() {
        seen.broken.push("nothing is left behind".into());
    }
    seen.broken
}

/// How many requests lie between two upgrades.
const BETWEEN: u64 = 500;
const PATIENCE: Duration = Duration::from_secs(20);

fn good(rig: &Rig, load: &mut Load, n: u32, seen: &mut Seen) {
    load.hold_back();
    let done = rig.upgrade(&[]);
    load.let_go();
    let report = done.json();
    let freeze = report["freeze_ms"].as_f64();
    if done.code == Some(0) {
        seen.freezes.extend(freeze);
        println!(
            "upgrade {n:>3}  committed in {:>4} ms, freeze {} ms, {} connections handed over, pid {} -> {}",
            done.took.as_millis(),
            freeze.map_or_else(|| "?".to_owned(), |ms| format!("{ms:.1}")),
            report["connections"]["handed_over"],
            report["old"]["pid"],
            report["new"]["pid"],
        );
    } else {
        println!("upgrade {n:>3}  exit code {:?}: {report}", done.code);
        seen.broken.push(format!("upgrade {n} commits"));
    }
    if !load.wait_for(BETWEEN, PATIENCE) {
        seen.broken.push(format!("requests are answered after upgrade {n}"));
    }
}

fn bad(rig: &Rig, load: &Load, seen: &mut Seen) {
    let before = rig.server_pid();
    let done = rig.upgrade_to(&rig.programs().bad("crashes-in-open"));
    let report = done.json();
    println!(
        "bad binary   exit code {}: {}",
        done.code.unwrap_or(-1),
        report["reason"].as_str().unwrap_or("no reason")
    );
    if done.code != Some(10) {
        seen.broken.push(format!("a bad binary is refused with 10, not {:?}", done.code));
    }
    if !rig.reached("crashes-in-open") {
        seen.broken.push("the bad binary came to its fault".into());
    }
    if rig.server_pid() != before {
        seen.broken.push("the old server serves on after a bad binary".into());
    }
    if !load.wait_for(BETWEEN, PATIENCE) {
        seen.broken.push("requests are answered after a bad binary".into());
    }
}
