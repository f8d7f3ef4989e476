//! Taking a run directory: the lock, the journal, what still runs, and the loop that goes on from there.

use super::adopt::Adoptee;
use super::begin::begin;
use super::control;
use super::face::StateJournal;
use super::gather::{Gathered, gather};
use super::guest::Streams;
use super::kept_canary;
use super::leftovers::Leftovers;
use super::manager::Manager;
use super::orders::{Handle, PhaseEvent};
use super::replace::carried::Carried;
use super::replace::report::ReplacementReport;
use super::replace::{Debt, Door, reap};
use super::report::LastHandoff;
use super::salvage::Salvaged;
use super::spawn::{CONTROL, Shared};
use super::world::Site;
use crate::claim::Proposal;
use crate::error::{Error, Result};
use crate::ids::{Epoch, InstanceId, ListenerName};
use crate::journal::{Journal, JournalState, Record};
use crate::machine::Restarts;
use crate::machine::recovery::{Found, FoundHandoff, FoundTrial, recover};
use crate::os::builds::Builds;
use crate::os::claims::Claims;
use crate::os::files::{Dir, FileError};
use crate::os::identity::{boot_id, start_time};
use crate::os::journal_file::JournalFile;
use crate::os::listeners::{self, Address, Kind, validate};
use crate::os::lock::{LineageLock, Lock, LockError};
use crate::wire::Standing;
use std::ffi::OsString;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
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
    /// With which arguments another program may replace this one.
    pub(super) arguments: Option<Vec<OsString>>,
    /// Begins only where somebody serves, and leaves.
    pub(super) guest: bool,
    /// The service manager, until it is used.
    pub(super) manager: Mutex<Option<Manager>>,
    /// What came through the exec, until it is used.
    pub(super) carried: Mutex<Option<Carried>>,
    /// The first thing that cannot work; builders do not fail.
    wrong: Option<String>,
}

/// The open supervisor.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) handle: Handle,
    pub(super) journal: Option<StateJournal>,
    run: Dir,
    door: Door,
    /// The answer owed to the operator who asked for this program.
    debt: Mutex<Option<Debt>>,
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
        let named = |e| Error::path(&self.run.join(CONTROL_SOCKET), e);
        let mut door = self.door.lock().unwrap_or_else(PoisonError::into_inner);
        let bound = match &*door {
            // it came through the exec, with those who wait in its queue
            Some(open) => open.try_clone().map_err(named)?,
            None => {
                let address = Address::Unix(self.run.join(CONTROL_SOCKET));
                listeners::bind(&address).map_err(|e| Error::Invalid(e.to_string()))?
            }
        };
        *door = Some(bound.try_clone().map_err(named)?);
        drop(door);
        let listener = std::os::unix::net::UnixListener::from(bound);
        let listener = UnixListener::from_std(listener).map_err(named)?;
        let task = tokio::spawn(control::serve(listener, self.handle.clone()));
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task.abort_handle());
        Ok(())
    }
}

impl Core {
    /// Operators find nobody here any more.
    pub(super) fn close(&self) {
        if let Err(error) = self.run.unlink_if_there(CONTROL_SOCKET) {
            tracing::warn!(%error, "operators' socket");
        }
    }

