//! Replies as bytes.

use std::io::Write as _;

/// Output for one client: replies in the order of their commands, and messages of its subscriptions.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    bytes: Vec<u8>,
    sent: usize,
}

impl Replies {
    /// Output that was encoded before.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// What is still to be sent.
    pub(crate) fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// The first `n` bytes of it are sent.
    pub(crate) fn consume(&mut self, n: usize) {
        self.sent += n;
        if self.sent == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(64 << 10);
            self.sent = 0;
        } else if self.sent > self.bytes.len() / 2 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Takes back all but the first `n` unsent bytes.
    pub(crate) fn truncate(&mut self, n: usize) {
        self.bytes.truncate(self.sent + n);
    }

    pub(crate) fn ok(&mut self) {
        self.bytes.extend_from_slice(b"+OK\r\n");
    }

    pub(crate) fn simple(&mut self, text: &str) {
        self.bytes.push(b'+');
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// `text` begins with the error's code. A line break in it would end the reply early.
    pub(crate) fn error(&mut self, text: &str) {
        self.bytes.push(b'-');
        self.bytes.extend(text.bytes().map(|b| if matches!(b, b'\r' | b'\n') { b' ' } else { b }));
        self.bytes.extend_from_slice(b"\r\n");
    }

    pub(crate) fn integer(&mut self, n: i64) {
        match n {
            0 => self.bytes.extend_from_slice(b":0\r\n"),
            1 => self.bytes.extend_from_slice(b":1\r\n"),
            n => self.number(b':', n),
        }
    }

    pub(crate) fn count(&mut self, n: usize) {
        self.integer(i64::try_from(n).unwrap_or(i64::MAX));
    }

    pub(crate) fn bulk(&mut self, value: &[u8]) {
        self.number(b'$', value.len());
        self.bytes.extend_from_slice(value);
        self.bytes.extend_from_slice(b"\r\n");
    }

    pub(crate) fn nil(&mut self) {
        self.bytes.extend_from_slice(b"$-1\r\n");
    }

    pub(crate) fn optional(&mut self, value: Option<&[u8]>) {
        match value {
            Some(value) => self.bulk(value),
            None => self.nil(),
        }
    }

    /// The head of an array: `n` replies follow.
    pub(crate) fn array(&mut self, n: usize) {
        self.number(b'*', n);
    }

    fn number(&mut self, kind: u8, n: impl std::fmt::Display) {
        self.bytes.push(kind);
        write!(self.bytes, "{n}\r\n").expect("a Vec takes all bytes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_framed() {
        let mut r = Replies::default();
        r.ok();
        r.error("ERR two\r\nlines");
        r.integer(-7);
        r.array(2);
        r.bulk(b"a\r\n");
        r.nil();
        assert_eq!(
            r.unsent().escape_ascii().to_string(),
            "+OK\\r\\n-ERR two  lines\\r\\n:-7\\r\\n*2\\r\\n$3\\r\\na\\r\\n\\r\\n$-1\\r\\n"
        );
    }
}
