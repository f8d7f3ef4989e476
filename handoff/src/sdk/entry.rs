//! The entry point: from what the process was given to a world, through its whole life, to how it ended.

use super::context::{Context, ContextInner, Progress};
use super::control::{self, Control};
use super::environment::{Environment, Supervised};
use super::gate::Gate;
use super::host::Host;
use super::launch::{self, Error, Launch};
use super::service::Service;
use super::successor::Successor;
use super::tenure::first_stream;
use super::transfer::Stamp;
use super::world::{Claiming, InstanceWorld, Key, Line};
use crate::claim::{BuildDigest, Proposal};
use crate::crash::scaled;
use crate::driver::drive;
use crate::ids::{BuildId, Epoch, HandoffId, InstanceId, ListenerName};
use crate::machine::{Ending, Input, Instance, times};
use crate::os::channel::Channel;
use crate::os::claims::Claims;
use crate::os::listeners;
use crate::os::lock::{LineageLock, Lock, OWNER_LOCK};
use crate::os::timers::Timers;
use crate::wire::{Hello, Role, Strategy, version};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

/// Runs a server: cold, by hand, or as the successor of a running one; later as an incumbent that hands over.
///
/// Returns when the server has left: it handed over and retired, or was asked to stop (SIGTERM; by hand also
/// Ctrl-C). Call it once, from a multi-threaded tokio runtime, before anything else in the process uses inherited
/// descriptors; when it returns, leave the process and map an error to [`Error::exit_code`].
///
/// # Errors
/// See [`Error`]; nothing may be served any more then.
pub async fn serve<S: Successor>(launch: Launch<S::Config>) -> Result<(), Error> {
    crate::crash::speak();
    let Environment { supervised, channel, listeners } = Environment::take()?;
    let channel = channel.map(|fd| Channel::from_fd(fd).map_err(|e| Error::start("HANDOFF_SOCK_FD", e)));
    let line = channel.transpose()?.map(Line::new);
    match prepare::<S>(launch, supervised, listeners) {
        Ok(mut world) => {
            world.supervisor = line;
            live(world).await
        }
        Err(why) => {
            if let Some(line) = line {
                tell(&line, &why).await;
            }
            Err(why)
        }
    }
}

pub(super) async fn live(mut world: InstanceWorld) -> Result<(), Error> {
    let hello = world.hello.clone();
    let mut machine =
        if hello.role == Role::Successor { Instance::successor(hello) } else { Instance::cold(hello) };
    let ending = drive(&mut machine, &mut world).await;
    tracing::info!(?ending, instance = %world.hello.instance, "leaving");
    world.leave().await;
    match ending {
        Ending::Retired | Ending::Stopped => Ok(()),
        Ending::Untouched(why) => Err(Error::Untouched(why)),
        Ending::GaveUp(why) => Err(Error::GaveUp(why)),
    }
}

/// The supervisor learns why there will be no Hello.
async fn tell(line: &Line, why: &Error) {
    let why = why.to_string();
    let told = control::refuse(&line.sender, 0, &why);
    let _ = tokio::time::timeout(std::time::Duration::from_secs(1), told).await;
}

