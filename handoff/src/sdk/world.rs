//! An instance's world: performs what its machine orders. What it waits for stands in [`super::facts`].

use super::context::{Disk, Progress};
use super::control::{Adopter, Control};
use super::gate::Gate;
use super::host::{Host, Order};
use super::leaving::{self, Leaving};
use super::parked::Parked;
use super::takeover::{Fate, Takeover};
use super::tenure::{SealGuard, Tenure};
use super::transfer::{self, Arrived, Stamp};
use crate::claim::{BuildDigest, ProposalName};
use crate::crash::scaled;
use crate::driver::{Failure, World};
use crate::ids::{Epoch, HandoffId, InstanceId, ListenerName};
use crate::machine::{Effect, Hook, Input, Peer, Step, Timer, times};
use crate::os::channel::{Channel, Receiver, Sender};
use crate::os::claims::Claims;
use crate::os::identity::own_proposal;
use crate::os::lock::{LineageLock, Lock, LockError};
use crate::os::timers::Timers;
use crate::wire::{Hello, Message, Stamped, Strategy};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// What may run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// The machine's.
    Machine(Timer),
    /// The next sign of life is due.
    Heartbeat,
}

/// Both ends of a connection, as long as they are open.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) sender: Sender,
    /// Lent to the task that receives connections; `None` too once it has ended.
    pub(super) receiver: Option<Receiver>,
}

impl Line {
    pub(super) fn new(channel: Channel) -> Self {
        let (sender, receiver) = channel.split();
        Self { sender, receiver: Some(receiver) }
    }
}

/// Where the claims and the writer's lock are; a stateless server started by hand has none.
#[derive(Debug)]
pub(super) struct Claiming {
    pub(super) claims: Claims,
    pub(super) lineage: LineageLock,
    /// Away while a task waits for it.
    pub(super) lock: Option<Lock>,
}

/// The world of one instance.
#[derive(Debug)]
pub(super) struct InstanceWorld {
    /// What this instance would say of itself now.
    pub(super) hello: Hello,
    /// `N` or `X`, then `O`.
    pub(super) letter: &'static str,
    /// Its executable by content, if a supervisor told it.
    pub(super) build: BuildDigest,
    /// Nobody supervises it: Ctrl-C counts as SIGTERM.
    pub(super) by_hand: bool,
    /// The epoch it serves under; before, the highest it knows.
    pub(super) epoch: Epoch,
    /// The handoff it takes part in, or the last one it did.
    pub(super) stamp: Stamp,
    pub(super) claiming: Option<Claiming>,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) listeners: Vec<(ListenerName, Arc<OwnedFd>)>,
    pub(super) progress: Progress,
    pub(super) votes: mpsc::UnboundedReceiver<String>,
    /// What the application said against itself: repeated, for the supervisor that comes next.
    pub(super) unfit: Option<String>,
    pub(super) host: Host,
    pub(super) gate: Gate,

    pub(super) supervisor: Option<Line>,
    pub(super) supervisor_lost: watch::Sender<bool>,
    pub(super) control: Option<Control>,
    pub(super) adopters: (mpsc::UnboundedSender<Adopter>, mpsc::UnboundedReceiver<Adopter>),

    /// A canary that came, until the machine says what becomes of it.
    pub(super) canary: Option<OwnedFd>,

    /// The transfer channel.
    pub(super) transfer: Option<Line>,
    /// Format of the connections that are received.
    pub(super) connection_format: u32,
    pub(super) receiving: Option<JoinHandle<Arrived>>,
    /// A successor that was not told to receive: what the incumbent streams right after its seal may come before
    /// Begin does, and is for the hook to read.
    pub(super) deaf: bool,
    pub(super) sending: Option<JoinHandle<Result<(), String>>>,
    /// What the successor says it has received.
    pub(super) acks: watch::Sender<u64>,
    /// Connections at rest: sealed here, or received.
    pub(super) parked: Vec<Parked>,

    /// Asked for, not accepted yet.
    pub(super) candidate: Option<Takeover>,
    /// The open handoff, as incumbent.
    pub(super) takeover: Option<Takeover>,
    pub(super) fates: (mpsc::UnboundedSender<Fate>, mpsc::UnboundedReceiver<Fate>),

    pub(super) locking: Option<JoinHandle<(Lock, Result<(), LockError>)>>,
    pub(super) timers: Timers<Key>,
    pub(super) terminate: Signal,
    pub(super) interrupt: Signal,
    pub(super) stopping: bool,
    pub(super) retire_grace: Option<Duration>,
    pub(super) pending: VecDeque<Input>,
}

impl InstanceWorld {
    pub(super) fn is_incumbent(&self) -> bool {
        self.letter == "O"
    }

