//! How a program starts its server, and how that can end.

use crate::os::listeners::Address;
use std::path::PathBuf;

/// What `main` gives [`super::serve`].
#[derive(Debug)]
pub struct Launch<C> {
    pub(super) config: C,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) binds: Vec<(String, String)>,
    pub(super) build_id: Option<String>,
}

impl<C> Launch<C> {
    /// A server with this configuration. Without a supervisor it has no listeners until [`Self::bind`].
    #[must_use]
    pub fn new(config: C) -> Self {
        Self { config, data_dir: None, binds: Vec::new(), build_id: None }
    }

    /// The data directory. Under a supervisor it must be the supervisor's.
    #[must_use]
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(path.into());
        self
    }

    /// A listener to bind when none of this name was inherited and no supervisor is there: `127.0.0.1:6379`,
    /// `[::1]:6379`, `unix:/path`, `udp:127.0.0.1:53`.
    #[must_use]
    pub fn bind(mut self, name: impl Into<String>, address: impl Into<String>) -> Self {
        self.binds.push((name.into(), address.into()));
        self
    }

    /// What this build calls itself in reports. Default: a fingerprint of the executable (name, size, mtime).
    #[must_use]
    pub fn build_id(mut self, text: impl Into<String>) -> Self {
        self.build_id = Some(text.into());
        self
    }
}

/// Why a server ended other than by leaving cleanly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The command line and the supervisor name different data.
    #[error("data directory {given} was given, but the supervisor runs {inherited}: use one of them")]
    DataDirDiffers {
        /// From [`Launch::data_dir`].
        given: PathBuf,
        /// From `HANDOFF_DATA_DIR`.
        inherited: PathBuf,
    },
    /// Start was impossible; nothing was touched.
    #[error("{0}")]
    Start(String),
    /// It was to take over and left without having touched anything.
    #[error("left without having touched anything: {0}")]
    Untouched(String),
    /// It gave its tenure up, because serving on could not be proven safe. Starting again from disk is safe.
    #[error("gave up its tenure: {0}")]
    GaveUp(String),
}

impl Error {
    /// The exit code that says the same: 2 for a wrong command line, 1 for the rest.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::DataDirDiffers { .. } => 2,
            Error::Start(_) | Error::Untouched(_) | Error::GaveUp(_) => 1,
        }
    }

    pub(super) fn start(what: impl std::fmt::Display, why: impl std::fmt::Display) -> Self {
        Error::Start(format!("{what}: {why}"))
    }
}

/// Parses the binds of a launch.
pub(super) fn addresses(
    binds: &[(String, String)],
) -> Result<Vec<(crate::ids::ListenerName, Address)>, Error> {
    binds
        .iter()
        .map(|(name, text)| {
            let address = text.parse::<Address>().map_err(|e| Error::start(format!("listener {name}"), e))?;
            let name = crate::ids::ListenerName::new(name).map_err(|e| Error::Start(e.to_string()))?;
            Ok((name, address))
        })
        .collect()
}
