//! C5, C9: what an owner intends outlives it, and nothing else does.

use crate::play::{Owner, alone};
use crate::rig::*;
use processkit::{
    Adopted, Error, Exit, ProcessGroup, ProcessGroupOptions, Signal, identity_of, sweep_leaked,
};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

#[tokio::test]
async fn a_persisted_group_survives_its_owner() {
    if !cgroups() || !alone("lifecycle::a_persisted_group_survives_its_owner").await {
        return;
    }
    let name = unique("persisted");
    let mut owner = Owner::play("persist", &name);
    let pid = owner.pid();
    owner.end();
    assert!(lives(pid), "the owner is gone, the group is not");
    let member = adopted(pid);
    assert_eq!(identity_of(pid).expect("an identity").pid, member.pid());

    sweep_leaked().expect("swept");
    let group = ProcessGroup::reopen(&name).expect("reopened");
    let location = group.location().expect("a directory").to_owned();
    assert_eq!(group.members().expect("members"), [pid]);
    drop(group);
    assert!(lives(pid), "a reopened group is left alone when dropped");

    // by its directory, and by a descriptor of that
    let by_path = ProcessGroup::reopen_by_path(&location).expect("reopened");
    let directory = OwnedFd::from(std::fs::File::open(&location).expect("opened"));
    let group = ProcessGroup::reopen_by_fd(directory).expect("reopened");
    assert_eq!(group.location(), by_path.location());
    let mut own = started(&group, &sleeper()).await;
    assert_eq!(by_path.members().expect("members").len(), 2);
    lived_until_now(&member).await;
    group.remove().await.expect("gone");
    assert_eq!(exit_of(&mut own).await.signal, Some(9));
    assert!(!location.exists());
    assert!(ProcessGroup::reopen(&name).expect_err("gone").is_not_found());
}

/// The control of persistence: a named group that was not persisted goes with its owner's handle.
#[tokio::test]
async fn a_named_group_is_killed_on_drop_until_persisted() {
    if !cgroups() {
        return;
    }
    let name = unique("named");
    let group = ProcessGroup::named(&name, ProcessGroupOptions::default()).expect("a group");
    let taken = ProcessGroup::named(&name, ProcessGroupOptions::default()).expect_err("taken");
    assert!(matches!(taken, Error::Io(ref e) if e.kind() == std::io::ErrorKind::AlreadyExists), "{taken}");
    let location = group.location().expect("a directory").to_owned();
    assert!(location.ends_with(&name));
    let mut process = started(&group, &sleeper()).await;
    drop(group);
    assert_eq!(exit_of(&mut process).await.signal, Some(9));
    vanished(&location).await;

    // reopened, and asked to kill again
    let mut group = ProcessGroup::named(&name, ProcessGroupOptions::default()).expect("free again");
    group.persist();
    let mut process = started(&group, &sleeper()).await;
    drop(group);
    let mut group = ProcessGroup::reopen(&name).expect("reopened");
    process.signal(Signal::Term).expect("sent");
    assert_eq!(exit_of(&mut process).await.signal, Some(15), "the control: nobody else ended it");
    let mut process = started(&group, &sleeper()).await;
    group.kill_on_drop();
    drop(group);
    assert_eq!(exit_of(&mut process).await.signal, Some(9));
    vanished(&location).await;

    let forced = ProcessGroup::named(&name, ProcessGroupOptions::default().force_process_group());
    assert!(matches!(forced.expect_err("no names there"), Error::Unsupported { .. }));
}

/// A released group lives on, whichever mechanism holds it.
#[tokio::test]
async fn a_released_group_lives_on() {
    for group in groups() {
        let location = group.location().map(ToOwned::to_owned);
        let mut process = started(&group, &sleeper()).await;
        group.release();
        process.signal(Signal::Term).expect("sent");
        assert_eq!(exit_of(&mut process).await.signal, Some(15), "nobody else ended it");
        if let Some(location) = location {
            ProcessGroup::reopen_by_path(location).expect("there").remove().await.expect("gone");
        }
    }
}

