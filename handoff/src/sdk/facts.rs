//! What an instance waits for: frames, hooks that return, ends of processes, signals, timers.

use super::control::{self, Adopter, Caller};
use super::host::Output;
use super::takeover::{Fate, Takeover};
use super::transfer::Arrived;
use super::world::{InstanceWorld, Key, Line};
use crate::crash::scaled;
use crate::driver::Failure;
use crate::ids::{Epoch, HandoffId};
use crate::machine::{Command, Hook, Input, Peer, Report, Step, Timer, times};
use crate::os::channel::{Closed, Received};
use crate::os::lock::{Lock, LockError};
use crate::wire::{Message, Refused, Role, Stamped};
use tokio::task::{JoinError, JoinHandle};

/// One thing that happened, not yet understood.
enum Happened {
    Supervisor(Result<Received, Closed>),
    Transfer(Result<Received, Closed>),
    Hook(Hook, Result<Output, String>),
    Received(Result<Arrived, JoinError>),
    HandedOver(Result<Result<(), String>, JoinError>),
    Locked(Result<(Lock, Result<(), LockError>), JoinError>),
    Fate(Fate),
    Voted(String),
    Adopter(Adopter),
    Caller(Caller),
    Stop,
    Timer,
}

impl InstanceWorld {
    /// The next fact. Frames come before everything else, timers last. Cancel safe.
    pub(super) async fn next_fact(&mut self) -> Input {
        loop {
            if let Some(input) = self.pending.pop_front() {
                return input;
            }
            let happened = self.wait().await;
            if let Some(input) = self.understand(happened) {
                return input;
            }
        }
    }

    async fn wait(&mut self) -> Happened {
        tokio::select! {
            biased;
            received = frame(&mut self.supervisor) => Happened::Supervisor(received),
            received = frame(&mut self.transfer), if !self.deaf => Happened::Transfer(received),
            Some(adopter) = self.adopters.1.recv() => Happened::Adopter(adopter),
            (hook, result) = self.host.done() => Happened::Hook(hook, result),
            locked = joined(&mut self.locking) => Happened::Locked(locked),
            arrived = joined(&mut self.receiving) => Happened::Received(arrived),
            sent = joined(&mut self.sending) => Happened::HandedOver(sent),
            Some(fate) = self.fates.1.recv() => Happened::Fate(fate),
            Some(why) = self.votes.recv() => Happened::Voted(why),
            Some(()) = self.terminate.recv() => Happened::Stop,
            Some(()) = self.interrupt.recv(), if self.by_hand => Happened::Stop,
            caller = call(&self.control) => Happened::Caller(caller),
            () = self.timers.expired() => Happened::Timer,
        }
    }

    fn understand(&mut self, happened: Happened) -> Option<Input> {
        match happened {
            Happened::Supervisor(Ok(received)) => self.supervisor_said(received),
            Happened::Supervisor(Err(closed)) => {
                tracing::info!(%closed, "the supervisor's channel ended");
                self.supervisor = None;
                self.supervisor_lost.send_replace(true);
                Some(Input::Closed(Peer::Supervisor))
            }
            Happened::Transfer(Ok(received)) => self.transfer_said(received),
            Happened::Transfer(Err(closed)) => {
                tracing::debug!(%closed, "the transfer channel ended");
                if let Some(line) = &mut self.transfer {
                    line.receiver = None;
                }
                self.no_more_acks();
                Some(Input::Closed(self.other_side()))
            }
            Happened::Hook(Hook::Health, result) => {
                self.examined(result.map(drop));
                None
            }
            // how it went, the supervisor sees on the connection; the host has logged an error
            Happened::Hook(Hook::Canary, _) => None,
            Happened::Hook(hook, result) => Some(self.returned(hook, result)),
            Happened::Voted(why) => {
                self.unhealthy(why.clone());
                self.unfit = Some(why);
                None
            }
            Happened::Received(arrived) => {
                self.receiving = None;
                Some(Input::Done(Hook::Receive, self.arrived(arrived)))
            }
            Happened::HandedOver(sent) => {
                self.sending = None;
                let result = sent.unwrap_or_else(|e| Err(e.to_string()));
                Some(Input::Done(Hook::HandOver, result.map(|()| Report::Nothing)))
            }
            Happened::Locked(waited) => {
                self.locking = None;
                Some(self.lock_came(waited))
            }
            Happened::Fate(fate) => self.fate(fate),
            Happened::Adopter(adopter) => self.adopt(adopter),
            Happened::Caller(caller) => {
                tokio::spawn(control::greet(caller, self.hello.clone(), self.adopters.0.clone()));
                None
            }
            Happened::Stop => {
                self.stopping = true;
                Some(Input::Command(Command::Stop))
            }
            Happened::Timer => self.expired(),
        }
    }

