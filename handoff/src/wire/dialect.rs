//! How later versions may speak: what this build has to get along with, so that a test can have it said.
//!
//! There is one version so far, and every release speaks [`Dialect::One`], whatever it is told. A test asks for another
//! one by value or, in builds with crash points, for a whole process.
//!
//! | dialect | versions | what it says |
//! |---|---|---|
//! | `One` | 1 | what this build says |
//! | `Two` | 1 to 2 | the next version: from 2 on a payload is followed by fields, as in the frozen messages, and their length u16; one field is known; after each frame comes a message that version 1 does not know and may skip |
//! | `Future` | 1 to 3 | understands all that; fields, flags and messages that nobody knows, wherever there is a place for them |
//! | `Stranger` | 1 to 3 | the same, and where a handoff begins a message that nobody knows and nobody may skip |

use super::frame::{HEADER, MAX_FRAME, WireError};
use super::frozen::{Reader, field};
use super::kind::number;
use super::message::Message;
use super::version;

/// Who speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Dialect {
    /// This build.
    #[default]
    One,
    /// The version after it.
    Two,
    /// A version much later.
    Future,
    /// One that insists on what nobody here knows.
    Stranger,
}

/// What a decoder understood that version 1 does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The optional field.
    pub field: bool,
    /// The message that may be skipped.
    pub note: bool,
    /// Types that it did not know, and skipped.
    pub skipped: bool,
}

/// Type of the message that version 2 knows: far away from those of the messages that there are.
pub const NOTE: u16 = 0x7f02;
/// A type that nobody knows.
pub const UNKNOWN: u16 = 0x7fff;
/// What the field and the message of version 2 say.
const SAID: u64 = 0x0202_0202_0202_0202;

const KNOWN_FIELD: u16 = 1;
const UNKNOWN_FIELD: u16 = 0x7fff;
const UNKNOWN_FLAGS: u16 = 0x8002;

impl Dialect {
    /// All of them.
    pub const ALL: [Dialect; 4] = [Dialect::One, Dialect::Two, Dialect::Future, Dialect::Stranger];

    /// By the word that tests use: `1`, `2`, `3`, `x`.
    #[must_use]
    pub fn parse(word: &str) -> Option<Dialect> {
        let at = ["1", "2", "3", "x"].iter().position(|known| *known == word)?;
        Self::ALL.get(at).copied()
    }

    /// The highest version that it speaks.
    #[must_use]
    pub fn highest(self) -> u16 {
        match self {
            Dialect::One => version::MAX,
            Dialect::Two => version::MAX + 1,
            Dialect::Future | Dialect::Stranger => version::MAX + 2,
        }
    }

    /// What this process speaks.
    #[must_use]
    #[cfg(not(feature = "crash-points"))]
    pub fn spoken() -> Dialect {
        Dialect::One
    }

    /// What this process speaks.
    #[must_use]
    #[cfg(feature = "crash-points")]
    pub fn spoken() -> Dialect {
        let at = SPOKEN.load(std::sync::atomic::Ordering::Relaxed);
        Self::ALL.get(usize::from(at)).copied().unwrap_or_default()
    }

    /// From here on this process speaks like that.
    #[cfg(feature = "crash-points")]
    pub fn speak(self) {
        SPOKEN.store(self as u8, std::sync::atomic::Ordering::Relaxed);
    }

    fn is_from_the_future(self) -> bool {
        matches!(self, Dialect::Future | Dialect::Stranger)
    }

    pub(super) fn speaks(self, version: u16) -> bool {
        (version::MIN..=self.highest()).contains(&version)
    }

    pub(super) fn flags(self) -> u16 {
        if self.is_from_the_future() { UNKNOWN_FLAGS } else { 0 }
    }

    /// Says more in a payload, as far as this version has a place for it.
    pub(super) fn add_fields(self, message: &Message, version: u16, payload: &mut Vec<u8>) {
        let room = MAX_FRAME - HEADER - payload.len().min(MAX_FRAME - HEADER);
        let mut fields = Vec::new();
        if self.is_from_the_future() {
            field(&mut fields, UNKNOWN_FIELD, b"nobody knows");
        }
        if message.is_frozen() {
            if fields.len() <= room {
                payload.append(&mut fields);
            }
        } else if version > version::MAX {
            field(&mut fields, KNOWN_FIELD, &SAID.to_le_bytes());
            if self.is_from_the_future() {
                field(&mut fields, UNKNOWN_FIELD, &[]);
            }
            if fields.len() + 2 > room {
                fields.clear();
            }
            payload.extend_from_slice(&fields);
            // a few fields of a few bytes
            payload.extend_from_slice(&(fields.len() as u16).to_le_bytes());
        }
    }

    /// What comes after this message: types and payloads.
    pub(super) fn and_then(self, message: &Message) -> Vec<(u16, bool, Vec<u8>)> {
        let begins = matches!(message.kind(), number::WARMED | number::PREPARE_HANDOFF);
        match self {
            Dialect::One => Vec::new(),
            Dialect::Two => vec![(NOTE, false, SAID.to_le_bytes().to_vec())],
            Dialect::Future | Dialect::Stranger => vec![
                (NOTE, false, SAID.to_le_bytes().to_vec()),
                (UNKNOWN, begins && self == Dialect::Stranger, vec![0xff; 77]),
            ],
        }
    }

    /// The payload as version 1 has it, and what this version says besides.
    pub(super) fn split<'a>(
        self,
        message: &'static str,
        version: u16,
        payload: &'a [u8],
        heard: &mut Heard,
    ) -> Result<&'a [u8], WireError> {
        if version <= version::MAX {
            return Ok(payload);
        }
        let wrong = |what: &str| WireError::Payload { message, what: what.to_owned() };
        let (rest, length) =
            payload.split_last_chunk::<2>().ok_or_else(|| wrong("ends before its fields"))?;
        let fields = rest.len().checked_sub(usize::from(u16::from_le_bytes(*length)));
        let (payload, fields) =
            rest.split_at(fields.ok_or_else(|| wrong("its fields are longer than it is"))?);
        let mut from = Reader { message, rest: fields };
        let mut known = None;
        while let Some((tag, mut value)) = from.field()? {
            if tag == KNOWN_FIELD {
                value.once("of version 2", &mut known, |v| v.take("the field of version 2"))?;
            }
        }
        heard.field |= known.is_some_and(|said| u64::from_le_bytes(said) == SAID);
        Ok(payload)
    }

    /// Whether a message that version 1 does not know is one that this dialect knows, and may pass over.
    pub(super) fn knows(self, kind: u16, payload: &[u8], heard: &mut Heard) -> bool {
        let knows = self != Dialect::One && kind == NOTE && payload == SAID.to_le_bytes();
        heard.note |= knows;
        heard.skipped |= !knows;
        knows
    }
}

#[cfg(feature = "crash-points")]
static SPOKEN: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);
