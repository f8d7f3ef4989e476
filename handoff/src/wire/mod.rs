//! Frames, messages and versions: bytes become types here and nowhere else.

pub(crate) mod codec;
#[doc(hidden)]
pub mod dialect;
mod frame;
mod frozen;
mod kind;
mod message;
pub mod text;
pub mod version;

pub use frame::{Decoded, Decoder, Frame, HEADER, MAX_DESCRIPTORS, MAX_FRAME, WireError};
pub use kind::MAX_PARKED;
pub(crate) use kind::PREPARE_HANDOFF;
pub use message::{
    FileId, Formats, Hello, HelloAck, Message, ParkedEntry, Refused, Role, Stamped, Standing, Strategy,
};
pub use text::escape;
