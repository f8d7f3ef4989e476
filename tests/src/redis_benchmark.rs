//! `redis-benchmark`, a load that nobody here wrote, round after round.

use crate::client::Client;
use crate::rig::ended_by;
use std::net::SocketAddrV4;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The key that its INCR test counts up.
pub const COUNTER: &str = "counter:__rand_int__";

/// The requests of one round, for each kind.
const REQUESTS: u64 = 2_000;
const CLIENTS: u32 = 10;
/// No round takes this long.
const ROUND: Duration = Duration::from_secs(120);
const KINDS: &str = "ping,set,get,incr,mset";
/// What `-q` prints a line for; ping is two.
const LINES: [&str; 6] = ["PING_INLINE:", "PING_MBULK:", "SET:", "GET:", "INCR:", "MSET (10 keys):"];

/// A loop of rounds in the background.
#[derive(Debug)]
pub struct RedisBenchmark {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Seen>>,
}

/// What it reported.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Whole rounds.
    pub rounds: u64,
    /// Requests in them.
    pub requests: u64,
    /// Increments of [`COUNTER`] among them, each acknowledged.
    pub increments: u64,
    /// What went wrong, in its own words.
    pub faults: Vec<String>,
}

impl RedisBenchmark {
    /// What keeps it from running here, `None` if nothing does.
    #[must_use]
    pub fn missing() -> Option<String> {
        match Command::new("redis-benchmark").arg("--version").stdout(Stdio::null()).status() {
            Ok(status) if status.success() => None,
            Ok(status) => Some(format!("redis-benchmark --version: {status}")),
            Err(e) => Some(format!("redis-benchmark is not installed ({e}); apt-get install redis-tools")),
        }
    }

    /// Starts rounds against a server: with `keep_alive` (`-k 1`), or with a new connection for each request (`-k 0`).
    #[must_use]
    pub fn start(addr: SocketAddrV4, keep_alive: bool) -> RedisBenchmark {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut seen = Seen::default();
            // each round is whole: only then its requests are known to be answered
            loop {
                round(addr, keep_alive, &mut seen);
                if stopped.load(Ordering::Relaxed) || seen.faults.len() >= 5 {
                    return seen;
                }
            }
        });
        RedisBenchmark { stop, thread: Some(thread) }
    }

    /// Lets the current round end and says what was seen.
    ///
    /// # Panics
    /// When its thread did.
    #[must_use]
    pub fn finish(mut self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is taken here only");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for RedisBenchmark {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn round(addr: SocketAddrV4, keep_alive: bool, seen: &mut Seen) {
    let mut command = Command::new("redis-benchmark");
    command.args(["-h", &addr.ip().to_string(), "-p", &addr.port().to_string(), "-t", KINDS, "-q"]);
    command.args([
        "-n",
        &REQUESTS.to_string(),
        "-c",
        &CLIENTS.to_string(),
        "-k",
        if keep_alive { "1" } else { "0" },
    ]);
    let output = match run(&mut command) {
        Ok(output) => output,
        Err(e) => return seen.faults.push(format!("{command:?}: {e}")),
    };
    let said = [output.stdout, output.stderr]
        .map(|text| String::from_utf8_lossy(&text).replace('\r', "\n"))
        .concat();
    let wrong = said.lines().find(|line| line.to_ascii_lowercase().contains("err"));
    let lacks =
        LINES.iter().find(|kind| !said.lines().any(|l| l.starts_with(**kind) && l.contains("per second")));
    if !output.status.success() {
        seen.faults.push(format!("{}: {}", output.status, wrong.unwrap_or(&said)));
    } else if let Some(wrong) = wrong {
        seen.faults.push(wrong.to_owned());
    } else if let Some(kind) = lacks {
        seen.faults.push(format!("no figure for {kind} {said}"));
    } else {
        seen.rounds += 1;
        seen.requests += REQUESTS * LINES.len() as u64;
        seen.increments += REQUESTS;
    }
}

/// Runs it to its end: 7.0 does not always end by itself when its server goes away.
fn run(command: &mut Command) -> std::io::Result<Output> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let pidfd = processkit::pidfd_open(child.id())?;
    if ended_by(&pidfd, Instant::now() + ROUND) {
        return child.wait_with_output();
    }
    let _ = child.kill();
    let _ = child.wait();
    Err(std::io::Error::other(format!("still running after {ROUND:?}")))
}

/// What is wrong with the counter after these runs, which were all that counted it up; `None`: every
/// acknowledged increment is there, once.
#[must_use]
pub fn miscounted(addr: SocketAddrV4, runs: &[&Seen]) -> Option<String> {
    if runs.iter().any(|seen| !seen.faults.is_empty()) {
        // an increment without an answer may count or not
        return None;
    }
    let acknowledged: u64 = runs.iter().map(|seen| seen.increments).sum();
    let found = Client::connect(addr.into()).and_then(|mut client| client.ask(&format!("GET {COUNTER}")));
    match found.map(|reply| reply.text().map_or(Some(0), |text| text.parse().ok())) {
        Ok(Some(value)) if value == acknowledged => None,
        other => Some(format!("{COUNTER} is {other:?} after {acknowledged} acknowledged increments")),
    }
}
