//! What a process uses, while it runs and in all.

use crate::error::Result;
use crate::run::Run;
use crate::running::RunningProcess;
use std::sync::Arc;
use std::time::Duration;

/// Clock ticks in a second, as `/proc/<pid>/stat` counts them (USER_HZ of time(7)); 100 on every architecture we run on.
const TICKS: u64 = 100;

/// What a run used, by its samples and by the kernel's final account.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct RunProfile {
    /// Its exit code; `None` for the end by a signal or a timeout.
    pub exit_code: Option<i32>,
    /// From the spawn to the end.
    pub duration: Duration,
    /// User and system time of the process and the descendants it waited for.
    pub cpu_time: Option<Duration>,
    /// The most memory the process had resident at once, in bytes.
    pub peak_memory_bytes: Option<u64>,
    /// How many samples were taken while it lived.
    pub samples: usize,
}

impl RunningProcess {
    /// The CPU time the process has used so far, in steps of 10 ms; exact once it is reaped. `None` if nobody knows.
    pub fn cpu_time(&self) -> Option<Duration> {
        self.run.cpu_time()
    }

    /// The most memory the process has had resident at once so far, in bytes. `None` if nobody knows.
    pub fn peak_memory_bytes(&self) -> Option<u64> {
        self.run.peak_memory_bytes()
    }

    /// Run it to its end and look at what it uses, at once and then at this interval (1 ms at the least). What it writes is
    /// drained meanwhile.
    ///
    /// Dropping the future drops the process.
    ///
    /// # Errors
    /// As for [`wait`](RunningProcess::wait).
    pub async fn profile(mut self, every: Duration) -> Result<RunProfile> {
        let run = Arc::clone(&self.run);
        let (mut samples, mut cpu_time, mut peak) = (0, None, None);
        let sampling = async {
            loop {
                if let Some(used) = run.cpu_time() {
                    samples += 1;
                    cpu_time = Some(used);
                    peak = peak.max(run.peak_memory_bytes());
                }
                tokio::time::sleep(every.max(Duration::from_millis(1))).await;
            }
        };
        let ended = tokio::select! {
            biased;
            () = sampling => None,
            ended = self.ended() => Some(ended),
        };
        let exit = match ended {
            Some(ended) => ended?,
            None => self.exit().await?, // sampling has no end
        };
        Ok(RunProfile {
            exit_code: self.own_code(exit),
            duration: run.child.born().at.elapsed(),
            cpu_time: run.cpu_time().max(cpu_time),
            peak_memory_bytes: run.peak_memory_bytes().max(peak),
            samples,
        })
    }
}

impl Run {
    fn cpu_time(&self) -> Option<Duration> {
        if self.child.is_reaped() {
            return self.child.usage().map(|usage| usage.cpu_time());
        }
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.pid())).ok()?;
        // fields 14 and 15 of proc_pid_stat(5); the name, the second, may hold anything
        let mut times = stat.rsplit_once(") ")?.1.split(' ').skip(11);
        let mut next = || times.next()?.parse::<u64>().ok();
        Some(Duration::from_millis((next()? + next()?) * 1000 / TICKS))
    }

    fn peak_memory_bytes(&self) -> Option<u64> {
        if self.child.is_reaped() {
            return self.child.usage()?.max_rss_bytes;
        }
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.pid())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
    }
}
