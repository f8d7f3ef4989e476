//! What the supervisor's machine sees and moves: instances, timers, claims, the journal.

use super::ask::{Ask, Starting};
use super::canary::Attempts;
use super::guest::Streams;
use super::instance::{Instance, News, Tell};
use super::manager::Manager;
use super::orders::{Order, PhaseEvent};
use super::progress::{self, Progress};
use super::replace::{Door, Replacing};
use super::report::LastHandoff;
use super::rollback::Waiting;
use super::spawn::{Build, Shared};
use super::view::Window;
use crate::driver;
use crate::ids::{Epoch, InstanceId};
use crate::journal::{Journal, Record};
use crate::machine::{Effect, Ended, Hook, Input, Outcome, Peer, Step, Timer, times};
use crate::os::builds::Builds;
use crate::os::channel::Channel;
use crate::os::claims::Claims;
use crate::os::files::Dir;
use crate::os::journal_file::JournalFile;
use crate::os::lock::{LineageLock, Lock};
use crate::os::queue::{self, Arrivals};
use crate::os::timers::Timers;
use crate::phase::Phase;
use crate::wire::{Message, Stamped};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::AbortHandle;

/// Records that are kept for a journal that does not take them.
const MISSED: usize = 64;

/// Own timers of the world, beside the machine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Beat {
    /// The next heartbeat is due.
    Heart,
    /// The waiting upgrade's patience is over.
    Upgrade,
    /// The service manager wants a sign of life.
    Watchdog,
}

/// What does not change while the supervisor lives.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) run: Dir,
    pub(super) ctl: Dir,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) claims: Claims,
    pub(super) builds: Arc<Builds>,
    pub(super) listeners: Vec<Shared>,
    pub(super) lineage: LineageLock,
    /// Held as long as this supervisor lives.
    pub(super) lock: Lock,
    /// Where operators connect.
    pub(super) door: Door,
    /// With which arguments another program may replace this one, where that is wanted.
    pub(super) arguments: Option<Vec<OsString>>,
    /// Where new servers write to, if not where this program does.
    pub(super) streams: Option<Streams>,
    /// The journal's path.
    pub(super) journal: PathBuf,
    pub(super) generation: u64,
    pub(super) name: Option<String>,
    pub(super) build_id: Option<String>,
    /// The last supervisor stopped cleanly: the configured program starts first, whatever the claims say.
    pub(super) clean: bool,
}

/// The supervisor's world.
#[derive(Debug)]
pub(super) struct World {
    pub(super) site: Site,
    pub(super) journal: Journal<JournalFile>,
    pub(super) window: Window,
    pub(super) incumbent: Option<Instance>,
    pub(super) successor: Option<Instance>,
    pub(super) retiring: BTreeMap<InstanceId, Instance>,
    pub(super) timers: Timers<Timer>,
    pub(super) beats: Timers<Beat>,
    pub(super) heart: u64,
    /// How fast clients come, looked at with every heartbeat.
    pub(super) arrivals: Arrivals,
    pub(super) inputs: VecDeque<Input>,
    /// A frame that waits for the news of a death that came before it.
    pub(super) held: Option<(InstanceId, Stamped)>,
    pub(super) frames_in_a_row: u32,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) news: mpsc::UnboundedReceiver<News>,
    pub(super) tell: Tell,
    pub(super) watch: Option<AbortHandle>,
    /// The incumbent's end of the transfer channel, until it is told of the handoff.
    pub(super) transfer: Option<OwnedFd>,
    pub(super) attempts: Attempts,
    /// The builds of the instances that live and of the one that the highest claim names.
    pub(super) builds: BTreeMap<InstanceId, Arc<Build>>,
    /// What `start` was given.
    pub(super) configured: Option<Arc<Build>>,
    pub(super) starting: Option<Starting>,
    pub(super) ask: Option<Ask>,
    /// Who waits for the end of a probation.
    pub(super) waiting: Option<Waiting>,
    pub(super) replacing: Option<Replacing>,
    pub(super) manager: Option<Manager>,
    /// Who waits until there is nothing to do.
    pub(super) quiet: Vec<oneshot::Sender<()>>,
    pub(super) progress: Option<Progress>,
    pub(super) last: Option<LastHandoff>,
    pub(super) events: broadcast::Sender<PhaseEvent>,
    pub(super) stop: Vec<oneshot::Sender<()>>,
    pub(super) grace: Duration,
    /// How the last cold-started process ended, for the reason of a failed start.
    pub(super) last_exit: Option<String>,
    /// Why the journal is behind.
    pub(super) journal_trouble: Option<String>,
    /// Records that the journal did not take, oldest first, at most [`MISSED`].
    pub(super) missed: VecDeque<Record>,
    /// What this supervisor removed when it began.
    pub(super) cleaned: Vec<String>,
}

