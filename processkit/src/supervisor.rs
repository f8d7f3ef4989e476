//! One command, run again and again.

use crate::command::Command;
use crate::error::Result;
use crate::restart::{Ended, Next, RestartPolicy, Restarts, Rules, StopReason};
use crate::result::ProcessResult;
use crate::run::check_begin;
use crate::runner::{JobRunner, ProcessRunner};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::time::Duration;
use tokio::time::Instant;

/// Runs a command, and runs it again when it ends, by rules.
///
/// After each run, in this order: the [predicate](Supervisor::stop_when), the [policy](Supervisor::restart), the
/// [budget](Supervisor::max_restarts), the [storm gate](Supervisor::storm_pause) (after crashes only), the
/// [back-off](Supervisor::backoff). By default it runs again after a crash, without limit, waiting 200 ms, 400 ms and so on
/// up to 30 s, each times a random number in [0.5, 1.5); the storm gate is off.
///
/// A run is a **crash** if its result is not a [success](ProcessResult::is_success) (a code that is not accepted, a signal, a
/// timeout) or if it could not be started for a reason that may pass ([`is_transient`](crate::Error::is_transient)). It is **healthy** if it is no
/// crash, or lasted at least as long as the [maximum](Supervisor::max_backoff) of the back-off: the next wait starts from the
/// base again then.
///
/// ```
/// use processkit::{Command, StopReason, Supervisor};
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> processkit::Result<()> {
/// let outcome = Supervisor::new(Command::new("sh").args(["-c", "exit 7"]))
///     .max_restarts(2)
///     .backoff(Duration::from_millis(1), 2.0)
///     .run()
///     .await?;
/// assert_eq!(outcome.stopped, StopReason::RestartsExhausted);
/// assert_eq!((outcome.restarts, outcome.final_result.code()), (2, Some(7)));
/// # Ok(())
/// # }
/// ```
#[must_use = "a supervisor does nothing until it runs"]
pub struct Supervisor<R: ProcessRunner = JobRunner> {
    command: Command,
    runner: R,
    rules: Rules,
    stop_when: Option<Predicate>,
}

type Predicate = Box<dyn FnMut(&ProcessResult<String>) -> bool + Send>;

/// How a supervision ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct SupervisionOutcome {
    /// What the last run gave.
    pub final_result: ProcessResult<String>,
    /// How often the command was run again: the number of runs is one more.
    pub restarts: u32,
    /// Why there was no further run.
    pub stopped: StopReason,
    /// How often failures came so thick that it paused.
    pub storm_pauses: u32,
}

impl Supervisor<JobRunner> {
    /// Supervise a command, each run in a private group of its own.
    pub fn new(command: Command) -> Self {
        Supervisor { command, runner: JobRunner, rules: Rules::default(), stop_when: None }
    }
}

impl<R: ProcessRunner> Supervisor<R> {
    /// Run it by this runner instead.
    pub fn with_runner<R2: ProcessRunner>(self, runner: R2) -> Supervisor<R2> {
        Supervisor { command: self.command, runner, rules: self.rules, stop_when: self.stop_when }
    }

    /// When to run again; [`RestartPolicy::OnCrash`] by default.
    pub fn restart(mut self, policy: RestartPolicy) -> Self {
        self.rules.policy = policy;
        self
    }

    /// At most this many runs after the first; any number by default. 0 means one run.
    pub fn max_restarts(mut self, count: u32) -> Self {
        self.rules.max_restarts = Some(count);
        self
    }

    /// Wait `base * factor^n` before the n-th restart (from 0) since the last healthy run; 200 ms and 2.0 by default. A
    /// factor of 1 waits the same each time.
    pub fn backoff(mut self, base: Duration, factor: f64) -> Self {
        self.rules.base = base;
        self.rules.factor = factor;
        self
    }

    /// Never wait longer than this between runs, jitter included; 30 s by default. A run that lasted this long was healthy.
    pub fn max_backoff(mut self, cap: Duration) -> Self {
        self.rules.cap = cap;
        self
    }

    /// Whether each wait is multiplied by a random number in [0.5, 1.5), so that many do not start at once; on by default.
    pub fn jitter(mut self, enabled: bool) -> Self {
        self.rules.jitter = enabled;
        self
    }

    /// Turn the storm gate on: when the score of failures passes the [threshold](Supervisor::failure_threshold), wait this
    /// long (with jitter) before the usual back-off, and begin a new count.
    ///
    /// Each failure adds 1 to the score, and what was there has decayed by the [half-life](Supervisor::failure_decay).
    pub fn storm_pause(mut self, pause: Duration) -> Self {
        self.rules.storm_pause = Some(pause);
        self
    }

