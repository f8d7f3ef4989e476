//! Clients that share keys: what they ask for and are told is a history, see [`crate::linear`].

use super::own::{Own, int};
use crate::client::{Client, Fault, Reply};
use crate::crashes::monotonic;
use crate::linear::{Answer, Deed, Operation};
use std::time::{Duration, Instant};

/// Keys in use at a time.
const KEYS: u64 = 16;
/// After so many operations a key is left alone and another one taken: the search for an order grows with the square of
/// that.
const EACH: u64 = 64;
/// Between two operations of a client: often enough that some are under way whenever something is decided, and a fifth of
/// the processor time of a cell at most.
const PACE: Duration = Duration::from_millis(50);

/// Numbers that look like chance and are the same each time: a linear congruential generator.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

pub(super) fn shared(own: &mut Own, n: usize) {
    let who = format!("shared {n}");
    let mut dice = Dice(n as u64 + 1);
    let mut connection = None;
    let mut seen = None;
    let mut round = 0_u64;
    while own.running() {
        let Some(mut client) = connection.take().or_else(|| own.connect(&who)) else { continue };
        round += 1;
        let (key, deed) = choose(own, &mut dice, seen.take(), &format!("{n}.{round};"));
        let (asked, began) = (monotonic(), Instant::now());
        let told = ask(&mut client, &key, &deed);
        let answer = told.as_ref().ok().map(|answer| (monotonic(), answer.clone()));
        match told {
            Ok(answer) => {
                own.answer(began.elapsed());
                connection = Some(client);
                if let Answer::Value(Some(value)) = answer {
                    seen = Some((key.clone(), value));
                }
            }
            // whether it was done is not known: it stays open
            Err(fault) => own.tally.fault(&who, &fault),
        }
        own.tally.operations.push(Operation { client: n, key, deed, asked, answer });
        own.pace(PACE);
    }
}

/// One in three reads, one in three appends, one in three compares with what it has just read and sets.
fn choose(own: &Own, dice: &mut Dice, seen: Option<(String, String)>, text: &str) -> (String, Deed) {
    if let Some((key, old)) = seen
        && dice.below(3) > 0
    {
        return (key, Deed::CompareAndSet { old, new: text.to_owned() });
    }
    let generation = own.shared.turn() / (KEYS * EACH);
    let key = format!("{}:shared:{generation}.{}", own.prefix, dice.below(KEYS));
    let deed = if dice.below(5) < 3 { Deed::Read } else { Deed::Append(text.to_owned()) };
    (key, deed)
}

/// Asks, and waits for the answer.
fn ask(client: &mut Client, key: &str, deed: &Deed) -> Result<Answer, Fault> {
    let key = key.as_bytes();
    match deed {
        Deed::Read => match client.call(&[b"GET", key])? {
            Reply::Bulk(value) => {
                Ok(Answer::Value(value.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())))
            }
            other => Err(Fault::Wrong(format!("a value was expected: {other:?}"))),
        },
        Deed::Append(text) => {
            let length = int(&client.call(&[b"APPEND", key, text.as_bytes()])?)?;
            usize::try_from(length).map(Answer::Length).map_err(|_| Fault::Wrong(format!("length {length}")))
        }
        Deed::CompareAndSet { old, new } => {
            match client.call(&[b"SET", key, new.as_bytes(), b"IFEQ", old.as_bytes()])? {
                Reply::Simple(text) if text == "OK" => Ok(Answer::Set(true)),
                Reply::Bulk(None) => Ok(Answer::Set(false)),
                other => Err(Fault::Wrong(format!("OK or nothing was expected: {other:?}"))),
            }
        }
    }
}

/// What is there in the end: the last word of every history.
pub(super) fn last_words(client: &mut Client, operations: &mut Vec<Operation>) -> Result<(), Fault> {
    let mut keys: Vec<String> = operations.iter().map(|operation| operation.key.clone()).collect();
    keys.sort_unstable();
    keys.dedup();
    for key in keys {
        let asked = monotonic();
        let answer = ask(client, &key, &Deed::Read)?;
        let answer = Some((monotonic(), answer));
        operations.push(Operation { client: usize::MAX, key, deed: Deed::Read, asked, answer });
    }
    Ok(())
}
