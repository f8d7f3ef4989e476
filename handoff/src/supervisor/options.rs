//! What to start and how long it may take.

use super::canary::Canary;
use super::orders::Times;
use crate::error::{Error, Result};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A server program with its arguments, its environment and the times of its handoff.
///
/// The environment is declared, nothing is inherited: what is not named by [`Self::env`] the server does not get.
#[derive(Clone, PartialEq, Eq)]
pub struct SpawnSpec {
    pub(super) binary: PathBuf,
    pub(super) args: Vec<OsString>,
    pub(super) env: Vec<(OsString, OsString)>,
    pub(super) deadline: Duration,
    pub(super) drain_grace: Duration,
    pub(super) freeze_budget: Duration,
    pub(super) probation: Duration,
    pub(super) one_way: bool,
    pub(super) wait_probation: bool,
    pub(super) canary: Option<Canary>,
}

impl SpawnSpec {
    /// A program; a name without a slash is looked for in `PATH`, at each use anew.
    #[must_use]
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            args: Vec::new(),
            env: Vec::new(),
            deadline: Duration::from_secs(300),
            drain_grace: Duration::from_secs(60),
            freeze_budget: Duration::from_secs(2),
            probation: Duration::from_secs(10),
            one_way: false,
            wait_probation: false,
            canary: None,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: Into<OsString>>(mut self, args: I) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of the server's environment. `HANDOFF_*` and `LISTEN_*` are the supervisor's own and refused
    /// at the start.
    #[must_use]
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// The arguments and the environment of another one.
    #[must_use]
    pub fn like(mut self, other: &SpawnSpec) -> Self {
        self.args.clone_from(&other.args);
        self.env.clone_from(&other.env);
        self
    }

    /// Time for the whole handoff, waiting for an open recovery included. Default 300 s.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Time for the drain, and after the handoff for what could not be handed over. Default 60 s.
    #[must_use]
    pub fn drain_grace(mut self, grace: Duration) -> Self {
        self.drain_grace = grace;
        self
    }

    /// Longest time from the seal to the start of the successor. Default 2 s.
    #[must_use]
    pub fn freeze_budget(mut self, budget: Duration) -> Self {
        self.freeze_budget = budget;
        self
    }

    pub(super) fn within(self, times: Times) -> Self {
        self.drain_grace(times.drain_grace).freeze_budget(times.freeze_budget).deadline(times.deadline)
    }

    /// How long after the commit the new server has to prove itself: if it dies, hangs or says that it is not healthy,
    /// the service goes back to the build before. Default 10 s; zero: it is never taken back. A hang is seen after
    /// 6 s: a shorter time does not see one.
    #[must_use]
    pub fn probation(mut self, probation: Duration) -> Self {
        self.probation = probation;
        self
    }

    /// Accepts that the running build cannot read what the new one writes. Then there is no way back, and no
    /// probation. Without it such an upgrade is refused before the incumbent is touched.
    #[must_use]
    pub fn one_way(mut self, one_way: bool) -> Self {
        self.one_way = one_way;
        self
    }

    /// Answers an upgrade only when its probation has ended, not at its commit.
    #[must_use]
    pub fn wait_probation(mut self, wait: bool) -> Self {
        self.wait_probation = wait;
        self
    }

    /// Tries this on the new server when it is ready and before it may claim: no client can reach it yet, and it writes
    /// nothing. Another answer than the expected one ends the handoff, and the incumbent serves on. On probation it is
    /// tried again every two seconds, and a wrong answer takes the service back. The server has to know canaries
    /// ([`Successor::CANARY`](crate::sdk::Successor::CANARY)); one that does not is refused before the incumbent is
    /// touched.
    #[must_use]
    pub fn canary(mut self, canary: Canary) -> Self {
        self.canary = Some(canary);
        self
    }

    /// Refuses what cannot be given to a process.
    pub(super) fn check(&self) -> Result<()> {
        for (key, value) in &self.env {
            let name = key.as_bytes();
            if name.is_empty() || name.contains(&b'=') || name.contains(&0) || value.as_bytes().contains(&0) {
                return Err(Error::Invalid(format!(
                    "environment variable {key:?}: no such name is possible"
                )));
            }
            if name.starts_with(b"HANDOFF_") || name.starts_with(b"LISTEN_") {
                return Err(Error::Invalid(format!(
                    "environment variable {key:?} is the supervisor's own: leave it out"
                )));
            }
        }
        if self.args.iter().any(|arg| arg.as_bytes().contains(&0)) {
            return Err(Error::Invalid("an argument holds a zero byte".to_owned()));
        }
        if self.deadline.is_zero() || self.freeze_budget.is_zero() {
            return Err(Error::Invalid("deadline and freeze budget must be longer than zero".to_owned()));
        }
        match &self.canary {
            Some(canary) => canary.check(self.freeze_budget).map_err(Error::Invalid),
            None => Ok(()),
        }
    }

    /// The path of the program as it is to be opened now.
    pub(super) fn resolve(&self) -> std::result::Result<PathBuf, String> {
        resolve(&self.binary, std::env::var_os("PATH").as_deref())
    }
}

fn resolve(binary: &Path, search: Option<&OsStr>) -> std::result::Result<PathBuf, String> {
    if binary.as_os_str().is_empty() {
        return Err("the name of the program is empty".to_owned());
    }
    if binary.as_os_str().as_bytes().contains(&b'/') {
        return std::path::absolute(binary).map_err(|e| format!("{}: {e}", binary.display()));
    }
    let dirs = search.map(std::env::split_paths).into_iter().flatten();
    let found = dirs.map(|dir| dir.join(binary)).find(|path| path.is_file());
    found.ok_or_else(|| format!("{}: not found in PATH; give a path with a slash", binary.display()))
}

impl fmt::Debug for SpawnSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // the values of the environment may be secrets
        let names: Vec<_> = self.env.iter().map(|(key, _)| key).collect();
        f.debug_struct("SpawnSpec")
            .field("binary", &self.binary)
            .field("args", &self.args.len())
            .field("env", &names)
            .field("deadline", &self.deadline)
            .field("drain_grace", &self.drain_grace)
            .field("freeze_budget", &self.freeze_budget)
            .field("probation", &self.probation)
            .field("one_way", &self.one_way)
            .field("wait_probation", &self.wait_probation)
            // it may hold a password
            .field("canary", &self.canary.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_supervisors_own_variables_are_refused() {
        assert!(SpawnSpec::new("/x").env("A", "1").check().is_ok());
        for bad in ["HANDOFF_ROLE", "LISTEN_FDS", "", "A=B"] {
            let error = SpawnSpec::new("/x").env(bad, "1").check().expect_err(bad).to_string();
            assert!(error.contains("environment variable"), "{error}");
        }
    }

    #[test]
    fn a_name_is_looked_for_in_path_and_a_path_is_taken() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("prog"), b"").expect("written");
        let search = Some(dir.path().as_os_str());
        assert_eq!(resolve(Path::new("prog"), search), Ok(dir.path().join("prog")));
        assert!(resolve(Path::new("other"), search).expect_err("missing").contains("PATH"));
        assert_eq!(resolve(Path::new("/a/b"), None), Ok(PathBuf::from("/a/b")));
    }

    #[test]
    fn debug_shows_no_secret() {
        let shown = format!("{:?}", SpawnSpec::new("/x").env("TOKEN", "hunter2").arg("hunter2"));
        assert!(shown.contains("TOKEN") && !shown.contains("hunter2"), "{shown}");
    }
}
