//! What a process reads.

use crate::pipes::Ours;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::fmt;
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::task::{AbortHandle, JoinHandle};
use tokio_stream::Stream;

/// What a process is to read from its standard input. Fed in the background, so that large input and large output cannot
/// block each other; a process that stops reading early is no error.
///
/// Cloning is cheap. Texts, bytes and files are there again for every run of a command. A
/// [reader](Stdin::from_reader) or [stream](Stdin::from_lines) is used up by the first run that begins: every later one,
/// of a clone too, reads an empty input.
#[derive(Clone)]
pub struct Stdin(Source);

#[derive(Clone)]
enum Source {
    Empty,
    Bytes(Arc<Vec<u8>>),
    File(PathBuf),
    Reader(Once<Pin<Box<dyn AsyncRead + Send>>>),
    Lines(Once<Pin<Box<dyn Stream<Item = String> + Send>>>),
}

/// Taken by whoever comes first.
type Once<T> = Arc<Mutex<Option<T>>>;

fn once<T>(value: T) -> Once<T> {
    Arc::new(Mutex::new(Some(value)))
}

fn take<T>(once: &Once<T>) -> Option<T> {
    once.lock().unwrap_or_else(PoisonError::into_inner).take()
}

impl Stdin {
    /// Nothing: `/dev/null`.
    pub fn empty() -> Self {
        Stdin(Source::Empty)
    }

    /// This text.
    pub fn from_string(text: impl Into<String>) -> Self {
        Self::from_bytes(text.into())
    }

    /// These bytes.
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Stdin(Source::Bytes(Arc::new(bytes.into())))
    }

    /// This file, opened at each start and given to the process itself. One that cannot be opened is a spawn error.
    ///
    /// A FIFO is read here and passed on instead, since somebody would have to wait for its writer; so is a file before an
    /// input that is [kept open](crate::Command::keep_stdin_open).
    pub fn from_file(path: impl AsRef<Path>) -> Self {
        Stdin(Source::File(path.as_ref().to_owned()))
    }

    /// What this reader gives, once. An error of the reader ends the input there.
    pub fn from_reader<R>(reader: R) -> Self
    where
        R: AsyncRead + Send + 'static,
    {
        Stdin(Source::Reader(once(Box::pin(reader))))
    }

    /// The items of this stream, once, each with a `\n` behind it.
    pub fn from_lines(lines: impl Stream<Item = String> + Send + 'static) -> Self {
        Stdin(Source::Lines(once(Box::pin(lines))))
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.0, Source::Empty)
    }

    /// The file, if it is one.
    pub(crate) fn open(&self) -> io::Result<Option<InputFile>> {
        let Source::File(path) = &self.0 else { return Ok(None) };
        match InputFile::open(path) {
            Ok(file) => Ok(Some(file)),
            Err(error) => {
                let text = format!("standard input `{}`: {error}", path.display());
                Err(io::Error::new(error.kind(), text))
            }
        }
    }

    /// Write everything; the pipe is given back unless nobody reads it any more.
    async fn feed(self, ours: Ours) -> io::Result<Sender> {
        let mut pipe = Sender::from_owned_fd(ours.pipe)?;
        match self.0 {
            Source::Empty => {}
            Source::Bytes(bytes) => pipe.write_all(&bytes).await?,
            Source::File(_) => match ours.file {
                Some(InputFile::Plain(file)) => {
                    tokio::io::copy(&mut tokio::fs::File::from_std(file), &mut pipe).await?;
                }
                Some(InputFile::Fifo(file)) => {
                    // not readable, and so not at its end, until there was a writer
                    tokio::io::copy(&mut Receiver::from_file(file)?, &mut pipe).await?;
                }
                None => {}
            },
            Source::Reader(reader) => {
                if let Some(mut reader) = take(&reader) {
                    tokio::io::copy(&mut reader, &mut pipe).await?;
                }
            }
            Source::Lines(lines) => {
                if let Some(mut lines) = take(&lines) {
                    while let Some(mut line) = poll_fn(|context| lines.as_mut().poll_next(context)).await {
                        line.push('\n');
                        pipe.write_all(line.as_bytes()).await?;
                    }
                }
            }
        }
        Ok(pipe)
    }
}

/// A file that is to be read.
#[derive(Debug)]
pub(crate) enum InputFile {
    Plain(File),
    /// Does not block, since it may have no writer yet: who read it like that would take this for its end.
    Fifo(File),
}

impl InputFile {
    fn open(path: &Path) -> io::Result<Self> {
        // a FIFO without a writer would hold the thread, and with it all that the executor has to do
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        if file.metadata()?.file_type().is_fifo() {
            return Ok(InputFile::Fifo(file));
        }
        let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
        fcntl(&file, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?; // a program expects no such thing of its input
        Ok(InputFile::Plain(file))
    }
}

impl Default for Stdin {
    fn default() -> Self {
        Self::empty()
    }
}

/// Without the content.
impl fmt::Debug for Stdin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Source::Empty => "Stdin(empty)",
            Source::Bytes(_) => "Stdin(bytes)",
            Source::File(_) => "Stdin(file)",
            Source::Reader(_) => "Stdin(reader)",
            Source::Lines(_) => "Stdin(lines)",
        })
    }
}

/// Our end of the pipe that a process reads, and what is to go into it.
#[derive(Debug)]
pub(crate) struct Feed {
    state: FeedState,
    /// Whether the pipe stays open for the owner of the handle.
    keep: bool,
}