    /// The time in which the score of failures falls to half; 30 s by default.
    pub fn failure_decay(mut self, half_life: Duration) -> Self {
        self.rules.half_life = half_life;
        self
    }

    /// The score of failures above which it is a storm; 5.0 by default, which the sixth failure in a moment passes.
    pub fn failure_threshold(mut self, threshold: f64) -> Self {
        self.rules.threshold = threshold;
        self
    }

    /// Stop after a run whose result satisfies this. Asked first, after each run that gave a result.
    pub fn stop_when<F>(mut self, predicate: F) -> Self
    where
        F: FnMut(&ProcessResult<String>) -> bool + Send + 'static,
    {
        self.stop_when = Some(Box::new(predicate));
        self
    }

    /// Run it until the rules say stop.
    ///
    /// Dropping the future ends the process that runs, if the runner does so, and starts no other. A
    /// [token](Command::cancel_on) of the command ends each wait as well as each run.
    ///
    /// # Errors
    /// Before anything is started, for numbers that make no sense (`InvalidInput`, with the name of the number): zero, or not
    /// finite. [`Error::Cancelled`](crate::Error::Cancelled) by the token. What the runner cannot start or watch and is not
    /// [transient](crate::Error::is_transient) ends the supervision with that error; a transient one counts as a crash without a
    /// result, and is the error if no further run is made.
    pub async fn run(mut self) -> Result<SupervisionOutcome> {
        self.rules.check().map_err(|wrong| io::Error::new(io::ErrorKind::InvalidInput, wrong))?;
        let mut restarts = Restarts::new(self.rules);
        let begun = Instant::now();
        loop {
            check_begin(&self.command)?;
            let started = Instant::now();
            let result = match self.runner.output(&self.command).await {
                Err(error) if !error.is_transient() => return Err(error),
                result => result,
            };
            let (crashed, satisfied) = match &result {
                Ok(result) => {
                    (!result.is_success(), self.stop_when.as_mut().is_some_and(|stop| stop(result)))
                }
                Err(error) => {
                    event!(warn, error = error, "cannot be run for now");
                    (true, false)
                }
            };
            let run = Ended { crashed, satisfied, lived: started.elapsed(), at: begun.elapsed() };
            match restarts.after(run, [dice(), dice()]) {
                Next::Stop(stopped) => {
                    return Ok(SupervisionOutcome {
                        final_result: result?,
                        restarts: restarts.made(),
                        stopped,
                        storm_pauses: restarts.storm_pauses(),
                    });
                }
                Next::Again { pause, delay } => {
                    if let Some(pause) = pause {
                        event!(warn, pause = format_args!("{pause:?}"), "crashes come too thick");
                        pass(&self.command, pause).await?;
                    }
                    event!(debug, delay = format_args!("{delay:?}"), crashed = crashed, "to be run again");
                    pass(&self.command, delay).await?;
                }
            }
        }
    }
}

/// Let this time pass, unless the command is cancelled. Takes the command alone: the predicate need not be `Sync`.
async fn pass(command: &Command, time: Duration) -> Result<()> {
    tokio::select! {
        biased;
        () = command.terms.cancelled() => check_begin(command),
        () = tokio::time::sleep(time) => Ok(()),
    }
}

impl<R: ProcessRunner> fmt::Debug for Supervisor<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor")
            .field("command", &self.command)
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

