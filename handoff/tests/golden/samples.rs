//! One of everything, with values that show a swapped or shortened field. Never changed: the golden files are these.

use handoff::claim::{BuildDigest, Proposal};
use handoff::ids::{BuildId, Digest, Epoch, HandoffId, InstanceId, ListenerName, ShardDigest};
use handoff::journal::Record;
use handoff::machine::Outcome;
use handoff::wire::{
    FileId, Formats, Hello, HelloAck, Message, ParkedEntry, Refused, Role, Stamped, Standing, Strategy,
};

pub(crate) const HANDOFF: HandoffId = HandoffId(0x0192_a3b4_c5d6_7e8f_9012_3456_789a_bcde);
pub(crate) const EPOCH: Epoch = Epoch(0x0102_0304_0506_0708);
const INCUMBENT: InstanceId = InstanceId(0x1111_2222_3333_4444_5555_6666_7777_8888);
const SUCCESSOR: InstanceId = InstanceId(0x9999_aaaa_bbbb_cccc_dddd_eeee_ffff_0001);

pub(crate) fn stamped(message: Message) -> Stamped {
    Stamped { handoff: HANDOFF, epoch: EPOCH, message }
}

fn digest() -> Digest {
    Digest {
        format: 3,
        generation: 0x0a0b,
        shards: vec![
            ShardDigest { revision: 1000, bytes: 0x1_0000_0001, checksum: 0xfeed_beef_0000_0001 },
            ShardDigest { revision: 2000, bytes: 4096, checksum: 2 },
        ],
    }
}

fn listeners() -> Vec<ListenerName> {
    ["resp", "admin.v2"].map(|name| ListenerName::new(name).expect("a listener name")).to_vec()
}

/// At least one of every message, by the name of its golden file.
pub(crate) fn messages() -> Vec<(String, Message)> {
    let hello = Hello {
        role: Role::Successor,
        instance: SUCCESSOR,
        pid: 0x0001_0203,
        build: BuildId("kv 2.1.0 (ünïcode)".into()),
        service: "kv".into(),
        wire_min: 1,
        wire_max: 3,
        strategy: Strategy::Exclusive,
        state: Formats { reads: vec![1, 2, 3], writes: 3 },
        connections: Formats { reads: vec![7], writes: 8 },
        owner_lock: Some(FileId { dev: 0xfd01, ino: 0x1234_5678_9abc }),
        epoch: Epoch(41),
        listeners: listeners(),
        generation: 12,
        canary: false,
    };
    let bare = Hello {
        role: Role::Retiring,
        strategy: Strategy::Overlap,
        owner_lock: None,
        listeners: vec![],
        state: Formats::default(),
        ..hello.clone()
    };
    let canary = Hello { canary: true, ..hello.clone() };
    let mut messages = vec![
        ("Hello.canary".to_owned(), Message::Hello(Box::new(canary))),
        ("Hello".to_owned(), Message::Hello(Box::new(hello))),
        ("Hello.bare".to_owned(), Message::Hello(Box::new(bare))),
        ("Begin.overlap".to_owned(), Message::Begin { digest: None }),
    ];
    let standings = [
        Standing::Active,
        Standing::Draining,
        Standing::Sealed,
        Standing::Retiring,
        Standing::Warming,
        Standing::Opening,
        Standing::Claimed,
        Standing::Starting,
    ];
    messages.extend(standings.map(|standing| {
        let adopted = Message::Adopted { standing, epoch: Epoch(41), handoff: HANDOFF, peer: SUCCESSOR };
        (format!("Adopted.{standing:?}"), adopted)
    }));
    let plain = [
        Message::HelloAck(HelloAck {
            version: 1,
            lease_ms: 6000,
            freeze_budget_ms: 2000,
            deadline_ms: 300_000,
            generation: 12,
            incumbent: INCUMBENT,
            connection_format: 8,
        }),
        Message::Refused(Refused { what: 5, why: "handoff is over; ask again".into() }),
        Message::Warmed { loaded: "2 shards, 100 MB".into(), revision: 3000 },
        Message::PrepareHandoff {
            successor: SUCCESSOR,
            deadline_ms: 60_000,
            drain_grace_ms: 5000,
            freeze_budget_ms: 2000,
            connection_format: 8,
        },
        Message::Drained { open: 51 },
        Message::SealRequest,
        Message::SealProgress { progress: 1 },
        Message::Heartbeat { progress: 2 },
        Message::SealComplete { digest: digest(), connections: 50 },
        Message::SealFailed { error: "fsync: input/output error".into() },
        Message::Begin { digest: Some(digest()) },
        Message::Ready { digest: Some(digest()), listeners: listeners(), healthy: true, connections: 50 },
        Message::Commit,
        Message::Started,
        Message::Active { epoch: Epoch(42) },
        Message::Retire { grace_ms: 5000 },
        Message::Resolve,
        Message::Resumed { epoch: Epoch(43) },
        Message::Retiring,
        Message::Abort { reason: "operator".into() },
        Message::Adopt { generation: 13 },
        Message::Parked {
            first: 100,
            entries: vec![
                ParkedEntry { total: 3, bytes: vec![1, 2, 3] },
                ParkedEntry { total: 1 << 20, bytes: vec![] },
            ],
        },
        Message::ParkedMore { index: 101, bytes: vec![0xff, 0, 0x80] },
        Message::ParkedAck { received: 101 },
        Message::End { connections: 102 },
        Message::Unhealthy { why: "the disk is slow".into() },
        Message::Canary,
    ];
    messages.extend(plain.map(|message| (message.name().to_owned(), message)));
    messages
}

