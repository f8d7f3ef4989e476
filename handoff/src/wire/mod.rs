//! Frames, messages and versions: bytes become types here and nowhere else.

mod message;

pub use message::{
    FileId, Formats, Hello, HelloAck, Message, ParkedEntry, Refused, Role, Stamped, Standing, Strategy,
};
