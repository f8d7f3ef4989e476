//! The bytes of a journal.
//!
//! ```text
//! header    magic "HANDJRNL"  format version u16  reserved u16 = 0  crc32c of both u32
//! record    payload length u32  crc32c of the payload u32  crc32c of both u32
//!           payload: record type u16, then the record's fields (crate::wire::codec)
//! ```
//!
//! The length has a checksum of its own: a damaged length must not make everything after it look torn.

use super::log::JournalError;
use super::record::Record;
use crate::ids::{Epoch, HandoffId, InstanceId};
use crate::outcome::Outcome;
use crate::wire::codec;
use crate::wire::text::clip;

/// Length of the header.
pub(super) const HEADER: usize = 16;
/// Length of what stands before a payload.
pub(super) const PREFIX: usize = 12;
/// The longest payload: nothing longer is written or believed.
pub(super) const MAX_PAYLOAD: usize = 64 * 1024;
/// The longest reason; the rest is cut.
const MAX_TEXT: usize = 4096;

const MAGIC: [u8; 8] = *b"HANDJRNL";
const VERSION: u16 = 1;

/// The header of a new journal.
pub(super) fn header() -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[..12]);
    bytes[12..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Checks the header of a journal that is longer than one.
pub(super) fn check_header(bytes: &[u8; HEADER]) -> Result<(), JournalError> {
    let [m @ .., v0, v1, _, _, c0, c1, c2, c3] = *bytes;
    if m != MAGIC {
        return Err(JournalError::Foreign);
    }
    if u32::from_le_bytes([c0, c1, c2, c3]) != crc32c::crc32c(&bytes[..12]) {
        return Err(JournalError::Corrupt { offset: 0, why: "the header's checksum is wrong".into() });
    }
    match u16::from_le_bytes([v0, v1]) {
        VERSION => Ok(()),
        newer if newer > VERSION => Err(JournalError::Newer { found: newer, known: VERSION }),
        _ => Err(JournalError::Corrupt { offset: 0, why: "there is no format version 0".into() }),
    }
}

/// The bytes of a record.
pub(super) fn write(record: &Record) -> Result<Vec<u8>, JournalError> {
    let payload = payload(record);
    if payload.len() > MAX_PAYLOAD {
        return Err(JournalError::TooLong { record: record.name(), size: payload.len(), max: MAX_PAYLOAD });
    }
    // bounded by MAX_PAYLOAD just above
    let length = payload.len() as u32;
    let checksum = crc32c::crc32c(&payload);
    let mut bytes = Vec::with_capacity(PREFIX + payload.len());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes.extend_from_slice(&prefix_checksum(length, checksum).to_le_bytes());
    bytes.extend_from_slice(&payload);
    Ok(bytes)
}

/// The payload of the record at the beginning of `bytes`.
pub(super) fn read(bytes: &[u8]) -> Result<&[u8], &'static str> {
    let (prefix, rest) = bytes.split_first_chunk::<PREFIX>().ok_or("it ends within its length")?;
    let [l0, l1, l2, l3, c0, c1, c2, c3, p0, p1, p2, p3] = *prefix;
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    let checksum = u32::from_le_bytes([c0, c1, c2, c3]);
    if u32::from_le_bytes([p0, p1, p2, p3]) != prefix_checksum(length, checksum) {
        return Err("the checksum of its length is wrong");
    }
    if length as usize > MAX_PAYLOAD {
        return Err("it is longer than a record can be");
    }
    let payload = rest.get(..length as usize).ok_or("it ends within its payload")?;
    if crc32c::crc32c(payload) == checksum { Ok(payload) } else { Err("its checksum is wrong") }
}

fn prefix_checksum(length: u32, checksum: u32) -> u32 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..].copy_from_slice(&checksum.to_le_bytes());
    crc32c::crc32c(&bytes)
}

/// Record types. Never changed, never used again for something else.
mod number {
    pub(super) const GENERATION: u16 = 1;
    pub(super) const INTENT: u16 = 2;
    pub(super) const SEAL_REQUESTED: u16 = 3;
    pub(super) const RESOLVING: u16 = 4;
    pub(super) const ENDED: u16 = 5;
    pub(super) const COLD_START: u16 = 6;
    pub(super) const SERVING: u16 = 7;
    pub(super) const STOPPED: u16 = 8;
    pub(super) const REPORT: u16 = 9;
    // later: whoever does not know them passes them over
    pub(super) const TERMS: u16 = 10;
    pub(super) const PROBATION_OVER: u16 = 11;
    pub(super) const ROLLED_BACK: u16 = 12;
    pub(super) const TURNED_DOWN: u16 = 13;
}

