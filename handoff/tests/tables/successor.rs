//! N's and X's states and what they can be told.

use crate::Table;
use crate::words::{BASE, N, NEXT, O, THIRD, ack, digest, from, hello, refused, stale, wrong};
use handoff::ids::{Epoch, HandoffId};
use handoff::machine::{Command, Hook, Input, Peer, Report, Step, Successor, Timer};
use handoff::wire::{Message, Role, Stamped};

fn s(message: Message) -> Input {
    from(Peer::Supervisor, message)
}

fn done(hook: Hook, report: Report) -> Input {
    Input::Done(hook, Ok(report))
}

fn opened(generation: u64) -> Input {
    let report = Report::Opened { digest: digest(generation), data_epoch: BASE, healthy: true };
    done(Hook::Open, report)
}

fn warmed() -> Input {
    done(Hook::Warm, Report::Warmed { loaded: "7 keys".to_owned(), revision: 7 })
}

fn begin() -> Message {
    Message::Begin { digest: Some(digest(1)) }
}

fn locked(owner: Option<(Epoch, handoff::ids::InstanceId)>) -> Input {
    Input::Locked { highest: owner }
}

fn inputs() -> Vec<(&'static str, Input)> {
    let alone = |message| {
        Input::Received(Peer::Supervisor, Stamped { handoff: HandoffId::NIL, epoch: BASE, message })
    };
    vec![
        ("start", Input::Start),
        ("HelloAck", s(ack())),
        ("Begin", s(begin())),
        ("Canary", s(Message::Canary)),
        ("Commit", s(Message::Commit)),
        ("Abort", s(Message::Abort { reason: String::new() })),
        ("Refused", s(refused())),
        ("Heartbeat", alone(Message::Heartbeat { progress: 1 })),
        ("Adopt", alone(Message::Adopt { generation: 2 })),
        ("Begin of another handoff", stale(Peer::Supervisor, begin())),
        ("Canary of another handoff", stale(Peer::Supervisor, Message::Canary)),
        ("Commit of another handoff", stale(Peer::Supervisor, Message::Commit)),
        ("Abort of another handoff", stale(Peer::Supervisor, Message::Abort { reason: String::new() })),
        ("S's channel ends", Input::Closed(Peer::Supervisor)),
        ("transfer channel ends", Input::Closed(Peer::Incumbent)),
        ("lease over", Input::Expired(Timer::Lease)),
        ("deadline over", Input::Expired(Timer::Deadline)),
        ("3 s without S", Input::Expired(Timer::SelfCommit)),
        ("warm done", warmed()),
        ("warm fails", Input::Done(Hook::Warm, wrong())),
        ("open: as sealed", opened(1)),
        ("open: other data", opened(2)),
        ("open fails", Input::Done(Hook::Open, wrong())),
        ("connections received", done(Hook::Receive, Report::Received { connections: 1 })),
        ("receive fails", Input::Done(Hook::Receive, wrong())),
        ("serve done", done(Hook::Serve, Report::Nothing)),
        ("serve fails", Input::Done(Hook::Serve, wrong())),
        ("lock taken", locked(Some((BASE, O)))),
        ("lock taken, e+1 claimed", locked(Some((NEXT, O)))),
        ("claim: me", Input::Claimed(NEXT, Some(N))),
        ("claim: O", Input::Claimed(NEXT, Some(O))),
        ("claim: a third", Input::Claimed(NEXT, Some(THIRD))),
        ("claim: nobody", Input::Claimed(NEXT, None)),
        ("propose fails", Input::Failed(Step::Propose, "full".to_owned())),
        ("claim fails", Input::Failed(Step::Claim, "EIO".to_owned())),
        ("claim's fsync fails", Input::Failed(Step::SyncClaim, "EIO".to_owned())),
        ("lock fails", Input::Failed(Step::Lock, "held".to_owned())),
        ("SIGTERM", Input::Command(Command::Stop)),
    ]
}

pub(crate) fn table() -> Table<Successor> {
    let with = |way: &Vec<Input>, more: Vec<Input>| [way.clone(), more].concat();
    let lost = || Input::Closed(Peer::Supervisor);
    let received = || done(Hook::Receive, Report::Received { connections: 1 });
    let greeting = vec![Input::Start];
    let warming = with(&greeting, vec![s(ack())]);
    let warm = with(&warming, vec![warmed()]);
    let opening = with(&warm, vec![s(begin())]);
    let almost = with(&opening, vec![locked(Some((BASE, O))), opened(1)]);
    let ready = with(&almost, vec![received()]);
    let claiming = with(&ready, vec![s(Message::Commit)]);
    let starting = with(&claiming, vec![Input::Claimed(NEXT, Some(N))]);
    let states = vec![
        ("New", vec![]),
        ("Greeting", greeting.clone()),
        ("Warming", warming),
        ("Warm", warm),
        // all but the connections are there
        ("Opening", almost.clone()),
        ("Opening (S lost)", with(&almost, vec![lost()])),
        ("Ready", ready.clone()),
        ("Ready (S lost)", with(&ready, vec![lost()])),
        ("Claiming", claiming),
        ("Starting", starting.clone()),
        ("Serving", with(&starting, vec![done(Hook::Serve, Report::Nothing)])),
        ("Finished", with(&greeting, vec![lost()])),
    ];
    let first = Successor::new(hello(N, Role::Successor));
    Table { states, inputs: inputs(), first, name: Successor::state_name }
}

pub(crate) fn cold_table() -> Table<Successor> {
    let with = |way: &Vec<Input>, more: Vec<Input>| [way.clone(), more].concat();
    let locking = vec![Input::Start];
    let warming = with(&locking, vec![locked(Some((BASE, O)))]);
    let opening = with(&warming, vec![warmed()]);
    let claiming = with(&opening, vec![opened(1)]);
    let starting = with(&claiming, vec![Input::Claimed(NEXT, Some(N))]);
    let states = vec![
        ("Cold", vec![]),
        ("Cold (locking)", locking.clone()),
        ("Cold (warming)", warming),
        ("Cold (opening)", opening),
        ("Cold (claiming)", claiming),
        ("Cold (starting)", starting.clone()),
        ("Serving", with(&starting, vec![done(Hook::Serve, Report::Nothing)])),
        ("Finished", with(&locking, vec![Input::Command(Command::Stop)])),
    ];
    Table {
        states,
        inputs: inputs(),
        first: Successor::cold(hello(N, Role::Cold)),
        name: Successor::state_name,
    }
}
