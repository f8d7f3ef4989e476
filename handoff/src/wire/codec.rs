//! Payloads: bincode in the one fixed configuration, and what may be in each message.
//!
//! A payload is the message's fields in the order written here: tuples of plain values, so that neither renaming nor
//! reordering a Rust type changes a byte. Integers have fixed width, little-endian; lengths are u64; `Option` is one
//! byte and the value; enums are numbers chosen here. The golden files in `testdata/wire` own the format.

use super::frame::{MAX_DESCRIPTORS, WireError};
use super::frozen::{self, MAX_LIST, at_most};
use super::kind::{MAX_PARKED, number};
use super::message::{Message, ParkedEntry, Standing};
use super::text::{MAX_REASON, clip};
use crate::ids::{Digest, Epoch, HandoffId, InstanceId, ListenerName, ShardDigest};
use bincode::config::{Configuration, Fixint, Limit, LittleEndian};

/// Twice the longest input: list elements count by their size in memory, which may be more than their encoding.
/// Decoding never allocates more than this, whatever the lengths in the input promise.
const LIMIT: usize = 128 * 1024;
const CONFIG: Configuration<LittleEndian, Fixint, Limit<LIMIT>> =
    bincode::config::standard().with_fixed_int_encoding().with_limit::<LIMIT>();

/// Why bytes are not a value.
pub(crate) enum Undecodable {
    /// They are something else.
    Wrong(String),
    /// So many are left over.
    Trailing(usize),
}

impl Undecodable {
    pub(crate) fn text(self) -> String {
        match self {
            Undecodable::Wrong(what) => what,
            Undecodable::Trailing(count) => format!("{count} bytes follow the payload"),
        }
    }
}

/// The encoding of a value in the fixed configuration.
pub(crate) fn encode(value: impl bincode::Encode) -> Vec<u8> {
    bincode::encode_to_vec(value, CONFIG).expect("tuples of plain values can always be written to memory")
}

/// The value that exactly these bytes encode. Memory is bounded by [`LIMIT`].
pub(crate) fn decode<T: bincode::Decode<()>>(bytes: &[u8]) -> Result<T, Undecodable> {
    let (value, used) =
        bincode::decode_from_slice(bytes, CONFIG).map_err(|e| Undecodable::Wrong(e.to_string()))?;
    if used == bytes.len() { Ok(value) } else { Err(Undecodable::Trailing(bytes.len() - used)) }
}

type RawDigest = (u32, u64, Vec<(u64, u64, u64)>);

fn raw_digest(digest: &Digest) -> RawDigest {
    let shards = digest.shards.iter().map(|s| (s.revision, s.bytes, s.checksum)).collect();
    (digest.format, digest.generation, shards)
}

