//! Reading a journal back: a torn tail is normal, a hole is corruption.

use super::format::{self, HEADER, MAX_PAYLOAD, PREFIX};
use super::log::JournalError;
use super::record::Record;

/// What a journal says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// The records, in order.
    pub records: Vec<Record>,
    /// Records of types that a later build wrote and this one does not know; they were passed over.
    pub unknown: usize,
    /// Where the last whole record ends: what follows was being written when power or the process went.
    pub end: u64,
    /// What was torn at `end`.
    pub torn: Option<Torn>,
}

/// The rest of a record that was not written whole. It had not been reported durable to anybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// Where it begins.
    pub offset: u64,
    /// How much of it there is.
    pub bytes: u64,
    /// What is wrong with it.
    pub why: String,
}

/// Reads all records. An empty journal has no header yet; neither has one whose header was torn.
///
/// What is not a whole record is a torn tail if nothing whole follows it and a single record could have left it;
/// else it is corruption.
///
/// # Errors
/// [`JournalError::Foreign`], [`JournalError::Newer`], [`JournalError::Corrupt`] with the offset of the first record
/// that is damaged.
pub fn replay(bytes: &[u8]) -> Result<Replay, JournalError> {
    let Some(header) = bytes.first_chunk::<HEADER>() else {
        return match format::header().starts_with(bytes) {
            true if bytes.is_empty() => Ok(Replay::default()),
            true => {
                Ok(Replay { torn: Some(torn(bytes, 0, "it ends within the header")), ..Replay::default() })
            }
            false => Err(JournalError::Foreign),
        };
    };
    format::check_header(header)?;
    let mut replay = Replay { end: HEADER as u64, ..Replay::default() };
    let mut at = HEADER;
    while at < bytes.len() {
        match format::read(&bytes[at..]) {
            Ok(payload) => {
                let corrupt = |why| JournalError::Corrupt { offset: at as u64, why };
                match format::record(payload).map_err(corrupt)? {
                    Some(record) => replay.records.push(record),
                    None => replay.unknown += 1,
                }
                at += PREFIX + payload.len();
                replay.end = at as u64;
            }
            Err(why) => {
                if bytes.len() - at > PREFIX + MAX_PAYLOAD || whole_record_after(bytes, at) {
                    return Err(JournalError::Corrupt { offset: at as u64, why: why.into() });
                }
                replay.torn = Some(torn(bytes, at, why));
                break;
            }
        }
    }
    Ok(replay)
}

fn torn(bytes: &[u8], at: usize, why: &str) -> Torn {
    Torn { offset: at as u64, bytes: (bytes.len() - at) as u64, why: why.into() }
}

fn whole_record_after(bytes: &[u8], at: usize) -> bool {
    (at + 1..bytes.len().saturating_sub(PREFIX)).any(|at| format::read(&bytes[at..]).is_ok())
}
