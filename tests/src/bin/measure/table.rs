//! Figures as people read them.

use handoff_tests::history::percentile;
use std::time::Duration;

/// Cores, load, kernel.
pub(crate) fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} cores, load {}, Linux {}", read("/proc/loadavg"), read("/proc/sys/kernel/osrelease"))
}

/// p50, p95 and the largest.
pub(crate) fn spread(name: &str, ms: &[f64]) {
    let figure =
        |percent| percentile(ms, percent).map_or_else(|| "unknown".to_owned(), |ms| format!("{ms:.1}"));
    let (p50, p95, max) = (figure(50.0), figure(95.0), figure(100.0));
    println!("{name:<34} p50 {p50:>8}   p95 {p95:>8}   max {max:>8} ms   of {}", ms.len());
}

/// In milliseconds.
pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
