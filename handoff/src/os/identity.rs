//! What a process says of itself in its proposal.

use super::files::FileError;
use crate::claim::{BuildDigest, Proposal};
use crate::ids::{BuildId, HandoffId, InstanceId};
use crate::wire::FileId;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The proposal of this process: its executable, pid and start time as the kernel knows them.
///
/// # Errors
/// `/proc` cannot be read.
pub fn own_proposal(
    handoff: HandoffId,
    instance: InstanceId,
    build: BuildId,
    build_digest: BuildDigest,
    state_format: u32,
) -> Result<Proposal, FileError> {
    let link = Path::new("/proc/self/exe");
    let metadata = std::fs::metadata(link).map_err(|e| error(link, e))?;
    let mut executable = std::fs::read_link(link).map_err(|e| error(link, e))?.into_os_string().into_vec();
    // the file was replaced since; its path is still what a cold start has to look at (proc_pid_exe(5))
    if let Some(path) = executable.strip_suffix(b" (deleted)") {
        executable.truncate(path.len());
    }
    Ok(Proposal {
        handoff,
        instance,
        build,
        build_digest,
        executable,
        executable_file: FileId { dev: metadata.dev(), ino: metadata.ino() },
        executable_size: metadata.size(),
        executable_mtime_ns: metadata
            .mtime()
            .saturating_mul(1_000_000_000)
            .saturating_add(metadata.mtime_nsec()),
        state_format,
        boot_id: boot_id()?,
        pid: std::process::id(),
        start_time: start_time(std::process::id())?,
    })
}

/// The path of the executable in a proposal.
#[must_use]
pub fn executable_of(proposal: &Proposal) -> PathBuf {
    std::ffi::OsString::from_vec(proposal.executable.clone()).into()
}

/// Which boot this is.
///
/// # Errors
/// `/proc` cannot be read.
pub fn boot_id() -> Result<u128, FileError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = std::fs::read_to_string(path).map_err(|e| error(path, e))?;
    uuid::Uuid::parse_str(text.trim()).map(|id| id.as_u128()).map_err(|e| FileError::content(path.into(), e))
}

/// When a process started, in clock ticks since boot. With pid and boot id it names one process for ever.
///
/// # Errors
/// There is no such process.
pub fn start_time(pid: u32) -> Result<u64, FileError> {
    let path = PathBuf::from(format!("/proc/{pid}/stat"));
    let stat = std::fs::read(&path).map_err(|e| error(&path, e))?;
    // the name, field 2, may hold anything, spaces and parentheses too: what follows begins after the last ')'
    let after_name = stat.iter().rposition(|b| *b == b')').map_or(&stat[..], |at| &stat[at + 1..]);
    let field =
        String::from_utf8_lossy(after_name).split_ascii_whitespace().nth(19).and_then(|f| f.parse().ok());
    field.ok_or_else(|| FileError::content(path, "field 22 is not a number"))
}

/// Whether the process of a pidfd has ended. Asks the kernel and does not wait.
#[must_use]
pub fn has_ended(pidfd: impl AsFd) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    // an error says nothing: whoever watches it will hear
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..))
}

fn error(path: &Path, source: io::Error) -> FileError {
    FileError { op: "read", path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_describes_itself() {
        let own =
            own_proposal(HandoffId(1), InstanceId(2), BuildId("b".into()), BuildDigest::UNKNOWN, 3).unwrap();
        assert_eq!(executable_of(&own), std::env::current_exe().unwrap());
        assert!(own.start_time > 0 && own.boot_id != 0 && own.executable_size > 0);
        assert_eq!(own.pid, std::process::id());
        assert_eq!(Proposal::decode(&own.encode()).unwrap(), own);
    }
}
