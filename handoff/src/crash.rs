//! Crash points: places at which a test kills, stops or fails this process. Compiled out without `crash-points`.
//!
//! Armed by the environment: `HANDOFF_CRASH=<role>.<effect>.<before|after>[#n]/<action>`, where `n` is the n-th hit
//! (default 1) and the action one of `kill9`, `stop`, `exit`, `panic`, `slow`. Several are separated by `,`.
//! `slow` goes on after 300 ms, each time: so a test chooses who of two comes first.
//! `HANDOFF_CRASH=@<file>` reads the same from a file each time: nothing is armed and nothing counted while it is not
//! there, and whoever strikes removes it first (`slow` does not). So a test arms in the middle of a run, exactly one
//! process strikes exactly once, and a file that is still there was never reached.
//! `HANDOFF_CRASH_TRACE=<file>` appends one line a hit: role, pid, monotonic ns, point, epoch; and the action, where it
//! struck.
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
    use std::os::unix::fs::MetadataExt as _;
    use std::path::PathBuf;
    use std::sync::{LazyLock, Mutex, PoisonError};
    use std::time::{Duration, SystemTime};

    #[derive(Debug)]
    struct Armed {
        point: String,
        on_hit: u32,
        hits: u32,
        action: Action,
    }

    #[derive(Clone, Copy, Debug)]
    enum Action {
        Kill9,
        Stop,
        Exit,
        Panic,
        Slow,
    }

    /// How slow `slow` is.
    const SLOW: Duration = Duration::from_millis(300);

    impl Action {
        fn name(self) -> &'static str {
            match self {
                Action::Kill9 => "kill9",
                Action::Stop => "stop",
                Action::Exit => "exit",
                Action::Panic => "panic",
                Action::Slow => "slow",
            }
        }
    }

    /// What is armed, and since which state of which file.
    #[derive(Debug)]
    struct Arms {
        file: Option<PathBuf>,
        seen: Option<(u64, SystemTime)>,
        armed: Vec<Armed>,
    }

    static ARMS: LazyLock<Mutex<Arms>> = LazyLock::new(|| {
        let text = std::env::var("HANDOFF_CRASH").unwrap_or_default();
        Mutex::new(match text.strip_prefix('@') {
            Some(file) => Arms { file: Some(file.into()), seen: None, armed: Vec::new() },
            None => Arms { file: None, seen: None, armed: parse_all(&text) },
        })
    });

    impl Arms {
        /// Reads the file again if there is one and it is another than last time.
        fn look(&mut self) {
            let Some(path) = &self.file else { return };
            let Ok(meta) = std::fs::metadata(path) else {
                self.seen = None;
                self.armed.clear();
                return;
            };
            let now = meta.modified().ok().map(|modified| (meta.ino(), modified));
            if now != self.seen {
                self.seen = now;
                // gone since: somebody else struck
                self.armed = parse_all(&std::fs::read_to_string(path).unwrap_or_default());
            }
        }

        /// What to do at this hit.
        fn count(&mut self, name: &str) -> Option<Action> {
            self.look();
            let mut strikes = None;
            for armed in self.armed.iter_mut().filter(|armed| armed.point == name) {
                armed.hits += 1;
                if armed.hits == armed.on_hit || matches!(armed.action, Action::Slow) {
                    strikes = Some(armed.action);
                }
            }
            match (strikes?, &self.file) {
                (action, None) | (action @ Action::Slow, Some(_)) => Some(action),
                (action, Some(path)) => std::fs::remove_file(path).is_ok().then_some(action),
            }
        }
    }

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

    fn parse_all(text: &str) -> Vec<Armed> {
        text.trim().split(',').filter(|s| !s.is_empty()).map(parse).collect()
    }

    fn parse(text: &str) -> Armed {
        let (place, action) =
            text.rsplit_once('/').unwrap_or_else(|| panic!("HANDOFF_CRASH {text:?}: no action"));
        let (point, on_hit) = match place.split_once('#') {
            Some((point, n)) => {
                (point, n.parse().unwrap_or_else(|_| panic!("HANDOFF_CRASH {text:?}: bad count")))
            }
            None => (place, 1),
        };
        let action = match action {
            "kill9" => Action::Kill9,
            "stop" => Action::Stop,
            "exit" => Action::Exit,
            "panic" => Action::Panic,
            "slow" => Action::Slow,
            other => panic!("HANDOFF_CRASH {text:?}: unknown action {other:?}"),
        };
        Armed { point: point.to_owned(), on_hit, hits: 0, action }
    }

    pub(super) fn hit(role: &str, effect: &str, side: Side, epoch: u64) {
        let side = match side {
            Side::Before => "before",
            Side::After => "after",
        };
        let name = format!("{role}.{effect}.{side}");
        trace(role, &name, epoch, None);
        let action = ARMS.lock().unwrap_or_else(PoisonError::into_inner).count(&name);
        if let Some(action) = action {
            trace(role, &name, epoch, Some(action));
            strike(action, &name);
        }
    }

    fn trace(role: &str, name: &str, epoch: u64, action: Option<Action>) {
        let Some(trace) = &*TRACE else { return };
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
            .map_or(0, |t| t.tv_sec() as i128 * 1_000_000_000 + t.tv_nsec() as i128);
        let action = action.map_or(String::new(), |action| format!(" {}", action.name()));
        let line = format!("{role} {} {now} {name} {epoch}{action}\n", std::process::id());
        let mut file = trace.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(line.as_bytes()).unwrap_or_else(|e| panic!("HANDOFF_CRASH_TRACE: {e}"));
    }

    fn strike(action: Action, name: &str) {
        use nix::sys::signal::{Signal, raise};
        match action {
            Action::Kill9 => drop(raise(Signal::SIGKILL)),
            // returns when somebody sends CONT
            Action::Stop => drop(raise(Signal::SIGSTOP)),
            Action::Exit => std::process::exit(1),
            Action::Panic => panic!("crash point {name}"),
            Action::Slow => std::thread::sleep(SLOW),
        }
    }

    pub(super) fn scaled(time: Duration) -> Duration {
        time * *SCALE / 100
    }
}
