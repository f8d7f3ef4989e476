//! S's states and what it can be told.

use crate::Table;
use crate::words::{BASE, HANDOFF, N, NEXT, digest, from, hello, refused, stale};
use handoff::ids::{Epoch, HandoffId, InstanceId};
use handoff::machine::{Command, Hook, Input, Peer, Report, Step, Supervisor, Timer, Upgrade, Way};
use handoff::wire::{Message, Role, Stamped, Standing};
use std::time::Duration;

const INCUMBENT: Peer = Peer::Incumbent;
const SUCCESSOR: Peer = Peer::Successor;

fn upgrade() -> Input {
    upgrade_by(Way::Forward, false)
}

fn upgrade_by(way: Way, canary: bool) -> Input {
    Input::Command(Command::Upgrade(Upgrade {
        handoff: HANDOFF,
        successor: N,
        deadline: Duration::from_secs(300),
        drain_grace: Duration::from_secs(60),
        freeze_budget: Duration::from_secs(2),
        probation: Duration::from_secs(10),
        canary,
        way,
    }))
}

/// A server that S starts itself has the first id of its base.
fn o() -> InstanceId {
    InstanceId(0).nth(1)
}

fn greets(peer: Peer, instance: InstanceId, role: Role) -> Input {
    let message = Message::Hello(Box::new(hello(instance, role)));
    Input::Received(peer, Stamped { handoff: HandoffId::NIL, epoch: BASE, message })
}

fn adopted(peer: Peer) -> Input {
    let (standing, epoch) =
        if peer == SUCCESSOR { (Standing::Active, NEXT) } else { (Standing::Active, BASE) };
    let (handoff, other) = (HandoffId::NIL, InstanceId::NIL);
    from(peer, Message::Adopted { standing, epoch, handoff, peer: other })
}

fn sealed() -> Message {
    Message::SealComplete { digest: digest(1), connections: 1 }
}

fn ready(healthy: bool) -> Message {
    Message::Ready { digest: Some(digest(1)), listeners: Vec::new(), healthy, connections: 1 }
}

