//! Taking a run directory: the lock, the journal, what still runs, and the loop that goes on from there.

use super::adopt::{self, Adoptee, Speaker};
use super::ask::GRACE;
use super::control;
use super::face::StateJournal;
use super::gather::{Gathered, gather};
use super::instance::{Instance, Tell};
use super::leftovers::Leftovers;
use super::orders::{Handle, PhaseEvent};
use super::report::LastHandoff;
use super::salvage::Salvaged;
use super::spawn::{CONTROL, Shared};
use super::view::Watched;
use super::world::{Beat, Site, World};
use crate::claim::Proposal;
use crate::driver;
use crate::error::{Error, Result};
use crate::ids::{Epoch, InstanceId, ListenerName};
use crate::journal::{Journal, JournalState, Record};
use crate::machine::recovery::{Found, FoundHandoff, Recovery, name_of, recover};
use crate::machine::{Peer, Restarts};
use crate::os::claims::Claims;
use crate::os::files::{Dir, FileError};
use crate::os::identity;
use crate::os::journal_file::JournalFile;
use crate::os::listeners::{self, Address, Kind, validate};
use crate::os::lock::{LineageLock, Lock, LockError};
use crate::os::timers::Timers;
use crate::wire::Standing;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::UnixListener;
use tokio::sync::{broadcast, mpsc};
use tokio::task::AbortHandle;

/// Name of the operators' socket in the run directory.
pub(crate) const CONTROL_SOCKET: &str = "control.sock";
/// Name of the journal in the run directory.
pub(crate) const JOURNAL: &str = "journal";
const SUPERVISOR_LOCK: &str = "supervisor.lock";

/// What the face was given.
#[derive(Debug)]
pub(super) struct Setup {
    run_dir: PathBuf,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) listeners: Vec<(ListenerName, Arc<OwnedFd>)>,
    pub(super) addresses: Vec<(ListenerName, Address)>,
    pub(super) journal: Option<PathBuf>,
    pub(super) build_id: Option<String>,
    pub(super) name: Option<String>,
    pub(super) restarts: Restarts,
    /// The first thing that cannot work; builders do not fail.
    wrong: Option<String>,
}

/// The open supervisor.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) handle: Handle,
    pub(super) journal: Option<StateJournal>,
    run: Dir,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Drop for Core {
    fn drop(&mut self) {
        for task in self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
    }
}

impl Core {
    pub(super) fn serve_operators(&self) -> Result<()> {
        let address = Address::Unix(self.run.join(CONTROL_SOCKET));
        let bound = listeners::bind(&address).map_err(|e| Error::Invalid(e.to_string()))?;
        let named = |e| Error::path(&self.run.join(CONTROL_SOCKET), e);
        let listener = std::os::unix::net::UnixListener::from(bound);
        let listener = UnixListener::from_std(listener).map_err(named)?;
        let task = tokio::spawn(control::serve(listener, self.handle.clone()));
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task.abort_handle());
        Ok(())
    }
}

impl From<FileError> for Error {
    fn from(error: FileError) -> Self {
        Error::Io { what: format!("{} {}", error.op, error.path.display()), source: error.source }
    }
}

impl Setup {
    pub(super) fn new(run_dir: PathBuf) -> Self {
        Self {
            run_dir,
            data_dir: None,
            listeners: Vec::new(),
            addresses: Vec::new(),
            journal: None,
            build_id: None,
            name: None,
            restarts: Restarts::default(),
            wrong: None,
        }
    }

    pub(super) fn wrong(&mut self, why: String) {
        self.wrong.get_or_insert(why);
    }

