//! Frames: a fixed header and a payload, out of a stream that may be cut anywhere.
//!
//! ```text
//! offset  size  field, little-endian                                     frozen for ever
//!      0     4  length of the whole frame, header included, 34 to 65536
//!      4     2  wire version the payload is written in
//!      6     2  message type
//!      8     2  flags: bit 0 = critical; the other bits are 0 and not looked at
//!     10    16  handoff id, nil outside a handoff
//!     26     8  epoch
//!     34        payload
//! ```
//!
//! A message type that is not known is skipped, or refused when the frame is marked critical.

use super::codec;
use super::dialect::{Dialect, Heard};
use super::message::{Message, Stamped};
use super::version;
use crate::ids::{Epoch, HandoffId};

/// Length of the header.
pub const HEADER: usize = 34;
/// The longest frame, header included.
pub const MAX_FRAME: usize = 64 * 1024;
/// The most descriptors that may come with one frame (the kernel's `SCM_MAX_FD`).
pub const MAX_DESCRIPTORS: usize = 253;

const CRITICAL: u16 = 1;

/// What is wrong with a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The header promises more than a frame may have. Nothing was allocated for it.
    #[error(
        "frame of {length} bytes: at most {MAX_FRAME} are allowed; the peer does not speak this protocol"
    )]
    Oversize {
        /// What it promises.
        length: u32,
    },
    /// The header promises less than a header.
    #[error("frame of {length} bytes: a header alone has {HEADER}; the peer does not speak this protocol")]
    Undersize {
        /// What it promises.
        length: u32,
    },
    /// A payload in a version that this build does not speak.
    #[error("{message} in wire version {version}: this build speaks {min} to {max}", min = version::MIN, max = version::highest())]
    Version {
        /// The message.
        message: &'static str,
        /// The version in the header.
        version: u16,
    },
    /// The payload is not what the message has to be.
    #[error("{message}: {what}")]
    Payload {
        /// The message.
        message: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// Bytes follow the payload.
    #[error("{message}: {count} bytes follow the payload")]
    Trailing {
        /// The message.
        message: &'static str,
        /// How many.
        count: usize,
    },
    /// Something is larger than it may be.
    #[error("{message}: {what} has {size}, at most {max} are allowed")]
    Limit {
        /// The message.
        message: &'static str,
        /// The field.
        what: &'static str,
        /// Its size.
        size: usize,
        /// The limit.
        max: usize,
    },
}

/// Writing frames.
#[derive(Debug)]
#[non_exhaustive]
pub struct Frame;

impl Frame {
    /// The bytes of one frame in the given wire version. Reasons and other text for people are cut to their limit.
    ///
    /// # Errors
    /// [`WireError::Version`] for a version that this build does not speak (the frozen messages fit every version),
    /// [`WireError::Limit`] when a name, a list or the whole frame is too long.
    pub fn encode(stamped: &Stamped, version: u16) -> Result<Vec<u8>, WireError> {
        Self::encode_in(Dialect::spoken(), stamped, version)
    }

    /// The same as somebody else would say it, with all that comes along.
    ///
    /// # Errors
    /// See [`Frame::encode`].
    #[doc(hidden)]
    pub fn encode_in(dialect: Dialect, stamped: &Stamped, version: u16) -> Result<Vec<u8>, WireError> {
        let Stamped { handoff, epoch, ref message } = *stamped;
        if !message.is_frozen() && !dialect.speaks(version) {
            return Err(WireError::Version { message: message.name(), version });
        }
        let mut payload = codec::payload(message)?;
        dialect.add_fields(message, version, &mut payload);
        let size = HEADER + payload.len();
        if size > MAX_FRAME {
            return Err(WireError::Limit {
                message: message.name(),
                what: "the frame",
                size,
                max: MAX_FRAME,
            });
        }
        let header = |kind, critical, payload: &[u8]| Header {
            // bounded by MAX_FRAME just above
            length: (HEADER + payload.len()) as u32,
            version,
            kind,
            flags: dialect.flags() | if critical { CRITICAL } else { 0 },
            handoff,
            epoch,
        };
        let mut bytes = Vec::with_capacity(size);
        header(message.kind(), message.is_critical(), &payload).write(&mut bytes);
        bytes.extend_from_slice(&payload);
        for (kind, critical, payload) in dialect.and_then(message) {
            header(kind, critical, &payload).write(&mut bytes);
            bytes.extend_from_slice(&payload);
        }
        Ok(bytes)
    }
}

