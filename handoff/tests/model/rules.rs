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
    /// The faults are those of each upgrade, not of all together.
    pub(crate) each: bool,
    /// States that nobody can tell apart are one.
    pub(crate) reduced: bool,
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

impl Kinds {
    /// These beside deaths: words of [`Kinds::names`] with commas between them.
    pub(crate) fn named(text: &str) -> Self {
        let mut kinds = Self::KILLS;
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word {
                "power" => kinds.power = true,
                "errors" => kinds.errors = true,
                "drops" => kinds.drops = true,
                "stops" => kinds.stops = true,
                "votes" => kinds.votes = true,
                "hurry" => kinds.hurry = true,
                other => panic!(
                    "{other}: no kind of fault; there are power, errors, drops, stops, votes and hurry"
                ),
            }
        }
        kinds
    }

    fn names(self) -> Vec<&'static str> {
        let Kinds { power, errors, drops, stops, votes, hurry } = self;
        let kinds = [
            (power, "power"),
            (errors, "errors"),
            (drops, "drops"),
            (stops, "stops"),
            (votes, "votes"),
            (hurry, "hurry"),
        ];
        kinds.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect()
    }
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
            each: false,
            reduced: true,
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
        match self.mutant {
            Some(Mutant::Fences(fences)) => fences,
            Some(Mutant::Claimant(Claimant { not_ended, .. })) => Fences { no_end: not_ended, ..whole },
            _ => whole,
        }
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

    /// Only deaths, or one order that came too early, and no probation: then everybody who lives is healthy.
    pub(crate) fn judges_manners(&self) -> bool {
        let Kinds { stops, hurry, errors, drops, votes, .. } = self.kinds;
        let hurry = hurry && (self.faults > 1 || self.overlaps());
        !(stops || hurry || errors || drops || votes || self.probation || self.safety_only)
            && !matches!(self.mutant, Some(Mutant::Fences(_)))
    }

    /// What is explored, in a few words.
    pub(crate) fn name(&self) -> String {
        let named = self.kinds.names();
        let kinds = match named.len() {
            6 => "of any kind".to_owned(),
            0 => "deaths".to_owned(),
            _ => format!("deaths, {}", named.join(", ")),
        };
        let options = [
            (self.each, "each"),
            (self.probation, "probation"),
            (self.canary, "canary"),
            (self.stubborn, "stubborn"),
            (self.formats == Formats::Newer, "one way"),
            (!self.reduced, "whole"),
        ];
        let options: String =
            options.iter().filter(|(on, _)| *on).map(|(_, name)| format!(", {name}")).collect();
        let supervisor = if self.restartable { "comes back" } else { "never comes back" };
        let strategy = if self.overlaps() { "overlap" } else { "exclusive" };
        format!(
            "{strategy}, S {supervisor}, {} faults, {} upgrades, {kinds}{options}",
            self.faults, self.upgrades
        )
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
    /// What keeps O from serving data that the successor has changed.
    Copies(Copies),
    /// What O does about a successor that may hold owner.lock.
    Claimant(Claimant),
    /// O resumes before its claim is durable.
    ResumedClaimNotSynced,
    /// A cold-started server serves before its claim is durable.
    ColdClaimNotSynced,
    /// The successor takes every claim for its own.
    PeerClaimIgnored,
    /// The successor serves, and then claims.
    ServesBeforeClaim,
    /// The successor does not compare what it loaded with what was sealed.
    DigestNotCompared,
    /// A cold start takes the first build, whoever owns the highest claim.
    WrongBuild,
    /// S decides without asking O.
    NoResolve,
    /// S ends the successor when it asks O, not when O has answered.
    EndsTooEarly,
    /// The last look at the claim sees none.
    LastLookBlind,
    /// The successor leaves when it loses the supervisor, whatever it has begun.
    ExitsOnEof,
    /// O answers reads while it is sealed.
    ReadsWhileSealed,
    /// O resumes when it is told to resolve, whoever owns the next epoch.
    AbortMeansResume,
    /// Nobody looks at the handoff and the epoch of a frame.
    StaleAccepted,
    /// What the former supervisor wrote is read after a new one was accepted.
    OldConnectionHeard,
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

/// What keeps O from going on with what it had in memory when another has written since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copies {
    /// O learns the end of the transfer channel before it has read it, so that it does not see Started.
    pub(crate) not_drained: bool,
    /// O does not compare the data on disk with what it sealed.
    pub(crate) not_compared: bool,
}

/// A successor that holds owner.lock and will not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claimant {
    /// O does not end it.
    pub(crate) not_ended: bool,
    /// O leaves when it finds the lock held.
    pub(crate) impatient: bool,
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
