//! The part of a child's life in which it gives up what it may do, and what that does to the memory it shares with us.

use super::child::Child;
use super::spawn::Stage;
use crate::identity::Stat;
use crate::privileges::Privileges;
use std::ffi::{c_int, c_long};
use std::io;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Before anything else, with all privileges.
///
/// # Safety
/// As for [`child_entry`](super::child::child_entry).
pub(super) unsafe fn set_oom_score(privileges: &Privileges) -> Result<(), Stage> {
    let Some(score) = &privileges.oom_score_adj else { return Ok(()) };
    let (path, flags) = (c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
    // SAFETY: strings that outlive the calls. Such a child is made by vfork, so the kernel does not give the score to us
    // as well, who have the same memory.
    unsafe {
        let fd = step(libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags), Stage::OomScore)?;
        step(libc::syscall(libc::SYS_write, fd, score.as_ptr(), score.len()), Stage::OomScore)?;
        libc::syscall(libc::SYS_close, fd);
    }
    Ok(())
}

/// Limits, umask and credentials, in this order: hard limits are raised with privileges only.
///
/// # Safety
/// As for [`child_entry`](super::child::child_entry).
pub(super) unsafe fn drop_privileges(record: *mut Child, privileges: &Privileges) -> Result<(), Stage> {
    // SAFETY: every pointer is to memory that outlives its call, and of the size the kernel expects. The raw calls change
    // this task only; those of the C library would change all threads it believes to be in this process.
    unsafe {
        for limit in &privileges.rlimits {
            let resource = limit.resource.as_raw();
            let limits = [limit.soft, limit.hard];
            let old = ptr::null_mut::<u64>();
            (*record).detail = resource;
            step(libc::syscall(libc::SYS_prlimit64, 0, resource, limits.as_ptr(), old), Stage::Limits)?;
        }
        if let Some(mask) = privileges.umask {
            libc::syscall(libc::SYS_umask, mask);
        }
        if let Some(groups) = &privileges.groups {
            step(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()), Stage::Groups)?;
        }
        if let Some(gid) = privileges.gid {
            step(libc::syscall(libc::SYS_setresgid, gid, gid, gid), Stage::Gid)?;
        }
        if let Some(uid) = privileges.uid {
            // The groups of root are no part of what a plain user may do. Who may not drop them has none to lose.
            let none = ptr::null::<u32>();
            if privileges.groups.is_none()
                && libc::syscall(libc::SYS_setgroups, 0, none) < 0
                && *libc::__errno_location() != libc::EPERM
            {
                return Err(Stage::Groups);
            }
            step(libc::syscall(libc::SYS_setresuid, uid, uid, uid), Stage::Uid)?;
        }
    }
    Ok(())
}

/// Last, since a change of credentials takes the first back.
///
/// # Safety
/// As for [`child_entry`](super::child::child_entry).
pub(super) unsafe fn bind_to_parent(record: *mut Child, privileges: &Privileges) -> Result<(), Stage> {
    // SAFETY: no pointers are passed.
    unsafe {
        if privileges.dies_with_parent {
            let set = libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
            step(set, Stage::ParentDeath)?;
            if libc::syscall(libc::SYS_getppid) as c_int != (*record).parent {
                return Err(Stage::ParentDeath); // it was too late; nobody is left to hear of it
            }
        }
        if privileges.no_new_privs {
            step(
                libc::syscall(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
                Stage::NoNewPrivileges,
            )?;
        }
    }
    Ok(())
}

fn step(result: c_long, stage: Stage) -> Result<c_long, Stage> {
    if result < 0 { Err(stage) } else { Ok(result) }
}

/// A stretch in which a child that shares our memory changes its credentials. The kernel then lets nobody trace that memory
/// who may not trace everything (PR_SET_DUMPABLE, "dumpable" in ptrace(2)): rightly, or the new user could write into ours
/// through the child. Nor does this process dump core any more. Undone when the child has memory of its own; one such child
/// at a time, so that it is not undone for another.
pub(super) struct SharedWithOther {
    was_dumpable: bool,
    _one_at_a_time: MutexGuard<'static, ()>,
}

impl SharedWithOther {
    pub(super) fn begin() -> Self {
        static ONE: Mutex<()> = Mutex::new(());
        let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: no pointers are passed.
        let dumpable = unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) };
        SharedWithOther { was_dumpable: dumpable == 1, _one_at_a_time: guard }
    }

    /// When the child has executed or ended. The kernel says so a moment before the child really has other memory.
    pub(super) fn end(self, child: Option<u32>) {
        let Some(child) = child else { return };
        let ours = Stat::read(std::process::id()).map(|stat| stat.image).ok();
        for _ in 0..1000 {
            let is_apart = match Stat::read(child) {
                Ok(stat) => ours.is_some_and(|ours| ours != stat.image),
                // without a descriptor to look with it may be in our memory still
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            };
            if is_apart {
                break;
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for SharedWithOther {
    fn drop(&mut self) {
        if self.was_dumpable {
            // SAFETY: no pointers are passed. It cannot fail with this value.
            unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) };
        }
    }
}