impl World {
    pub(super) fn slot(&mut self, peer: Peer) -> Option<&mut Instance> {
        match peer {
            Peer::Incumbent => self.incumbent.as_mut(),
            Peer::Successor => self.successor.as_mut(),
            Peer::Retiring(id) => self.retiring.get_mut(&id),
            Peer::Supervisor => None,
        }
    }

    /// Under which name the machine knows an instance now.
    pub(super) fn peer_of(&self, id: InstanceId) -> Option<Peer> {
        let is = |slot: &Option<Instance>| slot.as_ref().is_some_and(|instance| instance.id == id);
        if is(&self.incumbent) {
            Some(Peer::Incumbent)
        } else if is(&self.successor) {
            Some(Peer::Successor)
        } else {
            self.retiring.contains_key(&id).then_some(Peer::Retiring(id))
        }
    }

    /// Notes a phase that the machine entered, before anything of that phase is done.
    pub(super) fn follow_phase(&mut self) {
        let view = self.window.look();
        let (Some(phase), Some(handoff)) = (view.phase, view.handoff) else { return };
        match &mut self.progress {
            Some(progress) if progress.handoff == handoff => {
                if progress.enter(phase, view.since) {
                    self.show(phase, view.since);
                }
            }
            // found open after a restart: nobody asked for it here, and its beginning is not known
            Some(_) | None => {
                let (old, new) = (self.incumbent.as_ref(), self.successor.as_ref());
                let old = old.map(Instance::report).unwrap_or_default();
                let new = new.map(Instance::report).unwrap_or_default();
                let mut progress = Progress::new(handoff, old, new, view.since);
                progress.enter(phase, view.since);
                self.progress = Some(progress);
            }
        }
    }

    pub(super) fn show(&self, phase: Phase, now: Instant) {
        let Some(progress) = &self.progress else { return };
        let note = progress::note(phase).to_owned();
        let event = PhaseEvent { handoff_id: progress.handoff, phase, at: progress.at(now), note };
        if let Some(ask) = &self.ask {
            let _ = ask.phases.send(event.clone());
        }
        // nobody has to listen
        let _ = self.events.send(event);
    }

    /// Appends a record. What is only history may be missing: a full disk must not stop a service.
    pub(super) async fn persist(&mut self, record: Record) -> Result<(), driver::Failure> {
        if crate::crash::planted("O10") && record.name() == "ended" {
            return Ok(());
        }
        match self.catch_up().and_then(|()| self.journal.append(&record)) {
            Ok(()) => {
                self.tidy_canaries_after(&record);
                Ok(())
            }
            Err(error) if record.is_essential() => {
                Err(driver::Failure { step: Step::Persist, why: error.to_string() })
            }
            Err(error) => {
                tracing::warn!(%error, record = record.name(), "the journal is behind");
                self.journal_trouble = Some(error.to_string());
                self.missed.push_back(record);
                if self.missed.len() > MISSED {
                    self.missed.pop_front();
                }
                Ok(())
            }
        }
    }

    /// What the journal did not take is written, in its order, as soon as it takes it: a handoff that has ended must
    /// not stay open there until the next one.
    pub(super) fn catch_up(&mut self) -> Result<(), crate::journal::JournalError> {
        while let Some(record) = self.missed.front() {
            self.journal.append(record)?;
            self.missed.pop_front();
        }
        self.journal_trouble = None;
        Ok(())
    }

    fn owner(&self, epoch: Epoch) -> Option<InstanceId> {
        // unreadable counts as nobody: who serves is decided by the claim file, not by what is done here
        match self.site.claims.read(epoch) {
            Ok(claim) => claim.map(|proposal| proposal.instance),
            Err(error) => {
                tracing::error!(%error, %epoch, "claim");
                None
            }
        }
    }

    fn watch_claim(&mut self, epoch: Epoch) -> Option<Input> {
        if let Some(owner) = self.owner(epoch) {
            return Some(Input::Claimed(epoch, Some(owner)));
        }
        match self.site.claims.watch() {
            Ok(mut watch) => {
                let tell = self.tell.clone();
                let task = tokio::spawn(async move {
                    match watch.appeared(epoch).await {
                        Ok(owner) => drop(tell.send(News::Claimed(epoch, owner))),
                        Err(error) => tracing::error!(%error, %epoch, "watching for a claim"),
                    }
                });
                self.unwatch();
                self.watch = Some(task.abort_handle());
            }
            Err(error) => tracing::error!(%error, %epoch, "watching for a claim"),
        }
        None
    }

