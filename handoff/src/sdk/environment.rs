//! What the process that started this one says and hands down.

use super::launch::Error;
use crate::claim::BuildDigest;
use crate::ids::{InstanceId, ListenerName};
use crate::os::{fds, listeners};
use crate::wire::Role;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Name under which the supervisor hands the instance its control listener.
pub(crate) const CONTROL: &str = "handoff-ctl";

/// The environment of this process: variables and descriptors, each taken once.
#[derive(Debug)]
pub(super) struct Environment {
    /// Who started it and for what; `None`: by hand, or by a service manager.
    pub(super) supervised: Option<Supervised>,
    /// The connection to that supervisor.
    pub(super) channel: Option<OwnedFd>,
    /// Inherited listeners.
    pub(super) listeners: Vec<(ListenerName, OwnedFd)>,
}

/// What a supervisor gives besides the listeners.
#[derive(Debug)]
pub(super) struct Supervised {
    pub(super) role: Role,
    pub(super) instance: InstanceId,
    pub(super) lineage: Option<OwnedFd>,
    pub(super) control: Option<OwnedFd>,
    pub(super) run_dir: Option<PathBuf>,
    pub(super) data_dir: Option<PathBuf>,
    /// Its own build, as the supervisor has read it.
    pub(super) build: BuildDigest,
}

impl Environment {
    /// Reads the variables and takes the descriptors they name.
    pub(super) fn take() -> Result<Self, Error> {
        let channel = number("HANDOFF_SOCK_FD")?;
        // a launcher between the supervisor and this process may have forked
        let mut inherited = listeners::inherit(channel.is_some()).map_err(|e| Error::Start(e.to_string()))?;
        let Some(channel) = channel else {
            return Ok(Self { supervised: None, channel: None, listeners: inherited });
        };
        let at = inherited.iter().position(|(name, _)| name.as_str() == CONTROL);
        let control = at.map(|at| inherited.remove(at).1);
        let lineage = number("HANDOFF_LINEAGE_FD")?.map(|n| take("HANDOFF_LINEAGE_FD", n)).transpose()?;
        let role = match variable("HANDOFF_ROLE").as_deref() {
            Some("successor") => Role::Successor,
            Some("cold") => Role::Cold,
            other => return Err(wrong("HANDOFF_ROLE", other, "successor or cold is needed")),
        };
        let instance = variable("HANDOFF_INSTANCE");
        let Some(instance) = instance.as_deref().and_then(InstanceId::parse) else {
            return Err(wrong("HANDOFF_INSTANCE", instance.as_deref(), "a uuid is needed"));
        };
        let supervised = Supervised {
            role,
            instance,
            lineage,
            control,
            run_dir: std::env::var_os("HANDOFF_RUN_DIR").map(PathBuf::from),
            data_dir: std::env::var_os("HANDOFF_DATA_DIR").filter(|d| !d.is_empty()).map(PathBuf::from),
            // information, not identity: a supervisor that does not tell it is none to refuse
            build: variable("HANDOFF_BUILD_DIGEST")
                .as_deref()
                .and_then(BuildDigest::parse)
                .unwrap_or_default(),
        };
        let channel = take("HANDOFF_SOCK_FD", channel)?;
        Ok(Self { supervised: Some(supervised), channel: Some(channel), listeners: inherited })
    }
}

fn variable(name: &'static str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

fn wrong(name: &'static str, value: Option<&str>, why: &str) -> Error {
    let value = value.map_or_else(|| "not set".to_owned(), |v| format!("{:?}", crate::wire::escape(v)));
    Error::Start(format!("{name} is {value}: {why}; these variables are for a supervisor to set"))
}

fn number(name: &'static str) -> Result<Option<i32>, Error> {
    let Some(text) = variable(name) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| wrong(name, Some(&text), "a descriptor number is needed"))
}

fn take(name: &'static str, number: i32) -> Result<OwnedFd, Error> {
    let taken = fds::take_inherited(number, |_| Ok(()));
    taken.map(|(fd, ())| fd).map_err(|e| Error::Start(format!("{name}={number}: {e}")))
}
