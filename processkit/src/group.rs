//! A container of processes, and what its owner intends with it.

use crate::command::Command;
use crate::containment::{Cgroup, Containment, Tree, base, bases, say_gone};
use crate::error::{Error, Result};
use crate::guardian::Guardian;
use crate::launch::{Birthplace, launch};
use crate::mechanism::{Mechanism, MechanismReason};
use crate::options::ProcessGroupOptions;
use crate::owner::{Owner, sweep_once};
use crate::pipes::Pipes;
use crate::process::Child;
use crate::reaper;
use crate::run::check_begin;
use crate::running::RunningProcess;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Why nothing starts in a group that stands still.
pub(crate) const SUSPENDED: &str = "the group is suspended: call resume() first";

/// A container of processes: everything started in it, and everything that starts.
///
/// Dropping it kills the whole tree, unless it was [persisted](ProcessGroup::persist), [released](ProcessGroup::release) or
/// [reopened](ProcessGroup::reopen): one write, and a background thread empties and removes the rest (see
/// [`settled`](crate::settled)). [`shutdown`](ProcessGroup::shutdown) and [`remove`](ProcessGroup::remove) return only when
/// everything is gone.
///
/// A named or reopened one holds one descriptor, of the cgroup's directory. Unnamed ones hold none: all of a program share
/// one of the directory above.
#[derive(Debug)]
pub struct ProcessGroup {
    pub(crate) containment: Containment,
    reason: MechanismReason,
    pub(crate) options: ProcessGroupOptions,
    pub(crate) intent: Intent,
    /// Whether members may be frozen, so that a TERM would not be obeyed.
    pub(crate) suspended: AtomicBool,
    guardian: Option<Guardian>,
}

/// What dropping the group means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    Kill,
    Leave,
}

impl ProcessGroup {
    /// A private group with the strongest mechanism there is.
    ///
    /// # Errors
    /// If the kernel refuses; a missing cgroup is no error but [another mechanism](ProcessGroup::mechanism_reason).
    pub fn new() -> Result<Self> {
        Self::with_options(ProcessGroupOptions::default())
    }

    /// A private group with options. See [`ProcessGroup::new`].
    ///
    /// # Errors
    /// As for [`ProcessGroup::new`].
    pub fn with_options(options: ProcessGroupOptions) -> Result<Self> {
        if options.force_process_group {
            return Self::fallback(options, MechanismReason::Forced);
        }
        match base() {
            Ok(base) => {
                sweep_once();
                let owner = Owner::this_process()?;
                let cgroup = loop {
                    match create(base.join(owner.next_name()), &options) {
                        // a second copy of this crate in one program counts as well
                        Err(Error::Io(error)) if error.kind() == io::ErrorKind::AlreadyExists => {}
                        other => break other?,
                    }
                };
                Self::over(cgroup, options, Intent::Kill).guarded()
            }
            Err(reason) => Self::fallback(options, reason),
        }
    }

    /// A group that another process can [reopen](ProcessGroup::reopen) by its name once it is
    /// [persisted](ProcessGroup::persist). Until then dropping it kills.
    ///
    /// The directory is `<own cgroup>/processkit/<name>`: who reopens it must run in the same cgroup, or use
    /// [`ProcessGroup::reopen_by_path`].
    ///
    /// # Errors
    /// `InvalidInput` for a name other than 1 to 128 of `A-Z a-z 0-9 . _ -` with no dot in front; `AlreadyExists` if there
    /// is such a group; [`Error::Unsupported`] without cgroups, with the reason.
    pub fn named(name: &str, options: ProcessGroupOptions) -> Result<Self> {
        let path = named_path(name, options.force_process_group)?;
        sweep_once();
        if bases().iter().any(|base| base.join(name).exists()) {
            return Err(
                io::Error::new(io::ErrorKind::AlreadyExists, format!("there is a group {name}")).into()
            );
        }
        Self::over(create(path, &options)?, options, Intent::Kill).guarded()
    }

    /// Open a group that was persisted under this name. Dropping it leaves it as it is, until
    /// [`kill_on_drop`](ProcessGroup::kill_on_drop) is called.
    ///
    /// # Errors
    /// `NotFound` if there is none; otherwise as for [`ProcessGroup::named`].
    pub fn reopen(name: &str) -> Result<Self> {
        let path = named_path(name, false)?;
        // one with limits may lie beside
        let beside = bases().into_iter().map(|base| base.join(name)).find(|path| path.exists());
        Self::reopen_by_path(beside.unwrap_or(path))
    }

