//! Commands about the client's own connection.

use crate::command::{Done, Refusal, Turn, integer, wrong_number};
use crate::protocol::Args;
use crate::server::{Client, unix_ms};

pub(crate) fn ping(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    match args.at(1) {
        _ if args.len() > 2 => return Err(wrong_number("ping")),
        text if turn.session.channels > 0 => {
            turn.replies.array(2);
            turn.replies.bulk(b"pong");
            turn.replies.bulk(text.unwrap_or_default());
        }
        Some(text) => turn.replies.bulk(text),
        None => turn.replies.simple("PONG"),
    }
    Ok(())
}

pub(crate) fn echo(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    turn.replies.bulk(&args[1]);
    Ok(())
}

pub(crate) fn quit(turn: &mut Turn<'_>, _: Args<'_>) -> Done {
    turn.replies.ok();
    turn.session.closing = true;
    Ok(())
}

pub(crate) fn select(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    if integer(&args[1]).map_err(|_| Refusal::new("ERR invalid DB index"))? != 0 {
        return Err(Refusal::new("ERR DB index is out of range"));
    }
    turn.replies.ok();
    Ok(())
}

pub(crate) fn hello(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    if let Some(version) = args.at(1) {
        let version = integer(version)
            .map_err(|_| Refusal::new("ERR Protocol version is not an integer or out of range"))?;
        if version != 2 {
            return Err(Refusal::new("NOPROTO unsupported protocol version"));
        }
    }
    let mut rest = args.from(2);
    while let Some(word) = rest.next() {
        match word.to_ascii_uppercase().as_slice() {
            b"SETNAME" => set_name(turn, rest.next().ok_or(Refusal::SYNTAX)?)?,
            b"AUTH" => return Err(Refusal::new("ERR AUTH called without any password configured")),
            other => {
                let other = String::from_utf8_lossy(other).into_owned();
                return Err(Refusal::new(format!("ERR Syntax error in HELLO option '{other}'")));
            }
        }
    }
    turn.replies.array(14);
    for (name, value) in [("server", "demo-server"), ("version", env!("CARGO_PKG_VERSION"))] {
        turn.replies.bulk(name.as_bytes());
        turn.replies.bulk(value.as_bytes());
    }
    turn.replies.bulk(b"proto");
    turn.replies.integer(2);
    turn.replies.bulk(b"id");
    turn.replies.integer(id(turn.session.id));
    for (name, value) in [("mode", "standalone"), ("role", "master")] {
        turn.replies.bulk(name.as_bytes());
        turn.replies.bulk(value.as_bytes());
    }
    turn.replies.bulk(b"modules");
    turn.replies.array(0);
    Ok(())
}

pub(crate) fn client(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    let word = args[1].to_ascii_uppercase();
    match (word.as_slice(), args.len()) {
        (b"ID", 2) => turn.replies.integer(id(turn.session.id)),
        (b"GETNAME", 2) => {
            let mut clients = turn.server.clients();
            let name = clients.get_mut(turn.session.id).map(|c| &*c.name).filter(|name| !name.is_empty());
            turn.replies.optional(name);
        }
        (b"SETNAME", 3) => {
            set_name(turn, &args[2])?;
            turn.replies.ok();
        }
        (b"SETINFO", 4) => {
            let which = match args[2].to_ascii_uppercase().as_slice() {
                b"LIB-NAME" => 0,
                b"LIB-VER" => 1,
                other => {
                    let other = String::from_utf8_lossy(other).into_owned();
                    return Err(Refusal::new(format!("ERR Unrecognized option '{other}'")));
                }
            };
            let text = plain(&args[3], "CLIENT SETINFO values")?;
            if let Some(client) = turn.server.clients().get_mut(turn.session.id) {
                client.library[which] = text.into();
            }
            turn.replies.ok();
        }
        (b"INFO", 2) => {
            let line = turn.server.clients().get_mut(turn.session.id).map(|c| describe(turn.session.id, c));
            turn.replies.bulk(line.unwrap_or_default().as_bytes());
        }
        (b"LIST", _) => {
            let list: String =
                turn.server.clients().sorted().into_iter().map(|(id, c)| describe(id, c)).collect();
            turn.replies.bulk(list.as_bytes());
        }
        (b"ID" | b"GETNAME" | b"SETNAME" | b"SETINFO" | b"INFO", _) => {
            return Err(wrong_number(&format!("client|{}", String::from_utf8_lossy(&word).to_lowercase())));
        }
        _ => {
            let word = String::from_utf8_lossy(&args[1][..args[1].len().min(128)]).into_owned();
            return Err(Refusal::new(format!("ERR unknown subcommand '{word}'. Try CLIENT HELP.")));
        }
    }
    Ok(())
}

fn set_name(turn: &Turn<'_>, name: &[u8]) -> Done {
    let name = plain(name, "Client names")?;
    if let Some(client) = turn.server.clients().get_mut(turn.session.id) {
        client.name = name.into();
    }
    Ok(())
}

/// Text that cannot break a line of CLIENT LIST.
fn plain<'a>(text: &'a [u8], what: &str) -> Result<&'a [u8], Refusal> {
    if text.len() <= 1024 && text.iter().all(u8::is_ascii_graphic) {
        return Ok(text);
    }
    Err(Refusal::new(format!("ERR {what} cannot contain spaces, newlines or special characters.")))
}

fn describe(id: u64, client: &Client) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!(
        "id={id} addr={} name={} age={} db=0 sub={} resp=2 lib-name={} lib-ver={}\n",
        client.peer,
        text(&client.name),
        unix_ms().saturating_sub(client.since) / 1000,
        client.channels.len(),
        text(&client.library[0]),
        text(&client.library[1]),
    )
}

fn id(id: u64) -> i64 {
    i64::try_from(id).unwrap_or(i64::MAX)
}
