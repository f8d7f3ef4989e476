//! One client connection: a task that reads, executes, waits until it is durable, answers.
//!
//! It stops at a message boundary and never waits for its client to do so: what was read and not executed, and what
//! was answered and not sent, are part of what it leaves behind.

use crate::command::{self, Session, Turn};
use crate::ledger::Outcome;
use crate::protocol::{MAX_COMMAND, Parser, Replies};
use crate::server::{Mail, Mailbox, Server, unix_ms};
use handoff::sdk::Connection;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead as _, AsyncWrite as _, AsyncWriteExt as _, ReadBuf};
use tokio::sync::mpsc;

const PIECE: usize = 64 << 10;

/// A client that does not read has no further commands executed beyond this much output: commands at rest take less
/// room than their replies, and what waits has to fit a parked connection.
const MAX_OUTPUT: usize = 256 << 10;

/// Its input is read on nevertheless, since there are clients that send a whole pipeline before they read the first
/// reply; only so far while a handoff is prepared.
const MAX_INPUT: usize = MAX_COMMAND;
const MAX_INPUT_DRAINING: usize = 512 << 10;

/// A subscriber that is this far behind is disconnected.
const MAX_BEHIND: usize = 64 << 20;

/// What a conversation knows besides its input and output takes less.
const MAX_NAMES: usize = 64 << 10;

/// A connection and where it stands.
#[derive(Debug)]
pub(crate) struct Conversation {
    pub(crate) session: Session,
    pub(crate) connection: Connection,
    pub(crate) mailbox: Mailbox,
    /// Received and not executed.
    pub(crate) input: Vec<u8>,
    /// Answered and not sent.
    pub(crate) output: Replies,
    /// It is counted as too large to be parked.
    large: bool,
}

/// What the task does next.
enum Next {
    Execute,
    /// The client is gone or has to go.
    Close,
    Stop,
}

impl Conversation {
    pub(crate) fn new(session: Session, connection: Connection, mailbox: Mailbox) -> Self {
        let (input, output) = (Vec::new(), Replies::default());
        Self { session, connection, mailbox, input, output, large: false }
    }

    /// Talks until the client is gone or everything stops; a stopped conversation goes to `stopped`.
    pub(crate) async fn run(mut self, server: Arc<Server>, stopped: mpsc::UnboundedSender<Self>) {
        let mut parser = Parser::default();
        loop {
            if !self.session.closing && !self.input.is_empty() {
                self.execute(&server, &mut parser).await;
            }
            server.large.count(&mut self.large, self.input.len() + self.output.unsent().len() + MAX_NAMES);
            match std::future::poll_fn(|cx| self.poll(cx, &server)).await {
                Next::Execute => {}
                Next::Close => {
                    server.large.count(&mut self.large, 0);
                    server.clients().remove(self.session.id);
                    return;
                }
                Next::Stop => {
                    server.large.count(&mut self.large, 0);
                    // the sealer waits for it, or the process ends anyway
                    let _ = stopped.send(self);
                    return;
                }
            }
        }
    }

    /// Executes all commands that are there, and waits until the log has what they did or saw.
    async fn execute(&mut self, server: &Server, parser: &mut Parser) {
        let start = self.output.unsent().len();
        let (mut taken, mut answered) = (0, 0);
        let barrier = {
            let mut ledger = server.books.lock();
            let now = unix_ms();
            while taken < self.input.len() && self.output.unsent().len() < MAX_OUTPUT && !self.session.closing
            {
                let input = &self.input[taken..];
                match parser.parse(input) {
                    Ok(Some(length)) => {
                        let mailbox = &mut self.mailbox;
                        let (session, replies) = (&mut self.session, &mut self.output);
                        let mut turn = Turn { server, ledger: &mut ledger, session, mailbox, replies, now };
                        command::execute(&mut turn, parser.args(input));
                        (taken, answered) = (taken + length, answered + 1);
                    }
                    Ok(None) => break,
                    Err(violation) => {
                        self.output.error(&violation.to_string());
                        self.session.closing = true;
                    }
                }
            }
            if answered > 0 { ledger.barrier() } else { None }
        };
        self.input.drain(..taken);
        if self.input.capacity() > 16 * PIECE && self.input.len() < PIECE {
            self.input.shrink_to(PIECE);
        }
        let outcome: Outcome = match barrier {
            // the writer ends only after all connections, or with the process
            Some(barrier) => barrier.await.unwrap_or_else(|_| Err("the server stops".into())),
            None => Ok(()),
        };
        if let Err(why) = outcome {
            self.output.truncate(start);
            for _ in 0..answered {
                self.output.error(&format!("MISCONF the log cannot be written ({why}); nothing was applied"));
            }
        }
        server.commands.fetch_add(answered, std::sync::atomic::Ordering::Relaxed);
    }

    /// Takes mail, sends output, reads input, until there is something to do. Cancel safe.
    fn poll(&mut self, cx: &mut Context<'_>, server: &Server) -> Poll<Next> {
        while let Poll::Ready(mail) = self.mailbox.poll(cx) {
            match mail {
                Some(Mail::Message(message)) => self.output.raw(&message),
                Some(Mail::Stop) => return Poll::Ready(Next::Stop),
                None => return Poll::Ready(Next::Close),
            }
            if self.output.unsent().len() > MAX_BEHIND {
                return Poll::Ready(Next::Close);
            }
        }
        let full = self.output.unsent().len() >= MAX_OUTPUT;
        while !self.output.unsent().is_empty() {
            match Pin::new(&mut self.connection).poll_write(cx, self.output.unsent()) {
                Poll::Ready(Ok(n)) if n > 0 => self.output.consume(n),
                Poll::Ready(_) => return Poll::Ready(Next::Close),
                Poll::Pending if self.session.closing => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        if self.session.closing {
            return Poll::Ready(Next::Close);
        }
        if self.output.unsent().len() < MAX_OUTPUT {
            if full && !self.input.is_empty() {
                return Poll::Ready(Next::Execute);
            }
        } else if self.input.len() >= if server.large.is_watched() { MAX_INPUT_DRAINING } else { MAX_INPUT } {
            return Poll::Pending;
        }
        let mut piece = [const { MaybeUninit::uninit() }; PIECE];
        let mut piece = ReadBuf::uninit(&mut piece);
        match ready!(Pin::new(&mut self.connection).poll_read(cx, &mut piece)) {
            Ok(()) if !piece.filled().is_empty() => {
                self.input.extend_from_slice(piece.filled());
                Poll::Ready(Next::Execute)
            }
            Ok(()) | Err(_) => Poll::Ready(Next::Close),
        }
    }

    /// Tells the client something on the way out, if it can be done at once.
    pub(crate) fn goodbye(mut self, text: &str) -> io::Result<()> {
        self.output.error(text);
        self.connection.try_write(self.output.unsent()).map(drop)
    }

    /// Sends what is answered, as far as the client reads it.
    pub(crate) async fn finish(mut self) -> io::Result<()> {
        self.connection.write_all(self.output.unsent()).await
    }
}
