//! Commands as clients see them, without sockets and disk.

use crate::args::Args as Options;
use crate::command::{Session, Turn, execute};
use crate::ledger::Ledger;
use crate::log::Stamp;
use crate::protocol::{Parser, Replies};
use crate::server::{Client, Mailbox, Server};
use crate::store::Store;
use clap::Parser as _;
use std::sync::Arc;

/// A client of a server whose clock stands still.
struct Talker {
    server: Arc<Server>,
    session: Session,
    mailbox: Mailbox,
    now: u64,
}

impl Talker {
    fn alone() -> Self {
        Self::with(&["demo-server"])
    }

    fn with(options: &[&str]) -> Self {
        let mut ledger = Ledger::new(Store::default(), 0);
        ledger.tenure(Some(Stamp::default()));
        Self::of(&Server::new(Options::parse_from(options), "/data".into(), "i".into(), ledger))
    }

    fn of(server: &Arc<Server>) -> Self {
        let (client, mailbox) = Client::new("peer:1".into());
        let session = Session { id: server.next_client(), channels: 0, closing: false };
        server.clients().add(session.id, client);
        Self { server: Arc::clone(server), session, mailbox, now: 1_000_000 }
    }

    /// Sends typed lines; gives the raw replies, line ends as `|`.
    fn say(&mut self, lines: &str) -> String {
        let input = format!("{lines}\n");
        let (mut parser, mut rest, mut replies) = (Parser::default(), input.as_bytes(), Replies::default());
        let mut ledger = self.server.books.lock();
        while let Ok(Some(n)) = parser.parse(rest) {
            let mut turn = Turn {
                server: &self.server,
                ledger: &mut ledger,
                session: &mut self.session,
                mailbox: &mut self.mailbox,
                replies: &mut replies,
                now: self.now,
            };
            execute(&mut turn, parser.args(rest));
            rest = &rest[n..];
        }
        let text = String::from_utf8_lossy(replies.unsent()).replace("\r\n", "|");
        text.strip_suffix('|').unwrap_or(&text).to_owned()
    }

    fn check(&mut self, table: &[(&str, &str)]) {
        for (line, reply) in table {
            assert_eq!(self.say(line), *reply, "{line}");
        }
    }
}

#[test]
fn values() {
    Talker::alone().check(&[
        ("GET k", "$-1"),
        ("SET k v", "+OK"),
        ("get k", "$1|v"),
        ("SET k w NX", "$-1"),
        ("SET k w XX GET", "$1|v"),
        ("SET n 1 XX", "$-1"),
        ("SET k x NX XX", "-ERR syntax error"),
        ("SET k x EX 0", "-ERR invalid expire time in 'set' command"),
        ("SET k x EX a", "-ERR value is not an integer or out of range"),
        ("SET k x EX 1 PX 1", "-ERR syntax error"),
        ("SETNX k z", ":0"),
        ("SETNX l z", ":1"),
        ("GETSET l y", "$1|z"),
        ("APPEND l zz", ":3"),
        ("APPEND new a", ":1"),
        ("STRLEN l", ":3"),
        ("MSET a 1 b 2", "+OK"),
        ("MSET a 1 b", "-ERR wrong number of arguments for 'mset' command"),
        ("MGET a no b", "*3|$1|1|$-1|$1|2"),
        ("INCR a", ":2"),
        ("INCRBY a 40", ":42"),
        ("DECR a", ":41"),
        ("DECRBY a 1", ":40"),
        ("INCR k", "-ERR value is not an integer or out of range"),
        ("SET big 9223372036854775807", "+OK"),
        ("INCR big", "-ERR increment or decrement would overflow"),
        ("DECRBY a -9223372036854775808", "-ERR decrement would overflow"),
        ("GET", "-ERR wrong number of arguments for 'get' command"),
        ("NOSUCH a b", "-ERR unknown command 'NOSUCH', with args beginning with: 'a' 'b' "),
    ]);
}

/// Compare and set, as Redis 8.4 has it.
#[test]
fn a_value_is_set_if_it_is_still_the_expected_one() {
    let mut talker = Talker::alone();
    talker.check(&[
        ("SET k new IFEQ old", "$-1"),
        ("EXISTS k", ":0"),
        ("SET k one", "+OK"),
        ("SET k two IFEQ on", "$-1"),
        ("GET k", "$3|one"),
        ("SET k two IFEQ one", "+OK"),
        ("SET k three IFEQ one GET", "$3|two"),
        ("SET k three IFEQ two GET PX 1500", "$3|two"),
        ("GET k", "$5|three"),
        ("PTTL k", ":1500"),
        ("SET k four ifeq three KEEPTTL", "+OK"),
        ("PTTL k", ":1500"),
        ("SET k x IFEQ", "-ERR syntax error"),
        ("SET k x NX IFEQ four", "-ERR syntax error"),
        ("SET k x IFEQ four XX", "-ERR syntax error"),
        ("SET k x IFEQ four IFEQ four", "-ERR syntax error"),
        ("GET k", "$4|four"),
    ]);
    // an expired value is none
    talker.now += 1500;
    talker.check(&[("SET k five IFEQ four", "$-1"), ("EXISTS k", ":0")]);
}

