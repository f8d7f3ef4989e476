//! From arguments to a command: the table of all commands, and the rules that hold for each of them.

use crate::commands::{connection, keys, pubsub, server as about, strings};
use crate::ledger::Ledger;
use crate::protocol::{Args, Replies};
use crate::server::{Mailbox, Server};
use std::borrow::Cow;

/// A client as its commands see it.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: u64,
    /// Number of its channels.
    pub(crate) channels: usize,
    /// It is answered and disconnected.
    pub(crate) closing: bool,
}

/// What a command works with.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    pub(crate) server: &'a Server,
    pub(crate) ledger: &'a mut Ledger,
    pub(crate) session: &'a mut Session,
    pub(crate) mailbox: &'a mut Mailbox,
    pub(crate) replies: &'a mut Replies,
    /// Unix milliseconds.
    pub(crate) now: u64,
}

/// Why a command did nothing, worded as Redis does: clients look at it.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) Cow<'static, str>);

pub(crate) type Done = Result<(), Refusal>;

impl Refusal {
    pub(crate) const SYNTAX: Refusal = Refusal(Cow::Borrowed("ERR syntax error"));
    pub(crate) const INTEGER: Refusal = Refusal(Cow::Borrowed("ERR value is not an integer or out of range"));

    pub(crate) fn new(text: impl Into<Cow<'static, str>>) -> Self {
        Self(text.into())
    }
}

/// One command of the table.
#[derive(Debug)]
pub(crate) struct Command {
    /// In capitals.
    pub(crate) name: &'static str,
    /// Number of arguments with the name; negative: at least so many.
    pub(crate) arity: i8,
    pub(crate) kind: Kind,
    /// Which arguments are keys: first, last, step.
    pub(crate) keys: (i8, i8, i8),
    run: fn(&mut Turn<'_>, Args<'_>) -> Done,
}

/// What a command may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    /// It makes the data larger: refused when there is no memory.
    Grow,
    /// It makes the data smaller.
    Shrink,
    /// Nothing with data; allowed to a subscriber too.
    Talk,
    /// Nothing with data.
    Admin,
}

macro_rules! table {
    ($($name:literal $arity:literal $kind:ident $keys:tt $run:path;)*) => {
        &[$(Command { name: $name, arity: $arity, kind: Kind::$kind, keys: $keys, run: $run }),*]
    };
}

/// All commands, by name.
pub(crate) static TABLE: &[Command] = table! {
    "APPEND" 3 Grow (1, 1, 1) strings::append;
    "CLIENT" -2 Admin (0, 0, 0) connection::client;
    "COMMAND" -1 Admin (0, 0, 0) about::command;
    "CONFIG" -2 Admin (0, 0, 0) about::config;
    "DBSIZE" 1 Read (0, 0, 0) keys::dbsize;
    "DECR" 2 Grow (1, 1, 1) strings::decr;
    "DECRBY" 3 Grow (1, 1, 1) strings::decrby;
    "DEL" -2 Shrink (1, -1, 1) keys::del;
    "ECHO" 2 Admin (0, 0, 0) connection::echo;
    "EXISTS" -2 Read (1, -1, 1) keys::exists;
    "EXPIRE" -3 Shrink (1, 1, 1) keys::expire;
    "FLUSHALL" -1 Shrink (0, 0, 0) keys::flush;
    "FLUSHDB" -1 Shrink (0, 0, 0) keys::flush;
    "GET" 2 Read (1, 1, 1) strings::get;
    "GETSET" 3 Grow (1, 1, 1) strings::getset;
    "HELLO" -1 Admin (0, 0, 0) connection::hello;
    "INCR" 2 Grow (1, 1, 1) strings::incr;
    "INCRBY" 3 Grow (1, 1, 1) strings::incrby;
    "INFO" -1 Admin (0, 0, 0) about::info;
    "KEYS" 2 Read (0, 0, 0) keys::keys;
    "MGET" -2 Read (1, -1, 1) strings::mget;
    "MSET" -3 Grow (1, -1, 2) strings::mset;
    "PERSIST" 2 Shrink (1, 1, 1) keys::persist;
    "PEXPIRE" -3 Shrink (1, 1, 1) keys::pexpire;
    "PING" -1 Talk (0, 0, 0) connection::ping;
    "PTTL" 2 Read (1, 1, 1) keys::pttl;
    "PUBLISH" 3 Admin (0, 0, 0) pubsub::publish;
    "QUIT" -1 Talk (0, 0, 0) connection::quit;
    "SCAN" -2 Read (0, 0, 0) keys::scan;
    "SELECT" 2 Admin (0, 0, 0) connection::select;
    "SET" -3 Grow (1, 1, 1) strings::set;
    "SETNX" 3 Grow (1, 1, 1) strings::setnx;
    "STRLEN" 2 Read (1, 1, 1) strings::strlen;
    "SUBSCRIBE" -2 Talk (0, 0, 0) pubsub::subscribe;
    "TTL" 2 Read (1, 1, 1) keys::ttl;
    "TYPE" 2 Read (1, 1, 1) keys::kind;
    "UNSUBSCRIBE" -1 Talk (0, 0, 0) pubsub::unsubscribe;
};

