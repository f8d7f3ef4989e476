//! Process trees that contain and reap what they start.
//!
//! Every process started through a [`ProcessGroup`], and everything that process starts, lives in one container that can
//! be found, signalled, frozen and ended as one. On Linux the container is a cgroup v2 directory; where none can be had it
//! is a process group plus a walk over the descendants, and [`ProcessGroup::mechanism_reason`] says why.
//!
//! ```no_run
//! use processkit::{Command, ProcessGroup};
//!
//! # async fn example() -> processkit::Result<()> {
//! let group = ProcessGroup::new()?;
//! let mut server = group.start(&Command::new("sleep").arg("1")).await?;
//! let exit = server.exit().await?;
//! assert!(exit.success());
//! group.shutdown().await?; // TERM, grace, KILL; returns when the group is empty and its directory removed
//! # Ok(())
//! # }
//! ```
//!
//! | module | noun |
//! |---|---|
//! | `command` | what to run: program, environment, descriptors |
//! | `group` | the container and its owner's intent; `teardown` its end, `control` what is done to all members |
//! | `guardian` | the end of a group whose owner was killed |
//! | `passing` | descriptors that a child gets beside its streams |
//! | `privileges` | what a child may do: user, groups, limits |
//! | `launch` | from a command to a child |
//! | `process` | one process: ours ([`RunningProcess`]) or somebody else's ([`Adopted`]) |
//! | `containment` | how a container is made: cgroup v2, or process groups |
//! | `runner` | who runs commands; `batch` many at once, `pipeline` one into the other, `supervisor` one again and again |
//! | `ladder`, `exit`, `mechanism`, `restart` | pure: no clock, no file, no syscall |
//! | `reaper` | what happens after a drop: emptying, reaping, rmdir |
//! | `sys` | the one door to the kernel with `unsafe` in it |
//!
//! Waits need a tokio runtime with I/O enabled (and time, for [`ProcessGroup::shutdown`]). Every wait is cancel safe.

#[cfg(not(target_os = "linux"))]
compile_error!("processkit is written for Linux");

#[macro_use]
mod trace;

mod batch;
mod command;
mod containment;
#[cfg(feature = "process-control")]
mod control;
mod error;
mod exit;
mod group;
mod guardian;
mod identity;
mod ladder;
mod launch;
#[cfg(feature = "limits")]
mod limits;
mod mechanism;
mod options;
mod output;
mod owner;
mod passing;
mod pipeline;
mod pipes;
mod privileges;
mod probes;
mod process;
#[cfg(feature = "stats")]
mod profile;
mod reaper;
mod restart;
mod result;
mod run;
mod runner;
mod running;
mod several;
mod signal;
#[cfg(feature = "stats")]
mod stats;
mod stdin;
mod supervisor;
mod sys;
mod teardown;
mod terms;
mod verbs;
mod watch;

pub use batch::output_all;
pub use command::{Command, Stdio};
pub use error::{Error, Result};
pub use exit::{Exit, Usage};
pub use group::ProcessGroup;
pub use guardian::Guardian;
pub use identity::{ProcessIdentity, identity_of};
pub use mechanism::{Mechanism, MechanismReason};
pub use options::ProcessGroupOptions;
pub use output::{OutputBufferPolicy, OverflowMode, StdoutLines};
pub use owner::sweep_leaked;
pub use passing::PassedFd;
pub use pipeline::Pipeline;
pub use privileges::Resource;
pub use process::{Adopted, pidfd_open};
#[cfg(feature = "stats")]
pub use profile::RunProfile;
pub use reaper::settled;
pub use restart::{RestartPolicy, StopReason};
pub use result::{Outcome, ProcessResult};
pub use runner::{JobRunner, ProcessRunner, ProcessRunnerExt};
pub use running::RunningProcess;
pub use several::{wait_all, wait_any};
#[cfg(feature = "process-control")]
pub use signal::Signal;
#[cfg(feature = "stats")]
pub use stats::{ProcessGroupStats, StatsSampler};
pub use stdin::{ProcessStdin, Stdin};
pub use supervisor::{SupervisionOutcome, Supervisor};
pub use tokio_stream::StreamExt;
#[cfg(feature = "cancellation")]
pub use tokio_util::sync::CancellationToken;
pub use verbs::{output, run};
pub use watch::{kill_by_fd, wait_empty_by_fd};
