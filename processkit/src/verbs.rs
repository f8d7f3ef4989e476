//! What can be done with a command in one call.

use crate::command::Command;
use crate::error::{Error, Result};
use crate::group::ProcessGroup;
use crate::result::ProcessResult;
use crate::run::check_begin;
use crate::running::RunningProcess;
use std::ffi::OsStr;
use std::sync::{Mutex, PoisonError};

impl Command {
    /// Start it in a private group, which ends with it or when the handle is dropped.
    ///
    /// # Errors
    /// [`Error::Spawn`] with the program's name, and nothing of the attempt is left then; [`Error::Cancelled`] if the token
    /// has fired already, before anything is looked up.
    pub async fn start(&self) -> Result<RunningProcess> {
        let mut process = self.retried(|| async { self.launch() }).await?;
        process.awaken();
        Ok(process)
    }

    /// Run it to its end and give what it wrote as texts. Neither a code nor a timeout is an error here.
    ///
    /// Dropping the future ends the run.
    ///
    /// # Errors
    /// As for [`start`](Command::start) and [`RunningProcess::wait`].
    pub async fn output_string(&self) -> Result<ProcessResult<String>> {
        self.retried(|| async { self.launch()?.output_string().await }).await
    }

    /// As [`output_string`](Command::output_string), with the standard output as it came.
    ///
    /// # Errors
    /// As for [`output_string`](Command::output_string).
    pub async fn output_bytes(&self) -> Result<ProcessResult<Vec<u8>>> {
        self.retried(|| async { self.launch()?.output_bytes().await }).await
    }

    /// Run it and give its standard output without the white space at its end. The code must be an accepted one.
    ///
    /// # Errors
    /// [`Error::Exit`] for another code; [`Error::Timeout`]; [`Error::Io`] for the end by a signal; otherwise as for
    /// [`output_string`](Command::output_string).
    pub async fn run(&self) -> Result<String> {
        self.retried(|| async { self.launch()?.output_string().await?.into_trimmed() }).await
    }

    /// Run it and give its exit code, whichever it is.
    ///
    /// # Errors
    /// [`Error::Timeout`]; [`Error::Io`] for the end by a signal; otherwise as for
    /// [`output_string`](Command::output_string).
    pub async fn exit_code(&self) -> Result<i32> {
        self.retried(|| async { self.launch()?.output_string().await?.check_ended() }).await
    }

    /// Ask it a question: 0 is yes, 1 is no.
    ///
    /// # Errors
    /// [`Error::Exit`] for any other code; otherwise as for [`exit_code`](Command::exit_code).
    pub async fn probe(&self) -> Result<bool> {
        self.retried(|| async { self.launch()?.output_string().await?.into_answer() }).await
    }

    /// The first line of its standard output that the predicate wants, and the process is ended then; `None` if it ended
    /// without one, whatever its code.
    ///
    /// # Errors
    /// [`Error::Timeout`]; otherwise as for [`output_string`](Command::output_string).
    pub async fn first_line<F>(&self, wanted: F) -> Result<Option<String>>
    where
        F: Fn(&str) -> bool,
    {
        let wanted = &Mutex::new(wanted); // so that it need not be `Sync` for the future to be `Send`
        self.retried(|| async move {
            let mut process = self.launch()?;
            process.awaken();
            while let Some(line) = process.outputs[0].next_line().await {
                if wanted.lock().unwrap_or_else(PoisonError::into_inner)(&line) {
                    process.start_kill()?;
                    process.exit().await?;
                    return Ok(Some(line));
                }
            }
            let result = process.output_string().await?;
            if result.timed_out() { result.check_ended().map(|_| None) } else { Ok(None) }
        })
        .await
    }

    /// Start it in a private group; nobody feeds, drains or guards it yet.
    fn launch(&self) -> Result<RunningProcess> {
        check_begin(self)?;
        let group = ProcessGroup::with_options(self.group_options.clone())?;
        let (child, pipes) = group.launch(self)?;
        Ok(RunningProcess::new(child, self, pipes, Some(group)))
    }

    /// Try, and try again as [`retry`](Command::retry) says.
    async fn retried<T, F>(&self, attempt: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut attempts = 1;
        loop {
            let error = match attempt().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let Some(retry) = &self.terms.retry else { return Err(error) };
            if attempts >= retry.max || is_cancelled(&error) || !(retry.predicate)(&error) {
                return Err(error);
            }
            attempts += 1;
            tokio::select! {
                () = self.terms.cancelled() => check_begin(self)?,
                () = tokio::time::sleep(retry.backoff) => {}
            }
        }
    }
}

fn is_cancelled(error: &Error) -> bool {
    #[cfg(feature = "cancellation")]
    return matches!(error, Error::Cancelled { .. });
    #[cfg(not(feature = "cancellation"))]
    {
        let _ = error;
        false
    }
}

/// [`Command::run`] for a program and its arguments.
///
/// # Errors
/// As for [`Command::run`].
pub async fn run<I, S>(program: impl AsRef<OsStr>, arguments: I) -> Result<String>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    Command::new(program).args(arguments).run().await
}

/// [`Command::output_string`] for a program and its arguments.
///
/// # Errors
/// As for [`Command::output_string`].
pub async fn output<I, S>(program: impl AsRef<OsStr>, arguments: I) -> Result<ProcessResult<String>>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    Command::new(program).args(arguments).output_string().await
}
