//! From a pipe into a buffer, for as long as somebody writes.

use super::buffer::{Buffer, OutputBufferPolicy};
use crate::command::Command;
use crate::pipes::Ours;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// Room for one read: what a pipe holds by default (pipe(7)).
const ROOM: usize = 64 * 1024;
/// What a pipe that was full may hold from then on. The largest that anybody may ask for is 1 MiB, but each user has only
/// 64 MiB in all (pipe(7)).
const FULL_ROOM: usize = 256 * 1024;

/// Who looks at each line.
#[derive(Clone)]
pub(crate) struct LineCallback(Arc<dyn Fn(&str) + Send + Sync>);

impl LineCallback {
    pub(crate) fn new(look: impl Fn(&str) + Send + Sync + 'static) -> Self {
        LineCallback(Arc::new(look))
    }
}

impl fmt::Debug for LineCallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LineCallback")
    }
}

/// One output of a process, shared by its handle, whoever drains the pipe, and whoever reads lines.
#[derive(Debug)]
pub(crate) struct Sink {
    state: Mutex<State>,
    /// Rung when [`State::enough`] is set.
    enough: Notify,
}

#[derive(Debug)]
struct State {
    buffer: Buffer,
    on_line: Option<LineCallback>,
    source: Source,
    /// Whether only what is in the pipe already is wanted.
    enough: bool,
    /// Whether somebody could still write when the draining ended.
    left_open: bool,
    /// Whether the pipe could not be read to its end.
    lost: bool,
    /// Whether somebody reads lines meanwhile.
    streamed: bool,
    readers: Vec<Waker>,
}

/// Where the bytes come from.
#[derive(Debug)]
enum Source {
    /// Nobody drains the pipe yet.
    Waiting(OwnedFd),
    /// Somebody does: a task, unless it is done by whoever waits.
    Draining(Option<AbortHandle>),
    /// Nothing more will come.
    Ended,
}

