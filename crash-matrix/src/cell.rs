//! A cell: what is done to whom, where, and under which circumstances. Its name is stable and made for grep.

use handoff_tests::crashes::Point;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// One experiment: `<role>.<effect>.<side>[#n]/<fault>/<workload>/<versions>[/never][+<point>/<fault>]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// What happens in the upgrade.
    pub first: Strike,
    /// Who talks to the server meanwhile.
    pub workload: Workload,
    /// Wire versions of supervisor, incumbent and successor: 1 is this build's, 2 the next one, 3 one from the future.
    pub versions: [u8; 3],
    /// What becomes of a dead supervisor.
    pub policy: Policy,
    /// What happens after that.
    pub second: Option<Strike>,
}

/// A fault at a point.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Strike {
    /// Where.
    pub point: Point,
    /// What.
    pub fault: Fault,
}

/// What happens to a process at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL.
    Kill9,
    /// `exit(1)`: destructors do not run, but the C library's handlers do.
    Exit,
    /// A panic, where a programmer's mistake would be.
    Panic,
    /// SIGSTOP, for ever.
    Stop,
    /// SIGSTOP, and CONT when the others have decided.
    Cont,
    /// It is slower than usual, and faster than any limit.
    Slow,
    /// It is slower than every limit.
    Late,
    /// Its channels break, and everybody lives.
    Drop,
    /// The disk fails in this effect.
    Eio,
    /// The disk is full in this effect.
    Enospc,
}

/// Who talks to the server while it is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Workload {
    /// Busy, idle and subscribed clients, and some with half a command sent.
    Load,
    /// The same with clients of the `redis` crate, which nobody here wrote.
    Library,
}

/// What becomes of a supervisor that is dead or stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Policy {
    /// A service manager starts it again.
    Restarted,
    /// Nobody does, until the servers have decided.
    Never,
}

impl Fault {
    /// All of them, in the order of the grid.
    pub const ALL: [Fault; 10] = [
        Fault::Kill9,
        Fault::Exit,
        Fault::Panic,
        Fault::Stop,
        Fault::Cont,
        Fault::Slow,
        Fault::Late,
        Fault::Drop,
        Fault::Eio,
        Fault::Enospc,
    ];

    /// Its name in cells.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Fault::Kill9 => "kill9",
            Fault::Exit => "exit",
            Fault::Panic => "panic",
            Fault::Stop => "stop",
            Fault::Cont => "cont",
            Fault::Slow => "slow",
            Fault::Late => "late",
            Fault::Drop => "drop",
            Fault::Eio => "eio",
            Fault::Enospc => "enospc",
        }
    }

    /// What is told to the crash point.
    #[must_use]
    pub fn action(self) -> String {
        match self {
            Fault::Cont => "stop".into(),
            Fault::Slow => format!("sleep={}", SLOW.as_millis()),
            Fault::Late => format!("sleep={}", LATE.as_millis()),
            other => other.name().into(),
        }
    }

    /// What it is, in words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Fault::Kill9 => "is killed (SIGKILL)",
            Fault::Exit => "calls exit(1)",
            Fault::Panic => "panics",
            Fault::Stop => "is stopped (SIGSTOP) and never goes on",
            Fault::Cont => "is stopped (SIGSTOP) and goes on when the others have decided",
            Fault::Slow => "stands still for a moment, below every limit",
            Fault::Late => "stands still for longer than every limit, then goes on",
            Fault::Drop => "loses all its channels, and everybody lives on",
            Fault::Eio => "gets EIO from the next file operation of this effect",
            Fault::Enospc => "gets ENOSPC from the next file operation of this effect",
        }
    }

    /// Whether the process is dead at once.
    #[must_use]
    pub fn is_death(self) -> bool {
        matches!(self, Fault::Kill9 | Fault::Exit | Fault::Panic)
    }

    /// Whether it is about the disk: only where an effect writes.
    #[must_use]
    pub fn is_disk(self) -> bool {
        matches!(self, Fault::Eio | Fault::Enospc)
    }

    /// Whether somebody has to wait for a limit before anything is decided.
    #[must_use]
    pub fn is_hang(self) -> bool {
        matches!(self, Fault::Stop | Fault::Cont | Fault::Late)
    }
}

/// Below every limit, also where two of them add up.
const SLOW: Duration = Duration::from_millis(150);
/// Above every limit of the scaled protocol ([`Cell::time_scale`]) but T_kill.
const LATE: Duration = Duration::from_millis(2500);

impl Cell {
    /// One fault, everything else as usual.
    #[must_use]
    pub fn of(point: Point, fault: Fault) -> Cell {
        Cell {
            first: Strike { point, fault },
            workload: Workload::Load,
            versions: [1, 1, 1],
            policy: Policy::Restarted,
            second: None,
        }
    }

    /// Both strikes, as far as there are two.
    pub fn strikes(&self) -> impl Iterator<Item = &Strike> {
        std::iter::once(&self.first).chain(&self.second)
    }