/// The command of this name, in any case.
pub(crate) fn find(name: &[u8]) -> Option<&'static Command> {
    let mut capitals = [0; 16];
    let capitals = capitals.get_mut(..name.len())?;
    capitals.copy_from_slice(name);
    capitals.make_ascii_uppercase();
    let found = TABLE.binary_search_by(|command| command.name.as_bytes().cmp(capitals)).ok()?;
    TABLE.get(found)
}

/// Executes one command and answers it.
pub(crate) fn execute(turn: &mut Turn<'_>, args: Args<'_>) {
    // an empty line
    let Some(name) = args.at(0) else { return };
    if let Err(Refusal(text)) = attempt(turn, name, args) {
        turn.replies.error(&text);
    }
}

fn attempt(turn: &mut Turn<'_>, name: &[u8], args: Args<'_>) -> Done {
    let Some(command) = find(name) else {
        let beginning: String = args
            .from(1)
            .take(8)
            .map(|arg| format!("'{}' ", String::from_utf8_lossy(&arg[..arg.len().min(64)])))
            .collect();
        let name = String::from_utf8_lossy(&name[..name.len().min(128)]);
        return Err(Refusal::new(format!(
            "ERR unknown command '{name}', with args beginning with: {beginning}"
        )));
    };
    let wanted = usize::from(command.arity.unsigned_abs());
    if args.len() < wanted || (command.arity > 0 && args.len() > wanted) {
        return Err(wrong_number(&command.name.to_lowercase()));
    }
    if turn.session.channels > 0 && command.kind != Kind::Talk {
        return Err(Refusal::new(format!(
            "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
            command.name.to_lowercase()
        )));
    }
    if !turn.ledger.is_writer() && matches!(command.kind, Kind::Grow | Kind::Shrink) {
        return Err(Refusal::new("READONLY this server has not taken over yet: it writes nothing"));
    }
    let limit = turn.server.args.max_memory;
    if limit > 0 && command.kind == Kind::Grow && turn.ledger.store().bytes() > limit {
        return Err(Refusal::new("OOM command not allowed when used memory > 'maxmemory'."));
    }
    (command.run)(turn, args)
}

/// `name` in small letters, with its subcommand after a `|`.
pub(crate) fn wrong_number(name: &str) -> Refusal {
    Refusal::new(format!("ERR wrong number of arguments for '{name}' command"))
}

/// An integer as Redis reads it: no spaces, no plus sign.
pub(crate) fn integer(text: &[u8]) -> Result<i64, Refusal> {
    std::str::from_utf8(text)
        .ok()
        .filter(|t| !t.starts_with('+'))
        .and_then(|t| t.parse().ok())
        .ok_or(Refusal::INTEGER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_in_any_case() {
        assert!(TABLE.is_sorted_by_key(|c| c.name));
        for command in TABLE {
            assert!(std::ptr::eq(find(command.name.to_lowercase().as_bytes()).unwrap(), command));
        }
        assert!(find(b"nosuch").is_none() && find(b"averyveryverylongname").is_none() && find(b"").is_none());
    }
}