    pub(super) async fn open(&self, events: broadcast::Sender<PhaseEvent>) -> Result<Core> {
        if let Some(why) = &self.wrong {
            return Err(Error::Invalid(why.clone()));
        }
        let run = Dir::open_private(&self.run_dir)?;
        let mut lock = Lock::open(&run, SUPERVISOR_LOCK)?;
        if !lock.try_lock().map_err(locked)? {
            return Err(Error::InUse { path: run.path().to_owned(), pid: lock.holder() });
        }
        let mut leftovers = Leftovers::default();
        leftovers.of_supervisors(&run, CONTROL_SOCKET)?;
        let ctl = run.sub_private("ctl")?;
        let data_dir = self.data_dir.as_ref().map(|dir| dir.canonicalize().map_err(|e| Error::path(dir, e)));
        let data_dir = data_dir.transpose()?;
        let claims = match &data_dir {
            Some(data) => {
                if let Ok(dir) = Dir::open(&data.join(Claims::IN_DATA)) {
                    leftovers.of_the_dead(&dir)?;
                }
                Claims::open(data)?
            }
            None => Claims::open_in_run(run.path())?,
        };
        // before anybody is spoken to, let alone ended: without it nothing is known
        highest(&claims)?;
        let mut journal = self.journal(&run)?;
        leftovers.of_journal(journal.torn());
        let past = journal.state().clone();

        let (generation, mut gathered) = gather(&ctl, past.generation).await;
        if !gathered.serves() {
            gathered.end_mute(&ctl).await;
        }
        journal.append(&Record::Generation { generation }).map_err(|e| Error::Invalid(e.to_string()))?;
        let Gathered { mut adoptees, mute, mut saved, removed, dead } = gathered;
        leftovers.of_sockets(&ctl, removed);
        let brought = adoptees.iter_mut().filter_map(|adoptee| adoptee.lineage.take());
        let brought = brought.chain(saved.iter_mut().filter_map(|saved| saved.lineage.take())).collect();
        let (lineage, anew) = self.lineage(&claims, brought)?;
        let mut traces = dead;
        if anew && adoptees.is_empty() {
            traces.extend(leftovers.of_a_dead_lineage(&claims)?);
        }
        let listeners = self.shared(&adoptees, &saved)?;
        let highest = highest(&claims)?.map(|(epoch, claim)| (epoch, claim.instance));
        let mut recovery = recover(Found {
            base: InstanceId(uuid::Uuid::new_v4().as_u128()),
            generation,
            open: past.open.as_ref().map(|open| FoundHandoff {
                handoff: open.handoff,
                incumbent: open.incumbent,
                successor: open.successor,
                epoch: open.epoch,
            }),
            highest,
            stopped: past.stopped,
            instances: adoptees.iter().map(|adoptee| adoptee.found.clone()).collect(),
        });
        recovery.supervisor = recovery.supervisor.with_restarts(self.restarts);
        let summary = (past != JournalState::default()).then(|| StateJournal {
            generation,
            open: past.open.as_ref().map(|open| open.handoff),
            last: last_of(&past),
            served: past.last_serving,
            adopted: adoptees.iter().map(|adoptee| adoptee.speaker.id).collect(),
            stopped: past.stopped,
        });

        let site = Site {
            run: run.clone(),
            ctl,
            data_dir,
            claims,
            listeners,
            lineage,
            _lock: lock,
            generation,
            name: self.name.clone(),
            build_id: self.build_id.clone(),
            clean: past.stopped,
        };
        traces.extend(mute);
        let (orders, incoming) = mpsc::channel(64);
        let task = begin(site, journal, past, recovery, adoptees, traces, leftovers, incoming, events).await;
        Ok(Core { handle: Handle(orders), journal: summary, run, tasks: Mutex::new(vec![task]) })
    }

