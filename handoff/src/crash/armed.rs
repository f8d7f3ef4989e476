//! What is armed in this process, and how it strikes.

use super::{Disk, Side, plant};
use crate::wire::dialect::Dialect;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

#[derive(Debug)]
struct Armed {
    point: String,
    on_hit: u32,
    hits: u32,
    action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Kill9,
    Stop,
    Exit,
    Panic,
    Sleep(Duration),
    Drop,
    Disk(i32),
    Slow,
}

/// How slow `slow` is.
const SLOW: Duration = Duration::from_millis(300);

impl Action {
    fn parse(text: &str) -> Option<Action> {
        Some(match text {
            "kill9" => Action::Kill9,
            "stop" => Action::Stop,
            "exit" => Action::Exit,
            "panic" => Action::Panic,
            "drop" => Action::Drop,
            "eio" => Action::Disk(libc::EIO),
            "enospc" => Action::Disk(libc::ENOSPC),
            "slow" => Action::Slow,
            other => Action::Sleep(Duration::from_millis(other.strip_prefix("sleep=")?.parse().ok()?)),
        })
    }

    fn name(self) -> &'static str {
        match self {
            Action::Kill9 => "kill9",
            Action::Stop => "stop",
            Action::Exit => "exit",
            Action::Panic => "panic",
            Action::Sleep(_) => "sleep",
            Action::Drop => "drop",
            Action::Disk(libc::ENOSPC) => "enospc",
            Action::Disk(_) => "eio",
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
    /// What is armed by the strike.
    then: String,
}

static ARMS: LazyLock<Mutex<Arms>> = LazyLock::new(|| {
    let text = std::env::var("HANDOFF_CRASH").unwrap_or_default();
    let mut arms = Arms { file: None, seen: None, armed: Vec::new(), then: String::new() };
    match text.strip_prefix('@') {
        Some(file) => arms.file = Some(file.into()),
        None => arms.take(&text),
    }
    Mutex::new(arms)
});

impl Arms {
    fn take(&mut self, text: &str) {
        let (now, then) = text.trim().split_once(';').unwrap_or((text.trim(), ""));
        self.armed = now.split(',').filter(|s| !s.is_empty()).map(parse).collect();
        then.clone_into(&mut self.then);
    }

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
            let text = std::fs::read_to_string(path).unwrap_or_default();
            self.take(&text);
        }
    }

    /// What to do at this hit.
    fn count(&mut self, name: &str) -> Option<Action> {
        self.look();
        let mut strikes = None;
        for armed in self.armed.iter_mut().filter(|armed| armed.point == name) {
            armed.hits += 1;
            if armed.hits == armed.on_hit || armed.action == Action::Slow {
                strikes = Some(armed.action);
            }
        }
        match (strikes?, &self.file) {
            (action, None) | (action @ Action::Slow, Some(_)) => Some(action),
            (action, Some(path)) => advance(path, &self.then).then_some(action),
        }
    }
}

