//! A client of the Redis protocol that keeps exact account of what went wrong.

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn, sockopt};
use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

/// What a client saw go wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nobody listens.
    Refused,
    /// The connection was reset.
    Reset,
    /// The connection ended between two replies.
    Closed,
    /// The connection ended inside a reply, or while one was awaited.
    Truncated,
    /// The server answered with an error.
    ErrorReply(String),
    /// No answer in time.
    Slow(Duration),
    /// An answer that contradicts what was acknowledged before.
    Wrong(String),
    /// Anything else, as the kernel words it.
    Other(String),
}

impl Fault {
    /// Whether the connection is gone.
    #[must_use]
    pub fn lost_connection(&self) -> bool {
        match self {
            Fault::Reset | Fault::Closed | Fault::Truncated => true,
            Fault::Refused | Fault::ErrorReply(_) | Fault::Slow(_) | Fault::Wrong(_) | Fault::Other(_) => {
                false
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Refused => f.write_str("connection refused"),
            Fault::Reset => f.write_str("connection reset"),
            Fault::Closed => f.write_str("connection closed"),
            Fault::Truncated => f.write_str("connection closed while a reply was awaited"),
            Fault::ErrorReply(text) => write!(f, "error reply: {text}"),
            Fault::Slow(time) => write!(f, "no answer within {time:?}"),
            Fault::Wrong(text) => write!(f, "wrong answer: {text}"),
            Fault::Other(text) => f.write_str(text),
        }
    }
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`
    Simple(String),
    /// `:1`
    Int(i64),
    /// `$3`, or nothing there
    Bulk(Option<Vec<u8>>),
    /// `*2`
    Array(Vec<Reply>),
}

impl Reply {
    /// The text of a simple or bulk reply.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        match self {
            Reply::Simple(text) => Some(text.clone()),
            Reply::Bulk(Some(bytes)) => Some(String::from_utf8_lossy(bytes).into_owned()),
            Reply::Int(n) => Some(n.to_string()),
            Reply::Bulk(None) | Reply::Array(_) => None,
        }
    }
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    patience: Duration,
    awaited: u64,
}

/// How long a client waits for an answer before it counts as a failure.
pub const PATIENCE: Duration = Duration::from_secs(20);

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// [`Fault::Refused`], [`Fault::Reset`], [`Fault::Slow`] or what else the kernel says.
    pub fn connect(addr: SocketAddr) -> Result<Client, Fault> {
        let stream = TcpStream::connect_timeout(&addr, PATIENCE).map_err(|e| fault(&e, PATIENCE))?;
        Client::over(stream)
    }

    /// Connects with a receive buffer so small that replies that are not read pile up at the server.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_narrow(addr: SocketAddrV4) -> Result<Client, Fault> {
        let other = |e: nix::Error| fault(&io::Error::from(e), PATIENCE);
        let fd = socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
            .map_err(other)?;
        socket::setsockopt(&fd, sockopt::RcvBuf, &4096).map_err(other)?;
        socket::connect(fd.as_raw_fd(), &SockaddrIn::from(addr)).map_err(other)?;
        Client::over(TcpStream::from(fd))
    }

    fn over(stream: TcpStream) -> Result<Client, Fault> {
        let set = stream
            .set_nodelay(true)
            .and_then(|()| stream.set_read_timeout(Some(PATIENCE)))
            .and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
        set.map_err(|e| fault(&e, PATIENCE))?;
        Ok(Client { stream, input: Vec::new(), patience: PATIENCE, awaited: 0 })
    }

    /// How many replies are awaited.
    #[must_use]
    pub fn awaited(&self) -> u64 {
        self.awaited
    }

    /// Changes how long [`Client::reply`] waits.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_patience(&mut self, patience: Duration) -> Result<(), Fault> {
        self.patience = patience;
        self.stream.set_read_timeout(Some(patience)).map_err(|e| fault(&e, patience))
    }

    /// Sends a command without waiting for its reply.
    ///
    /// # Errors
    /// A lost connection.
    pub fn send(&mut self, words: &[&[u8]]) -> Result<(), Fault> {
        self.send_raw(&command(words))?;
        self.awaited += 1;
        Ok(())
    }

    /// Sends bytes as they are. Replies to them are not accounted for (see [`Client::awaits`]).
    ///
    /// # Errors
    /// A lost connection.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.stream.write_all(bytes).map_err(|e| fault(&e, self.patience))
    }

    /// Sends without waiting, as much as the kernel takes; says how much that was.
    ///
    /// # Errors
    /// A lost connection.
    pub fn send_some(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        self.stream.set_nonblocking(true).map_err(|e| fault(&e, Duration::ZERO))?;
        let mut sent = 0;
        let end = loop {
            match self.stream.write(&bytes[sent..]) {
                Ok(0) => break Ok(sent),
                Ok(n) => sent += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break Ok(sent),
                Err(e) => break Err(fault(&e, Duration::ZERO)),
            }
        };
        self.stream.set_nonblocking(false).map_err(|e| fault(&e, Duration::ZERO))?;
        end
    }

    /// A second handle on the connection, for writing while this one reads.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn writer(&self) -> Result<Client, Fault> {
        let stream = self.stream.try_clone().map_err(|e| fault(&e, Duration::ZERO))?;
        Ok(Client { stream, input: Vec::new(), patience: self.patience, awaited: 0 })
    }

    /// This many more replies are awaited, after [`Client::send_raw`].
    pub fn awaits(&mut self, replies: u64) {
        self.awaited += replies;
    }

    /// Sends a command and waits for its reply.
    ///
    /// # Errors
    /// The fault; an error reply is one.
    pub fn call(&mut self, words: &[&[u8]]) -> Result<Reply, Fault> {
        self.send(words)?;
        self.reply()
    }

    /// [`Client::call`] with words given as text.
    ///
    /// # Errors
    /// The fault; an error reply is one.
    pub fn ask(&mut self, line: &str) -> Result<Reply, Fault> {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        self.call(&words)
    }

    /// The next reply.
    ///
    /// # Errors
    /// The fault; an error reply is one.
    pub fn reply(&mut self) -> Result<Reply, Fault> {
        let deadline = Instant::now() + self.patience;
        loop {
            match parse(&self.input) {
                Parsed::Whole(reply, used) => {
                    self.input.drain(..used);
                    self.awaited = self.awaited.saturating_sub(1);
                    return reply.map_err(Fault::ErrorReply);
                }
                Parsed::Garbage(why) => return Err(Fault::Wrong(why)),
                Parsed::Part => {}
            }
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) if self.awaited > 0 || !self.input.is_empty() => return Err(Fault::Truncated),
                Ok(0) => return Err(Fault::Closed),
                Ok(n) => self.input.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(fault(&e, self.patience)),
            }
            if Instant::now() > deadline {
                return Err(Fault::Slow(self.patience));
            }
        }
    }

    /// Whether anything came that nobody asked for, or the connection ended. Does not wait.
    ///
    /// # Errors
    /// [`Fault::Closed`], [`Fault::Reset`], or [`Fault::Wrong`] with the bytes.
    pub fn quiet(&mut self) -> Result<(), Fault> {
        self.stream.set_nonblocking(true).map_err(|e| fault(&e, Duration::ZERO))?;
        let mut chunk = [0; 256];
        let seen = self.stream.read(&mut chunk);
        self.stream.set_nonblocking(false).map_err(|e| fault(&e, Duration::ZERO))?;
        match seen {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(e) => Err(fault(&e, Duration::ZERO)),
            Ok(0) => Err(Fault::Closed),
            Ok(n) => Err(Fault::Wrong(format!("unasked: {:?}", String::from_utf8_lossy(&chunk[..n])))),
        }
    }
}

/// A command as clients send it.
#[must_use]
pub fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
    out
}

fn fault(e: &io::Error, patience: Duration) -> Fault {
    match e.kind() {
        io::ErrorKind::ConnectionRefused => Fault::Refused,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
            Fault::Reset
        }
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Fault::Slow(patience),
        _ => Fault::Other(e.to_string()),
    }
}

enum Parsed {
    Whole(Result<Reply, String>, usize),
    Part,
    Garbage(String),
}

fn parse(input: &[u8]) -> Parsed {
    let Some(end) = input.windows(2).position(|w| w == b"\r\n") else { return Parsed::Part };
    let line = String::from_utf8_lossy(&input[1.min(end)..end]).into_owned();
    let used = end + 2;
    let number = || line.parse::<i64>().map_err(|_| Parsed::Garbage(format!("no number: {line:?}")));
    match input[0] {
        b'+' => Parsed::Whole(Ok(Reply::Simple(line)), used),
        b'-' => Parsed::Whole(Err(line), used),
        b':' => match number() {
            Ok(n) => Parsed::Whole(Ok(Reply::Int(n)), used),
            Err(garbage) => garbage,
        },
        b'$' => match number() {
            Ok(-1) => Parsed::Whole(Ok(Reply::Bulk(None)), used),
            Ok(n) => match usize::try_from(n) {
                Ok(n) if input.len() >= used + n + 2 => {
                    Parsed::Whole(Ok(Reply::Bulk(Some(input[used..used + n].to_vec()))), used + n + 2)
                }
                Ok(_) => Parsed::Part,
                Err(_) => Parsed::Garbage(format!("length {n}")),
            },
            Err(garbage) => garbage,
        },
        b'*' => match number() {
            Ok(n) => array(input, used, n),
            Err(garbage) => garbage,
        },
        other => Parsed::Garbage(format!("a reply begins with {:?}", char::from(other))),
    }
}

fn array(input: &[u8], mut used: usize, len: i64) -> Parsed {
    let mut items = Vec::new();
    for _ in 0..len {
        match parse(&input[used..]) {
            Parsed::Whole(Ok(item), n) => {
                items.push(item);
                used += n;
            }
            other => return other,
        }
    }
    Parsed::Whole(Ok(Reply::Array(items)), used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_whole_however_they_are_cut() {
        let bytes = b"*3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$3\r\n\r\nx\r\n+OK\r\n";
        for cut in 0..bytes.len() - 5 {
            assert!(matches!(parse(&bytes[..cut]), Parsed::Part), "cut at {cut}");
        }
        match parse(bytes) {
            Parsed::Whole(Ok(Reply::Array(items)), used) => {
                assert_eq!(items.len(), 3);
                assert_eq!(used, bytes.len() - 5);
            }
            _ => panic!("no array"),
        }
        assert!(matches!(parse(b"-ERR no\r\n"), Parsed::Whole(Err(_), 9)));
        assert!(matches!(parse(b"?\r\n"), Parsed::Garbage(_)));
    }
}