    /// Which peer the transfer channel leads to.
    pub(super) fn other_side(&self) -> Peer {
        if self.is_incumbent() { Peer::Successor } else { Peer::Incumbent }
    }

    fn me(&self) -> InstanceId {
        self.hello.instance
    }

    fn proposal_name(&self) -> ProposalName {
        match self.letter {
            "O" => ProposalName::Incumbent(self.stamp.handoff),
            "N" => ProposalName::Successor(self.stamp.handoff),
            _ => ProposalName::Cold(self.me()),
        }
    }

    fn propose(&mut self) -> Result<(), Failure> {
        // the first order of an incumbent that accepts a handoff: from here it is the open one
        if let Some(mut takeover) = self.candidate.take() {
            self.stamp = takeover.stamp;
            takeover.watch();
            self.transfer = takeover.transfer.take().map(Line::new);
            if let Some(receiver) = self.transfer.as_mut().and_then(|line| line.receiver.as_mut()) {
                // a successor that does not read may still say Started
                receiver.read_to_eof();
            }
            self.takeover = Some(takeover);
            self.acks = watch::Sender::new(0);
            self.retire_grace = None;
        }
        let Some(claiming) = &self.claiming else { return Ok(()) };
        let handoff = if self.letter == "X" { HandoffId::NIL } else { self.stamp.handoff };
        own_proposal(handoff, self.me(), self.hello.build.clone(), self.build, self.hello.state.writes)
            .and_then(|proposal| claiming.claims.propose(self.proposal_name(), &proposal))
            .map_err(|e| failed(Step::Propose, e))
    }

    fn claim(&self, epoch: Epoch) -> Result<Input, Failure> {
        let owner = match &self.claiming {
            Some(claiming) => claiming
                .claims
                .claim(epoch, self.proposal_name(), self.me())
                .map_err(|e| failed(Step::Claim, e))?,
            None => Some(self.me()),
        };
        Ok(Input::Claimed(epoch, owner))
    }

    fn read_claim(&self, epoch: Epoch) -> Result<Input, Failure> {
        let owner = match &self.claiming {
            Some(claiming) => claiming.claims.read(epoch).map_err(|e| failed(Step::Claim, e))?,
            None => None,
        };
        Ok(Input::Claimed(epoch, owner.map(|proposal| proposal.instance)))
    }

    fn sync_claim(&mut self, epoch: Epoch) -> Result<(), Failure> {
        if let Some(claiming) = &self.claiming {
            claiming.claims.sync_claim(epoch).map_err(|e| failed(Step::SyncClaim, e))?;
        }
        self.epoch = epoch;
        self.hello.epoch = epoch;
        Ok(())
    }

    fn send(&mut self, peer: Peer, frame: &Stamped) {
        let line = if peer == Peer::Supervisor { &self.supervisor } else { &self.transfer };
        let Some(line) = line else { return };
        let mut fds = Vec::new();
        if let Message::Adopted { .. } = frame.message {
            fds.extend(self.listeners.iter().map(|(_, fd)| Arc::clone(fd)));
            match self.claiming.as_ref().map(|c| c.lineage.try_clone()) {
                Some(Ok(lineage)) => fds.push(Arc::new(lineage)),
                // the new supervisor asks again
                Some(Err(error)) => return tracing::error!(%error, "lineage.lock cannot be handed back"),
                None => {}
            }
        }
        line.sender.send(frame, fds);
    }

    fn forget(&mut self, peer: Peer) {
        match peer {
            Peer::Supervisor => self.supervisor = None,
            Peer::Incumbent | Peer::Successor | Peer::Retiring(_) => {
                self.stop_transfer();
                self.candidate = None;
                self.takeover = None;
                self.transfer = None;
                self.no_more_acks();
            }
        }
    }

    /// The transfer channel ended: whoever waits for an acknowledgement is told.
    pub(super) fn no_more_acks(&mut self) {
        self.acks = watch::Sender::new(0);
    }

    fn stop_transfer(&mut self) {
        if let Some(task) = self.sending.take() {
            task.abort();
        }
        if let Some(task) = self.receiving.take() {
            task.abort();
        }
    }

    /// owner.lock, at once when it is free; else a task waits for it.
    fn take_lock(&mut self, patience: Option<Duration>) -> Result<Option<Input>, Failure> {
        let Some(claiming) = &mut self.claiming else { return Ok(Some(Input::Locked { highest: None })) };
        let Some(mut lock) = claiming.lock.take() else {
            return Err(failed(Step::Lock, "owner.lock is being waited for already"));
        };
        match lock.try_lock() {
            Ok(true) => {
                claiming.lock = Some(lock);
                self.locked().map(Some)
            }
            Ok(false) => {
                self.locking = Some(tokio::spawn(async move {
                    let result = lock.lock_within(patience.map(scaled)).await;
                    (lock, result)
                }));
                Ok(None)
            }
            Err(e) => {
                claiming.lock = Some(lock);
                Err(failed(Step::Lock, e))
            }
        }
    }

