//! Every rule that the design says is needed, taken away: the exploration misses it, by its name. And the other way
//! round: what a second fence covers is shown to be covered, and both away are missed.
//!
//! | the design says (protocol.md) | here | missed as |
//! |---|---|---|
//! | O does not read the channel to its end | `ChannelNotDrained` | connections |
//! | sealed, O resumes without a claim; abort means resume | `ResumeWithoutClaim`, `AbortMeansResume` | I4 |
//! | O does not end N | `Claimant { not_ended }` | L2 |
//! | no fsync of the claim (N, O, X) | `ClaimNotSynced`, `ResumedClaimNotSynced`, `ColdClaimNotSynced` | I4 |
//! | N ignores O's claim | `PeerClaimIgnored` | I4 |
//! | N serves before its claim | `ServesBeforeClaim` | I4 |
//! | a reclaim without e+2 | `ReclaimWithoutClaim` | I4 |
//! | O leaves at the claim | `LeaveAtClaim` | L2 |
//! | N does not compare the digest | `DigestNotCompared` | I2 |
//! | no T_start | `NoStartTimer` | L2 |
//! | Started after serving | `StartedAfterServing` | connections |
//! | stale frames are accepted | `StaleAccepted` | I8 |
//! | O refuses the next handoff too | `RefusesForEver` | L4 |
//! | S ends N before O has arbitrated | `EndsTooEarly` | ended |
//! | the wrong build at a cold start | `WrongBuild` | I5 |
//! | no lease; no Resolve | `NoLease`, `NoResolve` | L2, L1 |
//! | N always leaves on EOF | `ExitsOnEof` | L2 |
//! | reads while sealed | `ReadsWhileSealed` | I3 |
//! | claim, lock, and both | `Fences` | I1 where both are away |
//! | O leaves when owner.lock is held | `Claimant { impatient }` | covered: who holds it was ended before. Both: L2 |
//! | no data check at a reclaim | `Copies { not_compared }` | covered: Started is read to the end. Both: I2 |
//! | S's second read of the claim | `LastLookBlind` | covered: a cold start goes by the highest claim |
//! | frames of an older connection are read | `OldConnectionHeard` | covered: only a claim decides |

use super::{caught, kept, missed, survives};
use crate::explore::explore;
use crate::rules::{Claimant, Copies, Formats, Kinds, Mutant, Rules};

#[test]
fn claims_that_are_not_durable_or_not_looked_at() {
    use Mutant::*;
    caught(ResumedClaimNotSynced, true, 1, Kinds::KILLS, "I4");
    caught(ColdClaimNotSynced, true, 1, Kinds::KILLS, "I4");
    caught(PeerClaimIgnored, true, 1, Kinds::KILLS, "I4");
    // that the successor serves and is ended for it is judged first, where it is
    caught(AbortMeansResume, true, 1, Kinds::KILLS, "ended");
    missed(AbortMeansResume, Rules { safety_only: true, ..Rules::new(true, 1, Kinds::KILLS) }, "I4");
    caught(ServesBeforeClaim, true, 0, Kinds::KILLS, "I4");
    missed(PeerClaimIgnored, Rules::overlap(true, 1, Kinds::KILLS), "I4");
    missed(AbortMeansResume, Rules { safety_only: true, ..Rules::overlap(true, 1, Kinds::KILLS) }, "I4");
}

#[test]
fn data_that_is_not_looked_at() {
    use Mutant::*;
    let wrong = Kinds { errors: true, ..Kinds::KILLS };
    caught(DigestNotCompared, true, 1, wrong, "I2");
    caught(ReadsWhileSealed, true, 0, Kinds::KILLS, "I3");
    missed(WrongBuild, Rules { formats: Formats::Newer, ..Rules::new(true, 1, Kinds::KILLS) }, "I5");
    caught(StaleAccepted, true, 0, Kinds::KILLS, "I8");
}

#[test]
fn ways_out_that_are_not_taken() {
    use Mutant::*;
    caught(NoResolve, true, 1, Kinds::KILLS, "L1");
    let hurry = Kinds { hurry: true, ..Kinds::KILLS };
    caught(EndsTooEarly, true, 1, hurry, "ended");
    missed(EndsTooEarly, Rules::overlap(true, 1, hurry), "gap");
    kept(&explore(&Rules::new(true, 1, hurry)));
    kept(&explore(&Rules::new(false, 1, hurry)));
    caught(ExitsOnEof, false, 2, Kinds::KILLS, "L2");
}

#[test]
fn a_successor_that_holds_the_lock_is_ended_or_waited_for() {
    let claimant = |not_ended, impatient| Mutant::Claimant(Claimant { not_ended, impatient });
    let deaths = Rules::new(false, 1, Kinds::KILLS);
    survives(claimant(true, false), deaths.clone());
    survives(claimant(false, true), deaths.clone());
    missed(claimant(true, true), deaths, "L2");
    // one that hangs with the lock is to be ended
    caught(claimant(true, false), false, 2, Kinds::STOPS, "L2");
    survives(claimant(false, true), Rules::new(true, 1, Kinds::STOPS));
}

#[test]
fn started_and_the_digest_keep_old_copies_from_being_served() {
    for bits in 0..4 {
        let copies = Copies { not_drained: bits & 1 != 0, not_compared: bits & 2 != 0 };
        let rules = Rules {
            mutant: Some(Mutant::Copies(copies)),
            safety_only: true,
            ..Rules::new(true, 1, Kinds::KILLS)
        };
        let expected = (bits == 3).then_some("I2");
        assert_eq!(explore(&rules).violation.map(|v| v.rule), expected, "{copies:?}");
    }
}

#[test]
fn what_is_covered_by_another_rule() {
    survives(Mutant::LastLookBlind, Rules::new(true, 1, Kinds::STOPS));
    survives(Mutant::LastLookBlind, Rules::new(true, 2, Kinds::KILLS));
    survives(Mutant::OldConnectionHeard, Rules::new(true, 1, Kinds::STOPS));
    survives(Mutant::OldConnectionHeard, Rules::overlap(true, 1, Kinds::STOPS));
}

/// The reductions change how many states there are, and nothing else.
#[test]
fn without_and_with_reductions() {
    for rules in [
        Rules::new(true, 1, Kinds::ALL),
        Rules::new(false, 1, Kinds::ALL),
        Rules::overlap(true, 1, Kinds::ALL),
        Rules::on_probation(true, 1, Kinds::STOPS),
    ] {
        let reduced = explore(&rules);
        let whole = explore(&Rules { reduced: false, ..rules });
        kept(&reduced);
        kept(&whole);
        eprintln!("{} states of {}", reduced.states, whole.states);
        assert!(reduced.states <= whole.states);
        assert_eq!(reduced.reached, whole.reached);
    }
}

/// Each upgrade has its own fault.
#[test]
fn two_upgrades_and_a_death_in_each() {
    for rules in [Rules::new(true, 1, Kinds::KILLS), Rules::overlap(true, 1, Kinds::KILLS)] {
        kept(&super::run(Rules { upgrades: 2, each: true, ..rules }));
    }
}
