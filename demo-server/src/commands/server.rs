//! Commands about the server.

use crate::args::Fsync;
use crate::command::{self, Command, Done, Kind, Refusal, TABLE, Turn, wrong_number};
use crate::protocol::{Args, MAX_COMMAND, Replies};
use std::fmt::Write as _;
use std::sync::atomic::Ordering;

pub(crate) fn command(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    let word = args.at(1).map(<[u8]>::to_ascii_uppercase);
    match word.as_deref() {
        None => {
            turn.replies.array(TABLE.len());
            TABLE.iter().for_each(|command| describe(turn.replies, command));
        }
        Some(b"COUNT") => turn.replies.count(TABLE.len()),
        // documentation is optional for clients
        Some(b"DOCS") => turn.replies.array(0),
        Some(b"INFO") => {
            turn.replies.array(args.len() - 2);
            for name in args.from(2) {
                match command::find(name) {
                    Some(command) => describe(turn.replies, command),
                    None => turn.replies.raw(b"*-1\r\n"),
                }
            }
        }
        Some(b"LIST") => {
            turn.replies.array(TABLE.len());
            TABLE.iter().for_each(|command| turn.replies.bulk(command.name.to_lowercase().as_bytes()));
        }
        Some(_) => {
            let word = String::from_utf8_lossy(&args[1][..args[1].len().min(128)]).into_owned();
            return Err(Refusal::new(format!("ERR unknown subcommand '{word}'. Try COMMAND HELP.")));
        }
    }
    Ok(())
}

fn describe(replies: &mut Replies, command: &Command) {
    let flags: &[&str] = match command.kind {
        Kind::Read => &["readonly"],
        Kind::Grow => &["write", "denyoom"],
        Kind::Shrink => &["write"],
        Kind::Talk => &["loading", "stale", "fast"],
        Kind::Admin => &["loading", "stale"],
    };
    replies.array(6);
    replies.bulk(command.name.to_lowercase().as_bytes());
    replies.integer(command.arity.into());
    replies.array(flags.len());
    flags.iter().for_each(|flag| replies.simple(flag));
    let (first, last, step) = command.keys;
    [first, last, step].into_iter().for_each(|n| replies.integer(n.into()));
}

pub(crate) fn config(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    if !args[1].eq_ignore_ascii_case(b"GET") {
        return Err(Refusal::new(
            "ERR the configuration is given on the command line; only CONFIG GET is known",
        ));
    }
    if args.len() < 3 {
        return Err(wrong_number("config|get"));
    }
    let given = &turn.server.args;
    let fsync = if given.fsync == Fsync::Always { "always" } else { "everysec" };
    let all = [
        ("appendfsync", fsync.to_owned()),
        ("appendonly", "yes".to_owned()),
        ("databases", "1".to_owned()),
        ("dir", turn.server.data_dir.display().to_string()),
        ("maxclients", given.max_clients.to_string()),
        ("maxmemory", given.max_memory.to_string()),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("proto-max-bulk-len", MAX_COMMAND.to_string()),
        ("save", String::new()),
    ];
    let wanted =
        |name: &str| args.from(2).any(|pattern| matches(&pattern.to_ascii_lowercase(), name.as_bytes()));
    let found: Vec<_> = all.iter().filter(|(name, _)| wanted(name)).collect();
    turn.replies.array(2 * found.len());
    for (name, value) in found {
        turn.replies.bulk(name.as_bytes());
        turn.replies.bulk(value.as_bytes());
    }
    Ok(())
}

pub(crate) fn info(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    let server = turn.server;
    let (clients, channels) = {
        let clients = server.clients();
        (clients.len(), clients.channel_count())
    };
    let store = turn.ledger.store();
    let keyspace = match store.len() {
        0 => String::new(),
        keys => format!("db0:keys={keys},expires={},avg_ttl=0\r\n", store.expiring()),
    };
    let sections = [
        (
            "Server",
            format!(
                "redis_version:7.0.0\r\nserver_name:demo-server\r\nserver_version:{}\r\nredis_mode:standalone\r\n\
                 process_id:{}\r\nrun_id:{}\r\nuptime_in_seconds:{}\r\n",
                env!("CARGO_PKG_VERSION"),
                std::process::id(),
                server.instance,
                server.started.elapsed().as_secs()
            ),
        ),
        (
            "Handoff",
            format!(
                "handoff_instance:{}\r\nhandoff_epoch:{}\r\n",
                server.instance,
                server.epoch.load(Ordering::Relaxed)
            ),
        ),
        ("Clients", format!("connected_clients:{clients}\r\nmaxclients:{}\r\n", server.args.max_clients)),
        ("Memory", format!("used_memory:{}\r\nmaxmemory:{}\r\n", store.bytes(), server.args.max_memory)),
        (
            "Persistence",
            format!("loading:0\r\naof_enabled:1\r\nlog_operations:{}\r\n", turn.ledger.sequence()),
        ),
        (
            "Stats",
            format!(
                "total_connections_received:{}\r\ntotal_commands_processed:{}\r\npubsub_channels:{channels}\r\n",
                server.connections.load(Ordering::Relaxed),
                server.commands.load(Ordering::Relaxed)
            ),
        ),
        ("Replication", "role:master\r\nconnected_slaves:0\r\n".to_owned()),
        ("Keyspace", keyspace),
    ];
    let all = args.len() == 1;
    let wanted = |name: &str| {
        all || args.from(1).any(|word| {
            [name.as_bytes(), b"all", b"everything", b"default"]
                .iter()
                .any(|known| word.eq_ignore_ascii_case(known))
        })
    };
    let mut text = String::new();
    for (name, lines) in sections.iter().filter(|(name, _)| wanted(name)) {
        let gap = if text.is_empty() { "" } else { "\r\n" };
        let _ = write!(text, "{gap}# {name}\r\n{lines}");
    }
    turn.replies.bulk(text.as_bytes());
    Ok(())
}

/// Whether a glob pattern (`*`, `?`, `[a-z]`, `[^a]`, `\x`) matches. No recursion: time is at most pattern x text.
pub(crate) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if let Some(next) = one(pattern, p, text[t]) {
            (p, t) = (next, t + 1);
        } else if let Some((at, from)) = star {
            (p, t, star) = (at + 1, from + 1, Some((at, from + 1)));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&b| b == b'*')
}

/// Where the pattern goes on if its next piece takes this byte.
fn one(pattern: &[u8], p: usize, byte: u8) -> Option<usize> {
    match *pattern.get(p)? {
        b'?' => Some(p + 1),
        b'\\' if p + 1 < pattern.len() => (pattern[p + 1] == byte).then_some(p + 2),
        b'[' => {
            let (mut n, mut hit) = (p + 1, false);
            let negated = pattern.get(n) == Some(&b'^');
            n += usize::from(negated);
            while let Some(&first) = pattern.get(n) {
                match first {
                    b']' => break,
                    b'\\' if n + 1 < pattern.len() => {
                        hit |= pattern[n + 1] == byte;
                        n += 2;
                    }
                    _ if pattern.get(n + 1) == Some(&b'-') && n + 2 < pattern.len() => {
                        let last = pattern[n + 2];
                        hit |= (first.min(last)..=first.max(last)).contains(&byte);
                        n += 3;
                    }
                    _ => {
                        hit |= first == byte;
                        n += 1;
                    }
                }
            }
            (hit != negated).then_some(n + 1).map(|next| next.min(pattern.len()))
        }
        plain => (plain == byte).then_some(p + 1),
    }
}