    /// As [`ProcessGroup::reopen`], by [`location`](ProcessGroup::location).
    ///
    /// # Errors
    /// `NotFound` if there is none, `InvalidInput` if it is no cgroup v2 directory.
    pub fn reopen_by_path(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self::reopened(Cgroup::open(path.as_ref().to_owned())?))
    }

    /// As [`ProcessGroup::reopen`], by an open descriptor of the directory.
    ///
    /// # Errors
    /// `InvalidInput` if it is no cgroup v2 directory, `NotFound` if the directory was removed.
    pub fn reopen_by_fd(directory: OwnedFd) -> Result<Self> {
        Ok(Self::reopened(Cgroup::from_fd(directory)?))
    }

    fn reopened(cgroup: Cgroup) -> Self {
        let group = Self::over(cgroup, ProcessGroupOptions::default(), Intent::Leave);
        group.suspended.store(true, Ordering::Relaxed); // who knows
        group
    }

    fn over(cgroup: Cgroup, options: ProcessGroupOptions, intent: Intent) -> Self {
        event!(debug, path = cgroup.path().display(), "group opened");
        let reason = MechanismReason::Strongest;
        Self::holding(Containment::Cgroup(Arc::new(cgroup)), reason, options, intent)
    }

    fn fallback(options: ProcessGroupOptions, reason: MechanismReason) -> Result<Self> {
        #[cfg(feature = "limits")]
        options.limits.check(Some(&reason))?;
        event!(debug, reason = reason, "group without a cgroup");
        Self::holding(Containment::Tree(Arc::new(Tree::new()?)), reason, options, Intent::Kill).guarded()
    }

    fn holding(
        containment: Containment,
        reason: MechanismReason,
        options: ProcessGroupOptions,
        intent: Intent,
    ) -> Self {
        let suspended = AtomicBool::new(false);
        ProcessGroup { containment, reason, options, intent, suspended, guardian: None }
    }

    /// With a guardian if the options ask for one. Dropped again if there is none to be had.
    fn guarded(mut self) -> Result<Self> {
        if self.options.guardian {
            self.guardian = Some(Guardian::watch(&self.containment)?);
        }
        Ok(self)
    }

    /// The guardian, if the options asked for one and the group was neither persisted nor released.
    pub fn guardian(&self) -> Option<&Guardian> {
        self.guardian.as_ref()
    }

    /// From now on dropping this, or the end of this process, leaves the group alone.
    ///
    /// A group that must be found again by name, or while nothing runs in it, has to be [named](ProcessGroup::named): an
    /// unnamed one is removed by a later sweep once it is empty and its owner dead.
    pub fn persist(&mut self) {
        self.keep(true);
        self.intent = Intent::Leave;
        self.guardian = None;
    }

    /// From now on dropping this kills the tree: the opposite of [`persist`](ProcessGroup::persist). If the options asked for a
    /// guardian there is one again, unless [`guardian`](ProcessGroup::guardian) says no.
    pub fn kill_on_drop(&mut self) {
        self.keep(false);
        self.intent = Intent::Kill;
        if self.options.guardian && self.guardian.is_none() {
            match Guardian::watch(&self.containment) {
                Ok(guardian) => self.guardian = Some(guardian),
                Err(error) => event!(
                    error,
                    error = error,
                    group = format_args!("{:?}", self.location()),
                    "the group is not guarded"
                ),
            }
        }
    }

    /// Let go of the group without killing anything. Its directory stays while something runs in it.
    pub fn release(mut self) {
        self.persist();
    }

    /// Let one process (not what it has started) out of the group, into the cgroup of this process. It lives on when the
    /// group ends.
    ///
    /// # Errors
    /// [`Error::Unsupported`] without cgroups; `NotFound` if it has ended.
    pub fn release_process(&self, process: &RunningProcess) -> Result<()> {
        let (Containment::Cgroup(cgroup), Ok(Some(own))) = (&self.containment, base().map(Path::parent))
        else {
            return Err(self.unsupported("to release one process of a group"));
        };
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        let expelled = process.run.child.unless_reaped(|pid| cgroup.expel(pid, own)).ok_or_else(gone)?;
        let is_gone = |error: &io::Error| error.raw_os_error() == Some(libc::ESRCH);
        Ok(expelled.map_err(|error| if is_gone(&error) { gone() } else { error })?)
    }

    fn keep(&self, keep: bool) {
        if let Containment::Cgroup(cgroup) = &self.containment
            && let Err(error) = cgroup.keep(keep)
        {
            event!(warn, error = error, path = cgroup.path().display(), "cannot mark the group");
        }
    }

    /// The cgroup's directory; `None` for [`Mechanism::ProcessGroup`].
    pub fn location(&self) -> Option<&Path> {
        match &self.containment {
            Containment::Cgroup(cgroup) => Some(cgroup.path()),
            Containment::Tree(_) => None,
        }
    }

    /// The mechanism in force.
    pub fn mechanism(&self) -> Mechanism {
        match &self.containment {
            Containment::Cgroup(_) => Mechanism::CgroupV2,
            Containment::Tree(_) => Mechanism::ProcessGroup,
        }
    }

    /// Why it is that mechanism.
    pub fn mechanism_reason(&self) -> &MechanismReason {
        &self.reason
    }

    /// Start a process in this group. It is a member before its first instruction; see [`Command`] for what it finds.
    ///
    /// Does not wait for anything but the exec (less than a millisecond): see [`ProcessGroup::start_blocking`].
    ///
    /// # Errors
    /// [`Error::Spawn`] with the program's name; nothing of the attempt is left then. A group that is
    /// [suspended](ProcessGroup::suspend), by whomever, takes nobody in: `ResourceBusy`.
    pub async fn start(&self, command: &Command) -> Result<RunningProcess> {
        let mut process = self.start_blocking(command)?;
        process.awaken();
        Ok(process)
    }

    /// [`ProcessGroup::start`] outside of async code. Needs no runtime; what comes through pipes is read from the first call
    /// on that awaits something.
    ///
    /// # Errors
    /// As for [`ProcessGroup::start`].
    pub fn start_blocking(&self, command: &Command) -> Result<RunningProcess> {
        let (child, pipes) = self.launch(command)?;
        Ok(RunningProcess::new(child, command, pipes, None))
    }

    /// A child born into a stopped group would not come to its program. One that is stopped from outside, or right now, is
    /// noticed after 50 ms (see [`crate::sys`]).
    fn check_running(&self, command: &Command) -> Result<()> {
        let stopped = self.suspended.load(Ordering::Relaxed)
            && match &self.containment {
                Containment::Cgroup(cgroup) => cgroup.is_freezing().unwrap_or(false),
                Containment::Tree(_) => true,
            };
        if !stopped {
            return Ok(());
        }
        let program = command.program().to_string_lossy().into_owned();
        let source = io::Error::new(io::ErrorKind::ResourceBusy, SUSPENDED);
        Err(Error::Spawn { program, source })
    }

    /// A member, and our ends of its pipes.
    pub(crate) fn launch(&self, command: &Command) -> Result<(Arc<Child>, Pipes)> {
        check_begin(command)?;
        self.check_running(command)?;
        let pipes = Pipes::open(command)?;
        let (directory, mark) = match &self.containment {
            Containment::Cgroup(cgroup) => match cgroup.directory() {
                Ok(directory) => (Some(directory), None),
                Err(error) => return Err(Error::Spawn { program: command.name(), source: say_gone(error) }),
            },
            Containment::Tree(tree) => (None, Some(tree.mark())),
        };
        let cgroup = directory.as_ref().map(|directory| directory.as_fd());
        let without_clone3 = self.options.without_clone3;
        let place = Birthplace { cgroup, mark, without_clone3, pipes: pipes.child_ends() };
        let child = Arc::new(launch(command, place)?);
        if let Containment::Tree(tree) = &self.containment {
            tree.add(&child);
        }
        Ok((child, pipes))
    }

    pub(crate) fn unsupported(&self, what: &str) -> Error {
        Error::Unsupported { operation: format!("{what} ({})", self.reason) }
    }
}