#[test]
fn keys_and_expiry() {
    let mut talker = Talker::alone();
    talker.check(&[
        ("MSET a 1 b 2 c 3", "+OK"),
        ("EXISTS a a no", ":2"),
        ("DEL a a no", ":1"),
        ("TYPE b", "+string"),
        ("TYPE a", "+none"),
        ("DBSIZE", ":2"),
        ("TTL a", ":-2"),
        ("TTL b", ":-1"),
        ("EXPIRE b 10", ":1"),
        ("TTL b", ":10"),
        ("EXPIRE b 5 GT", ":0"),
        ("EXPIRE b 5 LT", ":1"),
        ("EXPIRE b 5 NX", ":0"),
        ("PERSIST b", ":1"),
        ("PERSIST b", ":0"),
        ("EXPIRE no 5", ":0"),
        ("EXPIRE b 5 ZZ", "-ERR Unsupported option ZZ"),
        ("PEXPIRE b 1500", ":1"),
        ("PTTL b", ":1500"),
        ("SET b 7 KEEPTTL", "+OK"),
        ("INCR b", ":8"),
        ("PTTL b", ":1500"),
        ("SET x y PX 1", "+OK"),
    ]);
    talker.now += 1500;
    talker.check(&[
        ("GET b", "$-1"),
        ("EXISTS b", ":0"),
        ("SETNX x z", ":1"),
        ("TTL x", ":-1"),
        ("INCR b", ":1"),
        ("EXPIRE c -1", ":1"),
        ("GET c", "$-1"),
        ("KEYS [a-b]*", "*1|$1|b"),
        ("SCAN 0 COUNT 10000 MATCH x", "*2|$1|0|*1|$1|x"),
        ("SCAN x", "-ERR invalid cursor"),
        ("FLUSHDB", "+OK"),
        ("DBSIZE", ":0"),
    ]);
}

#[test]
fn globs() {
    use super::server::matches;
    for (pattern, text, expected) in [
        ("*", "", true),
        ("a*c", "abbc", true),
        ("a*c*e", "abcde", true),
        ("a*c", "abcd", false),
        ("h?llo", "hello", true),
        ("h[^e]llo", "hello", false),
        ("h[a-f]llo", "hello", true),
        ("h\\?llo", "h?llo", true),
        ("h\\?llo", "hello", false),
        ("[", "a", false),
        ("*a*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
    ] {
        assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
    }
}

#[test]
fn connections() {
    let mut talker = Talker::alone();
    talker.check(&[
        ("PING", "+PONG"),
        ("PING hi", "$2|hi"),
        ("ECHO hi", "$2|hi"),
        ("SELECT 0", "+OK"),
        ("SELECT 1", "-ERR DB index is out of range"),
        ("HELLO 3", "-NOPROTO unsupported protocol version"),
        ("CLIENT GETNAME", "$-1"),
        ("CLIENT SETNAME me", "+OK"),
        ("CLIENT GETNAME", "$2|me"),
        ("CLIENT SETNAME 'a b'", "-ERR Client names cannot contain spaces, newlines or special characters."),
        ("CLIENT SETINFO lib-name redis-rs", "+OK"),
        ("CLIENT SETINFO lib-name", "-ERR wrong number of arguments for 'client|setinfo' command"),
        ("CLIENT WHAT", "-ERR unknown subcommand 'WHAT'. Try CLIENT HELP."),
        ("CONFIG GET appendonly save", "*4|$10|appendonly|$3|yes|$4|save|$0|"),
        ("COMMAND COUNT", &format!(":{}", crate::command::TABLE.len())),
    ]);
    assert!(talker.say("HELLO 2 SETNAME you").starts_with("*14|$6|server|"));
    assert!(talker.say("CLIENT LIST").contains("name=you age=0 db=0 sub=0 resp=2 lib-name=redis-rs"));
    assert!(talker.say("INFO keyspace").ends_with("# Keyspace|"));
    assert_eq!(talker.say("QUIT"), "+OK");
    assert!(talker.session.closing);
}

#[test]
fn channels() {
    let mut talker = Talker::alone();
    let mut other = Talker::of(&talker.server);
    talker.check(&[
        ("UNSUBSCRIBE", "*3|$11|unsubscribe|$-1|:0"),
        ("SUBSCRIBE c d", "*3|$9|subscribe|$1|c|:1|*3|$9|subscribe|$1|d|:2"),
        ("PING", "*2|$4|pong|$0|"),
    ]);
    assert!(talker.say("GET k").starts_with("-ERR Can't execute 'get': only"));
    assert_eq!(other.say("PUBLISH c hi\nPUBLISH no hi"), ":1|:0");
    // what was published before comes before the end of the subscription
    assert_eq!(talker.say("UNSUBSCRIBE c"), "*3|$7|message|$1|c|$2|hi|*3|$11|unsubscribe|$1|c|:1");
    assert_eq!(other.say("PUBLISH c hi"), ":0");
    assert_eq!(talker.say("UNSUBSCRIBE\nGET k"), "*3|$11|unsubscribe|$1|d|:0|$-1");
}

#[test]
fn memory_is_limited() {
    let mut talker = Talker::with(&["demo-server", "--max-memory", "100"]);
    talker.check(&[
        ("SET a 1", "+OK"),
        ("SET b 1", "+OK"),
        ("SET c 1", "-OOM command not allowed when used memory > 'maxmemory'."),
        ("GET a", "$1|1"),
        ("DEL a", ":1"),
        ("SET c 1", "+OK"),
    ]);
}
