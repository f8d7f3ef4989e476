//! The rows, and how each contender does the work.

use crate::measure::{CONTENDERS, Contender, Effort, Medians, Runtime, each, ratio};
use crate::report::{Goal, Table, cells, show};
use crate::rivals::{Rivals, VERSIONS};
use processkit::{Command, JobRunner, OutputBufferPolicy, ProcessGroup, RunningProcess, Stdio, StreamExt};
use std::io::{BufRead, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt};

const SLEEPERS: u32 = 50;
const AT_ONCE: u32 = 100;
const HELD: u32 = 20;
const GIB: u32 = 1 << 30;

fn quiet(program: &str) -> Command {
    Command::new(program).stdout(Stdio::Null).stderr(Stdio::Null)
}

fn std_quiet(program: &str) -> std::process::Command {
    let mut command = std::process::Command::new(program);
    command.stdin(std::process::Stdio::null());
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    command
}

fn tokio_quiet(program: &str) -> tokio::process::Command {
    std_quiet(program).into()
}

/// One after the other, started and waited for.
fn sequence(runtime: &Runtime, who: Contender, group: Option<&ProcessGroup>, count: u32) -> Option<Duration> {
    const TRUE: &str = "/bin/true";
    let work = async || {
        for _ in 0..count {
            match who {
                Contender::Ours => {
                    let command = quiet(TRUE);
                    let process = match group {
                        Some(group) => group.start(&command).await,
                        None => command.start().await,
                    };
                    assert_eq!(process.expect("started").wait().await.expect("an end"), Some(0));
                }
                Contender::Std => assert!(std_quiet(TRUE).status().expect("an end").success()),
                Contender::Tokio => assert!(tokio_quiet(TRUE).status().await.expect("an end").success()),
                Contender::Rival(_) => unreachable!("asked elsewhere"),
            }
        }
    };
    Some(each(count, || runtime.block_on(work())))
}

pub(crate) fn spawning(runtime: &Runtime, rivals: &mut Rivals, effort: Effort, table: &mut Table) {
    let shared = ProcessGroup::new().expect("a group");
    for (row, group, work) in [
        ("shared", Some(&shared), "spawn + wait of `/bin/true`, in one group"),
        ("private", None, "spawn + wait of `/bin/true`, each in a group of its own"),
    ] {
        let medians = Medians::take(rivals, effort.rounds, row, effort.spawns, |who| {
            sequence(runtime, who, group, effort.spawns)
        });
        table.times(work, &medians, medians.ratio(Contender::Tokio), Goal::AtMost(1.15, " x tokio"));
    }
}

/// C1: what a spawn costs does not follow the memory of the parent.
pub(crate) fn large_parent(runtime: &Runtime, rivals: &mut Rivals, effort: Effort, table: &mut Table) {
    let count = effort.spawns / 10;
    let take = |rivals: &mut Rivals| {
        Medians::take(rivals, effort.rounds, "private", count, |who| sequence(runtime, who, None, count))
    };
    let small = take(rivals);
    rivals.ask("large", "memory", GIB);
    let resident = vec![1u8; GIB as usize];
    let large = take(rivals);
    assert_eq!(std::hint::black_box(&resident).last(), Some(&1));
    let cell = |who| {
        let factor = ratio(large.of(who), small.of(who))?;
        Some(format!("{} ({factor:.2} x)", show(large.of(who)?)))
    };
    let figure = ratio(large.of(Contender::Ours), small.of(Contender::Ours));
    let work = "the same with 1 GiB resident (against without)";
    table.row(work, cells(cell), figure, Goal::AtMost(1.3, " x small"));
}

