//! What a child may do: user, groups, limits, and how it is treated when memory or its parent is gone.

use crate::command::Command;
use std::ffi::{c_int, c_uint};

/// What a child gives up or is given between its birth and its exec; nothing by default.
#[derive(Clone, Debug, Default)]
pub(crate) struct Privileges {
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) groups: Option<Vec<u32>>,
    pub(crate) no_new_privs: bool,
    pub(crate) rlimits: Vec<Rlimit>,
    pub(crate) umask: Option<u32>,
    /// As it is written to the file.
    pub(crate) oom_score_adj: Option<String>,
    pub(crate) dies_with_parent: bool,
}

impl Privileges {
    pub(crate) fn change_credentials(&self) -> bool {
        self.uid.is_some() || self.gid.is_some() || self.groups.is_some()
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Rlimit {
    pub(crate) resource: Resource,
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

/// What can be limited for one process (getrlimit(2)); for a whole group see the options of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Resource {
    /// Address space, in bytes.
    AddressSpace,
    /// Size of a core file, in bytes.
    Core,
    /// CPU time, in seconds: SIGXCPU at the soft limit, SIGKILL at the hard one.
    Cpu,
    /// Data segment, in bytes.
    Data,
    /// Size of a file that is written, in bytes.
    FileSize,
    /// Locked memory, in bytes.
    LockedMemory,
    /// One more than the highest descriptor.
    OpenFiles,
    /// Processes and threads of the same real uid, on the whole system.
    Processes,
    /// Stack of the first thread, in bytes.
    Stack,
}

impl Resource {
    const ALL: [(Resource, c_uint); 9] = [
        (Resource::AddressSpace, libc::RLIMIT_AS as c_uint),
        (Resource::Core, libc::RLIMIT_CORE as c_uint),
        (Resource::Cpu, libc::RLIMIT_CPU as c_uint),
        (Resource::Data, libc::RLIMIT_DATA as c_uint),
        (Resource::FileSize, libc::RLIMIT_FSIZE as c_uint),
        (Resource::LockedMemory, libc::RLIMIT_MEMLOCK as c_uint),
        (Resource::OpenFiles, libc::RLIMIT_NOFILE as c_uint),
        (Resource::Processes, libc::RLIMIT_NPROC as c_uint),
        (Resource::Stack, libc::RLIMIT_STACK as c_uint),
    ];

    pub(crate) fn from_raw(raw: c_int) -> Option<Resource> {
        Self::ALL.into_iter().find(|(_, number)| *number as c_int == raw).map(|(resource, _)| resource)
    }

    pub(crate) fn as_raw(self) -> c_int {
        Self::ALL.into_iter().find(|(resource, _)| *resource == self).map_or(-1, |(_, raw)| raw as c_int)
    }
}

/// In the child the order is: cgroup, OOM score, session, descriptors, limits, umask, groups, gid, uid, working directory,
/// parent death, no new privileges, exec. Whatever needs a privilege comes before it is given up; the working directory
/// after it, as `std` has it, so that nobody starts where they may not enter. A step that the kernel refuses is a spawn
/// error that names the step.
impl Command {
    /// Run as this user: real, effective and saved uid. Unless [`groups`](Command::groups) says otherwise the supplementary
    /// groups are dropped as well, as far as we may. Needs CAP_SETUID for any other than our own (setresuid(2)).
    ///
    /// Until its exec the child shares our memory. The kernel lets nobody trace a process that changed its uid, and this
    /// holds then for us as well; it is undone when the child has executed its program (such spawns wait for each other). A
    /// process of that user may signal the child from here on: to stop it then
    /// makes the spawn an error.
    ///
    /// A script given by [`exe_fd`](Command::exe_fd) is out of reach of another user. Without cgroups, telling the members
    /// of a group that run as somebody else may need CAP_SYS_PTRACE, as root has it.
    pub fn uid(mut self, uid: u32) -> Self {
        self.privileges.uid = Some(uid);
        self
    }

    /// Run in this group: real, effective and saved gid. Needs CAP_SETGID for any other than our own (setresgid(2)).
    pub fn gid(mut self, gid: u32) -> Self {
        self.privileges.gid = Some(gid);
        self
    }

    /// Have exactly these supplementary groups. Needs CAP_SETGID (setgroups(2)).
    pub fn groups(mut self, groups: impl AsRef<[u32]>) -> Self {
        self.privileges.groups = Some(groups.as_ref().to_owned());
        self
    }

    /// Never gain privileges by an exec, set-uid files and file capabilities included; nor does anything it starts
    /// (PR_SET_NO_NEW_PRIVS).
    pub fn no_new_privs(mut self) -> Self {
        self.privileges.no_new_privs = true;
        self
    }

    /// Set a limit; `u64::MAX` is none. To raise the hard one needs CAP_SYS_RESOURCE. It is set before the uid is changed,
    /// and after the descriptors are in place.
    pub fn rlimit(mut self, resource: Resource, soft: u64, hard: u64) -> Self {
        self.privileges.rlimits.push(Rlimit { resource, soft, hard });
        self
    }

    /// The bits that files it makes do not get (umask(2)); only the lowest nine count.
    pub fn umask(mut self, mask: u32) -> Self {
        self.privileges.umask = Some(mask & 0o777);
        self
    }

    /// How gladly the kernel kills it when memory runs out: -1000 (never) to 1000 (proc_pid_oom_score_adj(5)). Inherited by
    /// what it starts. To lower it needs CAP_SYS_RESOURCE; it is set before the uid is changed.
    pub fn oom_score_adj(mut self, score: i16) -> Self {
        self.privileges.oom_score_adj = Some(score.to_string());
        self
    }

    /// Kill the process itself (not what it has started) when its parent ends: PR_SET_PDEATHSIG with SIGKILL.
    ///
    /// The parent is the **thread** that spawns it, not this process: a worker of a runtime that is shut down, or one of the
    /// threads for blocking work, which end when idle, takes the child along. Start such a command from a thread that stays.
    /// The kernel forgets this when the child executes a set-uid program. For whole trees, and without a thread in it, there
    /// is the guardian of a group.
    pub fn kill_on_parent_death(mut self) -> Self {
        self.privileges.dies_with_parent = true;
        self
    }
}