    fn journal(&self, run: &Dir) -> Result<Journal<JournalFile>> {
        let storage = match &self.journal {
            None => JournalFile::open(run, JOURNAL)?,
            Some(path) => {
                let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str()))
                else {
                    return Err(Error::Invalid(format!("{}: no name for a journal", path.display())));
                };
                let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
                JournalFile::open(&Dir::open(parent)?, name)?
            }
        };
        let path = self.journal.clone().unwrap_or_else(|| run.join(JOURNAL));
        Journal::open(storage).map_err(|e| Error::Invalid(format!("{}: {e}", path.display())))
    }

    /// From who brought it, or taken anew, which is said.
    fn lineage(&self, claims: &Claims, brought: Vec<LineageLock>) -> Result<(LineageLock, bool)> {
        for lineage in brought {
            if lineage.belongs_to(claims.dir())? {
                return Ok((lineage, false));
            }
        }
        LineageLock::acquire(claims.dir()).map(|lock| (lock, true)).map_err(|error| match error {
            // who took the lock may be a supervisor that is dead: who serves holds it too
            LockError::Held { .. } => Error::InUse {
                path: self.data_dir.clone().unwrap_or_else(|| claims.dir().path().to_owned()),
                pid: claims.highest().ok().flatten().filter(|(_, claim)| lives(claim)).map(|(_, c)| c.pid),
            },
            other => locked(other),
        })
    }

    /// The listeners that every instance gets: those of the running server, then what was given, then what can be
    /// bound.
    fn shared(&self, adoptees: &[Adoptee], saved: &[Salvaged]) -> Result<Vec<Shared>> {
        let mut shared: Vec<Shared> = Vec::new();
        let known = |name: &ListenerName| {
            self.addresses.iter().find(|(other, _)| other == name).map(|(_, address)| address.clone())
        };
        let mut brought: Vec<_> = adoptees.iter().collect();
        // who serves has the right ones; who leaves may have fewer
        brought.sort_by_key(|adoptee| adoptee.found.standing == Standing::Retiring);
        let brought = brought.iter().flat_map(|adoptee| adoptee.listeners.iter());
        let brought = brought.chain(saved.iter().flat_map(|saved| saved.listeners.iter()));
        for (name, fd) in brought.chain(&self.listeners) {
            let is_ours = name.as_str() != CONTROL;
            if is_ours && !shared.iter().any(|other| other.name == *name) {
                validate(fd.as_fd()).map_err(|e| Error::io(format!("listener {name}"), e))?;
                shared.push(Shared { name: name.clone(), fd: Arc::clone(fd), address: known(name) });
            }
        }
        for (name, address) in &self.addresses {
            if name.as_str() == CONTROL {
                return Err(Error::Invalid(format!(
                    "{CONTROL} is the supervisor's own listener: choose another name"
                )));
            }
            if shared.iter().any(|other| other.name == *name) {
                continue;
            }
            let fd = listeners::bind(address).map_err(|e| Error::Invalid(e.to_string()))?;
            shared.push(Shared { name: name.clone(), fd: Arc::new(fd), address: Some(address.clone()) });
        }
        if self.data_dir.is_none() {
            no_datagrams(&shared)?;
        }
        Ok(shared)
    }
}

/// Without data two servers serve at once in a handoff, and what a session of the old one is sent could reach the new.
fn no_datagrams(shared: &[Shared]) -> Result<()> {
    let datagrams = |of: &&Shared| {
        validate(of.fd.as_fd()).is_ok_and(|kind| matches!(kind, Kind::Udp | Kind::UnixDatagram))
    };
    shared.iter().find(datagrams).map_or(Ok(()), |of| {
        Err(Error::Invalid(format!(
            "the listener {} takes datagrams, which a stateless service (overlap strategy) cannot hand over: \
             give a data directory, or leave that listener out",
            of.name
        )))
    })
}

fn locked(error: LockError) -> Error {
    match error {
        LockError::Held { path, holder } | LockError::StillHeld { path, holder, .. } => {
            Error::InUse { path, pid: holder }
        }
        LockError::File(error) => error.into(),
        other => Error::Invalid(other.to_string()),
    }
}

/// The very process that claimed: after a boot, or a while, another one has its number.
fn lives(claim: &Proposal) -> bool {
    identity::boot_id().is_ok_and(|boot| boot == claim.boot_id)
        && identity::start_time(claim.pid).is_ok_and(|start| start == claim.start_time)
}

/// The highest claim. One that cannot be read is no reason to believe the one below.
fn highest(claims: &Claims) -> Result<Option<(Epoch, Proposal)>> {
    claims.highest().map_err(|error| {
        let next = "next: restore it, or use the build that wrote it; if no server runs on this data, remove it: \
                    epochs go on from the data and from the claims that are left";
        Error::Invalid(format!("who served last is not known: {error}; {next}"))
    })
}

fn last_of(past: &JournalState) -> Option<LastHandoff> {
    past.last_ended.as_ref().map(|ended| LastHandoff {
        handoff_id: ended.handoff.to_string(),
        outcome: ended.outcome,
        reason: ended.reason.clone(),
    })
}

