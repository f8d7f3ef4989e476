//! The published crate of the same name, measured beside ours: `cargo bench -p processkit` starts this, asks for one round
//! of one row at a time (`spawn 0.9.1 200`) and gets nanoseconds back, or what went wrong.
//!
//! Written against the names of the contract; the sources of that crate were not looked at.

extern crate first as processkit;

// compiled for the proof that the list of the contract is what was published
#[path = "../../../tests/contract/listed.rs"]
mod listed;

use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

type Outcome = Result<u64, Box<dyn std::error::Error>>;

/// The same program for either version; what follows the name is what the newer one wants behind `stdout_lines()`.
macro_rules! rival {
    ($module:ident, $krate:ident $($fallible:tt)?) => {
        mod $module {
            use super::{Outcome, gone, nanoseconds, open_descriptors};
            use $krate::{Command, JobRunner, ProcessGroup};
            use std::time::Instant;

            pub(super) async fn round(row: &str, count: u64) -> Outcome {
                match row {
                    "private" => spawn(count, None).await,
                    "shared" => spawn(count, Some(&ProcessGroup::new()?)).await,
                    "fanout" => fanout(count).await,
                    "bytes" => bytes(count).await,
                    "lines" => lines(count).await,
                    "tree" => tree(count).await,
                    "held" => held(count).await,
                    "growth" => growth(count).await,
                    other => Err(format!("no row {other}").into()),
                }
            }

            async fn spawn(count: u64, group: Option<&ProcessGroup>) -> Outcome {
                let command = Command::new("/bin/true");
                let start = Instant::now();
                for _ in 0..count {
                    let process = match group {
                        Some(group) => group.start(&command).await?,
                        None => command.start().await?,
                    };
                    let _ = process.wait().await?;
                }
                Ok(nanoseconds(start) / count)
            }

            async fn fanout(count: u64) -> Outcome {
                let commands = (0..count).map(|_| Command::new("/bin/echo").arg("x"));
                let start = Instant::now();
                let results = $krate::output_all(commands, count as usize, &JobRunner).await;
                let took = nanoseconds(start);
                for result in results {
                    assert!(result?.is_success());
                }
                Ok(took)
            }

            async fn bytes(count: u64) -> Outcome {
                let command = Command::new("head").args(["-c", &count.to_string(), "/dev/zero"]);
                let start = Instant::now();
                let result = command.output_bytes().await?;
                let took = nanoseconds(start);
                assert_eq!(result.stdout().len() as u64, count);
                Ok(took)
            }

            /// The file is named in the environment.
            async fn lines(count: u64) -> Outcome {
                let command = Command::new("cat").arg(std::env::var("RIVALS_LINES")?);
                let start = Instant::now();
                let result = command.output_string().await?;
                let took = nanoseconds(start);
                assert!(result.stdout().len() as u64 + 1 >= count, "{}", result.stdout().len());
                Ok(took)
            }

            async fn tree(count: u64) -> Outcome {
                let script = format!("for i in $(seq {count}); do sleep 1000 & echo $!; done; wait");
                let mut process = Command::new("sh").arg("-c").arg(script).start().await?;
                let mut pids = vec![process.pid().ok_or("no pid")?];
                let mut lines = process.stdout_lines()$($fallible)?;
                while (pids.len() as u64) <= count {
                    let line = tokio_stream::StreamExt::next(&mut lines).await.ok_or("ended early")?;
                    pids.push(line.parse()?);
                }
                drop(lines);
                let start = Instant::now();
                drop(process);
                gone(&pids)?;
                Ok(nanoseconds(start))
            }

            async fn held(count: u64) -> Outcome {
                let group = ProcessGroup::new()?;
                let sleeper = Command::new("sleep").arg("1000");
                let first = group.start(&sleeper).await?;
                let before = open_descriptors()?;
                let mut processes = Vec::new();
                for _ in 0..count {
                    processes.push(group.start(&sleeper).await?);
                }
                let now = open_descriptors()?;
                drop((first, processes)); // the group, dropped, ends them
                Ok((now - before) / count)
            }

            async fn growth(count: u64) -> Outcome {
                spawn(10, None).await?;
                let before = open_descriptors()?;
                spawn(count, None).await?;
                Ok(open_descriptors()?.saturating_sub(before))
            }
        }
    };
}

rival!(old, first);
rival!(new, newest?);

fn nanoseconds(start: Instant) -> u64 {
    start.elapsed().as_nanos() as u64
}

fn open_descriptors() -> std::io::Result<u64> {
    Ok(std::fs::read_dir("/proc/self/fd")?.count() as u64)
}

/// Until all of them are dead or zombies. The pids are looked at without a pause: this process has nothing else to do.
fn gone(pids: &[u32]) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(10);
    for pid in pids {
        loop {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X'])) {
                break;
            }
            if Instant::now() > deadline {
                return Err(format!("{pid} lives on"));
            }
            std::thread::yield_now();
        }
    }
    Ok(())
}

async fn answer(line: &str, resident: &mut Vec<u8>) -> Outcome {
    let mut words = line.split(' ');
    let (row, version) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let count = words.next().unwrap_or_default().parse()?;
    match version {
        // the bytes this process is to have resident from now on
        "memory" => {
            *resident = vec![1; count as usize];
            Ok(count)
        }
        "0.9.1" => old::round(row, count).await,
        _ => new::round(row, count).await,
    }
}

#[tokio::main]
async fn main() {
    let mut resident = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("a question");
        match answer(&line, &mut resident).await {
            Ok(nanoseconds) => println!("{nanoseconds}"),
            Err(error) => println!("- {error}"),
        }
        std::io::stdout().flush().expect("somebody listens");
    }
}