/// Takes the file away, and puts what comes next in its place; false when somebody else did.
fn advance(path: &Path, then: &str) -> bool {
    let own = |what: &str| path.with_extension(format!("{what}.{}", std::process::id()));
    let (taken, next) = (own("taken"), own("next"));
    if std::fs::rename(path, &taken).is_err() {
        return false;
    }
    if !then.is_empty() {
        // never seen half written, and another file than the one that is taken, which is still there
        std::fs::write(&next, then)
            .and_then(|()| std::fs::rename(&next, path))
            .unwrap_or_else(|e| panic!("HANDOFF_CRASH {}: {e}", next.display()));
    }
    std::fs::remove_file(&taken).unwrap_or_else(|e| panic!("HANDOFF_CRASH {}: {e}", taken.display()));
    true
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

/// Takes one of the three words, by the role that this process was started in.
pub(super) fn speak() {
    let Ok(said) = std::env::var("HANDOFF_SPEAK") else { return };
    let text = match said.strip_prefix('@') {
        Some(file) => std::fs::read_to_string(file).unwrap_or_else(|e| panic!("HANDOFF_SPEAK {file}: {e}")),
        None => said,
    };
    let place = match std::env::var("HANDOFF_ROLE").as_deref() {
        Ok("successor") => 2,
        Ok(_) => 1,
        Err(_) => 0,
    };
    let word = text.trim().split('-').nth(place).and_then(Dialect::parse);
    word.unwrap_or_else(|| panic!("HANDOFF_SPEAK {text:?}: three of 1, 2, 3, x are needed")).speak();
}

/// The error number of the next file operation, 0 for none.
static DISK: AtomicI32 = AtomicI32::new(0);

type Break = Box<dyn Fn() + Send>;
static CHANNELS: Mutex<Vec<Break>> = Mutex::new(Vec::new());

fn parse(text: &str) -> Armed {
    let (place, action) =
        text.rsplit_once('/').unwrap_or_else(|| panic!("HANDOFF_CRASH {text:?}: no action"));
    let (point, on_hit) = match place.split_once('#') {
        Some((point, n)) => {
            (point, n.parse().unwrap_or_else(|_| panic!("HANDOFF_CRASH {text:?}: bad count")))
        }
        None => (place, 1),
    };
    let action =
        Action::parse(action).unwrap_or_else(|| panic!("HANDOFF_CRASH {text:?}: unknown action {action:?}"));
    Armed { point: point.to_owned(), on_hit, hits: 0, action }
}

pub(super) fn hit(role: &str, effect: &str, side: Side, epoch: u64) {
    let side = match side {
        Side::Before => "before",
        Side::After => "after",
    };
    let name = format!("{role}.{effect}.{side}");
    // what was to fail belongs to the effect that is over
    DISK.store(0, Ordering::SeqCst);
    trace(role, &name, epoch, None);
    plant::at(&name);
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
        Action::Sleep(time) => std::thread::sleep(time),
        Action::Drop => break_channels(),
        Action::Disk(errno) => DISK.store(errno, Ordering::SeqCst),
        Action::Slow => std::thread::sleep(SLOW),
    }
}

pub(super) fn scaled(time: Duration) -> Duration {
    time * *SCALE / 100
}

pub(super) fn disk_fault(operation: Disk) -> Option<i32> {
    let fails = |errno: i32| errno != 0 && (errno != libc::ENOSPC || operation == Disk::Write);
    let once = DISK.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |errno| fails(errno).then_some(0));
    once.ok()
}

pub(super) fn channel(break_it: Break) {
    CHANNELS.lock().unwrap_or_else(PoisonError::into_inner).push(break_it);
}

pub(super) fn break_channels() {
    for break_it in CHANNELS.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        break_it();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_strikes_arms_the_next_fault() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("armed");
        let mut arms = Arms { file: Some(file.clone()), seen: None, armed: Vec::new(), then: String::new() };
        assert_eq!(arms.count("O.claim.before"), None);
        std::fs::write(&file, "O.claim.before#2/kill9;N.claim.after/sleep=5").expect("a file");
        assert_eq!(arms.count("O.claim.before"), None);
        assert_eq!(arms.count("N.claim.after"), None);
        assert_eq!(arms.count("O.claim.before"), Some(Action::Kill9));
        assert_eq!(arms.count("N.claim.after"), Some(Action::Sleep(Duration::from_millis(5))));
        assert_eq!(arms.count("N.claim.after"), None);
        assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 0);
    }

    #[test]
    fn a_full_disk_fails_no_fsync() {
        strike(Action::Disk(libc::ENOSPC), "");
        assert_eq!(disk_fault(Disk::Sync), None);
        assert_eq!(disk_fault(Disk::Write), Some(libc::ENOSPC));
        assert_eq!(disk_fault(Disk::Write), None);
    }
}