#[expect(clippy::too_many_arguments, reason = "called once: the parts of the world as they were found")]
async fn begin(
    site: Site,
    journal: Journal<JournalFile>,
    past: JournalState,
    recovery: Recovery,
    adoptees: Vec<Adoptee>,
    traces: Vec<InstanceId>,
    mut leftovers: Leftovers,
    orders: mpsc::Receiver<super::orders::Order>,
    events: broadcast::Sender<PhaseEvent>,
) -> AbortHandle {
    let (tell, news) = mpsc::unbounded_channel();
    let mut slots: BTreeMap<InstanceId, Instance> = BTreeMap::new();
    let mut died = Vec::new();
    for adoptee in adoptees {
        let (id, pid) = (adoptee.speaker.id, adoptee.speaker.pid);
        match instance_of(adoptee.speaker, &tell) {
            Ok(instance) => drop(slots.insert(id, instance)),
            Err(error) => {
                tracing::warn!(instance = %id, pid, %error, "gone while it was adopted");
                died.push(id);
                // what it left behind is ended like the rest of it
                slots.extend(adopt::group_of(id, None).map(|group| (id, Instance::contained(id, group))));
            }
        }
    }
    // its container alone, when it does not speak: whatever is in there can be ended
    if let Some(id) = recovery.successor
        && !slots.contains_key(&id)
        && let Some(group) = adopt::group_of(id, None)
    {
        slots.insert(id, Instance::contained(id, group));
    }
    let mut left: Vec<InstanceId> = past.containers.iter().copied().collect();
    left.extend(traces);
    left.extend(slots.keys());
    left.retain(|id| name_of(&recovery, *id).is_none());
    left.sort_unstable();
    left.dedup();
    for id in left {
        let pid = slots.remove(&id).and_then(|slot| slot.pid);
        leftovers.container(&site.ctl, id, pid).await;
    }

    let (machine, window) = Watched::new(recovery.supervisor.clone(), recovery.effects.clone());
    let mut beats = Timers::default();
    beats.arm(Beat::Heart, World::heartbeat());
    let mut world = World {
        site,
        journal,
        window,
        incumbent: None,
        successor: None,
        retiring: BTreeMap::new(),
        timers: Timers::default(),
        beats,
        heart: 0,
        inputs: VecDeque::from([crate::machine::Input::Start]),
        held: None,
        frames_in_a_row: 0,
        orders,
        news,
        tell,
        watch: None,
        transfer: None,
        builds: BTreeMap::new(),
        configured: None,
        starting: None,
        ask: None,
        progress: None,
        last: last_of(&past),
        events,
        stop: Vec::new(),
        grace: crate::crash::scaled(GRACE),
        last_exit: None,
        journal_trouble: None,
        cleaned: leftovers.told(),
    };
    for (id, instance) in slots {
        match name_of(&recovery, id) {
            Some(Peer::Incumbent) => world.incumbent = Some(instance),
            Some(Peer::Successor) => world.successor = Some(instance),
            Some(Peer::Retiring(_)) => drop(world.retiring.insert(id, instance)),
            Some(Peer::Supervisor) | None => {}
        }
    }
    // nobody watches it: this is the only word of its end
    let died = died.into_iter().filter_map(|id| name_of(&recovery, id));
    world.inputs.extend(died.map(crate::machine::Input::Exited));
    tokio::spawn(run(machine, world)).abort_handle()
}

fn instance_of(speaker: Speaker, tell: &Tell) -> std::io::Result<Instance> {
    let Speaker { id, channel, hello, pid } = speaker;
    let pidfd = processkit::pidfd_open(pid)?;
    Instance::adopted(id, channel, hello, pidfd, adopt::group_of(id, Some(pid)), tell)
}

async fn run(mut machine: Watched, mut world: World) {
    let ending = driver::drive(&mut machine, &mut world).await;
    tracing::info!(?ending, "supervisor stopped");
    if let Err(error) = world.site.run.unlink_if_there(CONTROL_SOCKET) {
        tracing::warn!(%error, "operators' socket");
    }
    world.farewell();
}
