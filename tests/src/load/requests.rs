//! Clients that ask one thing after the other.

use super::own::{Own, PACE, expect, int};
use crate::client::{Client, Fault};
use std::time::Instant;

pub(super) fn busy(own: &mut Own, n: usize) {
    let who = format!("busy {n}");
    let me = format!("{}:busy:{n}", own.prefix);
    let (counter, piped) = (format!("{me}:count"), format!("{me}:piped"));
    let mut connection = None;
    let mut round = 0_u64;
    while own.running() {
        let Some(mut client) = connection.take().or_else(|| own.connect(&who)) else { continue };
        round += 1;
        match busy_round(own, &mut client, round, &me, &counter, &piped) {
            Ok(()) => {
                connection = Some(client);
                own.rest();
            }
            Err(fault) => {
                own.tally.fault(&who, &fault);
                // replies may still be under way: only a new connection is in step
            }
        }
    }
}

fn busy_round(
    own: &mut Own,
    c: &mut Client,
    round: u64,
    me: &str,
    counter: &str,
    piped: &str,
) -> Result<(), Fault> {
    let began = Instant::now();
    match c.call(&[b"INCR", counter.as_bytes()]) {
        Ok(reply) => own.ledger.incremented(counter, int(&reply)?, &mut own.tally),
        Err(fault) => {
            own.ledger.increment_failed(counter, &fault);
            return Err(fault);
        }
    }
    own.answer(began.elapsed());

    let (key, value) = (format!("{me}:{}", round % 64), format!("value-{round}"));
    let began = Instant::now();
    own.ledger.values.remove(&key);
    expect(c.call(&[b"SET", key.as_bytes(), value.as_bytes()])?, "OK")?;
    own.ledger.values.insert(key.clone(), value.clone());
    own.answer(began.elapsed());

    let began = Instant::now();
    match c.call(&[b"GET", key.as_bytes()])?.text() {
        Some(found) if found == value => {}
        found => own.tally.lose(1, format!("{key}: {found:?} read, {value:?} acknowledged")),
    }
    own.answer(began.elapsed());

    if round.is_multiple_of(16) {
        let began = Instant::now();
        for _ in 0..8 {
            own.ledger.increment_unknown(piped);
            c.send(&[b"INCR", piped.as_bytes()])?;
        }
        for left in (0..8).rev() {
            let value = int(&c.reply()?)?;
            own.ledger.incremented(piped, value, &mut own.tally);
            for _ in 0..left {
                own.ledger.increment_unknown(piped);
            }
            own.answer(began.elapsed());
        }
    }
    Ok(())
}

pub(super) fn library(own: &mut Own, n: usize) {
    let who = format!("library {n}");
    let counter = format!("{}:library:{n}:count", own.prefix);
    let mut connection = None;
    while own.running() {
        let Some(mut client) = connection.take().or_else(|| library_connect(own, &who)) else { continue };
        let began = Instant::now();
        match redis::cmd("INCR").arg(&counter).query::<i64>(&mut client) {
            Ok(value) => {
                own.ledger.incremented(&counter, value, &mut own.tally);
                own.answer(began.elapsed());
                connection = Some(client);
                own.rest();
            }
            Err(e) => {
                own.ledger.increment_unknown(&counter);
                own.tally.fault(&who, &library_fault(&e));
            }
        }
    }
}

fn library_connect(own: &mut Own, who: &str) -> Option<redis::Connection> {
    let began = Instant::now();
    match redis::Client::open(format!("redis://{}/", own.addr)).and_then(|client| client.get_connection()) {
        Ok(connection) => {
            own.tally.connect(began.elapsed());
            Some(connection)
        }
        Err(e) => {
            own.not_connected(who, &library_fault(&e));
            None
        }
    }
}

fn library_fault(e: &redis::RedisError) -> Fault {
    if e.is_connection_refusal() {
        Fault::Refused
    } else if e.is_connection_dropped() || e.is_io_error() {
        Fault::Reset
    } else {
        Fault::ErrorReply(e.to_string())
    }
}

pub(super) fn fresh(own: &mut Own, n: usize) {
    let who = format!("fresh {n}");
    let counter = format!("{}:fresh:{n}:count", own.prefix);
    while own.running() {
        let began = Instant::now();
        let Some(mut client) = own.connect(&who) else { continue };
        match client.call(&[b"INCR", counter.as_bytes()]).and_then(|reply| int(&reply)) {
            Ok(value) => {
                own.ledger.incremented(&counter, value, &mut own.tally);
                own.answer(began.elapsed());
            }
            Err(fault) => {
                own.ledger.increment_failed(&counter, &fault);
                own.tally.fault(&who, &fault);
            }
        }
        own.pace(PACE);
    }
}