/// The payload of a message.
pub(super) fn payload(message: &Message) -> Result<Vec<u8>, WireError> {
    let limit = |what, size, max| at_most(message.name(), what, size, max);
    let text = |text| clip(text, MAX_REASON);
    let checked = |digest: &Digest| {
        limit("the list of shards", digest.shards.len(), Digest::MAX_SHARDS).map(|()| raw_digest(digest))
    };
    Ok(match message {
        Message::Hello(hello) => frozen::write_hello(hello)?,
        Message::HelloAck(ack) => frozen::write_hello_ack(ack),
        Message::Refused(refused) => frozen::write_refused(refused),
        Message::Warmed { loaded, revision } => encode((text(loaded), revision)),
        Message::PrepareHandoff {
            successor,
            deadline_ms,
            drain_grace_ms,
            freeze_budget_ms,
            connection_format,
        } => encode((successor.0, deadline_ms, drain_grace_ms, freeze_budget_ms, connection_format)),
        Message::Drained { open } => encode(open),
        Message::SealRequest
        | Message::Canary
        | Message::Commit
        | Message::Started
        | Message::Resolve
        | Message::Retiring => Vec::new(),
        Message::SealProgress { progress } | Message::Heartbeat { progress } => encode(progress),
        Message::SealComplete { digest, connections } => encode((checked(digest)?, connections)),
        Message::SealFailed { error } => encode(text(error)),
        Message::Unhealthy { why } => encode(text(why)),
        Message::Begin { digest } => encode(digest.as_ref().map(checked).transpose()?),
        Message::Ready { digest, listeners, healthy, connections } => {
            limit("the list of listeners", listeners.len(), MAX_LIST)?;
            let listeners: Vec<String> = listeners.iter().map(|l| l.as_str().to_owned()).collect();
            encode((digest.as_ref().map(checked).transpose()?, listeners, healthy, connections))
        }
        Message::Active { epoch } | Message::Resumed { epoch } => encode(epoch.0),
        Message::Retire { grace_ms } => encode(grace_ms),
        Message::Abort { reason } => encode(text(reason)),
        Message::Adopt { generation } => encode(generation),
        Message::Adopted { standing, epoch, handoff, peer } => {
            encode((standing_number(*standing), epoch.0, handoff.0, peer.0))
        }
        Message::Parked { first, entries } => {
            limit("the list of connections", entries.len(), MAX_DESCRIPTORS)?;
            for entry in entries {
                limit("a connection", entry.total as usize, MAX_PARKED)?;
            }
            let entries: Vec<(u32, Vec<u8>)> = entries.iter().map(|e| (e.total, e.bytes.clone())).collect();
            encode((first, entries))
        }
        Message::ParkedMore { index, bytes } => encode((index, bytes)),
        Message::ParkedAck { received } => encode(received),
        Message::End { connections } => encode(connections),
    })
}

/// The message of a type number that is known.
pub(super) fn message(kind: u16, payload: &[u8]) -> Result<Message, WireError> {
    let name = Message::name_of(kind).unwrap_or("a message");
    let from = Payload { message: name, bytes: payload };
    Ok(match kind {
        number::HELLO => Message::Hello(Box::new(frozen::read_hello(payload)?)),
        number::HELLO_ACK => Message::HelloAck(frozen::read_hello_ack(payload)?),
        number::REFUSED => Message::Refused(frozen::read_refused(payload)?),
        number::WARMED => {
            let (loaded, revision): (String, u64) = from.decode()?;
            Message::Warmed { loaded: from.text("what was loaded", loaded)?, revision }
        }
        number::PREPARE_HANDOFF => {
            let (successor, deadline_ms, drain_grace_ms, freeze_budget_ms, connection_format) =
                from.decode()?;
            let successor = InstanceId(successor);
            Message::PrepareHandoff {
                successor,
                deadline_ms,
                drain_grace_ms,
                freeze_budget_ms,
                connection_format,
            }
        }
        number::DRAINED => Message::Drained { open: from.decode()? },
        number::SEAL_REQUEST => from.nothing(Message::SealRequest)?,
        number::SEAL_PROGRESS => Message::SealProgress { progress: from.decode()? },
        number::HEARTBEAT => Message::Heartbeat { progress: from.decode()? },
        number::SEAL_COMPLETE => {
            let (digest, connections) = from.decode()?;
            Message::SealComplete { digest: from.digest(digest)?, connections }
        }
        number::UNHEALTHY => Message::Unhealthy { why: from.text("the reason", from.decode()?)? },
        number::SEAL_FAILED => Message::SealFailed { error: from.text("the error", from.decode()?)? },
        number::BEGIN => {
            let digest: Option<RawDigest> = from.decode()?;
            Message::Begin { digest: digest.map(|d| from.digest(d)).transpose()? }
        }
        number::READY => {
            let (digest, listeners, healthy, connections): (Option<RawDigest>, Vec<String>, bool, u64) =
                from.decode()?;
            at_most(name, "the list of listeners", listeners.len(), MAX_LIST)?;
            let listeners = listeners.iter().map(|l| ListenerName::new(l)).collect::<Result<_, _>>();
            Message::Ready {
                digest: digest.map(|d| from.digest(d)).transpose()?,
                listeners: listeners.map_err(|e| from.wrong(e.to_string()))?,
                healthy,
                connections,
            }
        }
        number::CANARY => from.nothing(Message::Canary)?,
        number::COMMIT => from.nothing(Message::Commit)?,
        number::STARTED => from.nothing(Message::Started)?,
        number::ACTIVE => Message::Active { epoch: Epoch(from.decode()?) },
        number::RETIRE => Message::Retire { grace_ms: from.decode()? },
        number::RESOLVE => from.nothing(Message::Resolve)?,
        number::RESUMED => Message::Resumed { epoch: Epoch(from.decode()?) },
        number::RETIRING => from.nothing(Message::Retiring)?,
        number::ABORT => Message::Abort { reason: from.text("the reason", from.decode()?)? },
        number::ADOPT => Message::Adopt { generation: from.decode()? },
        number::ADOPTED => {
            let (standing, epoch, handoff, peer): (u8, u64, u128, u128) = from.decode()?;
            let standing = standing_of(standing)
                .ok_or_else(|| from.wrong(format!("standing {standing} is not known")))?;
            Message::Adopted {
                standing,
                epoch: Epoch(epoch),
                handoff: HandoffId(handoff),
                peer: InstanceId(peer),
            }
        }
        number::PARKED => {
            let (first, entries): (u64, Vec<(u32, Vec<u8>)>) = from.decode()?;
            at_most(name, "the list of connections", entries.len(), MAX_DESCRIPTORS)?;
            Message::Parked {
                first,
                entries: entries.into_iter().map(|e| from.entry(e)).collect::<Result<_, _>>()?,
            }
        }
        number::PARKED_MORE => {
            let (index, bytes) = from.decode()?;
            Message::ParkedMore { index, bytes }
        }
        number::PARKED_ACK => Message::ParkedAck { received: from.decode()? },
        number::END => Message::End { connections: from.decode()? },
        other => return Err(from.wrong(format!("type {other} is not known"))),
    })
}

