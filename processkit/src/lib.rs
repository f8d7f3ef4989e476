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
//! A command also runs by itself, in a group of its own that ends with it:
//!
//! ```no_run
//! use processkit::{Command, Stdin, StreamExt};
//! use std::time::Duration;
//!
//! # async fn example() -> processkit::Result<()> {
//! let kernel = Command::new("uname").arg("-r").run().await?; // its text, or an error that says what it said
//! let sort = Command::new("sort").stdin(Stdin::from_string("b\na\n")).timeout(Duration::from_secs(10));
//! let result = sort.output_string().await?; // a timeout or another code is data here
//! assert_eq!(result.stdout(), "a\nb");
//!
//! let mut server = Command::new("python3").args(["-u", "-m", "http.server"]).start().await?;
//! server.wait_for_line(|line| line.starts_with("Serving"), Duration::from_secs(5)).await?;
//! let mut lines = server.stdout_lines();
//! while let Some(line) = lines.next().await {
//!     println!("{line}");
//! }
//! # drop(kernel);
//! # Ok(())
//! # } // dropped: its whole tree is killed
//! ```
//!
//! | module | noun |
//! |---|---|
//! | `command` | what to run: program, environment, descriptors; `verbs` what can be done with it in one call |
//! | `terms` | what ends a run from outside, which codes are a success, when it is tried again |
//! | `running` | the handle of one process of ours; `run` the process and its terms, `probes`, `profile`, `several` |
//! | `stdin`, `output`, `pipes` | what goes in and comes out, drained always, kept by a policy |
//! | `result` | what a run left behind |
//! | `group` | the container and its owner's intent; `teardown` its end, `control` what is done to all members |
//! | `guardian` | the end of a group whose owner was killed |
//! | `passing` | descriptors that a child gets beside its streams |
//! | `privileges` | what a child may do: user, groups, limits |
//! | `launch` | from a command to a child |
//! | `process` | one process: a child of ours, or somebody else's ([`Adopted`]) |
//! | `containment` | how a container is made: cgroup v2, or process groups |
//! | `runner` | who runs commands; `batch` many at once, `pipeline` one into the other, `supervisor` one again and again |
//! | `ladder`, `exit`, `mechanism`, `restart`, `output::{lines, buffer}` | pure: no clock, no file, no syscall |
//! | `reaper` | what happens after a drop: emptying, reaping, rmdir |
//! | `sys` | the one door to the kernel with `unsafe` in it |
//!
//! Waits need a tokio runtime with I/O enabled (and time, for everything with a limit). Every wait is cancel safe: one that
//! owns its process ends it, the others lose nothing.
//!
//! Features: `stats` (what was used), `process-control` (signals by name) and `cancellation` (tokens) by default; `limits`
//! (of a group) and `tracing` (events for spawn, exit, escalation and teardown, without arguments or environment).

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
