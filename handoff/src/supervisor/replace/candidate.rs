//! Asking a program whether it can take over, before there is no way back: it is started as `PROGRAM self-check --
//! ARGS`, sees what it would be given, and answers with one JSON object.

use super::carried::{FORMAT, Facts, VARIABLE};
use crate::journal::replay;
use crate::os::claims::Claims;
use crate::os::files::Dir;
use crate::supervisor::preflight::Executable;
use crate::wire::version;
use processkit::{Command, ProcessGroup, ProcessGroupOptions, Stdio};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// The word that asks.
pub(super) const QUESTION: &str = "self-check";
/// Time for the whole answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// An answer is one short line.
const LIMIT: u64 = 64 * 1024;
/// First number after the standard streams.
const NUMBER: i32 = 3;

/// What a program says of itself when it is asked whether it can take over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ability {
    /// Whether it can.
    pub takes_over: bool,
    /// Why not.
    pub reason: Option<String>,
    /// What it calls itself, with its version.
    pub program: String,
    /// The highest format of what is carried over that it reads.
    pub carried: u32,
    /// The lowest wire version it speaks.
    pub wire_min: u16,
    /// The highest.
    pub wire_max: u16,
}

impl Ability {
    pub(super) fn of(program: &str, examined: Result<(), String>) -> Self {
        Self {
            takes_over: examined.is_ok(),
            reason: examined.err(),
            program: program.to_owned(),
            carried: FORMAT,
            wire_min: version::MIN,
            wire_max: version::highest(),
        }
    }

    /// Adds what only the program itself can find wrong.
    #[must_use]
    pub fn and(mut self, fits: Result<(), String>) -> Self {
        if let Err(why) = fits {
            self.takes_over = false;
            self.reason.get_or_insert(why);
        }
        self
    }
}

impl Facts {
    /// Whether this build can go on from here: everything that could fail after the exec and can be known before.
    pub(super) fn examine(&self, run_dir: Option<&Path>) -> Result<(), String> {
        let said = run_dir.map(std::fs::canonicalize).transpose().map_err(|e| format!("run dir: {e}"))?;
        if said.is_some_and(|said| said != self.run) {
            return Err(format!("its arguments name another run dir than {}", self.run.display()));
        }
        // its rights may have changed since the old program opened it
        Dir::open_private(&self.run).and_then(|run| run.sub_private("ctl")).map_err(|e| e.to_string())?;
        let writable = std::fs::File::options().append(true).open(&self.journal);
        writable.map_err(|e| format!("{}: {e}", self.journal.display()))?;
        let bytes = std::fs::read(&self.journal).map_err(|e| format!("{}: {e}", self.journal.display()))?;
        replay(&bytes).map_err(|e| format!("{}: {e}", self.journal.display()))?;
        Claims::observe(&self.claims).and_then(|claims| claims.highest()).map_err(|e| e.to_string())?;
        for spoken in &self.spoken {
            version::choose(spoken.min, spoken.max)
                .map_err(|e| format!("instance {}: {e}", spoken.instance))?;
        }
        Ok(())
    }
}

/// Starts the program and believes nothing but its answer.
///
/// # Errors
/// Why it is not fit, and what to do.
pub(super) async fn ask(candidate: &Executable, arguments: &[OsString], facts: &Facts) -> Result<(), String> {
    let shown = candidate.path.display();
    let system = |e: &dyn std::fmt::Display| format!("{shown}: it could not be checked: {e}");
    let (mut ours, command) = question(candidate, arguments, facts).map_err(|e| system(&e))?;
    let group = ProcessGroup::with_options(ProcessGroupOptions::default()).map_err(|e| system(&e))?;
    let started = group.start(&command).await;
    // it has the other end of our socket
    drop(command);
    let patience = crate::crash::scaled(PATIENCE);
    let answer = match started {
        Err(error) => Err(format!("{shown}: it cannot be started: {error}")),
        Ok(mut process) => {
            let talk = async {
                let mut said = Vec::new();
                (&mut ours).take(LIMIT + 1).read_to_end(&mut said).await.map_err(|e| system(&e))?;
                if said.len() as u64 > LIMIT {
                    return Err(format!("{shown}: it answers with more than {LIMIT} bytes{IS_IT}"));
                }
                let exit = process.exit().await.map_err(|e| system(&e))?;
                Ok((said, exit))
            };
            match timeout(patience, talk).await {
                Ok(answer) => answer,
                Err(_) => Err(format!("{shown}: no answer within {patience:?}{IS_IT}")),
            }
        }
    };
    // whatever it started ends with it
    if let Err(error) = group.remove().await {
        tracing::warn!(%error, "what the checked program started is not ended");
    }
    let (said, exit) = answer?;
    match serde_json::from_slice::<Ability>(&said) {
        Ok(Ability { takes_over: true, .. }) if exit.success() => Ok(()),
        Ok(Ability { reason: Some(why), program, .. }) => {
            let why: String = why.escape_debug().take(500).collect();
            let program: String = program.escape_debug().take(80).collect();
            Err(format!("{shown} ({program}) cannot take over: {why}"))
        }
        Ok(_) => Err(format!("{shown}: it {exit} after it had answered")),
        Err(_) if exit.success() => Err(format!("{shown}: its answer cannot be read{IS_IT}")),
        Err(_) => Err(format!("{shown}: it {exit} and did not answer{IS_IT}")),
    }
}

