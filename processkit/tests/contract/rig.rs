//! What the tests of the contract share.

use processkit::Command;
use std::future::Future;
use std::time::Duration;

/// Far more than anything here takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// The result of a wait, or a panic.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(DEADLINE, future).await.expect("it came to an end")
}

/// `sh -c script`.
pub(crate) fn sh(script: &str) -> Command {
    Command::new("/bin/sh").arg("-c").arg(script)
}

/// Sleeps for as long as anybody may wait.
pub(crate) fn sleeper() -> Command {
    Command::new("sleep").arg("1000")
}

/// Alive, and not a zombie.
pub(crate) fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}
