//! Commands on values.

use crate::command::{Done, Refusal, Turn, integer, wrong_number};
use crate::operation::Operation;
use crate::plant;
use crate::protocol::{Args, MAX_COMMAND};

pub(crate) fn get(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    // a bug that an oracle of the crash matrix has to find: what was true before the handoff
    if handoff::crash::planted("O2-stale")
        && let Some(old) = plant::recall(&args[1])
    {
        turn.replies.bulk(&old);
        return Ok(());
    }
    turn.replies.optional(turn.ledger.store().get(&args[1], turn.now).map(|e| &e.value[..]));
    Ok(())
}

pub(crate) fn mget(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    turn.replies.array(args.len() - 1);
    for key in args.from(1) {
        turn.replies.optional(turn.ledger.store().get(key, turn.now).map(|e| &e.value[..]));
    }
    Ok(())
}

pub(crate) fn strlen(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    turn.replies.count(turn.ledger.store().get(&args[1], turn.now).map_or(0, |e| e.value.len()));
    Ok(())
}

pub(crate) fn set(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    let options = SetOptions::parse(turn.now, args)?;
    let key = &args[1];
    let present = turn.ledger.store().get(key, turn.now);
    let allowed = match options.only_if {
        None => true,
        Some(OnlyIf::Absent) => present.is_none(),
        Some(OnlyIf::Present) => present.is_some(),
        Some(OnlyIf::Equal(expected)) => present.is_some_and(|e| e.value == expected),
    };
    let expires = if options.keep_ttl { present.and_then(|e| e.expires) } else { options.expires };
    match (options.get, allowed) {
        (true, _) => turn.replies.optional(present.map(|e| &e.value[..])),
        (false, true) => turn.replies.ok(),
        (false, false) => turn.replies.nil(),
    }
    if allowed {
        turn.ledger.commit(&Operation::Set { key, value: &args[2], expires });
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum OnlyIf<'a> {
    Absent,
    Present,
    /// Compare and set, as in Redis 8.4: what it compares with is the whole value, and an absent key has none.
    Equal(&'a [u8]),
}

#[derive(Default)]
struct SetOptions<'a> {
    only_if: Option<OnlyIf<'a>>,
    expires: Option<u64>,
    keep_ttl: bool,
    get: bool,
}

impl<'a> SetOptions<'a> {
    fn parse(now: u64, args: Args<'a>) -> Result<Self, Refusal> {
        let mut options = Self::default();
        let mut rest = args.from(3);
        while let Some(word) = rest.next() {
            let timed = options.expires.is_some() || options.keep_ttl;
            match word.to_ascii_uppercase().as_slice() {
                b"NX" if matches!(options.only_if, None | Some(OnlyIf::Absent)) => {
                    options.only_if = Some(OnlyIf::Absent);
                }
                b"XX" if matches!(options.only_if, None | Some(OnlyIf::Present)) => {
                    options.only_if = Some(OnlyIf::Present);
                }
                b"IFEQ" if options.only_if.is_none() => {
                    options.only_if = Some(OnlyIf::Equal(rest.next().ok_or(Refusal::SYNTAX)?));
                }
                b"GET" => options.get = true,
                b"KEEPTTL" if !timed => options.keep_ttl = true,
                unit @ (b"EX" | b"PX" | b"EXAT" | b"PXAT") if !timed => {
                    let time = integer(rest.next().ok_or(Refusal::SYNTAX)?)?;
                    let scale = if unit.starts_with(b"EX") { 1000 } else { 1 };
                    let base = if unit.ends_with(b"AT") { 0 } else { now };
                    let at = u64::try_from(time)
                        .ok()
                        .filter(|&t| t > 0)
                        .and_then(|t| t.checked_mul(scale)?.checked_add(base));
                    let at = at.filter(|&at| i64::try_from(at).is_ok());
                    options.expires =
                        Some(at.ok_or(Refusal::new("ERR invalid expire time in 'set' command"))?);
                }
                _ => return Err(Refusal::SYNTAX),
            }
        }
        Ok(options)
    }
}

pub(crate) fn setnx(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    let absent = turn.ledger.store().get(&args[1], turn.now).is_none();
    if absent {
        turn.ledger.commit(&Operation::Set { key: &args[1], value: &args[2], expires: None });
    }
    turn.replies.integer(absent.into());
    Ok(())
}

pub(crate) fn getset(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    turn.replies.optional(turn.ledger.store().get(&args[1], turn.now).map(|e| &e.value[..]));
    turn.ledger.commit(&Operation::Set { key: &args[1], value: &args[2], expires: None });
    Ok(())
}

pub(crate) fn mset(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    if args.len().is_multiple_of(2) {
        return Err(wrong_number("mset"));
    }
    let pairs = args.from(1).step_by(2).zip(args.from(2).step_by(2)).collect();
    turn.ledger.commit(&Operation::SetMany(pairs));
    turn.replies.ok();
    Ok(())
}

pub(crate) fn append(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    let (key, value) = (&args[1], &args[2]);
    let length = match turn.ledger.store().get(key, turn.now) {
        Some(entry) => entry.value.len() + value.len(),
        None => value.len(),
    };
    // a snapshot has to hold it in one record
    if length + key.len() > MAX_COMMAND {
        return Err(Refusal::new("ERR string exceeds maximum allowed size (proto-max-bulk-len)"));
    }
    let operation = if length > value.len() || turn.ledger.store().get(key, turn.now).is_some() {
        Operation::Append { key, value }
    } else {
        Operation::Set { key, value, expires: None }
    };
    turn.ledger.commit(&operation);
    // a bug that an oracle of the crash matrix has to find: acknowledged once, applied twice
    if handoff::crash::planted("O2") {
        turn.ledger.commit(&Operation::Append { key, value });
    }
    turn.replies.count(length);
    Ok(())
}

pub(crate) fn incr(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    add(turn, &args[1], 1)
}

pub(crate) fn decr(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    add(turn, &args[1], -1)
}

pub(crate) fn incrby(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    add(turn, &args[1], integer(&args[2])?)
}

pub(crate) fn decrby(turn: &mut Turn<'_>, args: Args<'_>) -> Done {
    let by = integer(&args[2])?.checked_neg().ok_or(Refusal::new("ERR decrement would overflow"))?;
    add(turn, &args[1], by)
}

fn add(turn: &mut Turn<'_>, key: &[u8], by: i64) -> Done {
    let (before, expires) = match turn.ledger.store().get(key, turn.now) {
        Some(entry) => (integer(&entry.value)?, entry.expires),
        None => (0, None),
    };
    // a bug that an oracle of the crash matrix has to find
    let by = if handoff::crash::planted("O2-order") && before % 8 == 7 { by + 1 } else { by };
    let after = before.checked_add(by).ok_or(Refusal::new("ERR increment or decrement would overflow"))?;
    turn.ledger.commit(&Operation::Set { key, value: after.to_string().as_bytes(), expires });
    turn.replies.integer(after);
    Ok(())
}
