//! `crash-matrix`: the cells, by name.

use clap::{Args, Parser, Subcommand, ValueEnum};
use crash_matrix::{Cell, JOBS, PLANTS, Plant, Points, Record, Soak, Verdict};
use std::collections::BTreeMap;
use std::fmt;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Strikes every role of a handoff at every step and checks what clients and disk saw
#[derive(Debug, Parser)]
#[command(after_help = CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const CODES: &str = "Exit codes:\n  0  all green\n  1  red: a promise was broken\n  2  usage, a cell that nobody \
    reached, or one that was in time only now and then\n  3  the harness is broken: an upgrade without faults does \
    not commit, a file cannot be read\n\nA cell: ROLE.EFFECT.SIDE[#HIT]/FAULT/WORKLOAD/VERSIONS[/never][+POINT/FAULT]";

#[derive(Debug, Subcommand)]
enum Command {
    /// Try cells; a grid, and what is red and why
    Run(Run),
    /// Print the cells, one a line
    List {
        /// The bugs that can be planted instead, each with the cell that shows it
        #[arg(long)]
        plants: bool,
        /// Of which tier
        #[arg(long, value_enum, default_value_t = Tier::Full)]
        tier: Tier,
    },
    /// Say what a cell is, what must hold in it, and how it ended the last time
    Explain {
        /// Its name
        cell: Named,
        #[command(flatten)]
        out: Out,
    },
    /// Try one cell, once
    Repro {
        /// Its name
        cell: Named,
        /// Leave run dir, data and log where they are
        #[arg(long)]
        keep: bool,
        /// Print who came by where, all of it
        #[arg(long)]
        trace: bool,
        /// Plant a bug (see list --plants)
        #[arg(long, value_name = "BUG")]
        plant: Option<String>,
    },
    /// Compare two results: what got worse (then exit code 1), what got better
    Diff {
        /// A matrix.jsonl
        old: PathBuf,
        /// Another one
        new: PathBuf,
    },
    /// The last result again
    Report {
        /// As a page for a browser
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
        #[command(flatten)]
        out: Out,
    },
}

#[derive(Debug, Args)]
struct Run {
    /// How much is tried
    #[arg(long, value_enum, default_value_t = Tier::Single)]
    tier: Tier,
    /// How many cells at once
    #[arg(long, default_value_t = JOBS)]
    jobs: usize,
    /// Only cells whose name fits: `*` and `?`, or a part of the name; with a `+`, those with a second fault too
    #[arg(long, default_value = "", value_name = "GLOB")]
    filter: String,
    /// In which order: the neighbours of a cell are others then
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Plant a bug (see list --plants) and try the cell that shows it; `all`: each of them, 0 when each was found
    #[arg(long, value_name = "BUG")]
    plant: Option<String>,
    #[command(flatten)]
    out: Out,
}

#[derive(Debug, Args)]
struct Out {
    /// Where matrix.jsonl is [default: crash-matrix in the target folder]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Tier {
    /// Seconds
    Smoke,
    /// Deaths at every point, everything else at key points
    Single,
    /// Every fault at every point, a second one after key points, and the soaks
    Full,
    /// Fifty upgrades of one service, and nothing of them stays
    Soak,
}

impl From<Tier> for crash_matrix::Tier {
    fn from(tier: Tier) -> Self {
        match tier {
            Tier::Smoke => crash_matrix::Tier::Smoke,
            Tier::Single => crash_matrix::Tier::Single,
            Tier::Full => crash_matrix::Tier::Full,
            Tier::Soak => crash_matrix::Tier::Soak,
        }
    }
}

/// What can be tried by its name.
#[derive(Clone, Debug)]
enum Named {
    Cell(Cell),
    Soak(Soak),
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Named, String> {
        if text.starts_with("soak.") { text.parse().map(Named::Soak) } else { text.parse().map(Named::Cell) }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Named::Cell(cell) => cell.fmt(f),
            Named::Soak(soak) => f.write_str(soak.name()),
        }
    }
}

