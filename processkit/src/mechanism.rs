//! Which containment is in force, and why not a stronger one.

use std::fmt;
use std::path::PathBuf;

/// How a group holds its processes. Linux gives [`CgroupV2`](Mechanism::CgroupV2) or [`ProcessGroup`](Mechanism::ProcessGroup).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mechanism {
    /// A job object (not on Linux).
    JobObject,
    /// A cgroup v2 directory: the whole tree, `setsid` and double forks included.
    CgroupV2,
    /// Process groups, and a walk over the descendants with this process as their subreaper.
    ProcessGroup,
    /// No containment.
    None,
}

/// Why the mechanism in force is the one it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MechanismReason {
    /// It is the strongest there is.
    Strongest,
    /// The options asked for the weaker one.
    Forced,
    /// `/proc/self/mountinfo` lists no cgroup2 mount.
    NoCgroup2Mount,
    /// This process's own cgroup lies outside of what is mounted.
    OutsideOfMount {
        /// The path in `/proc/self/cgroup`.
        cgroup: PathBuf,
    },
    /// A directory could not be made below this process's own cgroup.
    NotWritable {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        cause: String,
    },
    /// The kernel has no `cgroup.kill` (before 5.14).
    NoCgroupKill,
}

impl fmt::Display for MechanismReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MechanismReason::Strongest => f.write_str("the strongest mechanism is in force"),
            MechanismReason::Forced => f.write_str("the options ask for process groups"),
            MechanismReason::NoCgroup2Mount => f.write_str("no cgroup2 mount in /proc/self/mountinfo"),
            MechanismReason::OutsideOfMount { cgroup } => {
                write!(f, "own cgroup {} is outside of every cgroup2 mount", cgroup.display())
            }
            MechanismReason::NotWritable { path, cause } => write!(f, "{}: {cause}", path.display()),
            MechanismReason::NoCgroupKill => f.write_str("this kernel has no cgroup.kill (5.14)"),
        }
    }
}
