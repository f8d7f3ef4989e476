//! Taking the listeners and the lineage from an instance that does not speak, before it is ended.
//!
//! A stopped process holds them as well as a running one does: they are copied out of it by number. Which number is
//! which stands in the environment that it was born with.

use super::spawn::CONTROL;
use crate::ids::ListenerName;
use crate::os::fds::copy_from;
use crate::os::listeners::validate;
use crate::os::lock::LineageLock;
use processkit::ProcessGroup;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd, RawFd};
use std::sync::Arc;

/// What was saved.
#[derive(Debug, Default)]
pub(super) struct Salvaged {
    pub(super) listeners: Vec<(ListenerName, Arc<OwnedFd>)>,
    pub(super) lineage: Option<LineageLock>,
}

/// Looks through the processes of a container until one has everything.
pub(super) fn salvage(group: &ProcessGroup) -> Salvaged {
    let mut saved = Salvaged::default();
    for pid in group.members().unwrap_or_default() {
        match of_process(pid) {
            Ok(found) => {
                for (name, fd) in found.listeners {
                    if !saved.listeners.iter().any(|(other, _)| *other == name) {
                        saved.listeners.push((name, fd));
                    }
                }
                saved.lineage = saved.lineage.or(found.lineage);
            }
            Err(error) => tracing::warn!(pid, %error, "nothing could be saved from it"),
        }
    }
    saved
}

fn of_process(pid: u32) -> io::Result<Salvaged> {
    let process = processkit::pidfd_open(pid)?;
    let environment = environment(pid)?;
    let mut saved = Salvaged::default();
    let names = environment.get("LISTEN_FDNAMES").map_or("", String::as_str);
    for (number, name) in (3..).zip(names.split(':')) {
        let Ok(name) = ListenerName::new(name) else { continue };
        if name.as_str() == CONTROL {
            continue;
        }
        match copy_from(process.as_fd(), number) {
            // it may have closed it, and another socket may have the number now
            Ok(fd) if validate(fd.as_fd()).is_ok() => saved.listeners.push((name, Arc::new(fd))),
            Ok(_) => tracing::warn!(pid, number, %name, "not a listener any more"),
            Err(error) => tracing::warn!(pid, number, %name, %error, "listener"),
        }
    }
    let lineage = environment.get("HANDOFF_LINEAGE_FD").and_then(|text| text.parse::<RawFd>().ok());
    if let Some(number) = lineage {
        let copied = copy_from(process.as_fd(), number);
        match copied
            .map_err(|e| e.to_string())
            .and_then(|fd| LineageLock::from_fd(fd).map_err(|e| e.to_string()))
        {
            Ok(lock) => saved.lineage = Some(lock),
            Err(error) => tracing::warn!(pid, number, error, "lineage.lock"),
        }
    }
    Ok(saved)
}

/// The environment a process was born with.
fn environment(pid: u32) -> io::Result<BTreeMap<String, String>> {
    let bytes = std::fs::read(format!("/proc/{pid}/environ"))?;
    let text = String::from_utf8_lossy(&bytes);
    let pairs = text.split('\0').filter_map(|entry| entry.split_once('='));
    Ok(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::files::Dir;
    use crate::os::listeners::{Address, bind, identity};
    use processkit::{Command, ProcessGroupOptions, Signal};

    #[tokio::test]
    async fn a_stopped_process_gives_what_it_holds() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let address: Address = "127.0.0.1:0".parse().expect("an address");
        let listener = bind(&address).expect("bound");
        let lineage = LineageLock::acquire(&Dir::open(dir.path()).expect("open")).expect("taken");
        let id = identity(&listener).expect("an inode");
        let group = ProcessGroup::with_options(ProcessGroupOptions::default()).expect("a group");
        let command = Command::new("sleep")
            .arg("1000")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("LISTEN_FDNAMES", format!("resp:{CONTROL}"))
            .env("HANDOFF_LINEAGE_FD", "5")
            .pass_fd(listener.try_clone().expect("a copy"), 3)
            .pass_fd(listener, 4)
            .pass_fd(lineage.try_clone().expect("a copy"), 5);
        let process = group.start(&command).await.expect("started");
        drop((command, lineage));
        // a spawn is told once execve cannot fail any more; the environment is to be seen a moment later
        let environ = format!("/proc/{}/environ", process.pid().expect("it runs"));
        while std::fs::read(&environ).expect("it runs").is_empty() {
            tokio::task::yield_now().await;
        }
        process.signal(Signal::Other(nix::libc::SIGSTOP)).expect("stopped");

        let saved = salvage(&group);
        let names: Vec<_> = saved.listeners.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["resp"]);
        assert_eq!(identity(&saved.listeners[0].1).expect("an inode"), id);
        let lock = saved.lineage.expect("the lock");
        group.remove().await.expect("removed");
        // it is held through the copy alone
        assert!(LineageLock::acquire(&Dir::open(dir.path()).expect("open")).is_err());
        drop(lock);
        LineageLock::acquire(&Dir::open(dir.path()).expect("open")).expect("free");
    }
}
