//! The group as a place: what is left of it, who may come in, what it has used.

use crate::rig::*;
use crate::roles::{part, say};
use processkit::{Command, ProcessGroup, ProcessGroupOptions};
use std::path::PathBuf;

/// Whoever makes and removes groups leaves nothing: in a cgroup of its own, where nobody else makes any.
#[tokio::test]
async fn nothing_is_left_of_the_last_group() {
    if !cgroups() {
        return;
    }
    let said = output(&ProcessGroupOptions::default(), part("tidy", "")).await;
    assert!(said.contains("> tidy"), "{said}");
}

pub(crate) fn tidy() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let group = ProcessGroup::new().expect("a group");
        let all = group.location().and_then(|location| location.parent()).map(PathBuf::from);
        let all = all.expect("a directory of all groups");
        assert!(all.exists());
        drop(group);
        within("the background", processkit::settled()).await;
        assert!(!all.exists(), "gone with the last group");
        // groups come and go while the directory of all is removed under them
        std::thread::scope(|scope| {
            let working: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..50).for_each(|_| drop(ProcessGroup::new().expect("a group")))))
                .collect();
            while working.iter().any(|thread| !thread.is_finished()) {
                let _ = std::fs::remove_dir(&all); // as the tidying of another program does
            }
        });
        let group = ProcessGroup::new().expect("a group");
        let mut process = group.start(&Command::new("true")).await.expect("started");
        assert!(process.exit().await.expect("an exit").success());
        group.shutdown().await.expect("gone");
        vanished(&all).await; // without being asked, a moment later
    });
    say("tidy");
}