    /// Answers the operator who asked for this program.
    pub(super) fn pay(&self) -> Option<ReplacementReport> {
        let debt = self.debt.lock().unwrap_or_else(PoisonError::into_inner).take();
        debt.map(Debt::pay)
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
            arguments: None,
            guest: false,
            manager: Mutex::new(None),
            carried: Mutex::new(None),
            wrong: None,
        }
    }

    pub(super) fn wrong(&mut self, why: String) {
        self.wrong.get_or_insert(why);
    }

    pub(super) async fn open(&self, events: broadcast::Sender<PhaseEvent>) -> Result<Core> {
        crate::crash::speak();
        if let Some(why) = &self.wrong {
            return Err(Error::Invalid(why.clone()));
        }
        let run = Dir::open_private(&self.run_dir)?;
        let mut carried = self.carried.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (lock, door) = take(&run, carried.as_mut())?;
        let mut leftovers = Leftovers::default();
        // who is here for one upgrade leaves things as they are
        if !self.guest {
            leftovers.of_supervisors(&run, CONTROL_SOCKET)?;
        }
        let ctl = run.sub_private("ctl")?;
        let data_dir = self.data_dir.as_ref().map(|dir| dir.canonicalize().map_err(|e| Error::path(dir, e)));
        let data_dir = data_dir.transpose()?;
        let claims = match &data_dir {
            Some(data) => {
                if !self.guest
                    && let Ok(dir) = Dir::open(&data.join(Claims::IN_DATA))
                {
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
        let mut past = journal.state().clone();

        let (generation, mut gathered) = gather(&ctl, past.generation).await;
        // it may hold all that a server needs, and it is not ours to end
        if let Some(why) = gathered.foreign.take() {
            return Err(Error::Invalid(why));
        }
        if self.guest && !gathered.serves() {
            let why = "no server that serves answers: start one with `handoffctl run`";
            return Err(Error::Invalid(format!("{}: {why}", run.path().display())));
        }
        if !gathered.serves() {
            gathered.end_mute(&ctl).await;
        }
        match journal.append(&Record::Generation { generation }) {
            Ok(()) => {}
            // there is no way back to the old program; the instances know the generation, too
            Err(error) if carried.is_some() => tracing::warn!(%error, "the journal is behind"),
            Err(error) => return Err(Error::Invalid(error.to_string())),
        }
        let mut manager = self.manager.lock().unwrap_or_else(PoisonError::into_inner).take();
        gathered.saved.extend(carried.as_mut().and_then(|carried| carried.held.take()));
        gathered.saved.extend(manager.as_mut().map(|manager| manager.take_kept(&self.addresses)));
        let Gathered { mut adoptees, mute, mut saved, removed, dead, .. } = gathered;
        leftovers.of_sockets(&ctl, removed);
        let brought = adoptees.iter_mut().filter_map(|adoptee| adoptee.lineage.take());
        let brought = brought.chain(saved.iter_mut().filter_map(|saved| saved.lineage.take())).collect();
        let (lineage, anew) = self.lineage(&claims, brought)?;
        let mut traces = if self.guest { Vec::new() } else { dead };
        if anew && adoptees.is_empty() {
            traces.extend(leftovers.of_a_dead_lineage(&claims)?);
        }
        if !self.guest {
            leftovers.of_builds(claims.dir());
        }
        let listeners = self.shared(&adoptees, &saved)?;
        let highest = highest(&claims)?;
        forgive(&mut journal, &mut past, highest.as_ref().map(|(_, claim)| claim));
        if !self.guest
            && let Err(error) = kept_canary::tidy(&run, journal.state(), None)
        {
            tracing::warn!(%error, "a canary that is over stays in its file");
        }
        let highest = highest.map(|(epoch, claim)| (epoch, claim.instance));
        let tried = past.trial.as_ref().and_then(|trial| kept_canary::find(&run, trial.handoff));
        let to_be_tried = past.open.as_ref().and_then(|open| kept_canary::find(&run, open.handoff));
        let trial = past.trial.as_ref().map(|trial| FoundTrial {
            handoff: trial.handoff,
            previous: trial.previous,
            serving: trial.serving,
            window: Duration::from_millis(trial.probation_ms),
            canary: tried.is_some(),
            turned_down: trial.turned_down.clone(),
        });
        if let Some(carried) = &carried {
            let adopted = |pid: &u32| adoptees.iter().any(|adoptee| adoptee.speaker.pid == *pid);
            reap(carried.children().iter().copied().filter(|pid| !adopted(pid)));
        }
        let mut recovery = recover(Found {
            base: InstanceId(uuid::Uuid::new_v4().as_u128()),
            generation,
            open: past.open.as_ref().map(|open| FoundHandoff {
                handoff: open.handoff,
                incumbent: open.incumbent,
                successor: open.successor,
                epoch: open.epoch,
                probation: Duration::from_millis(open.probation_ms),
                canary: to_be_tried.is_some(),
            }),
            trial,
            highest,
            stopped: past.stopped,
            instances: adoptees.iter().map(|adoptee| adoptee.found.clone()).collect(),
        });
        recovery.supervisor = recovery.supervisor.with_restarts(self.restarts);
        let counted = carried.as_ref().map(|carried| carried.failures.as_slice()).unwrap_or_default();
        recovery.effects.extend(recovery.supervisor.carry_failures(counted));
        let summary = (past != JournalState::default()).then(|| StateJournal {
            generation,
            open: past.open.as_ref().map(|open| open.handoff),
            last: last_of(&past),
            served: past.last_serving,
            adopted: adoptees.iter().map(|adoptee| adoptee.speaker.id).collect(),
            stopped: past.stopped,
        });

        let builds = Arc::new(Builds::open(claims.dir()));
        let site = Site {
            builds,
            run: run.clone(),
            ctl,
            data_dir,
            claims,
            listeners,
            lineage,
            lock,
            door: Arc::clone(&door),
            arguments: self.arguments.clone(),
            streams: self.guest.then(|| Streams::of(&adoptees)).flatten(),
            journal: self.journal_path(&run),
            generation,
            name: self.name.clone(),
            build_id: self.build_id.clone(),
            clean: past.stopped,
        };
        traces.extend(mute);
        let debt = carried.map(|carried| Debt::of(carried, site.version(), generation));
        let canary = to_be_tried.or(tried);
        let (orders, incoming) = mpsc::channel(64);
        let task = begin(
            site, journal, past, recovery, canary, adoptees, traces, leftovers, incoming, events, manager,
        )
        .await;
        let (debt, tasks) = (Mutex::new(debt), Mutex::new(vec![task]));
        Ok(Core { handle: Handle(orders), journal: summary, run, door, debt, tasks })
    }

    fn journal_path(&self, run: &Dir) -> PathBuf {
        self.journal.clone().unwrap_or_else(|| run.join(JOURNAL))
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
        let path = self.journal_path(run);
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

/// The supervisor's lock and the operators' listener, if that is there already.
fn take(run: &Dir, carried: Option<&mut Carried>) -> Result<(Lock, Door)> {
    if let Some(carried) = carried {
        let lock = carried.lock.try_clone().map_err(|e| Error::path(&run.join(SUPERVISOR_LOCK), e))?;
        let lock = Lock::from_fd(run, SUPERVISOR_LOCK, lock).map_err(locked)?;
        return Ok((lock, Arc::new(Mutex::new(carried.operators.take()))));
    }
    let mut lock = Lock::open(run, SUPERVISOR_LOCK)?;
    if !lock.try_lock().map_err(locked)? {
        return Err(Error::InUse { path: run.path().to_owned(), pid: lock.holder() });
    }
    Ok((lock, Door::default()))
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

/// Everything ended with the power: nobody on probation is to blame for it.
fn forgive(journal: &mut Journal<JournalFile>, past: &mut JournalState, highest: Option<&Proposal>) {
    let same = highest.zip(boot_id().ok()).is_none_or(|(claim, boot)| claim.boot_id == boot);
    let Some(trial) = past.trial.take_if(|_| !same) else { return };
    if let Err(error) = journal.append(&Record::ProbationOver { handoff: trial.handoff }) {
        tracing::warn!(%error, "the journal is behind");
    }
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
    boot_id().is_ok_and(|boot| boot == claim.boot_id)
        && start_time(claim.pid).is_ok_and(|start| start == claim.start_time)
}

/// The highest claim. One that cannot be read is no reason to believe the one below.
fn highest(claims: &Claims) -> Result<Option<(Epoch, Proposal)>> {
    claims.highest().map_err(|error| {
        let next = "next: restore it, or use the build that wrote it; if no server runs on this data, remove it: \
                    epochs go on from the data and from the claims that are left";
        Error::Invalid(format!("who served last is not known: {error}; {next}"))
    })
}

pub(super) fn last_of(past: &JournalState) -> Option<LastHandoff> {
    past.last_ended.as_ref().map(LastHandoff::of)
}