pub(crate) fn fan_out(runtime: &Runtime, rivals: &mut Rivals, effort: Effort, table: &mut Table) {
    const ECHO: &str = "/bin/echo";
    let medians = Medians::take(rivals, effort.rounds, "fanout", AT_ONCE, |who| {
        let start = Instant::now();
        match who {
            Contender::Ours => runtime.block_on(async {
                let commands = (0..AT_ONCE).map(|_| Command::new(ECHO).arg("x"));
                for result in processkit::output_all(commands, AT_ONCE as usize, &JobRunner).await {
                    assert_eq!(result.expect("a result").stdout(), "x");
                }
            }),
            Contender::Std => {
                let mut command = std::process::Command::new(ECHO);
                command.arg("x").stdin(std::process::Stdio::null());
                command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
                let children: Vec<_> = (0..AT_ONCE).map(|_| command.spawn().expect("started")).collect();
                for child in children {
                    assert_eq!(child.wait_with_output().expect("a result").stdout, b"x\n");
                }
            }
            Contender::Tokio => runtime.block_on(async {
                let one = || {
                    tokio::process::Command::new(ECHO).arg("x").stdin(std::process::Stdio::null()).output()
                };
                let mut all: tokio::task::JoinSet<_> = (0..AT_ONCE).map(|_| one()).collect();
                while let Some(output) = all.join_next().await {
                    assert_eq!(output.expect("no panic").expect("a result").stdout, b"x\n");
                }
            }),
            Contender::Rival(_) => unreachable!("asked elsewhere"),
        }
        Some(start.elapsed())
    });
    let work = format!("{AT_ONCE} commands at once, output captured");
    table.times(&work, &medians, medians.ratio(Contender::Tokio), Goal::AtMost(1.2, " x tokio"));
}

pub(crate) fn capture(runtime: &Runtime, rivals: &mut Rivals, effort: Effort, table: &mut Table) {
    let size = effort.capture.to_string();
    let megabytes = effort.capture / 1_000_000;
    let zeros = ["-c", &size, "/dev/zero"];
    let medians = Medians::take(rivals, effort.rounds, "bytes", effort.capture, |who| {
        let start = Instant::now();
        let bytes = match who {
            Contender::Ours => runtime
                .block_on(Command::new("head").args(zeros).output_bytes())
                .expect("a result")
                .into_stdout(),
            Contender::Std => std_reading("head", &zeros, |out, bytes: &mut Vec<u8>| {
                out.read_to_end(bytes).expect("read");
            }),
            Contender::Tokio => runtime.block_on(async {
                let (mut child, mut out) = tokio_piped("head", &zeros);
                let mut bytes = Vec::new();
                out.read_to_end(&mut bytes).await.expect("read");
                assert!(child.wait().await.expect("an end").success());
                bytes
            }),
            Contender::Rival(_) => unreachable!("asked elsewhere"),
        };
        assert_eq!(bytes.len(), effort.capture as usize);
        Some(start.elapsed())
    });
    let speed = ratio(medians.of(Contender::Tokio), medians.of(Contender::Ours));
    table.times(
        &format!("capture of {megabytes} MB, bytes"),
        &medians,
        speed,
        Goal::AtLeast(0.9, " x tokio"),
    );

    let path = rivals.lines().to_owned();
    write_lines(&path, effort.capture as usize).expect("a file of lines");
    let path = path.to_str().expect("a plain path");
    let medians = Medians::take(rivals, effort.rounds, "lines", effort.capture, |who| {
        let start = Instant::now();
        match who {
            Contender::Ours => {
                let command = Command::new("cat").arg(path).output_buffer(OutputBufferPolicy::unbounded());
                let result = runtime.block_on(command.output_string()).expect("a result");
                assert_eq!(result.stdout().len() + 1, effort.capture as usize);
            }
            Contender::Std => {
                std_reading("cat", &[path], |out, lines: &mut Vec<String>| {
                    lines.extend(std::io::BufReader::new(out).lines().map(|line| line.expect("a line")));
                });
            }
            Contender::Tokio => runtime.block_on(async {
                let (mut child, out) = tokio_piped("cat", &[path]);
                let mut lines = tokio::io::BufReader::new(out).lines();
                let mut all = Vec::new();
                while let Some(line) = lines.next_line().await.expect("a line") {
                    all.push(line);
                }
                assert!(child.wait().await.expect("an end").success());
            }),
            Contender::Rival(_) => unreachable!("asked elsewhere"),
        }
        Some(start.elapsed())
    });
    let speed = ratio(medians.of(Contender::Rival(0)), medians.of(Contender::Ours));
    let work = format!("capture of {megabytes} MB, lines of 44 bytes");
    table.times(&work, &medians, speed, Goal::AtLeast(3.0, " x 0.9.1"));
}