const IS_IT: &str = "; is it a handoffctl, and not too old?";

fn question(
    candidate: &Executable,
    arguments: &[OsString],
    facts: &Facts,
) -> io::Result<(UnixStream, Command)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let mut command = Command::new(&candidate.path)
        .exe_fd(candidate.file.try_clone()?)
        .arg(QUESTION)
        .arg("--")
        .args(arguments)
        .env_clear()
        .stdin_from(Stdio::Null)
        .stdout(OwnedFd::from(theirs))
        .stderr(Stdio::Inherit);
    let not_its_own = |key: &OsString| super::OF_THE_SERVICE.iter().any(|name| key == name);
    for (key, value) in super::environment().into_iter().filter(|(key, _)| !not_its_own(key)) {
        command = command.env(key, value);
    }
    let command = command.env(VARIABLE, NUMBER.to_string()).pass_fd(facts.to_file()?, NUMBER);
    Ok((UnixStream::from_std(ours)?, command))
}

#[cfg(test)]
mod tests {
    use super::super::carried::tests::facts;
    use super::*;

    #[test]
    fn what_cannot_be_read_is_a_reason() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let private = std::os::unix::fs::PermissionsExt::from_mode;
        std::fs::set_permissions(dir.path(), private(0o700)).expect("ours");
        let mut facts = facts();
        facts.run = dir.path().canonicalize().expect("a directory of ours");
        let said = |facts: &Facts| facts.examine(Some(dir.path())).expect_err("does not fit");
        assert!(said(&facts).contains("/nonexistent/journal"));
        facts.journal = dir.path().join("journal");
        std::fs::write(&facts.journal, b"something else").expect("written");
        assert!(said(&facts).contains("not a journal"));
        std::fs::write(&facts.journal, b"").expect("written");
        assert!(said(&facts).contains("/nonexistent"));
        facts.claims = dir.path().to_owned();
        facts.examine(Some(dir.path())).expect("fits");
        assert!(facts.examine(Some(Path::new("/"))).expect_err("elsewhere").contains("another run dir"));
        std::fs::set_permissions(dir.path(), private(0o770)).expect("ours");
        assert!(said(&facts).contains("chmod 700"));
        std::fs::set_permissions(dir.path(), private(0o700)).expect("ours");
        facts.spoken[0].min = version::MAX + 1;
        facts.spoken[0].max = version::MAX + 2;
        assert!(said(&facts).contains("wire version"));
    }

    async fn refused(program: &str) -> String {
        let candidate = Executable::open(std::path::Path::new(program)).expect("a program");
        ask(&candidate, &["run".into()], &facts()).await.expect_err("is no handoffctl")
    }

    #[tokio::test]
    async fn a_program_that_is_no_handoffctl_is_refused() {
        for (program, why) in [
            ("/bin/false", "exited with code 1 and did not answer"),
            ("/bin/true", "cannot be read"),
            ("/bin/echo", "cannot be read"),
            ("/usr/bin/yes", "more than"),
        ] {
            let said = refused(program).await;
            assert!(said.contains(why) && said.contains("is it a handoffctl"), "{said}");
        }
    }
}