impl Sink {
    /// For a stream of this command; without a pipe nothing comes.
    pub(crate) fn new(command: &Command, stream: usize, pipe: Option<Ours>) -> Arc<Self> {
        let state = State {
            buffer: Buffer::new(command.output_buffer),
            on_line: command.on_line[stream].clone(),
            source: pipe.map_or(Source::Ended, |ours| Source::Waiting(ours.pipe)),
            enough: false,
            left_open: false,
            lost: false,
            streamed: false,
            readers: Vec::new(),
        };
        Arc::new(Sink { state: Mutex::new(state), enough: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drain the pipe in a task, from now on. Nothing happens outside of a runtime, or the second time.
    pub(crate) fn start(self: &Arc<Self>) {
        let mut state = self.state();
        if matches!(state.source, Source::Waiting(_))
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
            && let Source::Waiting(pipe) = std::mem::replace(&mut state.source, Source::Draining(None))
        {
            let task = runtime.spawn(Arc::clone(self).pump(pipe));
            state.source = Source::Draining(Some(task.abort_handle()));
        }
    }

    /// Until nothing more comes, draining the pipe here if nobody does. Cancel safe only where [`start`](Sink::start) was
    /// called before.
    pub(crate) async fn drained(self: &Arc<Self>) {
        let waiting = {
            let mut state = self.state();
            match std::mem::replace(&mut state.source, Source::Draining(None)) {
                Source::Waiting(pipe) => Some(pipe),
                other => {
                    state.source = other;
                    None
                }
            }
        };
        match waiting {
            Some(pipe) => Arc::clone(self).pump(pipe).await,
            None => {
                poll_fn(|context| {
                    let mut state = self.state();
                    if matches!(state.source, Source::Ended) { Poll::Ready(()) } else { state.pend(context) }
                })
                .await
            }
        }
    }

    /// What is in the pipe by now is still wanted, and then no more: the draining ends without waiting for anybody.
    pub(crate) fn enough(&self) {
        self.state().enough = true;
        self.enough.notify_one();
    }

    /// Whether somebody could still write when the draining ended.
    pub(crate) fn is_left_open(&self) -> bool {
        self.state().left_open
    }

    /// Nobody is interested any more: the pipe is closed.
    pub(crate) fn stop(&self) {
        let task = {
            let mut state = self.state();
            let task = match &state.source {
                Source::Draining(task) => task.clone(),
                Source::Waiting(_) | Source::Ended => None,
            };
            state.end();
            task
        };
        // outside of the lock: what is dropped takes it
        if let Some(task) = task {
            task.abort();
        }
    }

    /// The next line; `None` when there will be none. Cancel safe.
    pub(crate) async fn next_line(self: &Arc<Self>) -> Option<String> {
        poll_fn(|context| self.poll_line(context)).await
    }

    fn poll_line(self: &Arc<Self>, context: &mut Context<'_>) -> Poll<Option<String>> {
        let mut state = self.state();
        if matches!(state.source, Source::Waiting(_)) {
            drop(state);
            self.start();
            state = self.state();
        }
        state.streamed = true;
        match state.buffer.pop() {
            Some(line) => Poll::Ready(Some(line)),
            None if matches!(state.source, Source::Ended) => Poll::Ready(None),
            None => state.pend(context),
        }
    }

    pub(crate) fn take_bytes(&self) -> Vec<u8> {
        self.state().buffer.take()
    }

    pub(crate) fn take_text(&self) -> String {
        super::lines::joined(self.take_bytes())
    }

    pub(crate) fn seen(&self) -> usize {
        self.state().buffer.seen()
    }

    pub(crate) fn is_truncated(&self) -> bool {
        let state = self.state();
        state.lost || state.buffer.is_truncated()
    }

    /// Dropped before its end, even before its beginning, as by a runtime that ends, it ends the sink.
    fn pump(self: Arc<Self>, pipe: OwnedFd) -> impl Future<Output = ()> + Send {
        let pumping = Pumping(self);
        async move { pumping.0.drain(pipe).await }
    }

    async fn drain(&self, pipe: OwnedFd) {
        let on_line = self.state().on_line.clone();
        let mut look = on_line.map(|callback| (callback, Buffer::new(OutputBufferPolicy::unbounded())));
        if let Err(error) = self.read_all(pipe, &mut look).await {
            // what cannot be read any more has ended, as far as we can tell
            event!(warn, error = error, "cannot read on what a process writes");
            self.state().lost = true;
        }
        if let Some((callback, lines)) = &mut look {
            lines.finish();
            say(callback, lines);
        }
        self.state().end();
    }

    /// Until nobody can write any more, or it is enough.
    async fn read_all(&self, pipe: OwnedFd, look: &mut Option<(LineCallback, Buffer)>) -> io::Result<()> {
        let receiver = Receiver::from_owned_fd(pipe)?;
        let mut room = ROOM;
        let mut chunk = Vec::new();
        let mut late = 0;
        loop {
            let enough = self.state().enough;
            // the runtime may not have heard yet of what the kernel has
            let read = |bytes: &mut Vec<u8>| match enough {
                true => read_now(&receiver, bytes),
                false => receiver.try_read_buf(bytes),
            };
            match self.read(read, room, &mut chunk, look)? {
                Some(0) => return Ok(()),
                Some(count) => {
                    if enough {
                        late += count;
                    }
                    if late >= FULL_ROOM {
                        self.state().left_open = true; // no pipe of ours held more than that when it was enough
                        return Ok(());
                    }
                    if count >= ROOM && room == ROOM {
                        room = FULL_ROOM;
                        grow(&receiver);
                    }
                    tokio::task::consume_budget().await; // an eager writer must not keep the thread
                }
                None if enough => {
                    self.state().left_open = true;
                    return Ok(());
                }
                None => tokio::select! {
                    ready = receiver.readable() => ready?,
                    () = self.enough.notified() => {}
                },
            }
        }
    }

    /// One read that does not block: how much came, or `None` for not yet. Into the buffer itself, or into `chunk` while
    /// somebody reads lines and should not wait for the kernel to copy.
    fn read(
        &self,
        receive: impl FnOnce(&mut Vec<u8>) -> io::Result<usize>,
        room: usize,
        chunk: &mut Vec<u8>,
        look: &mut Option<(LineCallback, Buffer)>,
    ) -> io::Result<Option<usize>> {
        let mut show = |bytes: &[u8]| {
            if let Some((_, lines)) = look {
                lines.append(bytes.len(), |own| own.extend_from_slice(bytes));
            }
        };
        let mut state = self.state();
        let read = if state.streamed {
            drop(state);
            chunk.clear();
            chunk.reserve(room);
            let read = receive(chunk);
            show(chunk);
            state = self.state();
            state.buffer.give(chunk);
            read
        } else {
            state.buffer.append(room, |bytes| {
                let before = bytes.len();
                let count = receive(bytes)?;
                show(&bytes[before..]);
                Ok(count)
            })
        };
        match read {
            Ok(_) => state.wake(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
        drop(state);
        if let Some((callback, lines)) = look
            && !say(callback, lines)
        {
            *look = None;
        }
        read.map(Some)
    }
}

/// Somebody drains the pipe; whoever waits for the end must not wait for somebody who is gone.
struct Pumping(Arc<Sink>);

impl Drop for Pumping {
    fn drop(&mut self) {
        let mut state = self.0.state();
        if !matches!(state.source, Source::Ended) {
            state.lost = true;
            state.end();
        }
    }
}

impl State {
    fn pend<T>(&mut self, context: &mut Context<'_>) -> Poll<T> {
        if !self.readers.iter().any(|reader| reader.will_wake(context.waker())) {
            self.readers.push(context.waker().clone());
        }
        Poll::Pending
    }

    fn wake(&mut self) {
        self.readers.drain(..).for_each(Waker::wake);
    }

    fn end(&mut self) {
        if !matches!(self.source, Source::Ended) {
            self.source = Source::Ended;
            self.buffer.finish();
        }
        self.wake();
    }
}

/// Show the complete lines; whether more are wanted.
fn say(callback: &LineCallback, lines: &mut Buffer) -> bool {
    while let Some(line) = lines.pop() {
        if catch_unwind(AssertUnwindSafe(|| (callback.0)(&line))).is_err() {
            return false;
        }
    }
    true
}

/// One read of what the kernel has, whatever the runtime knows of it.
fn read_now(receiver: &Receiver, bytes: &mut Vec<u8>) -> io::Result<usize> {
    let before = bytes.len();
    bytes.resize(before + ROOM, 0);
    let read = loop {
        match nix::unistd::read(receiver.as_fd(), &mut bytes[before..]) {
            Err(nix::Error::EINTR) => {}
            other => break other,
        }
    };
    bytes.truncate(before + read.unwrap_or(0));
    Ok(read?)
}

/// Fewer and larger reads from now on. Not granted where the user has many pipes already (pipe(7)), and then it stays small.
fn grow(receiver: &Receiver) {
    let _ = nix::fcntl::fcntl(receiver.as_fd(), nix::fcntl::FcntlArg::F_SETPIPE_SZ(FULL_ROOM as i32));
}

/// The lines of a standard output as they come; see
/// [`RunningProcess::stdout_lines`](crate::RunningProcess::stdout_lines). Ends when everybody who could write has closed it,
/// or when the handle of the process is dropped.
#[derive(Debug)]
pub struct StdoutLines {
    sink: Arc<Sink>,
}

impl StdoutLines {
    pub(crate) fn new(sink: Arc<Sink>) -> Self {
        StdoutLines { sink }
    }
}

impl tokio_stream::Stream for StdoutLines {
    type Item = String;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<String>> {
        self.sink.poll_line(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Was silent: an output that cannot be read, or not to its end, was shorter and said nothing of it.
    #[tokio::test]
    async fn what_cannot_be_read_is_missing() {
        let (reader, _) = std::io::pipe().expect("a pipe");
        let file = std::fs::File::open("/dev/null").expect("opened"); // as a pipe that the runtime cannot take
        for (pipe, is_missing) in [(OwnedFd::from(file), true), (reader.into(), false)] {
            let sink = Sink::new(&Command::new("true"), 0, Some(Ours { pipe, file: None }));
            sink.drained().await;
            assert_eq!(sink.is_truncated(), is_missing, "the pipe is the control");
        }
    }
}
