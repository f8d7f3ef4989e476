//! Commands in a row, the output of each the input of the next.

use crate::batch::Batch;
use crate::command::Command;
use crate::error::Result;
use crate::group::ProcessGroup;
use crate::process::Child;
use crate::result::ProcessResult;
use crate::run::check_begin;
use crate::running::RunningProcess;
use std::ops::BitOr;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Commands in a row. Each writes into a pipe that the next one reads: the bytes do not pass through this process.
///
/// All stages run in one private group, which ends with the pipeline. The first stage reads its own
/// [`stdin`](Command::stdin); the output of the last is captured as its command says; what the others were told about
/// these streams does not count. The standard error of every stage is taken, and kept up to its
/// [`output_buffer`](Command::output_buffer).
///
/// **Who speaks**: the first stage that is not [`unchecked`](Command::unchecked) and did not succeed gives the result, with its
/// program, code and standard error; if there is none, the last stage. So `yes | head -n 1` fails by `yes`, which ends by
/// SIGPIPE, unless that is `unchecked`.
///
/// ```
/// use processkit::Command;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> processkit::Result<()> {
/// let first = Command::new("printf").arg("b\na\n") | Command::new("sort") | Command::new("head").args(["-n", "1"]);
/// assert_eq!(first.run().await?, "a");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a pipeline does nothing until it runs"]
pub struct Pipeline {
    stages: Vec<Command>,
    timeout: Option<Duration>,
}

impl Command {
    /// Lead the output of this into the input of the next.
    pub fn pipe(self, next: Command) -> Pipeline {
        Pipeline { stages: vec![self, next], timeout: None }
    }

    /// As a stage of a [`Pipeline`]: however this ends, the stages behind it speak. The last stage speaks for itself in any
    /// case.
    pub fn unchecked(mut self) -> Self {
        self.unchecked = true;
        self
    }
}

impl BitOr for Command {
    type Output = Pipeline;

    /// [`Command::pipe`].
    fn bitor(self, next: Command) -> Pipeline {
        self.pipe(next)
    }
}

impl BitOr<Command> for Pipeline {
    type Output = Pipeline;

    /// [`Pipeline::pipe`].
    fn bitor(self, next: Command) -> Pipeline {
        self.pipe(next)
    }
}

impl Pipeline {
    /// Lead the output of the last stage into the input of one more.
    pub fn pipe(mut self, next: Command) -> Self {
        self.stages.push(next);
        self
    }

    /// End all stages if they take longer than this together, counted from the first spawn. The limits of the single commands
    /// hold as well.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Run it until every stage has ended: the standard output is that of the last stage, the rest that of the stage
    /// [that speaks](Pipeline). How it ended, a timeout included, is in the result.
    ///
    /// Dropping the future ends all stages.
    ///
    /// # Errors
    /// If a stage cannot be started, which ends those that were; [`Error::Cancelled`](crate::Error::Cancelled) by the token of
    /// any stage, which ends all.
    pub async fn output_string(&self) -> Result<ProcessResult<String>> {
        self.stages.iter().try_for_each(check_begin)?;
        let group = ProcessGroup::with_options(self.stages[0].group_options.clone())?;
        let begun = Instant::now();
        let mut processes = self.start(&group).await?;
        let timeout = self.end(&group, begun, &mut processes).await?;
        let mut results = Vec::with_capacity(processes.len());
        for process in processes {
            results.push(process.output_string().await?);
        }
        let last = results.len() - 1;
        let failed =
            |(stage, result): (&Command, &ProcessResult<String>)| !stage.unchecked && !result.is_success();
        let speaker = self.stages.iter().zip(&results).position(failed).unwrap_or(last);
        let stdout = std::mem::take(&mut results[last].stdout);
        let truncated = results[last].truncated;
        let mut result = results.swap_remove(speaker);
        result.stdout = stdout;
        result.truncated |= truncated;
        result.timeout = timeout.or(result.timeout);
        result.duration = begun.elapsed();
        Ok(result)
    }

    /// Run it and give the output of the last stage without white space at its end.
    ///
    /// Dropping the future ends all stages.
    ///
    /// # Errors
    /// As for [`output_string`](Pipeline::output_string); [`Error::Exit`](crate::Error::Exit) if a stage failed, with the
    /// output of the last stage and the rest of the stage that speaks; [`Error::Timeout`](crate::Error::Timeout).
    pub async fn run(&self) -> Result<String> {
        self.output_string().await?.into_trimmed()
    }

    /// Start every stage, each with one end of the pipe to the next.
    async fn start(&self, group: &ProcessGroup) -> Result<Vec<RunningProcess>> {
        let mut processes = Vec::with_capacity(self.stages.len());
        let mut input: Option<OwnedFd> = None;
        for (number, stage) in (1..).zip(&self.stages) {
            let mut command = stage.clone();
            if let Some(reader) = input.take() {
                command = command.stdin_from(reader);
            }
            if number < self.stages.len() {
                let (reader, writer) = std::io::pipe()?;
                command = command.stdout(OwnedFd::from(writer));
                input = Some(reader.into());
            }
            processes.push(group.start(&command).await?);
            // The command goes, and with it our copies of its ends: or no reader would see the end, no writer a SIGPIPE.
        }
        Ok(processes)
    }

    /// Until all have ended, and what they left behind as well. The limit, if it ended one of them.
    async fn end(
        &self,
        group: &ProcessGroup,
        begun: Instant,
        processes: &mut [RunningProcess],
    ) -> Result<Option<Duration>> {
        let children: Vec<Arc<Child>> =
            processes.iter().map(|process| Arc::clone(&process.run.child)).collect();
        let ends = processes.iter_mut().map(|process| {
            Box::pin(async move {
                let end = process.ended().await;
                if end.is_err() {
                    group.kill()?; // the others would wait for it
                }
                end
            })
        });
        let mut ends = pin!(Batch::new(ends, children.len(), children.len()));
        let late = async {
            match self.timeout.and_then(|timeout| begun.checked_add(timeout)) {
                Some(end) => tokio::time::sleep_until(end).await,
                None => std::future::pending().await, // a limit beyond the clock is none
            }
        };
        let mut timeout = None;
        let ends = tokio::select! {
            biased;
            ends = &mut ends => ends,
            () = late => {
                // One that nobody has looked at may have ended in time.
                if children.iter().any(|child| !matches!(child.try_reap(), Ok(Some(_)))) {
                    timeout = self.timeout;
                    group.kill()?;
                }
                ends.await
            }
        };
        ends.into_iter().try_for_each(|end| end.map(drop))?;
        group.kill()?; // what the stages left behind, so that nobody holds their pipes
        group.wait_empty().await?;
        Ok(timeout)
    }
}
