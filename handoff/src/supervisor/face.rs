//! The face for programs that embed the supervisor; `handoffctl run` is only one of them.

use super::manager::Manager;
use super::open::{Core, Setup};
use super::options::SpawnSpec;
use super::orders::{Aborted, Child, Handle, Order, PhaseEvent, Refusal, Serving, Wanted};
use super::replace::carried::Carried;
use super::replace::report::ReplacementReport;
use super::report::{ConnectionsReport, HandoffReport, LastHandoff, PhaseReport, StatusReport};
use crate::error::{Error, Result};
use crate::ids::{Epoch, HandoffId, InstanceId, ListenerName};
use crate::machine::{Outcome, Restarts};
use crate::os::listeners::Address;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, broadcast, mpsc, oneshot};

/// Supervises one service: starts it, hands it over to another build, watches it, starts it again when it dies.
///
/// Call it within a tokio runtime. Dropping it lets the servers run: a supervisor on the same run directory takes
/// them over later. [`Self::shutdown`] ends them.
///
/// ```no_run
/// use handoff::{SpawnSpec, Supervisor};
/// use std::net::TcpListener;
///
/// # async fn example() -> handoff::Result<()> {
/// let listener = TcpListener::bind("127.0.0.1:6379").expect("a free port");
/// let supervisor = Supervisor::new("/run/kv")
///     .with_data_dir("/var/lib/kv")
///     .with_listener("resp", listener.into());
/// supervisor.resume_from_journal().await?; // adopts what an earlier supervisor left running
/// let server = SpawnSpec::new("/opt/kv-1/kv").arg("--fsync").arg("always");
/// supervisor.start(server.clone()).await?;
///
/// let outcome = supervisor.perform_handoff(SpawnSpec::new("/opt/kv-2/kv")).await?;
/// if !outcome.committed {
///     eprintln!("kv-1 serves on: {}", outcome.abort_reason.unwrap_or_default());
/// }
/// supervisor.shutdown(std::time::Duration::from_secs(10)).await
/// # }
/// ```
#[derive(Debug)]
pub struct Supervisor {
    setup: Setup,
    events: broadcast::Sender<PhaseEvent>,
    core: Mutex<Option<Arc<Core>>>,
}

/// How an upgrade ended. An abort is an outcome, not an error.
#[derive(Debug)]
pub struct HandoffOutcome {
    /// The handoff; `None` when none was begun (preflight failed).
    pub handoff_id: Option<HandoffId>,
    /// Whether the successor serves.
    pub committed: bool,
    /// Why not: what was awaited, and from whom.
    pub abort_reason: Option<String>,
    /// The process that serves now, on commit.
    pub child: Option<Child>,
    /// The epoch under which somebody serves now.
    pub epoch: Option<Epoch>,
    /// How long each phase took, in order.
    pub phases: Vec<PhaseReport>,
    /// What became of the connections.
    pub connections: ConnectionsReport,
    /// All of it, as operators see it.
    pub report: HandoffReport,
}

/// What the journal of the run directory told when the supervisor began.
#[derive(Clone, Debug)]
pub struct StateJournal {
    /// This supervisor's generation.
    pub generation: u64,
    /// The handoff that an earlier supervisor left open; it is being resolved.
    pub open: Option<HandoffId>,
    /// The last handoff that ended.
    pub last: Option<LastHandoff>,
    /// Who served last, and under which epoch.
    pub served: Option<(InstanceId, Epoch)>,
    /// The running instances that were adopted.
    pub adopted: Vec<InstanceId>,
    /// The earlier supervisor had stopped and left nothing behind.
    pub stopped: bool,
}

impl Supervisor {
    /// A supervisor on this run directory; nothing is touched yet. The directory is made 0700, or has to be so.
    #[must_use]
    pub fn new(run_dir: impl Into<PathBuf>) -> Self {
        // a slow reader of events loses the oldest, never holds the supervisor
        let (events, _) = broadcast::channel(64);
        Self { setup: Setup::new(run_dir.into()), events, core: Mutex::new(None) }
    }

    /// A listener that every server inherits under this name. A running server that is adopted brings its own, which
    /// wins.
    #[must_use]
    pub fn with_listener(mut self, name: &str, fd: OwnedFd) -> Self {
        match ListenerName::new(name) {
            Ok(name) => self.setup.listeners.push((name, Arc::new(fd))),
            Err(error) => self.setup.wrong(error.to_string()),
        }
        self
    }