/// Everything that can go wrong before anything is touched.
pub(super) fn prepare<S: Successor>(
    launch: Launch<S::Config>,
    supervised: Option<Supervised>,
    inherited: Vec<(ListenerName, OwnedFd)>,
) -> Result<InstanceWorld, Error> {
    let binds = launch::addresses(&launch.binds)?;
    let build = launch.build_id.map_or_else(fingerprint, BuildId);
    let data_dir = data_dir(launch.data_dir, supervised.as_ref().and_then(|s| s.data_dir.clone()))?;
    let service = S::SERVICE;
    if service.strategy == Strategy::Exclusive && data_dir.is_none() {
        let why = "the exclusive strategy needs a data directory (Launch::data_dir)";
        return Err(Error::start(service.name, why));
    }
    // two writers at once is what a data directory of the service must not see
    if service.strategy == Strategy::Overlap && supervised.as_ref().is_some_and(|s| s.data_dir.is_some()) {
        let why = "the overlap strategy is for stateless services; next: `handoffctl run` without --data-dir";
        return Err(Error::start(service.name, why));
    }
    let (role, instance) = match &supervised {
        Some(supervised) => (supervised.role, supervised.instance),
        None => (Role::Cold, InstanceId(uuid::Uuid::new_v4().as_u128())),
    };
    let by_hand = supervised.is_none();
    let (lineage, control, run_dir, digest) = match supervised {
        Some(s) => (s.lineage, s.control, s.run_dir, s.build),
        None => (None, None, None, BuildDigest::UNKNOWN),
    };
    let claiming = claiming(data_dir.as_deref(), run_dir.as_deref(), lineage)?;
    let mut all = inherited;
    if by_hand {
        for (name, address) in binds {
            if !all.iter().any(|(n, _)| *n == name) {
                let fd =
                    listeners::bind(&address).map_err(|e| Error::start(format!("listener {name}"), e))?;
                all.push((name, fd));
            }
        }
    }
    let highest = match &claiming {
        Some(claiming) => claiming.claims.highest().map_err(|e| Error::Start(e.to_string()))?,
        None => None,
    };
    // the supervisor has compared a successor with its incumbent; where nobody serves the claim is all there is
    if let (Role::Cold, Some((epoch, claim))) = (role, &highest)
        && !service.state_reads.contains(&claim.state_format)
    {
        return Err(unreadable(&service, *epoch, claim));
    }
    let epoch = highest.map_or(Epoch::ZERO, |(epoch, _)| epoch);
    let owner_lock = match claiming.as_ref().and_then(|c| c.lock.as_ref()) {
        Some(lock) => Some(lock.id().map_err(|e| Error::Start(e.to_string()))?),
        None => None,
    };
    let hello = Hello {
        role,
        instance,
        pid: std::process::id(),
        build,
        service: service.name.to_owned(),
        wire_min: version::MIN,
        wire_max: version::highest(),
        strategy: service.strategy,
        state: service.state(),
        connections: service.connections(),
        owner_lock,
        epoch,
        listeners: all.iter().map(|(name, _)| name.clone()).collect(),
        generation: 0,
        canary: S::CANARY && first_stream(&all).is_some(),
    };
    let progress = Progress::default();
    let (votes, voted) = mpsc::unbounded_channel();
    let context = Context {
        inner: Arc::new(ContextInner {
            config: launch.config,
            data_dir: data_dir.clone(),
            instance,
            progress: progress.clone(),
            votes,
        }),
    };
    let of_signal = |kind| signal(kind).map_err(|e| Error::start("signal handler", e));
    let mut timers = Timers::default();
    timers.arm(Key::Heartbeat, scaled(times::HEARTBEAT));
    Ok(InstanceWorld {
        letter: if role == Role::Successor { "N" } else { "X" },
        build: digest,
        by_hand,
        epoch,
        stamp: Stamp { handoff: HandoffId::NIL, epoch },
        claiming,
        data_dir,
        listeners: all.into_iter().map(|(name, fd)| (name, Arc::new(fd))).collect(),
        progress,
        votes: voted,
        unfit: None,
        host: Host::spawn::<S>(context),
        gate: Gate::open(),
        supervisor: None,
        supervisor_lost: watch::Sender::new(false),
        control: control.map(Control::new).transpose().map_err(|e| Error::start("the control socket", e))?,
        adopters: mpsc::unbounded_channel(),
        canary: None,
        transfer: None,
        connection_format: 0,
        receiving: None,
        deaf: role == Role::Successor,
        sending: None,
        acks: watch::Sender::new(0),
        parked: Vec::new(),
        candidate: None,
        takeover: None,
        fates: mpsc::unbounded_channel(),
        locking: None,
        timers,
        terminate: of_signal(SignalKind::terminate())?,
        interrupt: of_signal(SignalKind::interrupt())?,
        stopping: false,
        retire_grace: None,
        pending: VecDeque::from([Input::Start]),
        hello,
    })
}

/// One data directory, whoever names it.
fn data_dir(given: Option<PathBuf>, inherited: Option<PathBuf>) -> Result<Option<PathBuf>, Error> {
    match (given, inherited) {
        (Some(given), Some(inherited)) => {
            let same = given == inherited
                || std::fs::canonicalize(&given)
                    .ok()
                    .is_some_and(|g| std::fs::canonicalize(&inherited).ok() == Some(g));
            if same { Ok(Some(inherited)) } else { Err(Error::DataDirDiffers { given, inherited }) }
        }
        (given, inherited) => Ok(given.or(inherited)),
    }
}

/// Opens the claim directory and the locks: beside the data or, without data, in the run directory. A server that
/// was started by hand begins a lineage of its own.
fn claiming(
    data_dir: Option<&Path>,
    run_dir: Option<&Path>,
    lineage: Option<OwnedFd>,
) -> Result<Option<Claiming>, Error> {
    let start = |e: &dyn std::fmt::Display| Error::Start(e.to_string());
    let claims = match (data_dir, run_dir) {
        (Some(data), _) => Claims::open(data),
        (None, Some(run)) => Claims::open_in_run(run),
        (None, None) => return Ok(None),
    };
    let claims = claims.map_err(|e| start(&e))?;
    let lineage = match lineage {
        Some(fd) => LineageLock::from_fd(fd),
        None => LineageLock::acquire(claims.dir()),
    };
    let lineage = lineage.map_err(|e| start(&e))?;
    if !lineage.belongs_to(claims.dir()).map_err(|e| start(&e))? {
        let why = format!(
            "the supervisor's lineage.lock is not that of {}; next: compare this program's data directory with the \
             supervisor's",
            claims.dir().path().display()
        );
        return Err(Error::Start(why));
    }
    let lock = Lock::open(claims.dir(), OWNER_LOCK).map_err(|e| start(&e))?;
    Ok(Some(Claiming { claims, lineage, lock: Some(lock) }))
}

/// Data is opened only by a build that declared that it reads its format.
fn unreadable(service: &Service, epoch: Epoch, claim: &Proposal) -> Error {
    let why = format!(
        "state format {} is on disk (epoch {epoch}, written by {}), this build reads only {:?}; next: start a build \
         that reads it, {} or a later one",
        claim.state_format,
        crate::wire::escape(&claim.build.0),
        service.state_reads,
        claim.executable_text()
    );
    Error::start(service.name, why)
}

/// What a build is called that does not name itself: its executable, by name, size and time.
fn fingerprint() -> BuildId {
    use std::os::unix::fs::MetadataExt as _;
    let name = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let name = name.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    match std::fs::metadata("/proc/self/exe") {
        Ok(meta) => BuildId(format!("{}-{:x}-{:x}", crate::wire::escape(&name), meta.size(), meta.mtime())),
        Err(_) => BuildId(crate::wire::escape(&name)),
    }
}
