//! RESP2, the protocol of Redis: bytes in, arguments out; replies in, bytes out. Pure: no sockets, no commands.

mod parser;
mod reply;

pub(crate) use parser::{Args, Parser};
pub(crate) use reply::Replies;

/// The longest command and the longest value, in bytes. Redis stops at 512 MiB; a command has to fit a log record.
pub(crate) const MAX_COMMAND: usize = 64 << 20;

/// The most arguments of one command.
pub(crate) const MAX_ARGS: usize = 1 << 20;

/// The longest line that is not a bulk string: an inline command or a length.
pub(crate) const MAX_LINE: usize = 64 << 10;