/// One frame, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A message that this build knows.
    Frame(Stamped),
    /// A message type that it does not know: to be skipped, or refused when critical.
    Unknown {
        /// The type.
        kind: u16,
        /// Whether skipping it would be wrong.
        critical: bool,
        /// The handoff in the header.
        handoff: HandoffId,
        /// The epoch in the header.
        epoch: Epoch,
    },
}

/// Frames out of a stream of bytes. What comes out does not depend on how the stream is cut.
///
/// After an error the stream has no frame boundary any more: every later `pull` gives the same error.
#[derive(Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
    position: u64,
    broken: Option<WireError>,
    dialect: Dialect,
    heard: Heard,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder at the beginning of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::of(Dialect::spoken())
    }

    /// The same for somebody else.
    #[doc(hidden)]
    #[must_use]
    pub fn of(dialect: Dialect) -> Self {
        let (buffer, heard) = (Vec::new(), Heard::default());
        Self { buffer, start: 0, position: 0, broken: None, dialect, heard }
    }

    /// What it understood of later versions.
    #[doc(hidden)]
    #[must_use]
    pub fn heard(&self) -> Heard {
        self.heard
    }

    /// Takes the next bytes of the stream. Only these are ever stored, whatever a header promises.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.broken.is_some() {
            return;
        }
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame that is here whole, `None` if there is none.
    ///
    /// # Errors
    /// What is wrong with the stream; from then on always the same.
    pub fn pull(&mut self) -> Result<Option<Decoded>, WireError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let decoded = self.decode();
        if let Err(error) = &decoded {
            self.broken = Some(error.clone());
            self.buffer = Vec::new();
            self.start = 0;
        }
        decoded
    }

    /// Offset in the stream at which the next frame begins: descriptors that came with the byte at this offset
    /// belong to it.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whether a part of a frame is here: its read deadline runs, and an EOF now is a cut frame.
    #[must_use]
    pub fn mid_frame(&self) -> bool {
        self.start < self.buffer.len()
    }

    /// How many bytes are missing before `pull` can do something: the rest of the header, or of the frame. 0 when it
    /// can right now.
    #[must_use]
    pub fn missing(&self) -> usize {
        let pending = &self.buffer[self.start..];
        match pending.first_chunk::<4>() {
            None => HEADER - pending.len(),
            Some(length) => match u32::from_le_bytes(*length) as usize {
                length @ HEADER..=MAX_FRAME => length.saturating_sub(pending.len()),
                _ => 0,
            },
        }
    }

    fn decode(&mut self) -> Result<Option<Decoded>, WireError> {
        loop {
            let pending = &self.buffer[self.start..];
            let Some(length) = pending.first_chunk::<4>() else { return Ok(None) };
            let length = u32::from_le_bytes(*length);
            if length as usize > MAX_FRAME {
                return Err(WireError::Oversize { length });
            }
            if (length as usize) < HEADER {
                return Err(WireError::Undersize { length });
            }
            let Some(frame) = pending.get(..length as usize) else { return Ok(None) };
            let Some((header, payload)) = frame.split_first_chunk::<HEADER>() else { return Ok(None) };
            let decoded = Header::read(header).interpret(payload, self.dialect, &mut self.heard)?;
            self.start += length as usize;
            self.position += u64::from(length);
            if decoded.is_some() {
                return Ok(decoded);
            }
        }
    }
}

struct Header {
    length: u32,
    version: u16,
    kind: u16,
    flags: u16,
    handoff: HandoffId,
    epoch: Epoch,
}

