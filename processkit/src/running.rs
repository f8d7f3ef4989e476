//! A process we started: its handle.

use crate::command::Command;
use crate::error::Result;
use crate::exit::{Exit, Usage};
use crate::group::ProcessGroup;
use crate::identity::ProcessIdentity;
use crate::output::{Sink, StdoutLines};
use crate::pipes::Pipes;
use crate::process::Child;
#[cfg(feature = "process-control")]
use crate::process::send;
use crate::reaper;
use crate::result::ProcessResult;
use crate::run::{Fate, Run};
#[cfg(feature = "process-control")]
use crate::signal::Signal;
use crate::stdin::{Feed, ProcessStdin};
use std::os::fd::BorrowedFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::task::AbortHandle;

/// How long an output is read on that somebody else holds open after the end of the process. What the process wrote
/// itself is in the pipe by then, and is read in any case.
pub(crate) const DRAIN: Duration = Duration::from_millis(250);

/// A process we started.
///
/// From [`Command::start`] it owns a private group: dropping it kills the whole tree, and so does its end. From
/// [`ProcessGroup::start`] it owns nothing but the right to the exit status: dropping it leaves the process running in its
/// group, and a reaper takes the status when it ends, so that no zombie stays.
///
/// Its outputs are drained from the start on, in tasks of the runtime; of one that was started outside of a runtime, from
/// the first call on that awaits something. Dropping the handle closes the pipes, as soon as
/// the runtime gets round to it.
#[derive(Debug)]
pub struct RunningProcess {
    pub(crate) run: Arc<Run>,
    input: Feed,
    pub(crate) outputs: [Arc<Sink>; 2],
    guard: Option<Guard>,
    /// The private group.
    group: Option<ProcessGroup>,
}

/// Who ends what the process leaves behind in its private group: a stream of its lines, or whoever waits for its outputs,
/// would else be held up by a process in the background.
#[derive(Debug)]
enum Guard {
    /// A task, which enforces the limits as well.
    Task(AbortHandle),
    /// The reaper, as long as nobody waits for the end to do it himself: a task would have to be started in another thread.
    Reaper { _watch: reaper::Watch },
}

impl RunningProcess {
    /// The handle of a new child, with our ends of its pipes, in a private group or a shared one.
    pub(crate) fn new(
        child: Arc<Child>,
        command: &Command,
        pipes: Pipes,
        group: Option<ProcessGroup>,
    ) -> Self {
        let [input, stdout, stderr] = pipes.ours;
        let containment = group.as_ref().map(|group| group.containment.clone());
        RunningProcess {
            run: Arc::new(Run::new(child, command, containment)),
            input: Feed::new(command.input.clone(), input, command.keep_stdin_open),
            outputs: [Sink::new(command, 0, stdout), Sink::new(command, 1, stderr)],
            guard: None,
            group,
        }
    }