    /// What the claims say, now that owner.lock is held.
    pub(super) fn locked(&self) -> Result<Input, Failure> {
        let highest = match &self.claiming {
            Some(claiming) => claiming.claims.highest().map_err(|e| failed(Step::Lock, e))?,
            None => None,
        };
        Ok(Input::Locked { highest: highest.map(|(epoch, proposal)| (epoch, proposal.instance)) })
    }

    fn unlock(&mut self) {
        let lock = self.claiming.as_mut().and_then(|c| c.lock.as_mut());
        if let Some(Err(error)) = lock.map(Lock::unlock) {
            // the successor waits in vain, then this instance takes the next epoch back
            tracing::error!(%error, "owner.lock");
        }
    }

    fn disk(&self) -> Disk {
        let highest =
            self.claiming.as_ref().and_then(|c| c.claims.claimed().ok()).and_then(|mut all| all.pop());
        Disk { data_dir: self.data_dir.clone(), highest_claim: highest.unwrap_or(Epoch::ZERO) }
    }

    /// A new tenure; what the old one still accepts on is closed.
    fn tenure(&mut self) -> Tenure {
        self.gate.close();
        self.gate = Gate::open();
        let arrivals = std::sync::Mutex::new(self.arrivals());
        Tenure {
            epoch: self.epoch,
            instance: self.me(),
            data_dir: self.data_dir.clone(),
            listeners: self.listeners.clone(),
            connection_format: match self.takeover.as_ref() {
                // its own, taken back
                Some(takeover) => takeover.connection_format.unwrap_or(0),
                None => self.connection_format,
            },
            gate: self.gate.clone(),
            arrivals,
        }
    }

    pub(super) fn call(&mut self, hook: Hook) {
        let order = match hook {
            Hook::Warm => Order::Warm,
            Hook::Open => Order::Open(self.disk()),
            Hook::Serve => {
                let parked = std::mem::take(&mut self.parked);
                Order::Serve(self.tenure(), parked)
            }
            Hook::Drain => Order::Drain(self.takeover.as_ref().map_or(Duration::ZERO, |t| t.drain_grace)),
            Hook::Seal => {
                let guard = SealGuard {
                    connection_format: self.takeover.as_ref().and_then(|t| t.connection_format),
                    budget: self.takeover.as_ref().map_or(Duration::ZERO, |t| t.freeze_budget),
                };
                Order::Seal(self.gate.clone(), guard)
            }
            Hook::Verify => Order::Verify(self.disk()),
            Hook::Resume => {
                self.stop_transfer();
                let parked = std::mem::take(&mut self.parked);
                Order::Resume(self.tenure(), parked)
            }
            Hook::Retire => Order::Retire(self.gate.clone(), self.leaving()),
            Hook::Receive => return self.receive(),
            Hook::HandOver => return self.hand_over(),
            Hook::Canary => return self.answer_canary(),
            Hook::Health => Order::Health,
        };
        // what the protocol waits for does not wait for a check
        self.host.cancel(Hook::Health);
        self.host.cancel(Hook::Canary);
        self.host.call(order);
    }

    fn leaving(&self) -> Leaving {
        let overlap = self.hello.strategy == Strategy::Overlap;
        let handover = self.takeover.as_ref().filter(|_| overlap && !self.stopping);
        let grace = match handover {
            _ if self.stopping => times::STOP,
            Some(takeover) => takeover.drain_grace,
            None => self.retire_grace.unwrap_or(times::START),
        };
        let open = self.transfer.as_ref().filter(|line| line.receiver.is_some());
        let successor = handover.zip(open).and_then(|(takeover, line)| {
            Some(Arc::new(leaving::Successor {
                stamp: self.stamp,
                channel: line.sender.clone(),
                acks: self.acks.subscribe(),
                sent: tokio::sync::Mutex::new(0),
                connection_format: takeover.connection_format?,
            }))
        });
        Leaving { grace: scaled(grace), successor }
    }

    /// Under the overlap strategy the incumbent's connections come while this instance serves already: the channel
    /// is read beside everything else.
    fn arrivals(&mut self) -> Option<mpsc::UnboundedReceiver<Parked>> {
        if self.hello.strategy != Strategy::Overlap || self.letter != "N" {
            return None;
        }
        let line = self.transfer.take()?;
        let (arrived, arrivals) = mpsc::unbounded_channel();
        // until the incumbent is forgotten: Started is still to be said on it
        self.transfer = Some(Line { sender: line.sender.clone(), receiver: None });
        tokio::spawn(transfer::receive_each(self.stamp, line.receiver?, line.sender, arrived));
        Some(arrivals)
    }

