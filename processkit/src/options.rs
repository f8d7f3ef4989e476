//! How a group is made and ended.

use std::time::Duration;

/// How a group is made and ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ProcessGroupOptions {
    pub(crate) shutdown_timeout: Duration,
    pub(crate) escalate_to_kill: bool,
    pub(crate) guardian: bool,
    #[cfg(feature = "limits")]
    pub(crate) limits: crate::limits::Limits,
    pub(crate) force_process_group: bool,
    pub(crate) without_clone3: bool,
}

impl Default for ProcessGroupOptions {
    /// A grace of two seconds, then a kill; the strongest mechanism.
    fn default() -> Self {
        ProcessGroupOptions {
            shutdown_timeout: Duration::from_secs(2),
            escalate_to_kill: true,
            guardian: false,
            #[cfg(feature = "limits")]
            limits: Default::default(),
            force_process_group: false,
            without_clone3: false,
        }
    }
}

impl ProcessGroupOptions {
    /// How long [`ProcessGroup::shutdown`](crate::ProcessGroup::shutdown) waits between TERM and KILL.
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.shutdown_timeout = timeout;
        self
    }

    /// Whether [`ProcessGroup::shutdown`](crate::ProcessGroup::shutdown) kills what outlives the grace. With `false` it is spared, and released.
    pub fn escalate_to_kill(mut self, escalate: bool) -> Self {
        self.escalate_to_kill = escalate;
        self
    }

    /// Whether the group is ended when this process ends without having done so, by SIGKILL too. See
    /// [`Guardian`](crate::Guardian) for how, and how far it reaches with each mechanism. Off by default.
    ///
    /// Making the group fails if no guardian can be had.
    pub fn guardian(mut self, guardian: bool) -> Self {
        self.guardian = guardian;
        self
    }

    /// Use [`Mechanism::ProcessGroup`](crate::Mechanism::ProcessGroup) even where cgroups are available. For tests.
    pub fn force_process_group(mut self) -> Self {
        self.force_process_group = true;
        self
    }

    /// Start children by clone(2) and a write into `cgroup.procs`, as it is done where clone3(2) is refused. For tests.
    pub fn without_clone3(mut self) -> Self {
        self.without_clone3 = true;
        self
    }
}
