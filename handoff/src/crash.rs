//! Crash points: places at which a test kills, stops or fails this process. Compiled out without `crash-points`.
//!
//! Armed by the environment: `HANDOFF_CRASH=<role>.<effect>.<before|after>[#n]/<action>`, where `n` is the n-th hit
//! (default 1). Several are separated by `,`. The actions:
//!
//! | action | what happens |
//! |---|---|
//! | `kill9`, `stop` | the signal, to this process |
//! | `exit`, `panic` | `exit(1)`; a panic |
//! | `sleep=<ms>` | this thread stands still for that long |
//! | `drop` | every channel of this process breaks, both ends live on |
//! | `eio`, `enospc` | the next file operation of the effect fails so |
//! | `slow` | goes on after 300 ms, at each hit: so a test chooses who of two comes first |
//!
//! `HANDOFF_CRASH=@<file>` reads the same from a file each time: nothing is armed and nothing counted while it is not
//! there, and whoever strikes removes it first (`slow` does not). So a test arms in the middle of a run, exactly one
//! process strikes exactly once, and a file that is still there was never reached. After a `;` stands what is armed
//! by the strike, in the place of the file, with hits counted anew: a second fault.
//! `HANDOFF_CRASH_TRACE=<file>` appends one line a hit: role, pid, monotonic ns, point, epoch; and the action, where it
//! struck.
//! `HANDOFF_TIME_SCALE=<percent>` scales the protocol's timers.
//! `HANDOFF_SPEAK=<S>-<O>-<N>` is how supervisor, first server and successors speak: `1` as this build, `2` as the next
//! version, `3` as one from the future, `x` as one that insists (see [`crate::wire::dialect`]). `@<file>` reads it from
//! a file when a process starts.
//! `HANDOFF_PLANT=<bug>` plants a bug, so that whoever looks for it can be seen to find it (see [`planted`]).

#[cfg(feature = "crash-points")]
mod armed;
#[cfg(feature = "crash-points")]
mod plant;

/// Before or after the effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The effect has not begun.
    Before,
    /// The effect is done.
    After,
}

/// What a file operation does to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// Needs room: a new file, a new name, more bytes.
    Write,
    /// Makes something durable.
    Sync,
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

/// This process begins: from here on it speaks as it was told to.
pub fn speak() {
    #[cfg(feature = "crash-points")]
    armed::speak();
}

/// A protocol time as it counts here: scaled in builds with crash points, as it is otherwise.
#[must_use]
pub fn scaled(time: std::time::Duration) -> std::time::Duration {
    #[cfg(feature = "crash-points")]
    return armed::scaled(time);
    #[cfg(not(feature = "crash-points"))]
    time
}

/// The error number with which this file operation is to fail, once.
#[inline]
#[must_use]
pub fn disk_fault(operation: Disk) -> Option<i32> {
    #[cfg(feature = "crash-points")]
    return armed::disk_fault(operation);
    #[cfg(not(feature = "crash-points"))]
    {
        let _ = operation;
        None
    }
}

/// A channel was opened; `break_it` breaks it for both ends, and does nothing when it is gone.
#[inline]
pub fn channel(break_it: impl Fn() + Send + 'static) {
    #[cfg(feature = "crash-points")]
    armed::channel(Box::new(break_it));
    #[cfg(not(feature = "crash-points"))]
    let _ = break_it;
}

/// Whether this bug was planted (`HANDOFF_PLANT`). Each is named after the oracle of the crash matrix that finds it.
#[inline]
#[must_use]
pub fn planted(bug: &str) -> bool {
    #[cfg(feature = "crash-points")]
    return plant::planted(bug);
    #[cfg(not(feature = "crash-points"))]
    {
        let _ = bug;
        false
    }
}

/// Where the bug `O7` was planted: another listener at the address of this one, which does not listen any more.
///
/// # Errors
/// What the kernel says.
#[cfg(feature = "crash-points")]
pub fn another_listener(listener: &std::os::fd::OwnedFd) -> std::io::Result<std::os::fd::OwnedFd> {
    plant::another_listener(listener)
}