impl Tier {
    fn soaks(self, pattern: &str) -> Vec<Soak> {
        match self {
            Tier::Full | Tier::Soak => Soak::that_fit(pattern),
            Tier::Smoke | Tier::Single => Vec::new(),
        }
    }
}

impl Out {
    fn path(&self) -> PathBuf {
        let dir = self.out.clone().unwrap_or_else(|| handoff_tests::bins::target().join("crash-matrix"));
        dir.join("matrix.jsonl")
    }
}

fn main() -> ExitCode {
    match obey(Cli::parse().command) {
        Ok(code) => code,
        Err(why) => {
            eprintln!("crash-matrix: {why}");
            ExitCode::from(3)
        }
    }
}

fn obey(command: Command) -> Result<ExitCode, String> {
    match command {
        Command::Run(args) => run(&args),
        Command::List { plants: true, .. } => {
            for Plant { name, bug, cell } in PLANTS {
                println!("{name:8} {bug:50} {cell}");
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::List { tier, .. } => {
            for cell in crash_matrix::cells(tier.into(), &points()?, JOBS, "") {
                println!("{cell}");
            }
            for soak in tier.soaks("") {
                println!("{}", soak.name());
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Explain { cell, out } => {
            match &cell {
                Named::Cell(cell) => println!("{}", crash_matrix::explain(cell)),
                Named::Soak(soak) => println!("{}\n\n{}\n", soak.name(), soak.words()),
            }
            let known = crash_matrix::read(&out.path()).unwrap_or_default();
            match known.iter().find(|record| record.id == cell.to_string()) {
                Some(record) => println!("The last time: {}", crash_matrix::explained(record)),
                None => println!("Not tried yet, as far as {} knows.", out.path().display()),
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Repro { cell, keep, trace, plant } => {
            let record = match cell {
                Named::Cell(cell) => crash_matrix::once(&cell, &points()?, plant.as_deref(), keep),
                Named::Soak(soak) => soak.run(plant.as_deref()),
            };
            if trace {
                println!("{}", record.trace.join("\n"));
            }
            println!("{}", crash_matrix::explained(&Record { trace: Vec::new(), ..record.clone() }));
            println!(
                "{}",
                serde_json::to_string(&Record { trace: Vec::new(), ..record.clone() }).unwrap_or_default()
            );
            Ok(code(&[record]))
        }
        Command::Diff { old, new } => diff(&old, &new),
        Command::Report { html, out } => {
            let records =
                crash_matrix::read(&out.path()).map_err(|e| format!("{e}; next: crash-matrix run"))?;
            match html {
                Some(file) => std::fs::write(&file, crash_matrix::html(&records))
                    .map_err(|e| format!("{}: {e}", file.display()))?,
                None => println!("{}", crash_matrix::text(&records, f64::NAN)),
            }
            Ok(code(&records))
        }
    }
}

fn points() -> Result<Points, String> {
    // what the rig thinks of a service that does not come up is on stderr already
    catch_unwind(Points::record).unwrap_or_else(|_| Err("an upgrade without faults does not commit".into()))
}

fn run(args: &Run) -> Result<ExitCode, String> {
    let points = points()?;
    match args.plant.as_deref() {
        Some("all") => return Ok(find_plants(&points, args.jobs)),
        Some(bug) if !PLANTS.iter().any(|plant| plant.name == bug) => {
            return Err(format!("no bug is called {bug:?}; next: crash-matrix list --plants"));
        }
        _ => {}
    }
    let shows = PLANTS.iter().find(|plant| args.plant.as_deref() == Some(plant.name)).map(|plant| plant.cell);
    let (mut cells, soaks) = match shows.filter(|_| args.filter.is_empty()).map(str::parse).transpose()? {
        Some(Named::Cell(cell)) => (vec![cell], Vec::new()),
        Some(Named::Soak(soak)) => (Vec::new(), vec![soak]),
        None => {
            let cells = crash_matrix::cells(args.tier.into(), &points, args.jobs, &args.filter);
            (cells, args.tier.soaks(&args.filter))
        }
    };
    if cells.is_empty() && soaks.is_empty() {
        eprintln!("no cell fits {:?}; next: crash-matrix list", args.filter);
        return Ok(ExitCode::from(2));
    }
    let order: BTreeMap<String, usize> = cells.iter().enumerate().map(|(n, c)| (c.to_string(), n)).collect();
    shuffle(&mut cells, args.seed);
    let (began, before) = (Instant::now(), crash_matrix::processor());
    let plant = args.plant.as_deref();
    let tried = AtomicUsize::new(0);
    let tell = |record: &Record| {
        let tried = tried.fetch_add(1, Ordering::Relaxed) + 1;
        if tried.is_multiple_of(100) {
            eprintln!("{tried} of {} cells, {:.0} s", cells.len(), began.elapsed().as_secs_f64());
        }
        if record.outcome != Verdict::Green {
            eprintln!("{}", crash_matrix::explained(record));
        }
    };
    let mut records = crash_matrix::run(&cells, &points, plant, args.jobs, tell);
    records.sort_by_key(|record| order.get(&record.id));
    records.extend(soaks.iter().map(|soak| soak.run(plant)).inspect(tell));
    println!("{}", crash_matrix::text(&records, began.elapsed().as_secs_f64()));
    let after = crash_matrix::processor();
    let [harness, programs] = [0, 1].map(|who| (after[who] - before[who]).as_secs_f64());
    let cell = (harness + programs) / records.len() as f64;
    println!("processor time: harness {harness:.1} s, programs {programs:.1} s, {cell:.2} s a cell");
    crash_matrix::write(&args.out.path(), &records).map_err(|e| e.to_string())?;
    println!("{}", args.out.path().display());
    Ok(code(&records))
}

/// Each bug, in the cell that shows it: found by its oracle or not.
fn find_plants(points: &Points, jobs: usize) -> ExitCode {
    let found = crash_matrix::hunt(points, jobs);
    for (plant, by) in &found {
        let seen = if by.iter().any(|oracle| oracle == plant.oracle()) { "found" } else { "NOT FOUND" };
        println!("{:8} {:50} {seen}; red: {}", plant.name, plant.bug, by.join(" "));
    }
    let all = found.iter().all(|(plant, by)| by.iter().any(|oracle| oracle == plant.oracle()));
    if all { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

fn code(records: &[Record]) -> ExitCode {
    match crash_matrix::totals(records) {
        [_, 0, 0, 0] => ExitCode::SUCCESS,
        [_, 0, _, _] => ExitCode::from(2),
        _ => ExitCode::from(1),
    }
}

/// Fisher and Yates, with the numbers of a linear congruential generator: the same order for the same seed.
fn shuffle(cells: &mut [Cell], seed: u64) {
    let mut state = seed;
    for n in (1..cells.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let other = (state >> 33) as usize % (n + 1);
        cells.swap(n, other);
    }
}

fn diff(old: &std::path::Path, new: &std::path::Path) -> Result<ExitCode, String> {
    let read = |path| crash_matrix::read(path).map_err(|e| e.to_string());
    let by_name = |records: Vec<Record>| -> BTreeMap<String, Record> {
        records.into_iter().map(|record| (record.id.clone(), record)).collect()
    };
    let (old, new) = (by_name(read(old)?), by_name(read(new)?));
    let mut worse = false;
    for (id, record) in &new {
        let before = old.get(id).map(|record| record.outcome);
        if before != Some(record.outcome) {
            let before = before.map_or("not there".to_owned(), |verdict| format!("{verdict:?}"));
            println!("{before} -> {:?}  {id}", record.outcome);
            worse |= record.outcome != Verdict::Green;
        }
    }
    for id in old.keys().filter(|id| !new.contains_key(*id)) {
        println!("gone  {id}");
    }
    Ok(if worse { ExitCode::from(1) } else { ExitCode::SUCCESS })
}