    /// An address that is bound when nothing is to be adopted that listens under this name.
    #[must_use]
    pub fn with_address(mut self, name: &str, address: Address) -> Self {
        match ListenerName::new(name) {
            Ok(name) => self.setup.addresses.push((name, address)),
            Err(error) => self.setup.wrong(error.to_string()),
        }
        self
    }

    /// Where the journal lies. Default: `journal` in the run directory.
    #[must_use]
    pub fn with_journal(mut self, path: impl Into<PathBuf>) -> Self {
        self.setup.journal = Some(path.into());
        self
    }

    /// What the embedding program calls itself in `status`; at most 128 bytes of text are shown.
    #[must_use]
    pub fn with_build_id(mut self, id: impl AsRef<[u8]>) -> Self {
        let text = String::from_utf8_lossy(id.as_ref()).escape_debug().take(128).collect();
        self.setup.build_id = Some(text);
        self
    }

    /// The data directory: the service has one writer, and the claims are beside the data. Without it the service is
    /// stateless, and the claims are in the run directory.
    #[must_use]
    pub fn with_data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.setup.data_dir = Some(path.into());
        self
    }

    /// A name for people.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.setup.name = Some(name.into());
        self
    }

    /// Operators may replace this program by another one that is then called with these arguments, in the same process
    /// (`handoffctl upgrade --supervisor`). It has to pass the check of [`Carried::check`] when it is called as
    /// `PROGRAM self-check -- ARGUMENTS`, and to begin with [`Carried::inherit`] and [`Self::with_carried`].
    #[must_use]
    pub fn with_arguments(mut self, arguments: impl IntoIterator<Item = OsString>) -> Self {
        self.setup.arguments = Some(arguments.into_iter().collect());
        self
    }

    /// Goes on from an older program in whose place this one was executed.
    #[must_use]
    pub fn with_carried(self, carried: Carried) -> Self {
        *self.setup.carried.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(carried);
        self
    }

    /// Keeps a service manager informed, and goes on from what it kept.
    #[must_use]
    pub fn with_service_manager(self, manager: Manager) -> Self {
        *self.setup.manager.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(manager);
        self
    }

    /// Supervises for a while only: begins only where a server serves, starts new ones with the standard streams of
    /// that one, and leaves with [`Self::leave`].
    #[must_use]
    pub fn as_guest(mut self) -> Self {
        self.setup.guest = true;
        self
    }

    /// How a server that dies is started again. After the budget [`Self::status`] says `failed`, and the listeners stay
    /// open until [`Self::start`] or [`Self::shutdown`].
    #[must_use]
    pub fn with_restarts(mut self, restarts: Restarts) -> Self {
        self.setup.restarts = restarts;
        self
    }

    async fn core(&self) -> Result<Arc<Core>> {
        let mut core = self.core.lock().await;
        if let Some(core) = &*core {
            return Ok(Arc::clone(core));
        }
        let opened = Arc::new(self.setup.open(self.events.clone()).await?);
        *core = Some(Arc::clone(&opened));
        Ok(opened)
    }

    async fn handle(&self) -> Result<Handle> {
        Ok(self.core().await?.handle.clone())
    }

    /// Reads the journal and adopts the instances that run. Call it once, before the first handoff; `None` when the
    /// journal is new. Await it to its end: dropped half-way it has taken nobody over, and [`Self::shutdown`] ends
    /// nobody.
    ///
    /// # Errors
    /// The directories cannot be used, or somebody else uses them.
    pub async fn resume_from_journal(&self) -> Result<Option<StateJournal>> {
        Ok(self.core().await?.journal.clone())
    }

    /// Starts the first server and waits until it serves. What it was given is the configured program: it is started
    /// again when the claims name no other build. A server that was adopted and serves is left alone.
    ///
    /// # Errors
    /// [`Error::NotServing`] with the exit code when it ended before it served; the directories cannot be used.
    pub async fn start(&self, spec: SpawnSpec) -> Result<Serving> {
        let (reply, answer) = oneshot::channel();
        self.handle().await?.send(Order::Start { spec, reply }).await?;
        answer.await.map_err(|_| Error::Stopped)?
    }

    /// Hands the service over to another program. Dropping the future does not abort the handoff.
    ///
    /// # Errors
    /// [`Error::HandoffInProgress`] when another one is open. A handoff that ends in an abort is no error.
    pub async fn perform_handoff(&self, spec: SpawnSpec) -> Result<HandoffOutcome> {
        let (phases, _) = mpsc::unbounded_channel();
        let (reply, answer) = oneshot::channel();
        let wanted = Wanted::Spec(spec);
        self.handle().await?.send(Order::Upgrade { wanted, phases, reply }).await?;
        match answer.await.map_err(|_| Error::Stopped)? {
            Ok(done) => Ok(HandoffOutcome::new(done.report, done.child)),
            Err(Refusal::Busy(_)) => Err(Error::HandoffInProgress),
            Err(Refusal::Error(error)) => Err(error),
        }
    }

    /// Asks for the open handoff to be aborted; [`Self::perform_handoff`] says how it ends. `None` when there is
    /// nothing to abort, or it is too late.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn abort(&self) -> Result<Option<HandoffId>> {
        Ok(match self.handle().await?.abort().await? {
            Aborted::Aborting(id) => Some(id),
            Aborted::Nothing(_) => None,
        })
    }

    /// How everything stands.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn status(&self) -> Result<StatusReport> {
        self.handle().await?.status().await.map(|status| *status)
    }

    /// The phases of handoffs as they are entered. A slow reader loses the oldest.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<PhaseEvent> {
        self.events.subscribe()
    }

    /// Serves operators (`handoffctl`) on `control.sock` in the run directory until this is dropped or shut down.
    ///
    /// # Errors
    /// The socket cannot be bound.
    pub async fn serve_operators(&self) -> Result<()> {
        self.core().await?.serve_operators()
    }

    /// Answers the operator who asked for this program, if one did. Call it when the service is supervised again.
    ///
    /// # Errors
    /// The directories cannot be used.
    pub async fn answer_for_replacement(&self) -> Result<Option<ReplacementReport>> {
        Ok(self.core().await?.pay())
    }

    /// Returns when nobody supervises any more: after [`Self::shutdown`], and after a panic. The servers that are left
    /// live on then, and a supervisor that is started again takes them over; so whoever did not ask for the end leaves
    /// the process. Never returns before the first call that opens the directories. Cancel safe.
    pub async fn ended(&self) {
        let handle = self.core.lock().await.as_ref().map(|core| core.handle.clone());
        match handle {
            Some(handle) => handle.closed().await,
            None => std::future::pending().await,
        }
    }

    /// Leaves the servers to themselves, once nothing is open and nobody is retiring any more, at the latest after
    /// `patience`. Whoever supervises next adopts them.
    pub async fn leave(self, patience: Duration) {
        let Some(core) = self.core.lock().await.take() else { return };
        let (reply, quiet) = oneshot::channel();
        if core.handle.send(Order::Quiet { reply }).await.is_ok()
            && tokio::time::timeout(patience, quiet).await.is_err()
        {
            tracing::warn!("a former server has not left yet; it does by itself");
        }
        core.close();
    }

    /// Ends every server, with this grace between TERM and KILL, and the supervisor with them.
    ///
    /// # Errors
    /// [`Error::Stopped`] when it had stopped before.
    pub async fn shutdown(&self, grace: Duration) -> Result<()> {
        // what was never opened has nothing to end
        let handle = self.core.lock().await.as_ref().map(|core| core.handle.clone());
        let Some(handle) = handle else { return Ok(()) };
        let (reply, answer) = oneshot::channel();
        handle.send(Order::Stop { grace, reply }).await?;
        answer.await.map_err(|_| Error::Stopped)
    }
}

impl HandoffOutcome {
    fn new(report: HandoffReport, child: Option<Child>) -> Self {
        Self {
            handoff_id: report.handoff_id.as_deref().and_then(HandoffId::parse),
            committed: report.outcome == Outcome::Committed,
            abort_reason: report.reason.clone(),
            child,
            epoch: report.epoch.map(Epoch),
            phases: report.phases.clone(),
            connections: report.connections.clone(),
            report,
        }
    }
}
