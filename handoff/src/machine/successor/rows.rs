//! The rows of the successor's table: every event answered in each state.

use super::event::Event;
use super::{Open, State, Successor, Work};
use crate::machine::step::{Effect, Effects, Hook, Input, Machine, Step, Timer, times};
use crate::wire::{Message, Strategy};
use std::time::Duration;

impl Machine for Successor {
    fn handle(&mut self, input: Input) -> Effects {
        let event = self.sort(input);
        match self.state.clone() {
            State::New => match event {
                Event::Start => {
                    self.state = State::Greeting;
                    vec![self.hello(), Effect::Arm(Timer::Lease, self.lease)]
                }
                event @ rest! {
                    Ack Begin Commit Abort Refused Alive Adopt SupervisorLost LeaseOver DeadlineOver
                    SelfCommit Warmed Opened ReceiveDone Served Locked Claimed Failed Stop
                    TransferEnded Canary Alien
                } => self.violation(&event),
            },
            State::Greeting => match event {
                Event::Ack { handoff, epoch, ack } => {
                    self.lease = Duration::from_millis(ack.lease_ms.into());
                    let open = Open { handoff, base: epoch, incumbent: ack.incumbent };
                    self.state = State::Warming { open };
                    vec![
                        Effect::Arm(Timer::Lease, self.lease),
                        Effect::Arm(Timer::Deadline, Duration::from_millis(ack.deadline_ms.into())),
                        Effect::Call(Hook::Warm),
                    ]
                }
                Event::SupervisorLost | Event::LeaseOver => self.leave("the supervisor is gone".into()),
                Event::Refused { why } => self.leave(format!("refused by the supervisor: {why}")),
                Event::Stop => self.leave("asked to stop".into()),
                // who asks is told, although there is nothing to tell yet: a new supervisor waits for the answer
                Event::Adopt => vec![self.adopted(), Effect::Arm(Timer::Lease, self.lease)],
                Event::Alive => vec![Effect::Arm(Timer::Lease, self.lease)],
                event @ rest! {
                    Start Begin Commit Abort DeadlineOver SelfCommit Warmed Opened ReceiveDone
                    Served Locked Claimed Failed TransferEnded Canary Alien
                } => self.violation(&event),
            },
            State::Warming { open } => match event {
                Event::Warmed(Ok((loaded, revision))) => {
                    self.state = State::Warm { open };
                    vec![Effect::Propose, self.say(&open, Message::Warmed { loaded, revision })]
                }
                Event::Warmed(Err(why)) => self.leave(format!("warm: {why}")),
                Event::SupervisorLost | Event::LeaseOver => self.leave("the supervisor is gone".into()),
                Event::Abort { reason } => self.leave(format!("aborted: {reason}")),
                Event::Refused { why } => self.leave(format!("refused by the supervisor: {why}")),
                Event::DeadlineOver => self.leave("the deadline is over before Begin".into()),
                Event::Stop => self.leave("asked to stop".into()),
                Event::Adopt => vec![self.adopted(), Effect::Arm(Timer::Lease, self.lease)],
                Event::Alive => vec![Effect::Arm(Timer::Lease, self.lease)],
                event @ rest! {
                    Start Ack Begin Commit SelfCommit Opened ReceiveDone Served Locked Claimed
                    Failed TransferEnded Canary Alien
                } => self.violation(&event),
            },
            State::Warm { open } => match event {
                Event::Begin { digest } => {
                    let overlap = self.hello.strategy == Strategy::Overlap;
                    let received = if overlap { Some(0) } else { None };
                    let work = Work { sealed: digest, opened: None, received };
                    self.state = State::Opening { open, work, lost: false };
                    let mut effects =
                        vec![Effect::Disarm(Timer::Deadline), Effect::Arm(Timer::Lease, self.lease)];
                    if overlap {
                        effects.push(Effect::Call(Hook::Open));
                    } else {
                        effects.extend([Effect::Call(Hook::Receive), Effect::Lock(Some(times::LOCK))]);
                    }
                    effects
                }
                Event::SupervisorLost | Event::LeaseOver => self.leave("the supervisor is gone".into()),
                Event::Abort { reason } => self.leave(format!("aborted: {reason}")),
                Event::Refused { why } => self.leave(format!("refused by the supervisor: {why}")),
                Event::Failed(Step::Propose, why) => self.leave(format!("no proposal: {why}")),
                Event::DeadlineOver => self.leave("the deadline is over before Begin".into()),
                Event::Stop => self.leave("asked to stop".into()),
                Event::Adopt => vec![self.adopted(), Effect::Arm(Timer::Lease, self.lease)],
                Event::Alive => vec![Effect::Arm(Timer::Lease, self.lease)],
                event @ rest! {
                    Start Ack Commit SelfCommit Warmed Opened ReceiveDone Served Locked Claimed
                    Failed TransferEnded Canary Alien
                } => self.violation(&event),
            },
            State::Opening { open, mut work, lost } => match event {
                Event::Locked { highest } if highest.is_some_and(|(top, _)| top > open.base) => {
                    self.leave("the incumbent has taken the next epoch".into())
                }
                Event::Locked { .. } => {
                    self.state = State::Opening { open, work, lost };
                    vec![Effect::Call(Hook::Open)]
                }
                Event::Opened(Ok((digest, _, healthy))) => match &work.sealed {
                    Some(sealed) if *sealed != digest => {
                        self.leave(format!("digest differs: sealed {sealed}, loaded {digest}"))
                    }
                    Some(_) | None => {
                        work.opened = Some(healthy);
                        self.opening(open, work, lost)
                    }
                },
                Event::ReceiveDone(Ok(connections)) => {
                    work.received = Some(connections);
                    self.opening(open, work, lost)
                }
                Event::Opened(Err(why)) => self.leave(format!("open: {why}")),
                Event::ReceiveDone(Err(why)) => self.leave(format!("connections: {why}")),
                Event::Failed(Step::Lock, why) => self.leave(format!("owner.lock: {why}")),
                // noted; what was begun is finished, for the incumbent may be gone too
                Event::SupervisorLost | Event::LeaseOver => {
                    self.state = State::Opening { open, work, lost: true };
                    Vec::new()
                }
                Event::Adopt => {
                    self.state = State::Opening { open, work, lost: false };
                    vec![self.adopted(), Effect::Arm(Timer::Lease, self.lease)]
                }
                Event::Abort { reason } => self.leave(format!("aborted: {reason}")),
                Event::Refused { why } => self.leave(format!("refused by the supervisor: {why}")),
                Event::Stop => self.leave("asked to stop".into()),
                Event::Alive => vec![Effect::Arm(Timer::Lease, self.lease)],
                Event::TransferEnded => Vec::new(),
                event @ rest! {
                    Start Ack Begin Commit DeadlineOver SelfCommit Warmed Served Claimed Failed
                    Canary Alien
                } => self.violation(&event),
            },
            State::Ready { open, lost } => match event {
                Event::Commit => self.claim(open),
                Event::Canary if !lost => vec![Effect::Call(Hook::Canary)],
                Event::SelfCommit if lost => self.claim(open),
                Event::SupervisorLost | Event::LeaseOver if !lost => {
                    self.state = State::Ready { open, lost: true };
                    vec![Effect::Arm(Timer::SelfCommit, times::SELF_COMMIT)]
                }
                Event::Adopt => {
                    self.state = State::Ready { open, lost: false };
                    vec![
                        Effect::Disarm(Timer::SelfCommit),
                        self.adopted(),
                        Effect::Arm(Timer::Lease, self.lease),
                    ]
                }
                Event::Abort { reason } => self.leave(format!("aborted: {reason}")),
                Event::Refused { why } => self.leave(format!("refused by the supervisor: {why}")),
                Event::Stop => self.leave("asked to stop".into()),
                Event::Alive if !lost => vec![Effect::Arm(Timer::Lease, self.lease)],
                Event::Alive
                | Event::SupervisorLost
                | Event::LeaseOver
                | Event::SelfCommit
                | Event::TransferEnded => Vec::new(),
                event @ rest! {
                    Start Ack Begin DeadlineOver Warmed Opened ReceiveDone Served Locked Claimed
                    Failed Canary Alien
                } => self.violation(&event),
            },
            State::Claiming { open } => match event {
                Event::Claimed(epoch, Some(owner))
                    if epoch == open.base.next() && owner == self.hello.instance =>
                {
                    self.state = State::Starting { open, epoch };
                    let mut effects = vec![Effect::SyncClaim(epoch)];
                    // a sealed incumbent's connections are stale from here on; one that serves too goes on until
                    // this one does
                    if self.hello.strategy == Strategy::Exclusive {
                        effects.push(Self::started(&open));
                    }
                    effects.push(Effect::Call(Hook::Serve));
                    effects
                }
                Event::Claimed(epoch, Some(owner)) => self.leave(format!("epoch {epoch} belongs to {owner}")),
                Event::Claimed(epoch, None) => {
                    self.leave(format!("no claim of epoch {epoch}: the handoff is over"))
                }
                Event::Failed(Step::Claim, why) => self.give_up(format!("claim: {why}")),
                Event::Adopt => vec![self.adopted()],
                // decided already, or in the hands of the file system
                Event::SupervisorLost
                | Event::LeaseOver
                | Event::SelfCommit
                | Event::Commit
                | Event::Alive
                | Event::TransferEnded => Vec::new(),
                Event::Stop => self.give_up("asked to stop".into()),
                event @ rest! {
                    Start Ack Begin Abort Refused DeadlineOver Warmed Opened ReceiveDone Served
                    Locked Failed Canary Alien
                } => self.violation(&event),
            },
            State::Starting { open, epoch } => match event {
                Event::Served(Ok(())) => {
                    let mut effects = Vec::new();
                    if self.hello.strategy == Strategy::Overlap {
                        effects.push(Self::started(&open));
                    }
                    effects.extend(self.serve(epoch, open.handoff, open.base));
                    effects
                }
                Event::Served(Err(why)) => self.give_up(format!("serve: {why}")),
                Event::Failed(Step::SyncClaim, why) => {
                    self.give_up(format!("the claim is not durable: {why}"))
                }
                Event::Adopt => vec![self.adopted()],
                Event::Stop => self.give_up("asked to stop".into()),
                Event::SupervisorLost
                | Event::LeaseOver
                | Event::SelfCommit
                | Event::Commit
                | Event::Alive
                | Event::TransferEnded => Vec::new(),
                event @ rest! {
                    Start Ack Begin Abort Refused DeadlineOver Warmed Opened ReceiveDone Locked
                    Claimed Failed Canary Alien
                } => self.violation(&event),
            },
            State::Cold { stage } => self.cold_on(stage, event),
            State::Serving { .. } | State::Finished => self.violation(&event),
        }
    }
}
