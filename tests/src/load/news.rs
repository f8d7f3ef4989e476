//! Subscribers, and who publishes to them.

use super::own::{Own, PACE, int};
use crate::client::{Client, Fault, Reply};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

const CHANNEL: &str = "news";

pub(super) fn subscriber(
    own: &mut Own,
    n: usize,
    ready: &mpsc::Sender<()>,
    published: &Mutex<mpsc::Receiver<i64>>,
) {
    let who = format!("subscriber {n}");
    let Some(mut client) = own.connect(&who) else { return };
    if let Err(fault) = client.ask(&format!("SUBSCRIBE {CHANNEL}")) {
        own.tally.fault(&who, &fault);
        return;
    }
    own.answer(Duration::ZERO);
    let _ = ready.send(());
    let mut last = 0_i64;
    loop {
        match client.reply() {
            Ok(message) => {
                let Some(text) = payload(&message) else {
                    own.tally.fault(&who, &Fault::Wrong(format!("{message:?}")));
                    continue;
                };
                if text == "end" {
                    break;
                }
                let number = text.parse().unwrap_or(-1);
                if number <= last {
                    own.tally.reorder(format!("{who}: message {number} after {last}"));
                } else if number != last + 1 {
                    let count = u64::try_from(number - last - 1).unwrap_or(1);
                    own.tally.lose(count, format!("{who}: message {number} after {last}"));
                }
                last = number.max(last);
                own.answer(Duration::ZERO);
            }
            Err(fault) => {
                own.tally.fault(&who, &fault);
                return;
            }
        }
    }
    let published = published.lock().unwrap_or_else(PoisonError::into_inner).recv().unwrap_or(0);
    if last < published {
        let count = u64::try_from(published - last).unwrap_or(1);
        own.tally.lose(count, format!("{who}: {last} messages, {published} published"));
    }
}

fn payload(message: &Reply) -> Option<String> {
    match message {
        Reply::Array(items) if items.first().and_then(Reply::text).as_deref() == Some("message") => {
            items.get(2).and_then(Reply::text)
        }
        Reply::Array(_) | Reply::Simple(_) | Reply::Int(_) | Reply::Bulk(_) => None,
    }
}

/// Publishes numbers; each must reach every subscriber.
pub(super) fn publisher(
    own: &mut Own,
    subscribers: usize,
    subscribed: &mpsc::Receiver<()>,
    done: &mpsc::Sender<i64>,
) {
    let who = "publisher";
    for _ in 0..subscribers {
        if subscribed.recv_timeout(crate::client::PATIENCE).is_err() {
            break;
        }
    }
    let mut number = 0_i64;
    if let Some(mut client) = own.connect(who) {
        while own.running() {
            let began = Instant::now();
            let sent = client.ask(&format!("PUBLISH {CHANNEL} {}", number + 1)).and_then(|reply| int(&reply));
            match sent {
                Ok(reached) if usize::try_from(reached) == Ok(subscribers) => {}
                Ok(reached) => {
                    own.tally
                        .fault(who, &Fault::Wrong(format!("{reached} of {subscribers} subscribers reached")));
                }
                Err(fault) => {
                    own.tally.fault(who, &fault);
                    break;
                }
            }
            number += 1;
            own.answer(began.elapsed());
            own.pace(PACE.max(own.pause));
        }
    }
    for _ in 0..subscribers {
        let _ = done.send(number);
    }
    // on a connection of its own: the subscribers are to end, whatever became of the first one
    let end =
        Client::connect(SocketAddr::V4(own.addr)).and_then(|mut c| c.ask(&format!("PUBLISH {CHANNEL} end")));
    if let Err(fault) = end {
        own.tally.fault(who, &fault);
    }
}
