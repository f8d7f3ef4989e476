//! `cargo measure [freeze|backlog|hundred|supervisor|all]`: what an upgrade costs clients, what deaths cost, and that
//! nothing wears out.
//!
//! Promises (nothing fails, closes, is lost or grows) decide about the exit code; figures of speed are reported with
//! their goals, since they depend on the machine. The last line is the verdict.

mod backlog;
mod freeze;
mod hundred;
mod supervisor;
mod table;

use clap::{Parser, ValueEnum};
use handoff_tests::bins::{Build, Programs};
use std::process::ExitCode;
use table::machine;

/// Measures upgrades of a live server under load.
#[derive(Debug, Parser)]
struct Args {
    /// What to measure
    #[arg(value_enum, default_value_t = What::All)]
    what: What,
    /// How many upgrades; default 30 for freeze, 20 for backlog, 100 for hundred, 50 rounds for supervisor
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    upgrades: Option<u32>,
    /// How much data the server holds in `freeze`, in megabytes
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    megabytes: u32,
    /// New connections a second in `backlog`
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    rate: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// The service pause with data, beside that of plain restarts
    Freeze,
    /// New connections all the time
    Backlog,
    /// Upgrades in a row: nothing fails, nothing grows
    Hundred,
    /// Supervisors that die or are replaced, servers that fail on probation
    Supervisor,
    /// All of them
    All,
}

/// What was found out: promises that did not hold, and goals that were missed.
#[derive(Debug, Default)]
struct Findings {
    broken: Vec<String>,
    missed: Vec<String>,
}

impl Findings {
    fn promise(&mut self, holds: bool, what: impl Into<String>) {
        if !holds {
            self.broken.push(what.into());
        }
    }

    fn goal(&mut self, reached: bool, what: impl Into<String>) {
        if !reached {
            self.missed.push(what.into());
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let kind = if cfg!(debug_assertions) { "debug" } else { "release" };
    println!("building handoffctl and demo-server ({kind}) ..");
    let programs = Programs::of(Build::Plain);
    println!("machine: {}", machine());
    let wants = |what| args.what == what || args.what == What::All;
    let mut findings = Findings::default();
    // what a helper asserts is a promise, too: the verdict is printed whatever happens
    let mut run = |name: &str, part: &dyn Fn(&mut Findings)| {
        println!("\n== {name}");
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| part(&mut findings)));
        findings.promise(caught.is_ok(), format!("{name} comes to its end"));
    };
    if wants(What::Freeze) {
        run("freeze", &|f| freeze::measure(programs, args.upgrades.unwrap_or(30), args.megabytes, f));
    }
    if wants(What::Backlog) {
        run("backlog", &|f| backlog::measure(programs, args.upgrades.unwrap_or(20), args.rate, f));
    }
    if wants(What::Hundred) {
        run("hundred", &|f| hundred::measure(programs, args.upgrades.unwrap_or(100), f));
    }
    if wants(What::Supervisor) {
        run("supervisor", &|f| supervisor::measure(programs, args.upgrades.unwrap_or(50), f));
    }
    println!("\nmachine: {}", machine());
    for missed in &findings.missed {
        println!("goal missed: {missed}");
    }
    for broken in &findings.broken {
        println!("broken: {broken}");
    }
    let (broken, missed) = (findings.broken.len(), findings.missed.len());
    if broken == 0 {
        println!("verdict: every promise held, {missed} goals missed");
        ExitCode::SUCCESS
    } else {
        println!("verdict: {broken} promises broken, {missed} goals missed");
        ExitCode::FAILURE
    }
}