pub(crate) fn table() -> Table<Supervisor> {
    let with = |way: &Vec<Input>, more: Vec<Input>| [way.clone(), more].concat();
    let active = |epoch| from(INCUMBENT, Message::Active { epoch: Epoch(epoch) });
    let starting = vec![Input::Command(Command::Start), greets(INCUMBENT, o(), Role::Cold)];
    let idle = with(&starting, vec![active(1)]);
    let greeting = with(&idle, vec![upgrade()]);
    let warming = with(&greeting, vec![greets(SUCCESSOR, N, Role::Successor)]);
    let warmed = from(SUCCESSOR, Message::Warmed { loaded: String::new(), revision: 1 });
    let preparing = with(&warming, vec![warmed.clone()]);
    let drained = from(INCUMBENT, Message::Drained { open: 1 });
    let sealing = with(&preparing, vec![drained.clone()]);
    let readying = with(&sealing, vec![from(INCUMBENT, sealed())]);
    let activating = with(&readying, vec![from(SUCCESSOR, ready(true))]);
    let active_n = from(SUCCESSOR, Message::Active { epoch: NEXT });
    let probation = with(&activating, vec![active_n.clone()]);
    let to_canary = [
        upgrade_by(Way::Forward, true),
        greets(SUCCESSOR, N, Role::Successor),
        warmed,
        drained,
        from(INCUMBENT, sealed()),
        from(SUCCESSOR, ready(true)),
    ];
    let canary = with(&idle, to_canary.into());
    let answered = || Input::Done(Hook::Canary, Ok(Report::Nothing));
    let probed = with(&canary, vec![answered(), active_n]);
    let voted = from(INCUMBENT, Message::Unhealthy { why: "disk".to_owned() });
    let reading = with(&activating, vec![Input::Expired(Timer::Active)]);
    let asking = with(&reading, vec![Input::Claimed(NEXT, None)]);
    let owner = with(&reading, vec![Input::Claimed(NEXT, Some(N))]);
    let ending_owner = with(&owner, vec![Input::Exited(SUCCESSOR)]);
    let ending_other =
        with(&asking, vec![Input::Exited(INCUMBENT), Input::Gone(INCUMBENT), Input::Claimed(NEXT, None)]);
    let unheard = with(
        &preparing,
        vec![Input::Expired(Timer::Drain), Input::Claimed(NEXT, None), Input::Expired(Timer::Silent)],
    );
    let emptying = with(&idle, vec![Input::Exited(INCUMBENT)]);
    let failed = vec![
        Input::Command(Command::Start),
        Input::Failed(Step::Spawn, "no such file".to_owned()),
        Input::Gone(INCUMBENT),
    ];
    let again = vec![
        Input::Gone(INCUMBENT),
        Input::Exited(INCUMBENT),
        Input::Gone(INCUMBENT),
        Input::Exited(INCUMBENT),
        Input::Gone(INCUMBENT),
    ];
    let states = vec![
        ("Empty", vec![]),
        ("Starting", starting.clone()),
        ("StartFailed", with(&starting, vec![Input::Exited(INCUMBENT)])),
        ("Idle", idle.clone()),
        ("Emptying", emptying.clone()),
        ("Pausing", with(&emptying, again)),
        ("Failed", failed),
        ("Probation", probation.clone()),
        ("Probation (canary)", probed),
        ("Probation (turning back)", with(&probation, vec![voted])),
        ("Greeting", greeting.clone()),
        ("Warming", warming.clone()),
        ("Ending", with(&warming, vec![Input::Command(Command::Abort)])),
        ("Preparing", preparing),
        ("Sealing", sealing),
        ("Readying", readying),
        ("Canary", canary),
        ("Activating", activating),
        ("Resolving (reading the claim)", reading),
        ("Resolving (asking O)", asking.clone()),
        ("Resolving (N owns, awaiting Active)", owner),
        ("Resolving (N owns, ending it)", ending_owner.clone()),
        ("Resolving (asking O to reclaim)", with(&ending_owner, vec![Input::Gone(SUCCESSOR)])),
        ("Resolving (ending N)", ending_other.clone()),
        ("Resolving (last look)", with(&ending_other, vec![Input::Gone(SUCCESSOR)])),
        ("Resolving (O unresponsive, ending N)", unheard.clone()),
        ("Resolving (O unresponsive, last look)", with(&unheard, vec![Input::Gone(SUCCESSOR)])),
        ("Settling", with(&asking, vec![from(INCUMBENT, Message::Resumed { epoch: NEXT })])),
        ("Stopping", with(&idle, vec![Input::Command(Command::Stop)])),
        ("Stopped", vec![Input::Command(Command::Stop)]),
    ];
    let o_says = |message| from(INCUMBENT, message);
    let n_says = |message| from(SUCCESSOR, message);
    let inputs = vec![
        ("start", Input::Command(Command::Start)),
        ("upgrade", upgrade()),
        ("upgrade, back", upgrade_by(Way::Back, false)),
        ("abort", Input::Command(Command::Abort)),
        ("stop", Input::Command(Command::Stop)),
        ("O: Hello", greets(INCUMBENT, o(), Role::Cold)),
        ("O: Unhealthy", o_says(Message::Unhealthy { why: "disk".to_owned() })),
        ("O: Adopted", adopted(INCUMBENT)),
        ("O: Active", active(1)),
        ("O: Drained", o_says(Message::Drained { open: 1 })),
        ("O: SealComplete", o_says(sealed())),
        ("O: SealFailed", o_says(Message::SealFailed { error: String::new() })),
        ("O: Resumed(e)", o_says(Message::Resumed { epoch: BASE })),
        ("O: Resumed(e+2)", o_says(Message::Resumed { epoch: Epoch(3) })),
        ("O: Retiring", o_says(Message::Retiring)),
        ("O: Refused", o_says(refused())),
        ("O: Heartbeat", o_says(Message::Heartbeat { progress: 1 })),
        ("O: Drained of another handoff", stale(INCUMBENT, Message::Drained { open: 1 })),
        ("O: SealComplete of another handoff", stale(INCUMBENT, sealed())),
        ("O's channel ends", Input::Closed(INCUMBENT)),
        ("O's process ends", Input::Exited(INCUMBENT)),
        ("O's tree is empty", Input::Gone(INCUMBENT)),
        ("N: Hello", greets(SUCCESSOR, N, Role::Successor)),
        ("N: Adopted(Active)", adopted(SUCCESSOR)),
        ("N: Warmed", n_says(Message::Warmed { loaded: String::new(), revision: 1 })),
        ("N: Ready", n_says(ready(true))),
        ("N: Ready, not healthy", n_says(ready(false))),
        ("N: Active", n_says(Message::Active { epoch: NEXT })),
        ("N: Refused", n_says(refused())),
        ("N: Heartbeat", n_says(Message::Heartbeat { progress: 1 })),
        ("N: Ready of another handoff", stale(SUCCESSOR, ready(true))),
        ("N: Active of another handoff", stale(SUCCESSOR, Message::Active { epoch: NEXT })),
        ("N's channel ends", Input::Closed(SUCCESSOR)),
        ("N's process ends", Input::Exited(SUCCESSOR)),
        ("N's tree is empty", Input::Gone(SUCCESSOR)),
        ("deadline over", Input::Expired(Timer::Deadline)),
        ("drain late", Input::Expired(Timer::Drain)),
        ("freeze budget over", Input::Expired(Timer::Freeze)),
        ("T_active over", Input::Expired(Timer::Active)),
        ("T_kill over", Input::Expired(Timer::Silent)),
        ("back-off over", Input::Expired(Timer::Backoff)),
        ("a failure is forgotten", Input::Expired(Timer::Forgive(1))),
        ("probation over", Input::Expired(Timer::Probation)),
        ("no progress", Input::Expired(Timer::Stall)),
        ("canary due", Input::Expired(Timer::Canary)),
        ("canary: good answer", answered()),
        ("canary: no good answer", Input::Done(Hook::Canary, Err("got nothing".to_owned()))),
        ("cold start late", Input::Expired(Timer::ColdStart)),
        ("claim e+1: nobody", Input::Claimed(NEXT, None)),
        ("claim e+1: O", Input::Claimed(NEXT, Some(o()))),
        ("claim e+1: N", Input::Claimed(NEXT, Some(N))),
        ("spawn fails", Input::Failed(Step::Spawn, "no such file".to_owned())),
        ("no way back", Input::Failed(Step::TurnBack, "it is gone".to_owned())),
        ("journal fails", Input::Failed(Step::Persist, "full".to_owned())),
    ];
    let first = Supervisor::new(InstanceId(0), 1);
    Table { states, inputs, first, name: Supervisor::state_name }
}