    fn unwatch(&mut self) {
        if let Some(watch) = self.watch.take() {
            watch.abort();
        }
    }

    fn send(&mut self, peer: Peer, frame: &Stamped) {
        trace(&frame.message, frame);
        if let Message::HelloAck(ack) = &frame.message
            && let Some(channel) = self.slot(peer).and_then(|slot| slot.channel.as_ref())
        {
            channel.set_version(ack.version);
        }
        let fds = match self.attached(peer, &frame.message) {
            Ok(fds) => fds,
            Err(error) => {
                // a frame without what it names says something else: better no channel than a wrong word
                tracing::error!(%error, message = frame.message.name(), "descriptors");
                if let Some(slot) = self.slot(peer) {
                    slot.channel = None;
                    self.inputs.push_back(Input::Closed(peer));
                }
                return;
            }
        };
        let Some(channel) = self.slot(peer).and_then(|slot| slot.channel.as_ref()) else { return };
        channel.send(frame, fds);
        if matches!(frame.message, Message::SealRequest) {
            let now = Instant::now();
            if let Some(progress) = &mut self.progress {
                progress.seal_requested(now);
            }
            self.sample_queues();
        }
    }

    /// The descriptors that a message names.
    fn attached(&mut self, peer: Peer, message: &Message) -> std::io::Result<Vec<Arc<OwnedFd>>> {
        match message {
            Message::Canary => Ok(vec![Arc::new(self.open_canary()?)]),
            Message::HelloAck(_) if peer == Peer::Successor => {
                let (incumbents, successors) = Channel::pair()?;
                self.transfer = Some(incumbents);
                Ok(vec![Arc::new(successors)])
            }
            Message::PrepareHandoff { .. } => {
                let missing = |what: &str| std::io::Error::other(format!("no {what} to pass on"));
                let transfer = self.transfer.take().ok_or_else(|| missing("transfer channel"))?;
                let successor = self.successor.as_ref().ok_or_else(|| missing("successor"))?;
                let pidfd = successor.pidfd.as_ref().ok_or_else(|| missing("pidfd"))?;
                let mut fds = vec![Arc::clone(pidfd)];
                if let Some(group) = successor.group() {
                    match (group.kill_fd(), group.events_fd()) {
                        (Ok(kill), Ok(events)) => fds.extend([Arc::new(kill), Arc::new(events)]),
                        // there is no cgroup: the process is all that the incumbent can end
                        (Err(processkit::Error::Unsupported { .. }), _) => {}
                        (Err(error), _) | (_, Err(error)) => return Err(std::io::Error::other(error)),
                    }
                }
                fds.push(Arc::new(transfer));
                Ok(fds)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Longest accept queue right now.
    pub(super) fn sample_queues(&mut self) {
        let longest = self.site.listeners.iter().filter_map(|shared| queue::waiting(&shared.fd)).max();
        if let (Some(progress), Some(longest)) = (&mut self.progress, longest) {
            progress.queue(longest);
        }
    }

    fn promote(&mut self) {
        if let Some(old) = self.incumbent.take() {
            self.retiring.insert(old.id, old);
        }
        self.incumbent = self.successor.take();
        if let Some(build) = self.incumbent.as_ref().and_then(|new| new.build.clone())
            && let Some(new) = &self.incumbent
        {
            self.builds.insert(new.id, build);
        }
    }

    fn forget(&mut self, peer: Peer) {
        let slot = match peer {
            Peer::Incumbent => self.incumbent.take(),
            Peer::Successor => self.successor.take(),
            Peer::Retiring(id) => self.retiring.remove(&id),
            Peer::Supervisor => None,
        };
        let Some(instance) = slot else { return };
        self.remove_control(instance.id);
        instance.forget();
        self.prune_builds();
    }

    pub(super) fn remove_control(&self, id: InstanceId) {
        if let Err(error) = self.site.ctl.unlink_if_there(&super::launch::control_name(id)) {
            tracing::warn!(%error, "control socket");
        }
    }

    /// A successor that was ended leaves its proposal behind, and an incumbent that was never told of the handoff
    /// will not remove it.
    pub(super) fn withdraw(&self, ended: &Ended) {
        let incumbent_gone = match ended.outcome {
            Outcome::Committed | Outcome::Unknown => return,
            Outcome::Aborted | Outcome::Reclaimed | Outcome::PreflightFailed => false,
            // committed: it is over like any other
            Outcome::RolledBack if self.owns_highest(ended) => return,
            Outcome::RolledBack | Outcome::ColdStarted => true,
        };
        if let Err(error) = self.site.claims.withdraw(ended.handoff, incumbent_gone) {
            // whoever serves removes it when the next handoff is over
            tracing::warn!(%error, "a proposal stays");
        }
    }

    /// Whether the highest claim is of this handoff.
    fn owns_highest(&self, ended: &Ended) -> bool {
        let highest = self.site.claims.highest().ok().flatten();
        highest.is_some_and(|(_, claim)| claim.handoff == ended.handoff)
    }

    async fn report(&mut self, ended: Ended) {
        self.unwatch();
        self.transfer = None;
        self.withdraw(&ended);
        self.finish(ended).await;
        self.tidy_canaries();
        self.prune_builds();
    }
}

impl driver::World for World {
    fn role(&self) -> &'static str {
        "S"
    }

    fn epoch(&self) -> u64 {
        self.window.look().serving.map_or(0, |(_, epoch)| epoch.0)
    }

    async fn next(&mut self) -> Input {
        self.next_input().await
    }

    async fn perform(&mut self, effect: Effect) -> Result<Option<Input>, driver::Failure> {
        self.follow_phase();
        match effect {
            Effect::Persist(record) => {
                let ended = record.ended();
                self.persist(record).await?;
                // one that was found open and over ends without a report
                if let Some(ended) = ended {
                    self.last = Some(LastHandoff::of(&ended));
                    self.withdraw(&ended);
                }
            }
            Effect::ReadClaim(epoch) => return Ok(Some(Input::Claimed(epoch, self.owner(epoch)))),
            Effect::WatchClaim(epoch) => return Ok(self.watch_claim(epoch)),
            Effect::Send(peer, frame) => self.send(peer, &frame),
            Effect::Forget(peer) => self.forget(peer),
            Effect::Reconnect(peer) => self.reconnect(peer),
            Effect::Arm(timer, after) => self.timers.arm(timer, crate::crash::scaled(after)),
            Effect::Disarm(timer) => self.timers.disarm(timer),
            Effect::TurnBack(previous) => self.turn_back(previous),
            Effect::Spawn(peer, instance, which) => {
                let spawned = self.spawn(peer, instance, which).await;
                spawned.map_err(|why| driver::Failure { step: Step::Spawn, why })?;
            }
            Effect::Kill(peer) => return Ok(self.end(peer, None)),
            Effect::Terminate(peer) => return Ok(self.end(peer, Some(self.grace))),
            Effect::Promote => self.promote(),
            Effect::Report(ended) => self.report(ended).await,
            Effect::Call(Hook::Canary) => self.start_canary(),
            Effect::Cancel(Hook::Canary) => self.cancel_canary(),
            // an instance's own
            Effect::Propose
            | Effect::Claim(_)
            | Effect::SyncClaim(_)
            | Effect::Lock(_)
            | Effect::Unlock
            | Effect::Call(_)
            | Effect::Cancel(_)
            | Effect::CloseParked
            | Effect::Tidy
            | Effect::Finish(_) => {}
        }
        Ok(None)
    }

    fn stepped(&mut self) {
        self.follow_phase();
        self.settle();
        self.tell_manager();
    }
}

impl World {
    fn end(&mut self, peer: Peer, grace: Option<Duration>) -> Option<Input> {
        let tell = self.tell.clone();
        match self.slot(peer) {
            Some(instance) => {
                instance.end(grace, &tell);
                None
            }
            None => Some(Input::Gone(peer)),
        }
    }

    /// The pause between heartbeats.
    pub(super) fn heartbeat() -> Duration {
        crate::crash::scaled(times::HEARTBEAT)
    }
}

/// One line for each step of a handoff, under the targets that are part of the interface.
pub(super) fn trace(message: &Message, frame: &Stamped) {
    macro_rules! line {
        ($target:literal) => {
            tracing::info!(target: $target, handoff = %frame.handoff, epoch = %frame.epoch, "{}", message.name())
        };
    }
    match message {
        Message::PrepareHandoff { .. } => line!("handoff.prepare"),
        Message::Drained { .. } => line!("handoff.drained"),
        Message::SealRequest => line!("handoff.seal"),
        Message::SealComplete { .. } => line!("handoff.seal_complete"),
        Message::Begin { .. } => line!("handoff.begin"),
        Message::Ready { .. } => line!("handoff.ready"),
        Message::Canary => line!("handoff.canary"),
        Message::Commit => line!("handoff.commit"),
        Message::Active { .. } => line!("handoff.active"),
        Message::Abort { .. } | Message::SealFailed { .. } => line!("handoff.abort"),
        Message::Resolve => line!("handoff.resolve"),
        Message::Resumed { .. } => line!("handoff.resume"),
        _ => tracing::trace!(target: "handoff.frame", handoff = %frame.handoff, "{}", message.name()),
    }
}
