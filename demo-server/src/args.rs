//! The command line.

use handoff::os::listeners::{Address, InvalidAddress};
use std::path::{Path, PathBuf};

/// A durable key-value server that speaks the protocol of Redis and can be replaced while it runs.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "demo-server", version)]
pub(crate) struct Args {
    /// Directory of the data; it must exist. Default: HANDOFF_DATA_DIR.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// When a write is acknowledged: after an fsync, or after a write with an fsync each second.
    #[arg(long, value_enum, default_value = "always")]
    pub(crate) fsync: Fsync,
    /// Where to listen when no listener named "resp" is inherited.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:6379", value_parser = stream_address)]
    pub(crate) bind: String,
    /// What an upgrade does with the clients' connections.
    #[arg(long, value_enum, default_value = "keep")]
    pub(crate) connections: Connections,
    /// Most clients at a time; more are refused.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub(crate) max_clients: usize,
    /// Most bytes of keys and values, 0 = no limit; writes that need more are refused.
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub(crate) max_memory: usize,
}

/// An address that clients can connect to.
fn stream_address(text: &str) -> Result<String, String> {
    match text.parse().map_err(|e: InvalidAddress| e.to_string())? {
        Address::Tcp(_) | Address::Unix(_) => Ok(text.to_owned()),
        other => Err(format!("{other}: clients connect by TCP or unix:/path, not by datagrams")),
    }
}

/// When a write counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Fsync {
    /// It survives the power going out.
    Always,
    /// It survives the server; the last second does not survive the power going out.
    Everysec,
}

/// What becomes of connections in an upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Connections {
    /// They are handed over: no client notices.
    Keep,
    /// They are closed with an error reply: clients that leave a dead server connect anew.
    Goodbye,
}

/// A command line that cannot be followed; the exit code is 2.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Misuse {
    #[error("--data {} is not HANDOFF_DATA_DIR {}: give only one, or the same", data.display(), inherited.display())]
    Differs { data: PathBuf, inherited: PathBuf },
    #[error("no data directory: give --data DIR")]
    Missing,
    #[error("data directory {}: {source}; create it (mkdir -p), owned by the user of the server", path.display())]
    Unusable { path: PathBuf, source: std::io::Error },
    #[error("data directory {}: not a directory; give the directory, not a file in it", path.display())]
    NotADirectory { path: PathBuf },
    #[error("data directory {}: not writable; give it to the user of the server (chown, chmod u+w)", path.display())]
    ReadOnly { path: PathBuf },
}

impl Misuse {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Differs { .. } | Self::Missing => 2,
            Self::Unusable { .. } | Self::NotADirectory { .. } | Self::ReadOnly { .. } => 1,
        }
    }
}

impl Args {
    /// The data directory, canonical; `inherited` is HANDOFF_DATA_DIR.
    pub(crate) fn data_dir(&self, inherited: Option<PathBuf>) -> Result<PathBuf, Misuse> {
        let path = match (&self.data, &inherited) {
            (Some(data), Some(inherited)) => {
                let same = match (data.canonicalize(), inherited.canonicalize()) {
                    (Ok(a), Ok(b)) => a == b,
                    _ => data == inherited,
                };
                if !same {
                    return Err(Misuse::Differs { data: data.clone(), inherited: inherited.clone() });
                }
                data
            }
            (Some(path), None) | (None, Some(path)) => path,
            (None, None) => return Err(Misuse::Missing),
        };
        let usable = |source| Misuse::Unusable { path: path.clone(), source };
        let canonical = path.canonicalize().map_err(usable)?;
        if !canonical.is_dir() {
            return Err(Misuse::NotADirectory { path: canonical });
        }
        if !writable(&canonical) {
            return Err(Misuse::ReadOnly { path: canonical });
        }
        Ok(canonical)
    }
}

/// Asked of the mode bits and the mount: a successor may not write to find out.
fn writable(dir: &Path) -> bool {
    std::fs::metadata(dir).is_ok_and(|m| !m.permissions().readonly())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn args(data: Option<&Path>) -> Args {
        let mut args = Args::parse_from(["demo-server"]);
        args.data = data.map(Path::to_owned);
        args
    }

    #[test]
    fn a_data_directory_is_found_or_named() {
        let dir = tempfile::tempdir().unwrap();
        let (here, other, file) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("f"));
        std::fs::create_dir(&here).unwrap();
        std::fs::create_dir(&other).unwrap();
        std::fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&here, dir.path().join("link")).unwrap();

        let found = args(None).data_dir(Some(here.clone())).unwrap();
        assert_eq!(found, here.canonicalize().unwrap());
        assert_eq!(args(Some(&dir.path().join("link"))).data_dir(Some(here.clone())).unwrap(), found);

        let differs = args(Some(&other)).data_dir(Some(here.clone())).unwrap_err();
        assert!(differs.exit_code() == 2 && differs.to_string().contains(here.to_str().unwrap()));
        assert!(differs.to_string().contains(other.to_str().unwrap()));
        assert!(matches!(args(None).data_dir(None), Err(Misuse::Missing)));
        assert!(matches!(args(Some(&file)).data_dir(None), Err(Misuse::NotADirectory { .. })));
        assert!(matches!(args(Some(&dir.path().join("no"))).data_dir(None), Err(Misuse::Unusable { .. })));
    }
}