struct Payload<'a> {
    message: &'static str,
    bytes: &'a [u8],
}

impl Payload<'_> {
    fn wrong(&self, what: String) -> WireError {
        WireError::Payload { message: self.message, what }
    }

    fn decode<T: bincode::Decode<()>>(&self) -> Result<T, WireError> {
        decode(self.bytes).map_err(|e| match e {
            Undecodable::Wrong(what) => self.wrong(what),
            Undecodable::Trailing(count) => WireError::Trailing { message: self.message, count },
        })
    }

    fn nothing(&self, message: Message) -> Result<Message, WireError> {
        match self.bytes.len() {
            0 => Ok(message),
            count => Err(WireError::Trailing { message: self.message, count }),
        }
    }

    fn text(&self, what: &'static str, text: String) -> Result<String, WireError> {
        at_most(self.message, what, text.len(), MAX_REASON).map(|()| text)
    }

    fn digest(&self, (format, generation, shards): RawDigest) -> Result<Digest, WireError> {
        at_most(self.message, "the list of shards", shards.len(), Digest::MAX_SHARDS)?;
        let shards = shards.into_iter();
        let shards =
            shards.map(|(revision, bytes, checksum)| ShardDigest { revision, bytes, checksum }).collect();
        Ok(Digest { format, generation, shards })
    }

    fn entry(&self, (total, bytes): (u32, Vec<u8>)) -> Result<ParkedEntry, WireError> {
        at_most(self.message, "a connection", total as usize, MAX_PARKED)?;
        at_most(self.message, "the first part of a connection", bytes.len(), total as usize)?;
        Ok(ParkedEntry { total, bytes })
    }
}

const STANDINGS: [Standing; 8] = [
    Standing::Active,
    Standing::Draining,
    Standing::Sealed,
    Standing::Retiring,
    Standing::Warming,
    Standing::Opening,
    Standing::Claimed,
    Standing::Starting,
];

fn standing_number(standing: Standing) -> u8 {
    match standing {
        Standing::Active => 0,
        Standing::Draining => 1,
        Standing::Sealed => 2,
        Standing::Retiring => 3,
        Standing::Warming => 4,
        Standing::Opening => 5,
        Standing::Claimed => 6,
        Standing::Starting => 7,
    }
}

fn standing_of(number: u8) -> Option<Standing> {
    STANDINGS.get(usize::from(number)).copied()
}
