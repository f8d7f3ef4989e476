use super::*;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

fn dir() -> (tempfile::TempDir, Dir) {
    let root = tempfile::tempdir().unwrap();
    let dir = Dir::open(root.path()).unwrap();
    (root, dir)
}

#[tokio::test]
async fn one_holds_and_the_others_learn_who() {
    let (_root, dir) = dir();
    let (mut a, mut b) = (Lock::open(&dir, OWNER_LOCK).unwrap(), Lock::open(&dir, OWNER_LOCK).unwrap());
    assert_eq!(a.id().unwrap(), b.id().unwrap());
    a.lock_within(None).await.unwrap();
    assert!(a.try_lock().unwrap(), "held is held");
    assert!(!b.try_lock().unwrap());
    let error = b.lock_within(Some(Duration::from_millis(1))).await.unwrap_err();
    assert!(
        matches!(error, LockError::StillHeld { holder: Some(pid), .. } if pid == std::process::id()),
        "{error}"
    );
    a.unlock().unwrap();
    b.lock_within(Some(Duration::from_secs(60))).await.unwrap();
    assert!(b.is_held() && !a.is_held());
}

#[tokio::test]
async fn a_waiter_gets_the_lock_when_it_becomes_free() {
    let (_root, dir) = dir();
    let (mut a, mut b) = (Lock::open(&dir, OWNER_LOCK).unwrap(), Lock::open(&dir, OWNER_LOCK).unwrap());
    assert!(a.try_lock().unwrap());
    {
        let mut waiting = pin!(b.lock_within(None));
        assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        a.unlock().unwrap();
        waiting.await.unwrap();
    }
    assert!(!a.try_lock().unwrap());
}

#[tokio::test]
async fn a_lock_that_comes_too_late_is_let_go() {
    let (_root, dir) = dir();
    let (mut a, mut b) = (Lock::open(&dir, OWNER_LOCK).unwrap(), Lock::open(&dir, OWNER_LOCK).unwrap());
    assert!(a.try_lock().unwrap());
    {
        let waiting = pin!(b.lock_within(None));
        assert!(matches!(waiting.poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
    }
    a.unlock().unwrap();
    // whether the abandoned thread gets it first or not, the lock ends with who waits
    a.lock_within(Some(Duration::from_secs(60))).await.unwrap();
    assert!(!b.is_held());
}

#[test]
fn a_replaced_file_is_no_lock() {
    let (_root, dir) = dir();
    let mut a = Lock::open(&dir, OWNER_LOCK).unwrap();
    dir.unlink(OWNER_LOCK).unwrap();
    let _other = Lock::open(&dir, OWNER_LOCK).unwrap();
    assert!(matches!(a.try_lock(), Err(LockError::Replaced(_))));
    assert!(!a.is_held());
}

#[test]
fn a_lineage_lasts_as_long_as_its_last_copy() {
    let (_root, dir) = dir();
    let first = LineageLock::acquire(&dir).unwrap();
    let error = LineageLock::acquire(&dir).unwrap_err();
    assert!(error.to_string().contains(&format!("is held by pid {};", std::process::id())), "{error}");
    let copy = LineageLock::from_fd(first.try_clone().unwrap()).unwrap();
    assert!(copy.belongs_to(&dir).unwrap());
    drop(first);
    assert!(LineageLock::acquire(&dir).is_err(), "a copy is alive");
    let foreign = dir.open_rw(LINEAGE_LOCK).unwrap();
    assert!(matches!(LineageLock::from_fd(foreign.into()), Err(LockError::NotALock(_))));
    let (pipe, _) = nix::unistd::pipe().unwrap();
    assert!(matches!(LineageLock::from_fd(pipe), Err(LockError::NotALock(_))));
    drop(copy);
    LineageLock::acquire(&dir).unwrap();
}
