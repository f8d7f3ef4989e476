//! What is explored, and what is broken on purpose.

use handoff::wire::Strategy;

/// How a run explores.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) strategy: Strategy,
    /// S comes back after it died, sooner or later.
    pub(crate) restartable: bool,
    /// Faults in all.
    pub(crate) faults: u8,
    /// Upgrades in all.
    pub(crate) upgrades: u8,
    /// The new server is on probation after a commit.
    pub(crate) probation: bool,
    /// A canary is tried on the new server.
    pub(crate) canary: bool,
    /// What the old build reads of the new one.
    pub(crate) formats: Formats,
    /// The new build never seals: every handoff back from it is aborted.
    pub(crate) stubborn: bool,
    /// Beside kill -9 at every effect.
    pub(crate) kinds: Kinds,
    pub(crate) mutant: Option<Mutant>,
    /// Only what must never happen is judged, not how it ends.
    pub(crate) safety_only: bool,
    /// Give up beyond this many states.
    pub(crate) limit: usize,
}

/// The old build writes format 1, the new one writes 2 and reads both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Formats {
    /// The old one reads both too.
    Both,
    /// The old one reads its own alone: no way back.
    Newer,
}

/// Kinds of faults that can be left out, to afford more of the others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kinds {
    /// Everything dies, what was not synced may be lost.
    pub(crate) power: bool,
    /// Hooks, proposals, claims, fsyncs, spawns and essential records fail.
    pub(crate) errors: bool,
    /// Channels break while both ends live.
    pub(crate) drops: bool,
    /// SIGSTOP, and CONT at any later time or never.
    pub(crate) stops: bool,
    /// Servers on probation say that they are not healthy.
    pub(crate) votes: bool,
    /// Timers run out although something else was about to happen; the operator aborts.
    pub(crate) hurry: bool,
}

impl Kinds {
    pub(crate) const ALL: Kinds =
        Kinds { power: true, errors: true, drops: true, stops: true, votes: true, hurry: true };
    pub(crate) const KILLS: Kinds =
        Kinds { power: false, errors: false, drops: false, stops: false, votes: false, hurry: false };
    pub(crate) const VOTES: Kinds = Kinds { votes: true, ..Kinds::KILLS };
    pub(crate) const STOPS: Kinds = Kinds { stops: true, ..Kinds::KILLS };
}

impl Rules {
    pub(crate) fn new(restartable: bool, faults: u8, kinds: Kinds) -> Self {
        Self {
            strategy: Strategy::Exclusive,
            restartable,
            faults,
            upgrades: 1,
            probation: false,
            canary: false,
            formats: Formats::Both,
            stubborn: false,
            kinds,
            mutant: None,
            safety_only: false,
            limit: usize::MAX,
        }
    }

    pub(crate) fn overlap(restartable: bool, faults: u8, kinds: Kinds) -> Self {
        Self { strategy: Strategy::Overlap, ..Self::new(restartable, faults, kinds) }
    }

    pub(crate) fn overlaps(&self) -> bool {
        self.strategy == Strategy::Overlap
    }

    pub(crate) fn fences(&self) -> Fences {
        let whole = Fences { no_claim: false, no_lock: false, no_end: false };
        if let Some(Mutant::Fences(fences)) = self.mutant { fences } else { whole }
    }

    pub(crate) fn on_probation(restartable: bool, faults: u8, kinds: Kinds) -> Self {
        Self { probation: true, ..Self::new(restartable, faults, kinds) }
    }

    /// The state formats of a build, the first one is 0: what it reads, what it writes.
    pub(crate) fn formats_of(&self, build: u8) -> (Vec<u32>, u32) {
        match (build, self.formats) {
            (0, Formats::Newer) => (vec![1], 1),
            (0, Formats::Both) => (vec![1, 2], 1),
            (_, Formats::Both | Formats::Newer) => (vec![1, 2], 2),
        }
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
    /// Some of what stands before I1 is broken.
    Fences(Fences),
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
    /// Nobody notices that the supervisor hangs.
    NoLease,
    /// Nobody asks whether the old build reads what the new one writes.
    WayBackNotAsked,
    /// The new server may claim although it did not answer the canary.
    CanaryIgnored,
    /// The end of a probation is not written down.
    ProbationNeverOver,
}

/// What keeps two processes from writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fences {
    /// Every claim is answered with "yours".
    pub(crate) no_claim: bool,
    /// owner.lock is given to everybody.
    pub(crate) no_lock: bool,
    /// O does not end the successor before it resumes.
    pub(crate) no_end: bool,
}