/// A number in [0, 1): the keys of each `RandomState` are others, and unpredictable enough to spread restarts.
fn dice() -> f64 {
    const BITS: u32 = f64::MANTISSA_DIGITS;
    (RandomState::new().hash_one(()) >> (u64::BITS - BITS)) as f64 / (1u64 << BITS) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;
    use crate::running::RunningProcess;
    use std::sync::{Arc, Mutex};

    /// A run: how long it lasts, and its code or the number of its error.
    type Run = (Duration, std::result::Result<i32, i32>);

    /// Runs nothing: each run lasts as long as written here, on a clock that stands still meanwhile, and gives the code.
    struct Script {
        begun: Instant,
        runs: Vec<Run>,
        starts: Mutex<Vec<Duration>>,
    }

    impl Script {
        fn of(runs: impl IntoIterator<Item = Run>) -> Self {
            Script { begun: Instant::now(), runs: runs.into_iter().collect(), starts: Mutex::default() }
        }

        /// The times between the end of each run and the start of the next.
        fn waits(&self) -> Vec<Duration> {
            let starts = self.starts.lock().expect("the list");
            starts.windows(2).zip(&self.runs).map(|(pair, (lived, _))| pair[1] - pair[0] - *lived).collect()
        }
    }

    #[async_trait::async_trait]
    impl ProcessRunner for Script {
        async fn output(&self, _: &Command) -> Result<ProcessResult<String>> {
            let number = {
                let mut starts = self.starts.lock().expect("the list");
                starts.push(self.begun.elapsed());
                starts.len() - 1
            };
            let (lived, end) = *self.runs.get(number).unwrap_or(&(Duration::ZERO, Ok(0)));
            tokio::time::sleep(lived).await;
            let code = end.map_err(io::Error::from_raw_os_error)?;
            Ok(ProcessResult {
                program: "scripted".into(),
                stdout: String::new(),
                stderr: String::new(),
                exit: Exit { code: Some(code), signal: None, core: false },
                timeout: None,
                duration: lived,
                truncated: false,
                left_open: false,
                accepted: Arc::new([0].into()),
            })
        }

        async fn start(&self, _: &Command) -> Result<RunningProcess> {
            unreachable!("a supervisor wants the output")
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    fn crashes(count: usize) -> Vec<Run> {
        vec![(Duration::ZERO, Ok(1)); count]
    }

    fn supervisor(script: &Script) -> Supervisor<&Script> {
        Supervisor::new(Command::new("scripted")).with_runner(script).jitter(false)
    }

    fn seconds(waits: &[Duration]) -> Vec<f64> {
        waits.iter().map(|wait| (wait.as_secs_f64() * 100.0).round() / 100.0).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_longer_each_time_and_anew_after_a_healthy_run() {
        let mut runs = crashes(5);
        runs.push((30 * SECOND, Ok(1)));
        runs.extend(crashes(2));
        let script = Script::of(runs);
        let outcome = supervisor(&script).backoff(SECOND, 3.0).run().await.expect("an outcome");
        assert_eq!((outcome.restarts, outcome.stopped), (8, StopReason::PolicySatisfied));
        assert_eq!(seconds(&script.waits()), [1.0, 3.0, 9.0, 27.0, 30.0, 1.0, 3.0, 9.0]);
    }

    #[tokio::test(start_paused = true)]
    async fn jitter_spreads_the_waits() {
        let script = Script::of(crashes(200));
        supervisor(&script).jitter(true).backoff(10 * SECOND, 1.0).run().await.expect("an outcome");
        let waits = seconds(&script.waits());
        assert!(waits.iter().all(|wait| (5.0..=15.0).contains(wait)), "{waits:?}");
        assert!(waits.iter().any(|wait| *wait < 7.0) && waits.iter().any(|wait| *wait > 13.0), "{waits:?}");
    }

    /// The pause of a storm comes before the back-off; then the count begins anew.
    #[tokio::test(start_paused = true)]
    async fn a_storm_pauses_it() {
        let script = Script::of(crashes(6));
        let stormy =
            supervisor(&script).backoff(SECOND, 1.0).failure_threshold(2.5).storm_pause(100 * SECOND);
        let outcome = stormy.failure_decay(1000 * SECOND).run().await.expect("an outcome");
        assert_eq!(seconds(&script.waits()), [1.0, 1.0, 101.0, 1.0, 1.0, 101.0]);
        assert_eq!(outcome.storm_pauses, 2);

        // as many crashes, each a half-life after the other
        let script = Script::of(vec![(9 * SECOND, Ok(1)); 6]);
        let calm = supervisor(&script).backoff(SECOND, 1.0).failure_threshold(2.5).storm_pause(100 * SECOND);
        let outcome = calm.failure_decay(10 * SECOND).run().await.expect("an outcome");
        assert_eq!((seconds(&script.waits()), outcome.storm_pauses), (vec![1.0; 6], 0));
    }

    /// What may pass is a crash without a result, anything else the end.
    #[tokio::test(start_paused = true)]
    async fn errors_that_may_pass_are_crashes() {
        let busy = (Duration::ZERO, Err(libc::EAGAIN));
        let script = Script::of([busy, busy, (Duration::ZERO, Ok(0))]);
        let outcome = supervisor(&script).run().await.expect("an outcome");
        assert_eq!((outcome.restarts, seconds(&script.waits())), (2, vec![0.2, 0.4]));

        let script = Script::of([busy; 9]);
        let error = supervisor(&script).max_restarts(3).run().await.expect_err("no result to give");
        assert!(error.is_transient(), "{error}");
        assert_eq!(script.waits().len(), 3);

        let script = Script::of([(Duration::ZERO, Err(libc::EACCES))]);
        let error = supervisor(&script).run().await.expect_err("not transient");
        assert!(error.is_permission_denied(), "{error}");
        assert!(script.waits().is_empty());
    }
}