    fn supervisor_said(&mut self, received: Received) -> Option<Input> {
        let stamp = super::transfer::Stamp { handoff: received.frame.handoff, epoch: received.frame.epoch };
        match &received.frame.message {
            Message::HelloAck(ack) => {
                self.see_generation(ack.generation);
                self.connection_format = ack.connection_format;
                if let Some(line) = &self.supervisor {
                    line.sender.set_version(ack.version);
                }
                if self.letter == "N" {
                    self.stamp = stamp;
                    self.epoch = stamp.epoch;
                }
                let frame = received.frame;
                if let Some(fd) = received.fds.into_iter().next() {
                    match crate::os::channel::Channel::from_fd(fd) {
                        Ok(channel) => self.transfer = Some(Line::new(channel)),
                        Err(error) => tracing::error!(%error, "transfer channel"),
                    }
                }
                return Some(Input::Received(Peer::Supervisor, frame));
            }
            Message::PrepareHandoff { .. } => {
                let frame = received.frame.clone();
                match Takeover::read(received, self.fates.0.clone()) {
                    Ok(takeover) => self.candidate = Some(takeover),
                    Err(why) => {
                        let refused = Refused { what: frame.message.kind(), why };
                        self.answer(stamp.on(Message::Refused(refused)));
                        return None;
                    }
                }
                return Some(Input::Received(Peer::Supervisor, frame));
            }
            Message::Canary => self.canary = received.fds.into_iter().next(),
            Message::Adopt { generation } => {
                self.see_generation(*generation);
                self.supervisor_lost.send_replace(false);
            }
            Message::Retire { grace_ms } => {
                self.retire_grace = Some(std::time::Duration::from_millis((*grace_ms).into()));
            }
            _ => {}
        }
        Some(Input::Received(Peer::Supervisor, received.frame))
    }

    fn transfer_said(&mut self, received: Received) -> Option<Input> {
        match received.frame.message {
            Message::ParkedAck { received: count } if self.stamp.is_on(&received.frame) => {
                self.acks.send_replace(count);
                None
            }
            _ => Some(Input::Received(self.other_side(), received.frame)),
        }
    }

    fn answer(&self, frame: Stamped) {
        if let Some(line) = &self.supervisor {
            line.sender.send(&frame, Vec::new());
        }
    }

    fn see_generation(&mut self, generation: u64) {
        self.hello.generation = self.hello.generation.max(generation);
    }

    fn returned(&mut self, hook: Hook, result: Result<Output, String>) -> Input {
        if hook == Hook::Serve && result.is_ok() {
            // from here on it is an incumbent
            self.letter = "O";
            self.hello.role = Role::Incumbent;
            self.deaf = false;
        }
        let report = result.map(|output| match output {
            Output::Nothing => Report::Nothing,
            Output::Warmed { loaded, revision } => Report::Warmed { loaded, revision },
            Output::Opened(o) => {
                Report::Opened { digest: o.digest, data_epoch: o.data_epoch, healthy: o.healthy }
            }
            Output::Drained(d) => Report::Drained { open: d.open_connections },
            Output::Sealed(sealed) => {
                self.parked = sealed.parked;
                let connections = self.that_go();
                if connections < self.parked.len() {
                    let left = self.parked.len() - connections;
                    tracing::warn!(left, "connections that cannot be handed over will be closed");
                }
                Report::Sealed { digest: sealed.digest, connections: connections as u64 }
            }
            Output::Verified(digest) => Report::Verified { digest },
        });
        Input::Done(hook, report)
    }