    /// The protocol's timers in percent: where somebody waits for one, it is to be short; where nobody does, a busy
    /// machine must not look like a hang.
    #[must_use]
    pub fn time_scale(&self) -> u32 {
        let waits = self.strikes().any(|strike| strike.fault.is_hang()) || self.policy == Policy::Never;
        if waits { 25 } else { 100 }
    }
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.point, self.fault.name())
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [s, o, n] = self.versions;
        let workload = match self.workload {
            Workload::Load => "load",
            Workload::Library => "library",
        };
        write!(f, "{}/{workload}/v{s}-{o}-{n}", self.first)?;
        if self.policy == Policy::Never {
            f.write_str("/never")?;
        }
        match &self.second {
            Some(second) => write!(f, "+{second}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Strike {
    type Err = String;

    fn from_str(text: &str) -> Result<Strike, String> {
        let (place, fault) = text.split_once('/').ok_or(format!("{text:?}: POINT/FAULT is needed"))?;
        let (name, hit) = match place.split_once('#') {
            Some((name, hit)) => (name, hit.parse().map_err(|_| format!("{place:?}: no number after #"))?),
            None => (place, 1),
        };
        let fault = Fault::ALL.into_iter().find(|known| known.name() == fault);
        let fault = fault
            .ok_or_else(|| format!("{text:?}: the faults are {}", Fault::ALL.map(Fault::name).join(", ")))?;
        Ok(Strike { point: Point { name: name.into(), hit }, fault })
    }
}

fn versions(text: &str) -> Option<[u8; 3]> {
    let words = text.strip_prefix('v')?.split('-');
    let known: Vec<u8> =
        words.map(|word| word.parse().ok().filter(|n| (1..=3).contains(n))).collect::<Option<_>>()?;
    known.try_into().ok()
}

impl FromStr for Cell {
    type Err = String;

    fn from_str(text: &str) -> Result<Cell, String> {
        let (first, second) = match text.split_once('+') {
            Some((first, second)) => (first, Some(second.parse()?)),
            None => (text, None),
        };
        let words: Vec<&str> = first.split('/').collect();
        let [point, fault, rest @ ..] = words.as_slice() else {
            return Err(format!("{text:?}: POINT/FAULT/WORKLOAD/VERSIONS is needed"));
        };
        let mut cell = Cell::of(Point { name: String::new(), hit: 1 }, Fault::Kill9);
        cell.first = format!("{point}/{fault}").parse()?;
        cell.second = second;
        let mut rest = rest.iter();
        cell.workload = match rest.next() {
            Some(&"load") | None => Workload::Load,
            Some(&"library") => Workload::Library,
            Some(other) => return Err(format!("{other:?}: the workloads are load, library")),
        };
        if let Some(text) = rest.next() {
            cell.versions = versions(text).ok_or_else(|| {
                format!("{text:?}: versions are v, and 1, 2 or 3 for each of S, O and N: v1-2-3")
            })?;
        }
        cell.policy = match rest.next() {
            None => Policy::Restarted,
            Some(&"never") => Policy::Never,
            Some(other) => return Err(format!("{other:?}: never, or nothing")),
        };
        match rest.next() {
            None => Ok(cell),
            Some(more) => Err(format!("{text:?}: nothing comes after {more:?}")),
        }
    }
}

/// Whether a name fits a pattern with `*` and `?`; a pattern without them fits what it is a part of.
#[must_use]
pub(crate) fn fits(pattern: &str, name: &str) -> bool {
    fn glob(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => (0..=name.len()).any(|at| glob(rest, &name[at..])),
            (Some((b'?', rest)), Some((_, name))) => glob(rest, name),
            (Some((a, rest)), Some((b, name))) => a == b && glob(rest, name),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }
    if pattern.contains(['*', '?']) {
        glob(pattern.as_bytes(), name.as_bytes())
    } else {
        name.contains(pattern)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in [
            "S.send.Begin.after/kill9/load/v1-1-1",
            "O.send.Heartbeat.after#3/cont/library/v1-1-1",
            "S.send.Begin.after/kill9/load/v1-1-1/never+N.claim.after/stop",
            "N.claim.after/kill9/load/v1-2-3",
        ] {
            assert_eq!(name.parse::<Cell>().expect("a cell").to_string(), name);
        }
        assert_eq!(
            "S.a.before/exit".parse::<Cell>().expect("short").to_string(),
            "S.a.before/exit/load/v1-1-1"
        );
        for wrong in [
            "S.a.before",
            "S.a.before/bang",
            "S.a.before/exit/load/v9",
            "S.a.before/exit/load/v1-1-4",
            "S.a.before/exit/load/v1-1-1-1",
            "S.a.before/exit/load/v1-1-1/x",
        ] {
            assert!(wrong.parse::<Cell>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn patterns() {
        assert!(fits("S.send.*/kill9/*", "S.send.Begin.after/kill9/load/v1-1-1"));
        assert!(!fits("S.send.*/kill9", "S.send.Begin.after/kill9/load/v1-1-1"));
        assert!(fits("Begin.after/kill9", "S.send.Begin.after/kill9/load/v1-1-1"));
        assert!(fits("", "anything"));
    }
}