impl Header {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.length.to_le_bytes());
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.kind.to_le_bytes());
        out.extend_from_slice(&self.flags.to_le_bytes());
        out.extend_from_slice(&self.handoff.0.to_le_bytes());
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
    }

    fn read(bytes: &[u8; HEADER]) -> Self {
        Header {
            length: u32::from_le_bytes(at(bytes, 0)),
            version: u16::from_le_bytes(at(bytes, 4)),
            kind: u16::from_le_bytes(at(bytes, 6)),
            flags: u16::from_le_bytes(at(bytes, 8)),
            handoff: HandoffId(u128::from_le_bytes(at(bytes, 10))),
            epoch: Epoch(u64::from_le_bytes(at(bytes, 26))),
        }
    }

    /// The frame; `None` for one that is understood, and says nothing that matters here.
    fn interpret(
        &self,
        payload: &[u8],
        dialect: Dialect,
        heard: &mut Heard,
    ) -> Result<Option<Decoded>, WireError> {
        let (handoff, epoch, version) = (self.handoff, self.epoch, self.version);
        let Some(message) = Message::name_of(self.kind) else {
            if dialect.knows(self.kind, payload, heard) {
                return Ok(None);
            }
            let critical = self.flags & CRITICAL != 0;
            return Ok(Some(Decoded::Unknown { kind: self.kind, critical, handoff, epoch }));
        };
        let payload = match Message::is_frozen_kind(self.kind) {
            true => payload,
            false if dialect.speaks(version) => dialect.split(message, version, payload, heard)?,
            false => return Err(WireError::Version { message, version }),
        };
        let message = codec::message(self.kind, payload)?;
        Ok(Some(Decoded::Frame(Stamped { handoff, epoch, message })))
    }
}

fn at<const N: usize>(bytes: &[u8; HEADER], offset: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[offset..offset + N]);
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heartbeat(progress: u64) -> Stamped {
        Stamped { handoff: HandoffId(7), epoch: Epoch(3), message: Message::Heartbeat { progress } }
    }

    #[test]
    fn lengths_are_refused_as_soon_as_they_are_read() {
        for (length, error) in [
            (MAX_FRAME as u32 + 1, WireError::Oversize { length: MAX_FRAME as u32 + 1 }),
            (u32::MAX, WireError::Oversize { length: u32::MAX }),
            (0, WireError::Undersize { length: 0 }),
            (HEADER as u32 - 1, WireError::Undersize { length: HEADER as u32 - 1 }),
        ] {
            let mut decoder = Decoder::new();
            decoder.push(&length.to_le_bytes()[..3]);
            assert_eq!(decoder.pull(), Ok(None));
            decoder.push(&length.to_le_bytes()[3..]);
            assert_eq!(decoder.missing(), 0);
            assert_eq!(decoder.pull(), Err(error.clone()));
            decoder.push(&Frame::encode(&heartbeat(1), 1).unwrap());
            assert_eq!(decoder.pull(), Err(error), "a broken stream stays broken");
        }
    }

    #[test]
    fn positions_name_the_first_byte_of_each_frame() {
        let bytes = Frame::encode(&heartbeat(1), 1).unwrap();
        let mut decoder = Decoder::new();
        assert_eq!(decoder.missing(), HEADER);
        decoder.push(&bytes);
        decoder.push(&bytes[..5]);
        assert_eq!(decoder.position(), 0);
        assert_eq!(decoder.pull(), Ok(Some(Decoded::Frame(heartbeat(1)))));
        assert_eq!(decoder.position(), bytes.len() as u64);
        assert!(decoder.mid_frame());
        assert_eq!(decoder.missing(), bytes.len() - 5);
        decoder.push(&bytes[5..]);
        assert_eq!(decoder.pull(), Ok(Some(Decoded::Frame(heartbeat(1)))));
        assert!(!decoder.mid_frame());
    }

    #[test]
    fn unknown_types_are_told_apart_by_the_critical_bit() {
        for critical in [false, true] {
            let mut bytes = Frame::encode(&heartbeat(1), 1).unwrap();
            bytes[6..8].copy_from_slice(&999u16.to_le_bytes());
            bytes[8] = u8::from(critical);
            // the version of a message nobody knows does not matter
            bytes[4] = 77;
            let mut decoder = Decoder::new();
            decoder.push(&bytes);
            let unknown = Decoded::Unknown { kind: 999, critical, handoff: HandoffId(7), epoch: Epoch(3) };
            assert_eq!(decoder.pull(), Ok(Some(unknown)));
        }
    }

    #[test]
    fn a_version_we_do_not_speak_is_named() {
        let error = WireError::Version { message: "Heartbeat", version: 2 };
        assert_eq!(Frame::encode(&heartbeat(1), 2), Err(error.clone()));
        let mut bytes = Frame::encode(&heartbeat(1), 1).unwrap();
        bytes[4] = 2;
        let mut decoder = Decoder::new();
        decoder.push(&bytes);
        assert_eq!(decoder.pull(), Err(error));
    }
}