    fn arrived(&mut self, arrived: Result<Arrived, JoinError>) -> Result<Report, String> {
        let Arrived { parked, channel, cut } = arrived.map_err(|e| e.to_string())?;
        if let Some(why) = cut {
            tracing::warn!(why, connections = parked.len(), "the connections did not all come");
        }
        if let Some(line) = &mut self.transfer {
            line.receiver = Some(channel);
        }
        self.parked = parked;
        Ok(Report::Received { connections: self.parked.len() as u64 })
    }

    fn lock_came(&mut self, waited: Result<(Lock, Result<(), LockError>), JoinError>) -> Input {
        let failed = |why: String| Input::Failed(Step::Lock, why);
        let (lock, result) = match waited {
            Ok(waited) => waited,
            Err(e) => return failed(e.to_string()),
        };
        if let Some(claiming) = &mut self.claiming {
            claiming.lock = Some(lock);
        }
        match result {
            Ok(()) => self.locked().unwrap_or_else(|Failure { why, .. }| failed(why)),
            Err(e) => failed(e.to_string()),
        }
    }

    fn fate(&self, fate: Fate) -> Option<Input> {
        let open = self.takeover.as_ref().map(|t| t.stamp.handoff);
        let (Fate::Exited(handoff) | Fate::Gone(handoff)) = fate;
        if open != Some(handoff) {
            return None;
        }
        Some(match fate {
            Fate::Exited(_) => Input::Exited(Peer::Successor),
            Fate::Gone(_) => Input::Gone(Peer::Successor),
        })
    }

    /// A connection of a higher generation replaces the one there is, with all that one had still to say. One of the
    /// same generation is the same supervisor, back after its connection broke.
    fn adopt(&mut self, adopter: Adopter) -> Option<Input> {
        let Adopter { channel, generation, frame } = adopter;
        let seen = self.hello.generation;
        if generation < seen || (generation == seen && self.supervisor.is_some()) {
            let why = format!("generation {generation} is over: {seen} was seen");
            tokio::spawn(async move { control::refuse(&channel.sender(), frame.message.kind(), &why).await });
            return None;
        }
        tracing::info!(generation, "a new supervisor");
        if let Some(old) = self.supervisor.replace(Line::new(channel)) {
            old.sender.close();
        }
        self.hello.generation = generation;
        self.by_hand = false;
        self.supervisor_lost.send_replace(false);
        Some(Input::Received(Peer::Supervisor, frame))
    }

    fn expired(&mut self) -> Option<Input> {
        match self.timers.take_expired()? {
            Key::Machine(timer) => {
                if timer == Timer::Lease {
                    self.supervisor_lost.send_replace(true);
                }
                Some(Input::Expired(timer))
            }
            Key::Heartbeat => {
                self.timers.arm(Key::Heartbeat, scaled(times::HEARTBEAT));
                let progress = self.progress.0.load(std::sync::atomic::Ordering::Relaxed);
                let message = Message::Heartbeat { progress };
                self.answer(Stamped { handoff: HandoffId::NIL, epoch: Epoch::ZERO, message });
                if let Some(why) = self.unfit.clone() {
                    self.unhealthy(why);
                }
                self.examine();
                None
            }
        }
    }
}

async fn frame(line: &mut Option<Line>) -> Result<Received, Closed> {
    match line.as_mut().and_then(|line| line.receiver.as_mut()) {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}

async fn joined<T>(task: &mut Option<JoinHandle<T>>) -> Result<T, JoinError> {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

async fn call(control: &Option<control::Control>) -> Caller {
    match control {
        Some(control) => control.accept().await,
        None => std::future::pending().await,
    }
}