/// At least one of every record.
pub(crate) fn records() -> Vec<(String, Record)> {
    let outcomes = [
        Outcome::Committed,
        Outcome::Aborted,
        Outcome::Reclaimed,
        Outcome::ColdStarted,
        Outcome::PreflightFailed,
        Outcome::Unknown,
    ];
    let mut records: Vec<_> = outcomes
        .map(|outcome| {
            let reason = (outcome != Outcome::Committed).then(|| "no Ready within 2 s".to_owned());
            let record = Record::Ended { handoff: HANDOFF, outcome, reason, epoch: Epoch(42) };
            (format!("ended.{outcome:?}"), record)
        })
        .into();
    let plain = [
        Record::Generation { generation: 13 },
        Record::Intent { handoff: HANDOFF, incumbent: INCUMBENT, successor: SUCCESSOR, epoch: EPOCH },
        Record::SealRequested { handoff: HANDOFF },
        Record::Resolving { handoff: HANDOFF, reason: "the successor died".into() },
        Record::ColdStart { instance: INCUMBENT, reason: "first start".into() },
        Record::Serving { instance: INCUMBENT, epoch: EPOCH },
        Record::Stopped,
        Record::Report { handoff: HANDOFF, json: "{\"schema\":1}".into() },
    ];
    records.extend(plain.map(|record| (record.name().to_owned(), record)));
    records
}

/// Records that came later than the golden file of all of them.
pub(crate) fn later_records() -> Vec<(String, Record)> {
    let mut records = Vec::new();
    let plain = [
        Record::Terms { handoff: HANDOFF, probation_ms: 10_000 },
        Record::ProbationOver { handoff: HANDOFF },
        Record::RolledBack { handoff: HANDOFF, reason: "it died".into(), epoch: EPOCH },
        Record::TurnedDown { handoff: HANDOFF, reason: "it feels ill".into(), failed: 1 },
    ];
    records.extend(plain.map(|record| (record.name().to_owned(), record)));
    records
}

pub(crate) fn proposal() -> Proposal {
    Proposal {
        handoff: HANDOFF,
        instance: SUCCESSOR,
        build: BuildId("kv 2.1.0".into()),
        build_digest: BuildDigest(std::array::from_fn(|n| u8::try_from(n * 7).unwrap_or(0xff))),
        executable: b"/usr/local/bin/kv\xff".to_vec(),
        executable_file: FileId { dev: 0xfd01, ino: 0x1234_5678_9abc },
        executable_size: 0x0123_4567,
        executable_mtime_ns: 1_700_000_000_123_456_789,
        state_format: 3,
        boot_id: 0xfeed_face_cafe_beef_0123_4567_89ab_cdef,
        pid: 0x0001_0203,
        start_time: 0x0a0b_0c0d,
    }
}
