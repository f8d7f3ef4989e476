//! What is explored, and what is broken on purpose.

/// How a run explores.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// S comes back after it died, sooner or later.
    pub(crate) restartable: bool,
    /// Faults in all.
    pub(crate) faults: u8,
    /// Upgrades in all.
    pub(crate) upgrades: u8,
    pub(crate) power: bool,
    pub(crate) stops: bool,
    pub(crate) mutant: Option<Mutant>,
    /// Give up beyond this many states.
    pub(crate) limit: usize,
}

impl Rules {
    pub(crate) fn new(restartable: bool, faults: u8) -> Self {
        Self { restartable, faults, upgrades: 1, power: true, stops: true, mutant: None, limit: usize::MAX }
    }

    pub(crate) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }
}

/// One rule of the protocol taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// The successor serves before its claim is durable.
    ClaimNotSynced,
    /// A sealed incumbent resumes under the next epoch without a claim.
    ResumeWithoutClaim,
    /// owner.lock is given to everybody. One fence: the claim covers it.
    LockIgnored,
    /// Every claim is answered with "yours". One fence: the lock covers it as far as I1 goes.
    ClaimIgnored,
    /// Both fences are gone.
    LockAndClaimIgnored,
    /// Started is sent after the serve hook began.
    StartedAfterServing,
    /// O leaves when the successor has claimed, not when it has started.
    LeaveAtClaim,
    /// O waits for Started without a limit.
    NoStartTimer,
    /// O takes the epoch base + 2 back without a claim.
    ReclaimWithoutClaim,
    /// O learns the end of the transfer channel before it has read it.
    ChannelNotDrained,
    /// O refuses every handoff after an aborted one.
    RefusesForEver,
    /// S ends N before O has arbitrated, and takes what O says for granted.
    KillBeforeArbitration,
    /// The claim is linked, then the successor's fsync is done after serving began.
    NoLease,
}
