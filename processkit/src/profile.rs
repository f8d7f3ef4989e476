//! What a process uses, while it runs and in all.

use crate::error::Result;
use crate::process::peak_of;
use crate::run::Run;
use crate::running::RunningProcess;
use crate::stats::{ticks_of, time};
use std::sync::Arc;
use std::time::Duration;

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
    /// The CPU time of the process and the descendants it waited for so far, in steps of 10 ms; exact once it is reaped. `None` if nobody knows.
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
        ticks_of(self.child.pid()).map(time)
    }

    fn peak_memory_bytes(&self) -> Option<u64> {
        if self.child.is_reaped() {
            return self.child.usage()?.max_rss_bytes;
        }
        peak_of(self.child.pid())
    }
}