    /// Feed, drain and guard in tasks from now on. Nothing happens outside of a runtime, or the second time.
    pub(crate) fn awaken(&mut self) {
        self.input.start();
        self.outputs.iter().for_each(Sink::start);
        if self.guard.is_some() {
            return;
        }
        if self.run.terms.are_set() {
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                let run = Arc::clone(&self.run);
                let task = runtime.spawn(async move { run.guarded_to_the_end().await });
                self.guard = Some(Guard::Task(task.abort_handle()));
            }
        } else if let Some(group) = &self.run.group {
            match reaper::watch_over(Arc::clone(&self.run.child), group.clone()) {
                Ok(watch) => self.guard = Some(Guard::Reaper { _watch: watch }),
                Err(error) => {
                    event!(warn, error = error, "what the process leaves behind ends with its handle only")
                }
            }
        }
    }

    /// Its pid; `None` once it is reaped, because the number may be somebody else's then.
    pub fn pid(&self) -> Option<u32> {
        (!self.run.child.is_reaped()).then(|| self.run.child.pid())
    }

    /// Its pidfd, there from birth.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.run.child.pidfd()
    }

    /// Which process it is, for a later comparison. The start time is read when this is called first, and known from then on;
    /// 0 if the process was reaped by then.
    pub fn identity(&self) -> ProcessIdentity {
        self.run.child.identity()
    }

    /// When it was started.
    pub fn start_time(&self) -> SystemTime {
        self.run.child.born().time
    }

    /// Since it was started.
    pub fn elapsed(&self) -> Duration {
        self.run.child.born().at.elapsed()
    }

    /// How many lines it has written to its standard output so far, taken and dropped ones included.
    pub fn stdout_line_count(&self) -> usize {
        self.outputs[0].seen()
    }

    /// How many lines it has written to its standard error so far.
    pub fn stderr_line_count(&self) -> usize {
        self.outputs[1].seen()
    }

    /// Its standard input, once, if the command says [`keep_stdin_open`](Command::keep_stdin_open).
    pub fn standard_input(&mut self) -> Option<ProcessStdin> {
        self.input.hand_out()
    }

    /// Wait for its end. It is reaped when this returns; asking again gives the same answer.
    ///
    /// Cancel safe: dropping the future loses nothing.
    ///
    /// # Errors
    /// If the runtime cannot watch the pidfd.
    pub async fn exit(&mut self) -> Result<Exit> {
        self.awaken();
        self.run.exit().await
    }

    /// Its status if it has ended; reaped then.
    ///
    /// # Errors
    /// If the kernel refuses the wait.
    pub fn try_exit(&mut self) -> Result<Option<Exit>> {
        Ok(self.run.child.try_reap()?)
    }

    /// What it used in all, once it is reaped: [`None`] before, and if somebody else reaped it.
    pub fn usage(&self) -> Option<Usage> {
        self.run.child.usage()
    }

    /// Send a signal to this process alone. One that has ended already is a success.
    ///
    /// # Errors
    /// `EPERM` for a process that changed its uid beyond our reach, `EINVAL` for a number that is no signal.
    #[cfg(feature = "process-control")]
    pub fn signal(&self, signal: Signal) -> Result<()> {
        send(self.run.child.pidfd(), signal)
    }

    /// Kill it, with its whole private group if it has one. Returns when the signal is out: await
    /// [`exit`](RunningProcess::exit) or [`wait`](RunningProcess::wait) for the end. One that has ended already is a success.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn start_kill(&mut self) -> Result<()> {
        self.run.kill()
    }

    /// Wait for its end: its exit code, or `None` if it was ended by a signal or because it took too long. It is reaped when
    /// this returns.
    ///
    /// Dropping the future drops the process: await [`exit`](RunningProcess::exit) where that must not be.
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::Error::Cancelled); [`Error::Io`](crate::Error::Io) if the runtime cannot watch it.
    pub async fn wait(mut self) -> Result<Option<i32>> {
        let exit = self.ended().await?;
        Ok(self.own_code(exit))
    }

    /// Wait for its end, and give what it wrote as texts, without the lines that were taken by
    /// [`stdout_lines`](RunningProcess::stdout_lines) or [`wait_for_line`](RunningProcess::wait_for_line).
    ///
    /// Dropping the future drops the process.
    ///
    /// # Errors
    /// As for [`wait`](RunningProcess::wait).
    pub async fn output_string(mut self) -> Result<ProcessResult<String>> {
        self.result(Sink::take_text).await
    }

    /// As [`output_string`](RunningProcess::output_string), with the standard output as it came.
    ///
    /// # Errors
    /// As for [`wait`](RunningProcess::wait).
    pub async fn output_bytes(mut self) -> Result<ProcessResult<Vec<u8>>> {
        self.result(Sink::take_bytes).await
    }

    /// The lines of its standard output as they come. The stream borrows nothing: the process can be waited for meanwhile.
    /// Each line goes to one reader only. Lines wait for their reader in the [buffer](Command::output_buffer), which drops
    /// what is too much for it.
    ///
    /// The stream ends when nobody can write any more, or when this handle is dropped.
    pub fn stdout_lines(&mut self) -> StdoutLines {
        self.awaken();
        StdoutLines::new(Arc::clone(&self.outputs[0]))
    }

    /// Wait for the end of a process whose lines were streamed: its exit code as for [`wait`](RunningProcess::wait), and its
    /// standard error.
    ///
    /// Dropping the future drops the process.
    ///
    /// # Errors
    /// As for [`wait`](RunningProcess::wait).
    pub async fn finish_streamed(mut self) -> Result<(Option<i32>, String)> {
        let (exit, _) = self.finished().await?;
        Ok((self.own_code(exit), self.outputs[1].take_text()))
    }

    async fn result<T>(&mut self, take: impl FnOnce(&Sink) -> T) -> Result<ProcessResult<T>> {
        let (exit, left_open) = self.finished().await?;
        let [stdout, stderr] = &self.outputs;
        Ok(ProcessResult {
            program: self.run.program.clone(),
            stdout: take(stdout),
            stderr: stderr.take_text(),
            exit,
            timeout: match self.run.fate() {
                Fate::TimedOut(timeout) => Some(timeout),
                Fate::Own | Fate::Cancelled => None,
            },
            duration: self.run.child.born().at.elapsed(),
            truncated: left_open || stdout.is_truncated() || stderr.is_truncated(),
            left_open,
            accepted: Arc::clone(&self.run.terms.accepted),
        })
    }

    /// Its code if the end was its own.
    pub(crate) fn own_code(&self, exit: Exit) -> Option<i32> {
        if self.run.fate() == Fate::Own { exit.code } else { None }
    }

    /// Until its end, with everything done meanwhile that has to be: here, where no task does it.
    pub(crate) async fn ended(&mut self) -> Result<Exit> {
        let reading = pin!(drained(self.outputs.clone()));
        Ok(self.ended_while(reading).await?.0)
    }

    /// [`ended`](RunningProcess::ended), and whether its outputs were read to their end by then. If not, `reading` still
    /// has what came so far: it may be the one that drains the pipes.
    async fn ended_while(&mut self, mut reading: Pin<&mut impl Future<Output = ()>>) -> Result<(Exit, bool)> {
        self.input.close();
        self.input.start();
        self.guard.take_if(|guard| matches!(guard, Guard::Reaper { .. }));
        let mut exit = pin!(async {
            match self.guard {
                None if self.run.terms.are_set() => self.run.guarded().await,
                _ => self.run.exit().await,
            }
        });
        let mut read = false;
        let exit = loop {
            tokio::select! {
                biased; // the outputs first: mostly their end comes before that of the process, and then nothing is left to do
                () = &mut reading, if !read => read = true,
                exit = &mut exit => break exit?,
            }
        };
        self.run.check_cancelled()?;
        Ok((exit, read))
    }

    /// Until its end and that of its outputs. Whether one of them was left open by somebody else.
    async fn finished(&mut self) -> Result<(Exit, bool)> {
        let mut reading = pin!(drained(self.outputs.clone()));
        let (exit, read) = self.ended_while(reading.as_mut()).await?;
        if read {
            return Ok((exit, false));
        }
        if let Some(group) = &self.group {
            // What it left behind ends with it, and then nobody in the group can write.
            group.kill()?;
            tokio::select! {
                biased;
                () = &mut reading => return Ok((exit, false)),
                empty = group.wait_empty() => empty?,
            }
        }
        if tokio::time::timeout(DRAIN, &mut reading).await.is_err() {
            self.outputs.iter().for_each(|output| output.enough());
            reading.await;
        }
        Ok((exit, self.outputs.iter().any(|output| output.is_left_open())))
    }
}

async fn drained([stdout, stderr]: [Arc<Sink>; 2]) {
    tokio::join!(stdout.drained(), stderr.drained());
}

impl Drop for RunningProcess {
    fn drop(&mut self) {
        if let Some(Guard::Task(task)) = self.guard.take() {
            task.abort();
        }
        self.outputs.iter().for_each(|output| output.stop());
        if !matches!(self.run.child.try_reap(), Ok(Some(_))) {
            reaper::reap(Arc::clone(&self.run.child));
        } else if let Some(group) = &mut self.group {
            group.end_if_empty(); // as it mostly is then
        }
    }
}