fn std_reading<T: Default>(
    program: &str,
    arguments: &[&str],
    read: impl FnOnce(&mut std::process::ChildStdout, &mut T),
) -> T {
    let mut command = std_quiet(program);
    let mut child = command.args(arguments).stdout(std::process::Stdio::piped()).spawn().expect("started");
    let mut into = T::default();
    read(child.stdout.as_mut().expect("a pipe"), &mut into);
    assert!(child.wait().expect("an end").success());
    into
}

fn tokio_piped(program: &str, arguments: &[&str]) -> (tokio::process::Child, tokio::process::ChildStdout) {
    let mut command = tokio_quiet(program);
    let mut child = command.args(arguments).stdout(std::process::Stdio::piped()).spawn().expect("started");
    let out = child.stdout.take().expect("a pipe");
    (child, out)
}

fn write_lines(path: &std::path::Path, size: usize) -> std::io::Result<()> {
    let line = b"the quick brown fox jumps over the lazy dog\n";
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for _ in 0..size / line.len() {
        file.write_all(line)?;
    }
    let rest = size % line.len();
    file.write_all(&vec![b'x'; rest.saturating_sub(1)])?;
    file.write_all(if rest > 0 { b"\n" } else { b"" })?;
    file.flush()
}

/// Up with all its sleepers.
async fn tree(start: impl AsyncFnOnce(&Command) -> processkit::Result<RunningProcess>) -> RunningProcess {
    let script = format!("for i in $(seq {SLEEPERS}); do sleep 1000 & echo $!; done; wait");
    let mut process = start(&Command::new("/bin/sh").arg("-c").arg(script)).await.expect("started");
    let told = process.stdout_lines().take(SLEEPERS as usize).collect::<Vec<_>>().await;
    assert_eq!(told.len(), SLEEPERS as usize);
    process
}

pub(crate) fn teardown(runtime: &Runtime, rivals: &mut Rivals, effort: Effort, table: &mut Table) {
    let mut bare = Vec::new();
    let medians = Medians::take(rivals, effort.rounds, "tree", SLEEPERS, |who| match who {
        Contender::Ours => runtime.block_on(async {
            let process = tree(async |command| command.start().await).await;
            let start = Instant::now();
            drop(process);
            processkit::settled().await; // nobody lives, and the directory is removed
            Some(start.elapsed())
        }),
        // what the kernel needs in any case: one write, and its word that nobody is left
        Contender::Std => runtime.block_on(async {
            let group = ProcessGroup::new().expect("a group");
            let (kill, events) = (group.kill_fd().ok()?, group.events_fd().ok()?);
            let _process = tree(async |command| group.start(command).await).await;
            let start = Instant::now();
            processkit::kill_by_fd(kill.as_fd()).expect("killed");
            processkit::wait_empty_by_fd(events).await.expect("empty");
            bare.push(start.elapsed());
            None
        }),
        Contender::Tokio => None,
        Contender::Rival(_) => unreachable!("asked elsewhere"),
    });
    bare.sort_unstable();
    let bare = bare.get(bare.len() / 2).copied();
    let beyond = medians.of(Contender::Ours).zip(bare);
    let beyond = beyond.map(|(ours, bare)| (ours.as_secs_f64() - bare.as_secs_f64()) * 1e3);
    let itself = bare.map_or("not measured".to_owned(), show);
    let work =
        format!("tree of {SLEEPERS} sleepers, drop until all are gone (`cgroup.kill` itself: {itself})");
    table.times(&work, &medians, beyond, Goal::AtMost(5.0, " ms beyond"));
}

