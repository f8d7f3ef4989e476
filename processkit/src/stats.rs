//! What a group uses, now and over time.

use crate::containment::{Cgroup, Containment, Tree, is_gone};
use crate::error::Result;
use crate::group::ProcessGroup;
use crate::process::peak_of;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_stream::Stream;

/// Clock ticks in a second, as `/proc/<pid>/stat` counts them (USER_HZ of time(7)); 100 on every architecture we run on.
const TICKS: u64 = 100;

/// What a group uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessGroupStats {
    /// How many processes live in it.
    pub active_process_count: usize,
    /// User and system time. With a cgroup it is that of everything that was ever in it (`cpu.stat`), otherwise that of the
    /// living members and of what they have waited for, in steps of 10 ms: it falls when one ends. `None` if nobody knows.
    pub total_cpu_time: Option<Duration>,
    /// The most memory that was in use at once, in bytes: the cgroup's own peak (`memory.peak`) where there is a memory
    /// controller (Linux 5.19). Otherwise the sum of what each living member had resident at its own peak: an upper bound
    /// that counts shared pages once for each. `None` if nobody knows.
    pub peak_memory_bytes: Option<u64>,
}

impl ProcessGroup {
    /// What the group uses at this moment. An empty group uses nothing, and so does one whose directory was removed.
    ///
    /// # Errors
    /// If the members cannot be read.
    pub fn stats(&self) -> Result<ProcessGroupStats> {
        Ok(match &self.containment {
            Containment::Cgroup(cgroup) => of_cgroup(cgroup)?,
            Containment::Tree(tree) => of_tree(tree)?,
        })
    }

    /// [`stats`](ProcessGroup::stats) again and again: at once, and then at this interval (1 ms at the least). A moment that
    /// nobody looked is skipped. It never ends; dropping it stops it.
    ///
    /// Needs a tokio runtime with time enabled once it is polled. Cancel safe.
    ///
    /// ```no_run
    /// # async fn example(group: &processkit::ProcessGroup) {
    /// use processkit::StreamExt;
    /// let mut samples = group.sample_stats(std::time::Duration::from_secs(1));
    /// while let Some(sample) = samples.next().await {
    ///     println!("{} processes", sample.active_process_count);
    /// }
    /// # }
    /// ```
    pub fn sample_stats(&self, every: Duration) -> StatsSampler<'_> {
        // once in so long is as good as never, and within what the clock can tell
        const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
        StatsSampler { group: self, every: every.clamp(Duration::from_millis(1), NEVER), clock: None }
    }
}

/// The stream of [`ProcessGroup::sample_stats`].
#[must_use = "a stream does nothing until it is polled"]
pub struct StatsSampler<'a> {
    group: &'a ProcessGroup,
    every: Duration,
    /// From the first poll on, since there may be no runtime before.
    clock: Option<Interval>,
}

impl Stream for StatsSampler<'_> {
    type Item = ProcessGroupStats;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<ProcessGroupStats>> {
        let (group, every) = (self.group, self.every);
        let clock = self.clock.get_or_insert_with(|| {
            let mut clock = interval(every);
            clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
            clock
        });
        loop {
            ready!(clock.poll_tick(context));
            match group.stats() {
                Ok(stats) => return Poll::Ready(Some(stats)),
                Err(error) => event!(warn, error = error, "a sample is missing"),
            }
        }
    }
}

impl fmt::Debug for StatsSampler<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatsSampler").field("every", &self.every).finish_non_exhaustive()
    }
}

fn of_cgroup(cgroup: &Cgroup) -> io::Result<ProcessGroupStats> {
    let members = cgroup.members()?;
    let read = |name| match cgroup.read(name) {
        Err(error) if is_gone(&error) => Ok(None),
        other => other.map(Some),
    };
    let cpu = read("cpu.stat")?.as_deref().and_then(usage_usec).map(Duration::from_micros);
    let peak = read("memory.peak")?.and_then(|text| text.trim().parse().ok());
    Ok(ProcessGroupStats {
        active_process_count: members.len(),
        total_cpu_time: cpu,
        peak_memory_bytes: peak.or_else(|| sum(members.into_iter().map(peak_of))),
    })
}

fn of_tree(tree: &Tree) -> io::Result<ProcessGroupStats> {
    let members = tree.members()?;
    let ticks = sum(members.iter().map(|member| ticks_of(member.pid)));
    Ok(ProcessGroupStats {
        active_process_count: members.len(),
        total_cpu_time: ticks.map(time),
        peak_memory_bytes: sum(members.iter().map(|member| peak_of(member.pid))),
    })
}

/// Of those that could be read; nothing if none of several could.
fn sum(parts: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    let (mut count, mut known, mut total) = (0, 0, 0u64);
    for part in parts {
        count += 1;
        known += u32::from(part.is_some());
        total = total.saturating_add(part.unwrap_or(0));
    }
    (known > 0 || count == 0).then_some(total)
}

fn usage_usec(cpu_stat: &str) -> Option<u64> {
    cpu_stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?.trim().parse().ok()
}

pub(crate) fn time(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 1000 / TICKS)
}

/// Fields 14 to 17 of proc_pid_stat(5): its own time, and that of the children it has waited for.
pub(crate) fn ticks_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let name_end = stat.iter().rposition(|b| *b == b')')?; // the name may hold anything
    let rest = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?;
    rest.split_ascii_whitespace().skip(11).take(4).map(|field| field.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_not_zero() {
        assert_eq!(sum([].into_iter()), Some(0), "nobody uses nothing");
        assert_eq!(sum([None, Some(3), Some(4)].into_iter()), Some(7));
        assert_eq!(sum([None, None].into_iter()), None);
        assert_eq!(usage_usec("usage_usec 12\nuser_usec 7\n"), Some(12));
        assert_eq!(usage_usec("nr_periods 1\n"), None);
        assert!(peak_of(std::process::id()).is_some_and(|bytes| bytes > 4096));
        assert!(ticks_of(std::process::id()).is_some());
    }
}
