//! Who runs a command: the seam between code that runs many commands and the processes themselves.

use crate::command::Command;
use crate::error::Result;
use crate::group::ProcessGroup;
use crate::process::{Child, send};
use crate::result::ProcessResult;
use crate::running::RunningProcess;
use crate::signal::Signal;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::JoinHandle;

/// Runs commands. [`output_all`](crate::output_all) and [`Supervisor`](crate::Supervisor) take any.
///
/// Object safe: `Box<dyn ProcessRunner>` and `&dyn ProcessRunner` are runners. The methods are written out as
/// `#[async_trait]` makes them, so that an implementation may be written either way:
///
/// ```
/// use processkit::{Command, JobRunner, ProcessResult, ProcessRunner, Result, RunningProcess};
///
/// /// Says what it runs.
/// struct Loud(JobRunner);
///
/// #[async_trait::async_trait]
/// impl ProcessRunner for Loud {
///     async fn output(&self, command: &Command) -> Result<ProcessResult<String>> {
///         println!("{:?}", command.program());
///         self.0.output(command).await
///     }
///     async fn start(&self, command: &Command) -> Result<RunningProcess> {
///         self.0.start(command).await
///     }
/// }
/// ```
pub trait ProcessRunner: Send + Sync {
    /// Run a command to its end and capture what it says: [`Command::output_string`], wherever this runner runs things.
    ///
    /// How it ended is in the result; a code that is not zero, a signal and a timeout are no errors here.
    ///
    /// Dropping the future must end the process: batches and supervisors rely on it. [`JobRunner`] ends its whole tree (on a
    /// runtime with threads that is done by one of them, a moment later), a [`ProcessGroup`] the process alone.
    ///
    /// # Errors
    /// If it cannot be started or watched, or was cancelled.
    fn output<'life0, 'life1, 'async_trait>(
        &'life0 self,
        command: &'life1 Command,
    ) -> Pin<Box<dyn Future<Output = Result<ProcessResult<String>>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait;

    /// Start a command: [`Command::start`], wherever this runner runs things.
    ///
    /// # Errors
    /// If it cannot be started, or was cancelled before.
    fn start<'life0, 'life1, 'async_trait>(
        &'life0 self,
        command: &'life1 Command,
    ) -> Pin<Box<dyn Future<Output = Result<RunningProcess>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait;
}

/// What is boxed here, by the same names as above.
macro_rules! runner {
    (($($generics:tt)*) $runner:ty, |$self:ident, $command:ident| $output:expr, $start:expr) => {
        impl<$($generics)*> ProcessRunner for $runner {
            fn output<'life0, 'life1, 'async_trait>(
                &'life0 $self,
                $command: &'life1 Command,
            ) -> Pin<Box<dyn Future<Output = Result<ProcessResult<String>>> + Send + 'async_trait>>
            where
                'life0: 'async_trait,
                'life1: 'async_trait,
                Self: 'async_trait,
            {
                $output
            }

            fn start<'life0, 'life1, 'async_trait>(
                &'life0 $self,
                $command: &'life1 Command,
            ) -> Pin<Box<dyn Future<Output = Result<RunningProcess>> + Send + 'async_trait>>
            where
                'life0: 'async_trait,
                'life1: 'async_trait,
                Self: 'async_trait,
            {
                $start
            }
        }
    };
}

/// Runs each command in a private group of its own: what [`Command::output_string`] and [`Command::start`] do.
#[derive(Debug, Default, Clone)]
pub struct JobRunner;

runner!(() JobRunner, |self, command| Box::pin(output_beside(command)), Box::pin(command.start()));

/// [`Command::output_string`] in a task of its own, where there are threads for it: a start holds its thread until the exec,
/// and many of them in one task would wait for each other.
async fn output_beside(command: &Command) -> Result<ProcessResult<String>> {
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        return command.output_string().await;
    }
    let command = command.clone();
    let mut task = AbortOnDrop(tokio::spawn(async move { command.output_string().await }));
    match (&mut task.0).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(io::Error::other(error).into()), // the runtime shuts down
        },
    }
}

struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

// In this group: what a command leaves running there stays until the group ends.
runner!(
    () ProcessGroup,
    |self, command| Box::pin(async move {
        let process = self.start(command).await?;
        let _ends = EndOnDrop(Arc::clone(&process.run.child));
        process.output_string().await
    }),
    Box::pin(self.start(command))
);

/// Ends one process of a group, unless it has ended.
struct EndOnDrop(Arc<Child>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        let _ = send(self.0.pidfd(), Signal::Kill); // nobody to tell
    }
}

runner!((R: ProcessRunner + ?Sized) &R, |self, command| (**self).output(command), (**self).start(command));
runner!((R: ProcessRunner + ?Sized) Box<R>, |self, command| (**self).output(command), (**self).start(command));
runner!((R: ProcessRunner + ?Sized) Arc<R>, |self, command| (**self).output(command), (**self).start(command));

/// The verbs of [`Command`] through any runner.
///
/// ```
/// use processkit::{Command, JobRunner, ProcessRunnerExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> processkit::Result<()> {
/// assert_eq!(JobRunner.run(&Command::new("echo").arg("hello")).await?, "hello");
/// assert!(!JobRunner.probe(&Command::new("false")).await?);
/// # Ok(())
/// # }
/// ```
///
/// Dropping a future ends its process. The errors are those of the verb of the same name. What
/// [`retry`](Command::retry) says is done by the runner, as far as it does: [`JobRunner`] tries failed starts again, a
/// [`ProcessGroup`] nothing.
pub trait ProcessRunnerExt: ProcessRunner {
    /// As [`Command::run`]: the output without white space at its end, or an error for a code that is not accepted.
    fn run(&self, command: &Command) -> impl Future<Output = Result<String>> + Send {
        async move { self.output(command).await?.into_trimmed() }
    }

    /// As [`run`](ProcessRunnerExt::run), for what it does and not for what it says.
    fn run_unit(&self, command: &Command) -> impl Future<Output = Result<()>> + Send {
        async move { self.output(command).await?.ensure_success().map(drop) }
    }

    /// As [`Command::exit_code`]: the code, whatever it is, or an error without one.
    fn exit_code(&self, command: &Command) -> impl Future<Output = Result<i32>> + Send {
        async move { self.output(command).await?.check_ended() }
    }

    /// As [`Command::probe`]: 0 is true, 1 is false, anything else an error.
    fn probe(&self, command: &Command) -> impl Future<Output = Result<bool>> + Send {
        async move { self.output(command).await?.into_answer() }
    }

    /// The whole result, or an error for a code that is not accepted.
    fn checked(&self, command: &Command) -> impl Future<Output = Result<ProcessResult<String>>> + Send {
        async move { self.output(command).await?.ensure_success() }
    }
}

impl<R: ProcessRunner + ?Sized> ProcessRunnerExt for R {}
