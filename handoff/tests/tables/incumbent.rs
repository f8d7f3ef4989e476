//! O's states and what it can be told.

use crate::Table;
use crate::words::{BASE, HANDOFF, N, NEXT, O, THIRD, digest, from, stale, wrong};
use handoff::ids::{Epoch, HandoffId};
use handoff::machine::{Command, Hook, Incumbent, Input, Peer, Report, Step, Timer, times};
use handoff::wire::{Message, Stamped, Strategy};

fn prepare(handoff: HandoffId) -> Input {
    let message = Message::PrepareHandoff {
        successor: N,
        deadline_ms: 300_000,
        drain_grace_ms: 60_000,
        freeze_budget_ms: 2000,
        connection_format: 1,
    };
    Input::Received(Peer::Supervisor, Stamped { handoff, epoch: BASE, message })
}

fn s(message: Message) -> Input {
    from(Peer::Supervisor, message)
}

fn done(hook: Hook, report: Report) -> Input {
    Input::Done(hook, Ok(report))
}

fn sealed() -> Report {
    Report::Sealed { digest: digest(1), connections: 1 }
}

fn locked() -> Input {
    Input::Locked { highest: Some((NEXT, N)) }
}

pub(crate) fn table() -> Table<Incumbent> {
    let after_next = Epoch(3);
    let verified = |generation| done(Hook::Verify, Report::Verified { digest: digest(generation) });
    let way = |more: Vec<Input>| more;
    let to_draining = vec![prepare(HANDOFF)];
    let with = |way: &Vec<Input>, more: Vec<Input>| [way.clone(), more].concat();
    let to_drained = with(&to_draining, vec![done(Hook::Drain, Report::Drained { open: 1 })]);
    let to_sealing = with(&to_drained, vec![s(Message::SealRequest)]);
    let to_sealed = with(&to_sealing, vec![done(Hook::Seal, sealed())]);
    let to_resolving = with(&to_sealed, vec![s(Message::Resolve)]);
    let to_taking = with(&to_resolving, vec![Input::Claimed(NEXT, Some(O))]);
    let to_locking = with(&to_taking, vec![Input::Gone(Peer::Successor)]);
    let to_verifying = with(&to_locking, vec![Input::Locked { highest: Some((NEXT, O)) }]);
    let to_lingering = with(&to_resolving, vec![Input::Claimed(NEXT, Some(N))]);
    let to_ending = with(&to_lingering, vec![Input::Expired(Timer::Started)]);
    let to_reclaiming = with(
        &to_ending,
        vec![Input::Gone(Peer::Successor), Input::Closed(Peer::Successor), locked(), verified(1)],
    );
    let states = vec![
        ("Active", way(vec![])),
        ("Draining", to_draining),
        ("Drained", to_drained),
        ("Sealing", to_sealing.clone()),
        ("Sealing (interrupted)", with(&to_sealing, vec![s(Message::Resolve)])),
        ("Sealed", to_sealed.clone()),
        ("Resolving", to_resolving),
        ("Taking (ending N)", to_taking),
        ("Taking (locking)", to_locking),
        ("Taking (verifying)", to_verifying.clone()),
        ("Lingering", to_lingering),
        ("Lingering (ending N)", to_ending),
        ("Taking (claiming)", to_reclaiming),
        ("Resuming", with(&to_verifying, vec![verified(1)])),
        ("Retiring", with(&to_sealed, vec![from(Peer::Successor, Message::Started)])),
        ("Stopping", vec![Input::Command(Command::Stop)]),
        ("Finished", vec![Input::Command(Command::Stop), done(Hook::Retire, Report::Nothing)]),
    ];
    let inputs = vec![
        ("PrepareHandoff", prepare(HandoffId(8))),
        ("SealRequest", s(Message::SealRequest)),
        ("Resolve", s(Message::Resolve)),
        ("Retire", s(Message::Retire { grace_ms: 60_000 })),
        ("Heartbeat", s(Message::Heartbeat { progress: 1 })),
        ("Adopt", s(Message::Adopt { generation: 2 })),
        ("Canary", s(Message::Canary)),
        ("SealRequest of another handoff", stale(Peer::Supervisor, Message::SealRequest)),
        ("Resolve of another handoff", stale(Peer::Supervisor, Message::Resolve)),
        ("S's channel ends", Input::Closed(Peer::Supervisor)),
        ("lease over", Input::Expired(Timer::Lease)),
        ("freeze budget over", Input::Expired(Timer::Freeze)),
        ("T_start over", Input::Expired(Timer::Started)),
        ("grace over", Input::Expired(Timer::Grace)),
        ("Started", from(Peer::Successor, Message::Started)),
        ("Started of another handoff", stale(Peer::Successor, Message::Started)),
        ("transfer channel ends", Input::Closed(Peer::Successor)),
        ("N's process ends", Input::Exited(Peer::Successor)),
        ("N's tree is empty", Input::Gone(Peer::Successor)),
        ("drain done", done(Hook::Drain, Report::Drained { open: 1 })),
        ("drain fails", Input::Done(Hook::Drain, wrong())),
        ("seal done", done(Hook::Seal, sealed())),
        ("seal fails", Input::Done(Hook::Seal, wrong())),
        ("hand-over done", done(Hook::HandOver, Report::Nothing)),
        ("data as sealed", verified(1)),
        ("data changed", verified(2)),
        ("verify fails", Input::Done(Hook::Verify, wrong())),
        ("resume done", done(Hook::Resume, Report::Nothing)),
        ("resume fails", Input::Done(Hook::Resume, wrong())),
        ("retire done", done(Hook::Retire, Report::Nothing)),
        ("lock taken", locked()),
        ("claim e+1: me", Input::Claimed(NEXT, Some(O))),
        ("claim e+1: N", Input::Claimed(NEXT, Some(N))),
        ("claim e+1: a third", Input::Claimed(NEXT, Some(THIRD))),
        ("claim e+1: nobody", Input::Claimed(NEXT, None)),
        ("claim e+2: me", Input::Claimed(after_next, Some(O))),
        ("claim e+2: another", Input::Claimed(after_next, Some(THIRD))),
        ("propose fails", Input::Failed(Step::Propose, "full".to_owned())),
        ("claim fails", Input::Failed(Step::Claim, "EIO".to_owned())),
        ("claim's fsync fails", Input::Failed(Step::SyncClaim, "EIO".to_owned())),
        ("lock fails", Input::Failed(Step::Lock, "EIO".to_owned())),
        ("SIGTERM", Input::Command(Command::Stop)),
    ];
    let first = Incumbent::active(O, BASE, Strategy::Exclusive, times::LEASE);
    Table { states, inputs, first, name: Incumbent::state_name }
}