fn payload(record: &Record) -> Vec<u8> {
    let text = |text| clip(text, MAX_TEXT);
    match record {
        Record::Generation { generation } => codec::encode((number::GENERATION, generation)),
        Record::Intent { handoff, incumbent, successor, epoch } => {
            codec::encode((number::INTENT, handoff.0, incumbent.0, successor.0, epoch.0))
        }
        Record::SealRequested { handoff } => codec::encode((number::SEAL_REQUESTED, handoff.0)),
        Record::Resolving { handoff, reason } => codec::encode((number::RESOLVING, handoff.0, text(reason))),
        Record::Ended { handoff, outcome, reason, epoch } => {
            let reason = reason.as_deref().map(text);
            codec::encode((number::ENDED, handoff.0, outcome_number(*outcome), reason, epoch.0))
        }
        Record::ColdStart { instance, reason } => {
            codec::encode((number::COLD_START, instance.0, text(reason)))
        }
        Record::Serving { instance, epoch } => codec::encode((number::SERVING, instance.0, epoch.0)),
        Record::Stopped => codec::encode(number::STOPPED),
        Record::Report { handoff, json } => codec::encode((number::REPORT, handoff.0, json)),
        Record::Terms { handoff, probation_ms } => codec::encode((number::TERMS, handoff.0, probation_ms)),
        Record::TurnedDown { handoff, reason, failed } => {
            codec::encode((number::TURNED_DOWN, handoff.0, text(reason), failed))
        }
        Record::ProbationOver { handoff } => codec::encode((number::PROBATION_OVER, handoff.0)),
        Record::RolledBack { handoff, reason, epoch } => {
            codec::encode((number::ROLLED_BACK, handoff.0, text(reason), epoch.0))
        }
    }
}

/// The record in a payload whose checksum is right; `None` for a type that this build does not know.
pub(super) fn record(payload: &[u8]) -> Result<Option<Record>, String> {
    let Some((kind, fields)) = payload.split_first_chunk::<2>() else {
        return Err("it has no record type".into());
    };
    Ok(Some(match u16::from_le_bytes(*kind) {
        number::GENERATION => Record::Generation { generation: decode(fields)? },
        number::INTENT => {
            let (handoff, incumbent, successor, epoch) = decode(fields)?;
            Record::Intent {
                handoff: HandoffId(handoff),
                incumbent: InstanceId(incumbent),
                successor: InstanceId(successor),
                epoch: Epoch(epoch),
            }
        }
        number::SEAL_REQUESTED => Record::SealRequested { handoff: HandoffId(decode(fields)?) },
        number::RESOLVING => {
            let (handoff, reason) = decode(fields)?;
            Record::Resolving { handoff: HandoffId(handoff), reason }
        }
        number::ENDED => {
            let (handoff, outcome, reason, epoch) = decode(fields)?;
            let outcome = outcome_of(outcome).ok_or_else(|| format!("outcome {outcome} is not known"))?;
            Record::Ended { handoff: HandoffId(handoff), outcome, reason, epoch: Epoch(epoch) }
        }
        number::COLD_START => {
            let (instance, reason) = decode(fields)?;
            Record::ColdStart { instance: InstanceId(instance), reason }
        }
        number::SERVING => {
            let (instance, epoch) = decode(fields)?;
            Record::Serving { instance: InstanceId(instance), epoch: Epoch(epoch) }
        }
        number::STOPPED => {
            let () = decode(fields)?;
            Record::Stopped
        }
        number::REPORT => {
            let (handoff, json) = decode(fields)?;
            Record::Report { handoff: HandoffId(handoff), json }
        }
        number::TERMS => {
            let (handoff, probation_ms) = decode(fields)?;
            Record::Terms { handoff: HandoffId(handoff), probation_ms }
        }
        number::TURNED_DOWN => {
            let (handoff, reason, failed) = decode(fields)?;
            Record::TurnedDown { handoff: HandoffId(handoff), reason, failed }
        }
        number::PROBATION_OVER => Record::ProbationOver { handoff: HandoffId(decode(fields)?) },
        number::ROLLED_BACK => {
            let (handoff, reason, epoch) = decode(fields)?;
            Record::RolledBack { handoff: HandoffId(handoff), reason, epoch: Epoch(epoch) }
        }
        _ => return Ok(None),
    }))
}

fn decode<T: bincode::Decode<()>>(fields: &[u8]) -> Result<T, String> {
    codec::decode(fields).map_err(codec::Undecodable::text)
}

const OUTCOMES: [Outcome; 7] = [
    Outcome::Committed,
    Outcome::Aborted,
    Outcome::Reclaimed,
    Outcome::ColdStarted,
    Outcome::PreflightFailed,
    Outcome::Unknown,
    // never written here: a build that does not know it would take it for damage, and has the record instead
    Outcome::RolledBack,
];

fn outcome_number(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Committed => 0,
        Outcome::Aborted => 1,
        Outcome::Reclaimed => 2,
        Outcome::ColdStarted => 3,
        Outcome::PreflightFailed => 4,
        Outcome::Unknown => 5,
        Outcome::RolledBack => 6,
    }
}

fn outcome_of(number: u8) -> Option<Outcome> {
    OUTCOMES.get(usize::from(number)).copied()
}