#[derive(Debug)]
enum FeedState {
    Waiting(Stdin, Ours),
    Feeding(JoinHandle<io::Result<Sender>>),
    Closing(AbortHandle),
    Over,
}

impl Feed {
    pub(crate) fn new(stdin: Stdin, pipe: Option<Ours>, keep: bool) -> Self {
        Feed { state: pipe.map_or(FeedState::Over, |pipe| FeedState::Waiting(stdin, pipe)), keep }
    }

    /// Write in a task, from now on. Nothing happens outside of a runtime, or the second time.
    pub(crate) fn start(&mut self) {
        if matches!(&self.state, FeedState::Waiting(stdin, _) if !(self.keep && stdin.is_empty()))
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
            && let FeedState::Waiting(stdin, pipe) = std::mem::replace(&mut self.state, FeedState::Over)
        {
            let (keep, feed) = (self.keep, stdin.feed(pipe));
            self.state = FeedState::Feeding(runtime.spawn(async move {
                let fed = feed.await;
                if let Err(error) = &fed
                    && error.kind() != io::ErrorKind::BrokenPipe
                {
                    event!(warn, error = error, "an input ends early");
                }
                let pipe = fed?;
                // closed here and now, or nobody would until the handle is dropped
                if keep { Ok(pipe) } else { Err(io::ErrorKind::BrokenPipe.into()) }
            }));
        }
    }

    /// Nobody took the pipe and nobody will: closed as soon as everything is written.
    pub(crate) fn close(&mut self) {
        if let FeedState::Waiting(stdin, _) = &self.state
            && stdin.is_empty()
        {
            self.state = FeedState::Over;
        }
        if let FeedState::Feeding(task) = &self.state
            && self.keep
        {
            self.state = FeedState::Closing(task.abort_handle()); // without a handle its result, the pipe, is dropped
        }
        self.keep = false;
    }

    pub(crate) fn hand_out(&mut self) -> Option<ProcessStdin> {
        if !std::mem::replace(&mut self.keep, false) {
            return None;
        }
        match std::mem::replace(&mut self.state, FeedState::Over) {
            FeedState::Over | FeedState::Closing(_) => None,
            FeedState::Waiting(stdin, ours) => Some(ProcessStdin(Pipe::Idle(stdin, ours))),
            FeedState::Feeding(task) => Some(ProcessStdin(Pipe::Fed(task))),
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        match &self.state {
            FeedState::Feeding(task) => task.abort(),
            FeedState::Closing(task) => task.abort(),
            FeedState::Waiting(..) | FeedState::Over => {}
        }
    }
}

/// The standard input of a process that was started with [`keep_stdin_open`](crate::Command::keep_stdin_open). Dropping it
/// is the end of the input.
///
/// Writing to a process that does not read any more is `BrokenPipe`. A write that is cancelled may have written a part.
#[derive(Debug)]
pub struct ProcessStdin(Pipe);

#[derive(Debug)]
enum Pipe {
    /// Nobody writes yet, perhaps for want of a runtime.
    Idle(Stdin, Ours),
    /// A [`Stdin`] is written first.
    Fed(JoinHandle<io::Result<Sender>>),
    Open(Sender),
    Closed,
}

impl ProcessStdin {
    /// Write all of these bytes.
    ///
    /// # Errors
    /// `BrokenPipe` if the process does not read any more; the first time, the error that ended a [`Stdin`] given as well.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.pipe().await?.write_all(bytes).await
    }

    /// Write this text and a `\n`.
    ///
    /// # Errors
    /// As for [`write`](ProcessStdin::write).
    pub async fn write_line(&mut self, line: &str) -> io::Result<()> {
        let pipe = self.pipe().await?;
        // One write: whoever reads at once sees a whole line if it is no longer than PIPE_BUF (pipe(7)).
        let mut bytes = Vec::with_capacity(line.len() + 1);
        bytes.extend_from_slice(line.as_bytes());
        bytes.push(b'\n');
        pipe.write_all(&bytes).await
    }

    /// Everything written so far is in the pipe. (It is anyway: a pipe has nothing to flush.)
    ///
    /// # Errors
    /// As for [`write`](ProcessStdin::write).
    pub async fn flush(&mut self) -> io::Result<()> {
        self.pipe().await?.flush().await
    }

    /// End the input.
    ///
    /// # Errors
    /// None that matter: the end is told by closing the pipe, which cannot be refused.
    pub async fn finish(mut self) -> io::Result<()> {
        let _ = self.pipe().await; // what a `Stdin` was to write first is written, as far as anybody reads it
        Ok(())
    }

    async fn pipe(&mut self) -> io::Result<&mut Sender> {
        if matches!(self.0, Pipe::Idle(..))
            && let Pipe::Idle(stdin, ours) = std::mem::replace(&mut self.0, Pipe::Closed)
        {
            self.0 = Pipe::Fed(tokio::spawn(stdin.feed(ours)));
        }
        if let Pipe::Fed(task) = &mut self.0 {
            let fed = task.await; // cancel safe: a handle can be awaited again until it is ready
            self.0 = Pipe::Closed;
            // an error: its runtime has ended, or what it read from has panicked
            if let Ok(fed) = fed {
                self.0 = Pipe::Open(fed?);
            }
        }
        match &mut self.0 {
            Pipe::Open(pipe) => Ok(pipe),
            Pipe::Idle(..) | Pipe::Fed(_) | Pipe::Closed => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}
