//! Commands on keys, whatever they hold.

use super::server::matches;
use crate::command::{Done, Refusal, Turn, integer};
use crate::operation::Operation;
use crate::protocol::Args;

pub(crate) fn del(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    let mut keys: Vec<_> =
        args.from(1).filter(|key| turn.ledger.store().get(key, turn.now).is_some()).collect();
    keys.sort_unstable();
    keys.dedup();
    turn.replies.count(keys.len());
    if !keys.is_empty() {
        turn.ledger.commit(&Operation::Delete(keys));
    }
    Ok(())
}

pub(crate) fn exists(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    turn.replies.count(args.from(1).filter(|key| turn.ledger.store().get(key, turn.now).is_some()).count());
    Ok(())
}

pub(crate) fn kind(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    let present = turn.ledger.store().get(&args[1], turn.now).is_some();
    turn.replies.simple(if present { "string" } else { "none" });
    Ok(())
}

pub(crate) fn expire(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    expire_in(turn, args, 1000, "expire")
}

pub(crate) fn pexpire(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    expire_in(turn, args, 1, "pexpire")
}

fn expire_in(turn: &mut Turn<'_>, args: Args<'_>, scale: i64, name: &str) -> Done {
    let at = integer(&args[2])?.checked_mul(scale).and_then(|ms| ms.checked_add_unsigned(turn.now));
    let at = at.ok_or_else(|| Refusal::new(format!("ERR invalid expire time in '{name}' command")))?;
    let key = &args[1];
    let Some(entry) = turn.ledger.store().get(key, turn.now) else {
        turn.replies.integer(0);
        return Ok(());
    };
    let before = entry.expires;
    // a time in the past deletes
    let at = u64::try_from(at).ok().filter(|&at| at > turn.now);
    let mut allowed = true;
    for option in args.from(3) {
        allowed &= match option.to_ascii_uppercase().as_slice() {
            b"NX" => before.is_none(),
            b"XX" => before.is_some(),
            b"GT" => before.is_some_and(|before| at > Some(before)),
            b"LT" => before.is_none_or(|before| at < Some(before)),
            other => {
                let other = String::from_utf8_lossy(other).into_owned();
                return Err(Refusal::new(format!("ERR Unsupported option {other}")));
            }
        };
    }
    if allowed {
        turn.ledger.commit(&match at {
            Some(_) => Operation::Expire { key, at },
            None => Operation::Delete(vec![key]),
        });
    }
    turn.replies.integer(allowed.into());
    Ok(())
}

pub(crate) fn persist(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    let key = &args[1];
    let ends = turn.ledger.store().get(key, turn.now).is_some_and(|e| e.expires.is_some());
    if ends {
        turn.ledger.commit(&Operation::Expire { key, at: None });
    }
    turn.replies.integer(ends.into());
    Ok(())
}

pub(crate) fn ttl(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    left(turn, &args[1], |ms| (ms + 500) / 1000)
}

pub(crate) fn pttl(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    left(turn, &args[1], |ms| ms)
}

fn left(turn: &mut Turn<'_>, key: &[u8], unit: impl Fn(u64) -> u64) -> Done {
    turn.replies.integer(match turn.ledger.store().get(key, turn.now).map(|e| e.expires) {
        None => -2,
        Some(None) => -1,
        Some(Some(at)) => i64::try_from(unit(at - turn.now)).unwrap_or(i64::MAX),
    });
    Ok(())
}

pub(crate) fn keys(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    let found: Vec<_> = turn.ledger.store().keys(turn.now).filter(|key| matches(&args[1], key)).collect();
    turn.replies.array(found.len());
    for key in found {
        turn.replies.bulk(key);
    }
    Ok(())
}

pub(crate) fn scan(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    let cursor = std::str::from_utf8(&args[1]).ok().and_then(|text| text.parse().ok());
    let cursor = cursor.ok_or(Refusal::new("ERR invalid cursor"))?;
    let (mut pattern, mut count, mut wanted) = (&b"*"[..], 10, true);
    let mut rest = args.from(2);
    while let Some(word) = rest.next() {
        let value = rest.next().ok_or(Refusal::SYNTAX)?;
        match word.to_ascii_uppercase().as_slice() {
            b"MATCH" => pattern = value,
            b"COUNT" => {
                count = usize::try_from(integer(value)?).ok().filter(|&n| n > 0).ok_or(Refusal::SYNTAX)?;
            }
            b"TYPE" => wanted = value.eq_ignore_ascii_case(b"string"),
            _ => return Err(Refusal::SYNTAX),
        }
    }
    let mut found = Vec::new();
    let next = turn.ledger.store().scan(cursor, count, turn.now, |key| {
        if wanted && matches(pattern, key) {
            found.push(key);
        }
    });
    turn.replies.array(2);
    turn.replies.bulk(next.to_string().as_bytes());
    turn.replies.array(found.len());
    for key in found {
        turn.replies.bulk(key);
    }
    Ok(())
}

pub(crate) fn dbsize(turn: &mut Turn<'_>, _: Args<'_>) -> Done {
    turn.replies.count(turn.ledger.store().len());
    Ok(())
}

pub(crate) fn flush(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    if args.len() > 2
        || args.at(1).is_some_and(|how| !matches!(&how.to_ascii_uppercase()[..], b"SYNC" | b"ASYNC"))
    {
        return Err(Refusal::SYNTAX);
    }
    if turn.ledger.store().len() > 0 {
        turn.ledger.commit(&Operation::Clear);
    }
    turn.replies.ok();
    Ok(())
}