fn open_descriptors() -> u64 {
    std::fs::read_dir("/proc/self/fd").expect("a list").count() as u64
}

pub(crate) fn descriptors(runtime: &Runtime, rivals: &mut Rivals, effort: Effort, table: &mut Table) {
    let per_child = |held: u64, before: u64| (held - before) as f64 / f64::from(HELD);
    let ours = |private: bool, piped: bool| {
        runtime.block_on(async {
            let group = ProcessGroup::new().expect("a group");
            let command = if piped { Command::new("sleep") } else { quiet("sleep") }.arg("1000");
            let start = async || match private {
                true => command.start().await.expect("started"),
                false => group.start(&command).await.expect("started"),
            };
            let first = start().await; // what is opened once is open now
            let before = open_descriptors();
            let mut all = Vec::new();
            for _ in 0..HELD {
                all.push(start().await);
            }
            let held = open_descriptors();
            drop((first, all, group));
            processkit::settled().await;
            per_child(held, before)
        })
    };
    let theirs = |who: Contender, piped: bool| {
        let piped = || if piped { std::process::Stdio::piped() } else { std::process::Stdio::null() };
        let command = || {
            let mut command = std_quiet("sleep");
            command.arg("1000").stdout(piped()).stderr(piped());
            command
        };
        runtime.block_on(async {
            let before;
            let held;
            if who == Contender::Std {
                before = open_descriptors();
                let mut all: Vec<_> = (0..HELD).map(|_| command().spawn().expect("started")).collect();
                held = open_descriptors();
                for child in &mut all {
                    child.kill().and_then(|()| child.wait()).expect("killed");
                }
            } else {
                let start =
                    || tokio::process::Command::from(command()).kill_on_drop(true).spawn().expect("started");
                let mut all = vec![start()];
                before = open_descriptors();
                all.extend((0..HELD).map(|_| start()));
                held = open_descriptors();
                for child in &mut all {
                    child.kill().await.expect("killed");
                }
            }
            per_child(held, before)
        })
    };
    for (work, private, piped, asked) in [
        ("descriptors per live child, streams null", false, false, 1.0),
        ("the same, output and error piped", false, true, 3.0),
        ("the same, in a group of its own", true, true, 3.0),
    ] {
        let figure = ours(private, piped);
        let mut row = [const { None }; CONTENDERS.len()];
        for (cell, who) in row.iter_mut().zip(CONTENDERS) {
            let held = match who {
                Contender::Ours => Some(figure),
                Contender::Std | Contender::Tokio => Some(theirs(who, piped)),
                Contender::Rival(version) if piped && !private => {
                    rivals.ask("held", VERSIONS[version], HELD).map(|held| held as f64)
                }
                Contender::Rival(_) => None,
            };
            *cell = held.map(|held| held.to_string());
        }
        table.row(work, row, Some(figure), Goal::AtMost(asked, ""));
    }

    let growth = runtime.block_on(async {
        let group = ProcessGroup::new().expect("a group");
        let command = quiet("/bin/true");
        let mut before = 0;
        for cycle in 0..=effort.cycles {
            let process = match cycle % 2 {
                0 => command.start().await,
                _ => group.start(&command).await,
            };
            process.expect("started").wait().await.expect("an end");
            if cycle == 1 {
                processkit::settled().await;
                before = open_descriptors();
            }
        }
        processkit::settled().await;
        open_descriptors() as f64 - before as f64
    });
    let few = effort.cycles / 20; // of theirs, which take longer
    let mut row = [Some(format!("{growth:+}")), None, None, None, None];
    for (cell, version) in row.iter_mut().skip(3).zip(VERSIONS) {
        *cell = rivals.ask("growth", version, few).map(|more| format!("+{more} ({few})"));
    }
    let work = format!("descriptors more after {} spawns and reaps", effort.cycles);
    table.row(&work, row, Some(growth), Goal::AtMost(0.0, ""));
}
