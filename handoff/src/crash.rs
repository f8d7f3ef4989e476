//! Crash points: places at which a test kills, stops or fails this process. Compiled out without `crash-points`.
//!
//! Armed by the environment: `HANDOFF_CRASH=<role>.<effect>.<before|after>[#n]/<action>`, where `n` is the n-th hit
//! (default 1) and the action one of `kill9`, `stop`, `exit`, `panic`. Several are separated by `,`.
//! `HANDOFF_CRASH_TRACE=<file>` appends one line a hit: role, pid, monotonic ns, point, epoch.
//! `HANDOFF_TIME_SCALE=<percent>` scales the protocol's timers.

/// Before or after the effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The effect has not begun.
    Before,
    /// The effect is done.
    After,
}

/// Whether this build has crash points.
pub const ENABLED: bool = cfg!(feature = "crash-points");

/// A point was reached.
#[inline]
pub fn point(role: &str, effect: &str, side: Side, epoch: u64) {
    #[cfg(feature = "crash-points")]
    armed::hit(role, effect, side, epoch);
    #[cfg(not(feature = "crash-points"))]
    let _ = (role, effect, side, epoch);
}

/// A protocol time as it counts here: scaled in builds with crash points, as it is otherwise.
#[must_use]
pub fn scaled(time: std::time::Duration) -> std::time::Duration {
    #[cfg(feature = "crash-points")]
    return armed::scaled(time);
    #[cfg(not(feature = "crash-points"))]
    time
}

#[cfg(feature = "crash-points")]
mod armed {
    use super::Side;
    use std::io::Write as _;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{LazyLock, Mutex};
    use std::time::Duration;

    #[derive(Debug)]
    struct Armed {
        point: String,
        on_hit: u32,
        hits: AtomicU32,
        action: Action,
    }

    #[derive(Clone, Copy, Debug)]
    enum Action {
        Kill9,
        Stop,
        Exit,
        Panic,
    }

    static ARMED: LazyLock<Vec<Armed>> = LazyLock::new(|| {
        let text = std::env::var("HANDOFF_CRASH").unwrap_or_default();
        text.split(',').filter(|s| !s.is_empty()).map(parse).collect()
    });

    static TRACE: LazyLock<Option<Mutex<std::fs::File>>> = LazyLock::new(|| {
        let path = std::env::var_os("HANDOFF_CRASH_TRACE")?;
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        Some(Mutex::new(file.unwrap_or_else(|e| panic!("HANDOFF_CRASH_TRACE {}: {e}", path.display()))))
    });

    static SCALE: LazyLock<u32> = LazyLock::new(|| {
        std::env::var("HANDOFF_TIME_SCALE").map_or(100, |text| {
            text.parse().unwrap_or_else(|_| panic!("HANDOFF_TIME_SCALE {text:?}: a percentage is needed"))
        })
    });

    fn parse(text: &str) -> Armed {
        let (place, action) = text.rsplit_once('/').unwrap_or_else(|| panic!("HANDOFF_CRASH {text:?}: no action"));
        let (point, on_hit) = match place.split_once('#') {
            Some((point, n)) => (point, n.parse().unwrap_or_else(|_| panic!("HANDOFF_CRASH {text:?}: bad count"))),
            None => (place, 1),
        };
        let action = match action {
            "kill9" => Action::Kill9,
            "stop" => Action::Stop,
            "exit" => Action::Exit,
            "panic" => Action::Panic,
            other => panic!("HANDOFF_CRASH {text:?}: unknown action {other:?}"),
        };
        Armed { point: point.to_owned(), on_hit, hits: AtomicU32::new(0), action }
    }

    pub(super) fn hit(role: &str, effect: &str, side: Side, epoch: u64) {
        let side = match side {
            Side::Before => "before",
            Side::After => "after",
        };
        let name = format!("{role}.{effect}.{side}");
        if let Some(trace) = &*TRACE {
            let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_or(0, |t| {
                t.tv_sec() as i128 * 1_000_000_000 + t.tv_nsec() as i128
            });
            let line = format!("{role} {} {now} {name} {epoch}\n", std::process::id());
            let mut file = trace.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            file.write_all(line.as_bytes()).unwrap_or_else(|e| panic!("HANDOFF_CRASH_TRACE: {e}"));
        }
        for armed in ARMED.iter().filter(|a| a.point == name) {
            if armed.hits.fetch_add(1, Ordering::Relaxed) + 1 == armed.on_hit {
                strike(armed.action, &name);
            }
        }
    }

    fn strike(action: Action, name: &str) {
        use nix::sys::signal::{Signal, raise};
        match action {
            Action::Kill9 => drop(raise(Signal::SIGKILL)),
            // returns when somebody sends CONT
            Action::Stop => drop(raise(Signal::SIGSTOP)),
            Action::Exit => std::process::exit(1),
            Action::Panic => panic!("crash point {name}"),
        }
    }

    pub(super) fn scaled(time: Duration) -> Duration {
        time * *SCALE / 100
    }
}