    fn receive(&mut self) {
        self.deaf = false;
        let line = self.transfer.as_mut().and_then(|line| Some((line.sender.clone(), line.receiver.take()?)));
        let Some((sender, receiver)) = line else {
            let none = Err("no transfer channel came with HelloAck".to_owned());
            return self.pending.push_back(Input::Done(Hook::Receive, none));
        };
        let lost = self.supervisor_lost.subscribe();
        self.receiving = Some(tokio::spawn(transfer::receive(self.stamp, receiver, sender, lost)));
    }

    fn hand_over(&mut self) {
        let Some(line) = &self.transfer else {
            let none = Err("the transfer channel is gone".to_owned());
            return self.pending.push_back(Input::Done(Hook::HandOver, none));
        };
        let parked = self.parked[..self.that_go()].to_vec();
        let (sender, acks) = (line.sender.clone(), self.acks.subscribe());
        self.sending = Some(tokio::spawn(transfer::hand_over(self.stamp, sender, acks, parked)));
    }

    /// How many of the parked connections go to the successor; the rest is kept until it has started.
    pub(super) fn that_go(&self) -> usize {
        match self.takeover.as_ref().and_then(|t| t.connection_format) {
            Some(_) => transfer::that_fit(&self.parked),
            None => 0,
        }
    }

    fn close_parked(&mut self) {
        self.stop_transfer();
        self.parked.clear();
        if let Some(line) = self.transfer.take() {
            line.sender.close();
        }
    }

    fn tidy(&self) {
        if let Some(claiming) = &self.claiming
            && let Err(error) = claiming.claims.tidy(self.stamp.handoff)
        {
            // what stays is removed the next time
            tracing::warn!(%error, "the claim directory was not tidied");
        }
    }

    /// The end: what was said is still written, for a moment.
    pub(super) async fn leave(mut self) {
        self.gate.close();
        let flush = async {
            for line in [self.supervisor.take(), self.transfer.take()].into_iter().flatten() {
                line.sender.flush().await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(1), flush).await.is_err() {
            tracing::debug!("a peer did not read the last words");
        }
    }
}

pub(super) fn failed(step: Step, why: impl std::fmt::Display) -> Failure {
    Failure { step, why: why.to_string() }
}

impl World for InstanceWorld {
    fn role(&self) -> &'static str {
        self.letter
    }

    fn epoch(&self) -> u64 {
        self.epoch.0
    }

    async fn next(&mut self) -> Input {
        self.next_fact().await
    }

    async fn perform(&mut self, effect: Effect) -> Result<Option<Input>, Failure> {
        match effect {
            Effect::Propose => self.propose()?,
            Effect::Claim(epoch) => return self.claim(epoch).map(Some),
            Effect::ReadClaim(epoch) => return self.read_claim(epoch).map(Some),
            Effect::SyncClaim(epoch) => self.sync_claim(epoch)?,
            Effect::Send(peer, frame) => self.send(peer, &frame),
            Effect::Forget(peer) => self.forget(peer),
            Effect::Arm(timer, after) => self.timers.arm(Key::Machine(timer), scaled(after)),
            Effect::Disarm(timer) => self.timers.disarm(Key::Machine(timer)),
            Effect::Kill(_) => match &mut self.takeover {
                Some(takeover) => takeover.end(),
                None => return Ok(Some(Input::Gone(Peer::Successor))),
            },
            Effect::Lock(patience) => return self.take_lock(patience),
            Effect::Unlock => self.unlock(),
            Effect::Call(hook) => self.call(hook),
            Effect::Cancel(Hook::Receive | Hook::HandOver) => self.stop_transfer(),
            Effect::Cancel(hook) => self.host.cancel(hook),
            Effect::CloseParked => self.close_parked(),
            Effect::Tidy => self.tidy(),
            other @ (Effect::Persist(_)
            | Effect::WatchClaim(_)
            | Effect::Spawn(..)
            | Effect::Terminate(_)
            | Effect::Reconnect(_)
            | Effect::TurnBack(_)
            | Effect::Promote
            | Effect::Report(_)
            | Effect::Finish(_)) => {
                tracing::error!(effect = other.point(), "an order that is not for an instance");
            }
        }
        Ok(None)
    }

    fn stepped(&mut self) {
        // a handoff that was not accepted, a canary that is not answered
        self.candidate = None;
        self.canary = None;
    }
}
