//! Connections that have an upgrade happen in the middle of their talk.

use super::own::{expect, int};
use crate::client::{Client, Fault, command};
use crate::history::{Ledger, Tally};
use std::net::SocketAddrV4;
use std::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Half,
    Unread,
}

/// A connection that has an upgrade happen in the middle of its talk.
#[derive(Debug)]
pub(super) struct Held {
    who: String,
    key: String,
    addr: SocketAddrV4,
    n: usize,
    kind: Kind,
    client: Option<Client>,
    round: u64,
    rest: Vec<u8>,
    pub(super) ledger: Ledger,
}

/// Requests on a connection whose replies stay unread, and the size of every eighth of those replies.
const UNREAD: u64 = 256;
const LARGE: usize = 16 * 1024;

impl Held {
    pub(super) fn new(addr: SocketAddrV4, prefix: &str, n: usize, kind: Kind) -> Held {
        let who = match kind {
            Kind::Half => format!("half {n}"),
            Kind::Unread => format!("unread {n}"),
        };
        let key = format!("{prefix}:{}", who.replace(' ', ":"));
        Held { who, key, addr, n, kind, client: None, round: 0, rest: Vec::new(), ledger: Ledger::default() }
    }

    /// The connection is gone, and with it the word on what was done of what was asked.
    fn lose(&mut self, fault: &Fault, tally: &mut Tally) {
        tally.fault(&self.who, fault);
        self.client = None;
        match self.kind {
            Kind::Half => drop(self.ledger.values.remove(&self.key)),
            Kind::Unread => (0..UNREAD).for_each(|_| self.ledger.increment_unknown(&self.key)),
        }
    }

    pub(super) fn begin(&mut self, tally: &mut Tally) {
        self.round += 1;
        if let Err(fault) = self.try_begin() {
            self.lose(&fault, tally);
        }
    }

    fn try_begin(&mut self) -> Result<(), Fault> {
        if self.client.is_none() {
            let mut client = match self.kind {
                Kind::Half => Client::connect(self.addr.into())?,
                Kind::Unread => Client::connect_narrow(self.addr)?,
            };
            // answered once, so that it is an established connection and not one in the backlog
            client.ask("PING")?;
            self.client = Some(client);
        }
        let (key, round, n) = (self.key.clone(), self.round, self.n);
        let Some(client) = self.client.as_mut() else { return Err(Fault::Closed) };
        match self.kind {
            Kind::Half => {
                let bytes = command(&[b"SET", key.as_bytes(), format!("round-{round}").as_bytes()]);
                // every client cuts elsewhere: in the header, in a length, in a word, in a line end
                let cut = 1 + (n * 7 + 2) % (bytes.len() - 1);
                client.send_raw(&bytes[..cut])?;
                self.rest = bytes[cut..].to_vec();
            }
            Kind::Unread => {
                let mut bytes = Vec::new();
                let large = vec![b'x'; LARGE];
                for i in 0..UNREAD {
                    if i.is_multiple_of(8) {
                        bytes.extend_from_slice(&command(&[b"ECHO", &large]));
                    } else {
                        bytes.extend_from_slice(&command(&[b"INCR", key.as_bytes()]));
                    }
                }
                // the server may stop reading while nobody reads its replies: the rest is sent when they are read
                self.rest = send_what_fits(client, &bytes)?;
                client.awaits(UNREAD);
            }
        }
        Ok(())
    }

    pub(super) fn complete(&mut self, tally: &mut Tally) {
        if self.client.is_none() {
            return;
        }
        let began = Instant::now();
        match self.try_complete(tally) {
            Ok(answers) => (0..answers).for_each(|_| tally.answer(began.elapsed())),
            Err(fault) => self.lose(&fault, tally),
        }
    }

    fn try_complete(&mut self, tally: &mut Tally) -> Result<u64, Fault> {
        let key = self.key.clone();
        let Some(client) = self.client.as_mut() else { return Ok(0) };
        let rest = std::mem::take(&mut self.rest);
        match self.kind {
            Kind::Half => {
                client.quiet()?;
                client.send_raw(&rest)?;
                client.awaits(1);
                expect(client.reply()?, "OK")?;
                self.ledger.values.insert(key, format!("round-{}", self.round));
                Ok(1)
            }
            Kind::Unread => {
                // one thread writes what is left while this one reads
                let mut writer = client.writer()?;
                let sent = std::thread::spawn(move || writer.send_raw(&rest));
                for i in 0..UNREAD {
                    let reply = client.reply()?;
                    if i.is_multiple_of(8) {
                        if reply.text().map(|t| t.len()) != Some(LARGE) {
                            return Err(Fault::Wrong(format!("reply {i} is not the echo")));
                        }
                    } else {
                        self.ledger.incremented(&key, int(&reply)?, tally);
                    }
                }
                sent.join().map_err(|_| Fault::Other("the writer panicked".into()))??;
                Ok(UNREAD)
            }
        }
    }
}

/// Sends until the kernel takes no more; what is left.
fn send_what_fits(client: &mut Client, bytes: &[u8]) -> Result<Vec<u8>, Fault> {
    let sent = client.send_some(bytes)?;
    Ok(bytes[sent..].to_vec())
}