/// One process goes its own way; the control stays and dies with the group.
#[tokio::test]
async fn one_process_can_be_released() {
    if !cgroups() {
        return;
    }
    let group = ProcessGroup::new().expect("a group");
    let mut released = started(&group, &sleeper()).await;
    let mut control = started(&group, &sleeper()).await;
    group.release_process(&released).expect("released");
    assert_eq!(group.members().expect("members"), [control.pid().expect("a pid")]);
    group.remove().await.expect("gone");
    assert_eq!(exit_of(&mut control).await.signal, Some(9));
    assert!(released.try_exit().expect("an answer").is_none());
    released.signal(Signal::Term).expect("sent");
    assert_eq!(exit_of(&mut released).await.signal, Some(15));
}

/// A process of somebody else, by its pidfd: signals, its end, and how it ended.
#[tokio::test]
async fn a_process_that_is_not_ours_is_adopted() {
    if !cgroups() || !alone("lifecycle::a_process_that_is_not_ours_is_adopted").await {
        return;
    }
    let mut owner = Owner::play("leak", "");
    let pid = owner.pid();
    let location = PathBuf::from(owner.line());
    let recorded = identity_of(pid).expect("an identity");
    let adopted = adopted(pid);
    assert_eq!(identity_of(adopted.pid()).expect("an identity"), recorded);
    {
        // several may wait at once, and give up
        let waits = async { tokio::join!(adopted.gone(), adopted.gone(), adopted.exit()) };
        tokio::pin!(waits);
        pending(&mut waits).await;
        adopted.signal(Signal::Term).expect("sent");
        let (one, two, exit) = within("its end", waits).await;
        one.expect("gone");
        two.expect("gone");
        assert_eq!(
            exit.expect("an exit"),
            Exit { code: None, signal: Some(15), core: false },
            "not reaped by its owner"
        );
    }
    adopted.signal(Signal::Term).expect("gone is fine");
    owner.die();
    sweep_leaked().expect("swept");
    vanished(&location).await;
}

#[tokio::test]
async fn only_processes_are_adopted() {
    let file = std::fs::File::open("/dev/null").expect("opened");
    let error = Adopted::from_pidfd(file.into()).expect_err("no pidfd");
    assert!(matches!(error, Error::Io(ref e) if e.kind() == std::io::ErrorKind::InvalidInput), "{error}");
    let error = ProcessGroup::reopen_by_path("/tmp").expect_err("no cgroup");
    assert!(matches!(error, Error::Io(ref e) if e.kind() == std::io::ErrorKind::InvalidInput), "{error}");
}

/// What a killed owner leaves is found and ended by the next program that makes a group. The control is a group whose owner
/// lives, and one that was persisted.
#[tokio::test]
async fn leaked_groups_are_swept() {
    if !cgroups() || !alone("lifecycle::leaked_groups_are_swept").await {
        return;
    }
    let living = ProcessGroup::new().expect("a group");
    let mut of_living = started(&living, &sleeper()).await;

    let mut owner = Owner::play("leak", "");
    let leaked = adopted(owner.pid());
    let leaked_location = PathBuf::from(owner.line());
    owner.die();
    assert!(
        lives(leaked.pid()) && leaked_location.exists(),
        "control: it outlives its owner until somebody sweeps"
    );

    let mut owner = Owner::play("leak persisted", "");
    let persisted = owner.pid();
    let persisted_location = PathBuf::from(owner.line());
    // That one was a first group, too: its start may have swept what we leaked.
    owner.die();

    Owner::play("settle", "").end();
    within("the end of the leaked", leaked.gone()).await.expect("gone");
    let _ = leaked.exit().await;
    assert!(!leaked_location.exists());

    sweep_leaked().expect("swept");
    assert!(lives(persisted) && persisted_location.exists(), "persisted");
    assert!(of_living.try_exit().expect("an answer").is_none(), "its owner lives");
    living.remove().await.expect("gone");
    ProcessGroup::reopen_by_path(&persisted_location).expect("reopened").remove().await.expect("gone");
    assert!(!lives(persisted));
}