impl ProcessGroup {
    /// What dropping it does, at once, if nothing lives in it: no kill, and nothing for the reaper to do. For unnamed ones:
    /// the name is nobody else's.
    pub(crate) fn end_if_empty(&mut self) {
        if let Containment::Cgroup(cgroup) = &self.containment
            && self.intent == Intent::Kill
            && cgroup.remove_empty()
        {
            event!(debug, path = cgroup.path().display(), "group removed");
            self.intent = Intent::Leave;
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if let Some(guardian) = self.guardian.take() {
            reaper::later(move || drop(guardian)); // waits for its answer
        }
        if self.intent == Intent::Kill {
            if let Err(error) = self.containment.kill() {
                event!(
                    warn,
                    error = error,
                    group = format_args!("{:?}", self.location()),
                    "cannot kill a dropped group"
                );
            }
            reaper::bury(self.containment.clone());
        }
    }
}

/// The cgroup of a group, with its limits.
fn create(path: PathBuf, options: &ProcessGroupOptions) -> Result<Cgroup> {
    let _ = options;
    #[cfg(feature = "limits")]
    {
        options.limits.check(None)?;
        if let (true, Some(name)) = (options.limits.is_set(), path.file_name().and_then(|name| name.to_str()))
        {
            return options.limits.create(&bases(), name);
        }
    }
    Ok(Cgroup::create(path)?)
}

/// Where a named group lives.
fn named_path(name: &str, forced: bool) -> Result<PathBuf> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > 128 || name.starts_with('.') || !name.bytes().all(allowed) {
        let message = format!("not a name for a group: {name:?}");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message).into());
    }
    let unsupported =
        |reason: MechanismReason| Error::Unsupported { operation: format!("named groups ({reason})") };
    if forced {
        return Err(unsupported(MechanismReason::Forced));
    }
    Ok(base().map_err(unsupported)?.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_groups() {
        for name in ["", ".", "..", ".x", "a/b", "a b", "@x", "ü", &"x".repeat(129)] {
            let error = named_path(name, false).expect_err(name);
            assert!(
                matches!(&error, Error::Io(e) if e.kind() == io::ErrorKind::InvalidInput),
                "{name}: {error}"
            );
        }
    }
}
