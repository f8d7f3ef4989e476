//! What a mutant does: to the facts that a machine is told, and to the orders that it gives. The machines have no
//! switches.

use crate::apply::digest;
use crate::rules::{Claimant, Copies, Mutant, Rules};
use crate::world::{Live, Running};
use handoff::ids::{Epoch, HandoffId, InstanceId};
use handoff::machine::{Command, Effect, Hook, Input, Machine, Peer, Report, Timer};
use handoff::wire::{Message, Stamped};

/// The machine's step, with what a mutant does to it.
pub(crate) fn handle(id: InstanceId, live: &mut Live, input: Input, rules: &Rules) -> Vec<Effect> {
    let Some(mutant) = rules.mutant else { return live.machine.handle(input) };
    let input = told(id, live, input, mutant);
    let claimed_by_peer = match &input {
        Input::Claimed(_, Some(owner)) => live.peer.as_ref().is_some_and(|p| p.id == *owner),
        _ => false,
    };
    let open = live.machine.handoff();
    let base = live.machine.epoch();
    let mut effects = live.machine.handle(input);
    if mutant == Mutant::LeaveAtClaim
        && claimed_by_peer
        && let Some(handoff) = open
    {
        let started = Stamped { handoff, epoch: base, message: Message::Started };
        effects.extend(live.machine.handle(Input::Received(Peer::Successor, started)));
    }
    effects
}

/// What a server is told instead of the truth.
fn told(id: InstanceId, live: &Live, input: Input, mutant: Mutant) -> Input {
    let letter = live.machine.letter();
    let not_compared = matches!(mutant, Mutant::Copies(Copies { not_compared: true, .. }));
    match input {
        Input::Claimed(epoch, Some(_)) if mutant == Mutant::PeerClaimIgnored && letter == "N" => {
            Input::Claimed(epoch, Some(id))
        }
        Input::Claimed(epoch, Some(owner))
            if mutant == Mutant::AbortMeansResume && live.peer.as_ref().is_some_and(|p| p.id == owner) =>
        {
            Input::Claimed(epoch, Some(id))
        }
        Input::Closed(Peer::Supervisor)
            if mutant == Mutant::ExitsOnEof
                && ["Opening", "Ready"].iter().any(|state| live.machine.state_name().starts_with(state)) =>
        {
            Input::Command(Command::Stop)
        }
        // what it has in memory is what it sealed
        Input::Done(Hook::Verify, Ok(_)) if not_compared => {
            Input::Done(Hook::Verify, Ok(Report::Verified { digest: digest(live.memory.unwrap_or(0)) }))
        }
        input => input,
    }
}

/// What a server does instead of what it was ordered to.
pub(crate) fn rewrite(live: &Live, effects: Vec<Effect>, rules: &Rules) -> Vec<Effect> {
    let Some(mutant) = rules.mutant else { return effects };
    let letter = live.machine.letter();
    let mut out: Vec<Effect> = Vec::new();
    let mut started = None;
    for effect in effects {
        match (&effect, mutant) {
            (Effect::SyncClaim(_), Mutant::ClaimNotSynced) if letter == "N" => {}
            (Effect::SyncClaim(_), Mutant::ResumedClaimNotSynced) if letter == "O" => {}
            (Effect::SyncClaim(_), Mutant::ColdClaimNotSynced) if letter == "X" => {}
            (Effect::Arm(Timer::Started, _), Mutant::NoStartTimer)
            | (Effect::Arm(Timer::Lease, _), Mutant::NoLease) => {}
            (Effect::Send(Peer::Incumbent, frame), Mutant::StartedAfterServing)
                if frame.message == Message::Started =>
            {
                started = Some(effect);
            }
            (Effect::Claim(_), Mutant::ServesBeforeClaim) if letter == "N" => {
                out.extend([Effect::Call(Hook::Serve), effect]);
            }
            _ => out.push(effect),
        }
    }
    out.extend(started);
    out
}

/// The supervisor's step, with what a mutant does to it.
pub(crate) fn supervise(r: &mut Running, input: Input, rules: &Rules) -> Vec<Effect> {
    let Some(mutant) = rules.mutant else { return r.machine.handle(input) };
    let input = match input {
        Input::Claimed(epoch, Some(_))
            if mutant == Mutant::LastLookBlind && r.machine.state_name() == "Resolving (last look)" =>
        {
            Input::Claimed(epoch, None)
        }
        input => input,
    };
    let effects = r.machine.handle(input);
    let resolve =
        |e: &Effect| matches!(e, Effect::Send(Peer::Incumbent, frame) if frame.message == Message::Resolve);
    match mutant {
        Mutant::NoResolve => effects.into_iter().filter(|e| !resolve(e)).collect(),
        Mutant::EndsTooEarly if effects.iter().any(resolve) && r.successor.is_some() => {
            let mut all = effects;
            all.push(Effect::Kill(Peer::Successor));
            all
        }
        _ => effects,
    }
}

/// Whether who finds owner.lock held leaves at once.
pub(crate) fn leaves_when_locked(rules: &Rules) -> bool {
    matches!(rules.mutant, Some(Mutant::Claimant(Claimant { impatient: true, .. })))
}

/// A stale frame, as a machine sees it that does not look at the address.
pub(crate) fn readdressed(
    frame: Stamped,
    handoff: Option<HandoffId>,
    epoch: Epoch,
    rules: &Rules,
) -> Stamped {
    if rules.is(Mutant::StaleAccepted) {
        return Stamped { handoff: handoff.unwrap_or(frame.handoff), epoch, ..frame };
    }
    frame
}

/// Whether what stands in the transfer channel is lost with its writer.
pub(crate) fn channel_not_drained(rules: &Rules) -> bool {
    rules.is(Mutant::ChannelNotDrained)
        || matches!(rules.mutant, Some(Mutant::Copies(Copies { not_drained: true, .. })))
}
