//! The one wait of the supervisor: frames, the ends of processes, orders, timers.

use super::instance::{Instance, News};
use super::orders::Order;
use super::world::{Beat, World, trace};
use crate::ids::{Epoch, HandoffId, InstanceId};
use crate::machine::{Input, Peer};
use crate::os::channel::{Closed, Received};
use crate::wire::{Message, Stamped};
use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

/// How often the accept queues are looked at while the service stands still.
const SAMPLE: Duration = Duration::from_millis(1);
/// After so many frames in a row everybody else is looked at once: a peer that floods holds nobody.
const FRAMES_IN_A_ROW: u32 = 64;

#[derive(Debug)]
enum Event {
    Frame(InstanceId, Result<Received, Closed>),
    News(News),
    Order(Order),
    Timer,
    Beat,
    Sample,
}

type Next<'a> = Pin<Box<dyn Future<Output = (InstanceId, Result<Received, Closed>)> + Send + 'a>>;

fn frame_of(instance: &mut Instance) -> Option<Next<'_>> {
    let id = instance.id;
    let channel = instance.channel.as_mut()?;
    Some(Box::pin(async move { (id, channel.recv().await) }))
}

fn died_unheard(instance: Option<&Instance>) -> bool {
    instance.is_some_and(Instance::died_unheard)
}

impl World {
    pub(super) async fn next_input(&mut self) -> Input {
        loop {
            self.settle();
            if let Some(input) = self.inputs.pop_front() {
                return input;
            }
            if let Some((id, frame)) = self.held.take_if(|_| !died_unheard(self.incumbent.as_ref()))
                && let Some(peer) = self.peer_of(id)
            {
                return Input::Received(peer, frame);
            }
            let event = match self.overdue() {
                Some(event) => {
                    tokio::task::yield_now().await;
                    event
                }
                None => self.wait().await,
            };
            self.frames_in_a_row =
                if matches!(event, Event::Frame(..)) { self.frames_in_a_row + 1 } else { 0 };
            match event {
                Event::Frame(id, Ok(received)) => self.received(id, received),
                Event::Frame(id, Err(why)) => self.closed(id, &why),
                Event::News(news) => self.heard(news),
                Event::Order(order) => self.ordered(order),
                Event::Timer => {
                    if let Some(timer) = self.timers.take_expired() {
                        self.inputs.push_back(Input::Expired(timer));
                    }
                }
                Event::Beat => match self.beats.take_expired() {
                    Some(Beat::Heart) => self.beat(),
                    Some(Beat::Watchdog) => self.pat(),
                    // `settle` sees that its time is over
                    Some(Beat::Upgrade) | None => {}
                },
                Event::Sample => self.sample_queues(),
            }
        }
    }

    /// What waits behind a flood of frames.
    fn overdue(&mut self) -> Option<Event> {
        if self.frames_in_a_row < FRAMES_IN_A_ROW {
            return None;
        }
        self.frames_in_a_row = 0;
        if let Ok(news) = self.news.try_recv() {
            return Some(Event::News(news));
        }
        if let Ok(order) = self.orders.try_recv() {
            return Some(Event::Order(order));
        }
        let due = self.beats.next().is_some_and(|at| at <= tokio::time::Instant::now());
        Some(if due { Event::Beat } else { Event::Timer })
    }

    async fn wait(&mut self) -> Event {
        let frozen = self.progress.as_ref().is_some_and(super::progress::Progress::frozen);
        let Self { incumbent, successor, retiring, news, orders, timers, beats, .. } = self;
        let slots = incumbent.iter_mut().chain(successor).chain(retiring.values_mut());
        let mut frames: Vec<Next<'_>> = slots.filter_map(frame_of).collect();
        let frame = std::future::poll_fn(|cx| {
            for next in &mut frames {
                if let Poll::Ready((id, received)) = next.as_mut().poll(cx) {
                    return Poll::Ready(Event::Frame(id, received));
                }
            }
            Poll::Pending
        });
        tokio::select! {
            // the first poll of a frame asks the kernel: whatever was readable comes before what expired
            biased;
            event = frame => event,
            Some(news) = news.recv() => Event::News(news),
            Some(order) = orders.recv() => Event::Order(order),
            () = timers.expired() => Event::Timer,
            () = beats.expired() => Event::Beat,
            () = tokio::time::sleep(SAMPLE), if frozen => Event::Sample,
        }
    }

    fn received(&mut self, id: InstanceId, received: Received) {
        let Some(peer) = self.peer_of(id) else { return };
        let frame = received.frame;
        // descriptors of an Adopted that answers a reconnect: all are here already
        drop(received.fds);
        trace(&frame.message, &frame);
        self.count(peer, &frame.message);
        if let Message::Hello(hello) = &frame.message {
            let tell = self.tell.clone();
            let Some(slot) = self.slot(peer) else { return };
            let sender = slot.channel.as_ref().and_then(crate::os::channel::Channel::first_sender);
            let pid = sender.and_then(|sender| u32::try_from(sender.pid).ok()).filter(|pid| *pid > 0);
            if let Some(pid) = pid
                && let Err(error) = slot.speaks_as(pid, &tell)
            {
                tracing::warn!(%error, instance = %id, "a stranger on the channel");
                slot.channel = None;
                self.inputs.push_back(Input::Closed(peer));
                return;
            }
            slot.hello = Some((**hello).clone());
            let report = slot.report();
            if let Some(progress) = &mut self.progress
                && peer == Peer::Successor
            {
                progress.new = report;
            }
        }
        if matches!(frame.message, Message::Ready { .. }) && died_unheard(self.incumbent.as_ref()) {
            // some connections did not arrive because the incumbent died: its death comes first, or they seem lost
            self.held = Some((id, frame));
            return;
        }
        self.inputs.push_back(Input::Received(peer, frame));
    }

    fn count(&mut self, peer: Peer, message: &Message) {
        let now = Instant::now();
        if matches!((peer, message), (Peer::Successor, Message::Active { .. })) {
            self.sample_queues();
        }
        let Some(progress) = &mut self.progress else { return };
        match (peer, message) {
            (Peer::Incumbent, Message::Drained { open }) => progress.drained(*open),
            (Peer::Incumbent, Message::SealComplete { connections, .. }) => progress.sealed(*connections),
            (Peer::Successor, Message::Ready { connections, .. }) => progress.ready(*connections),
            (Peer::Successor, Message::Active { .. }) => progress.active(now),
            _ => {}
        }
    }

    fn closed(&mut self, id: InstanceId, why: &Closed) {
        let Some(peer) = self.peer_of(id) else { return };
        if *why == Closed::Eof {
            tracing::debug!(instance = %id, "channel ended");
        } else {
            tracing::warn!(instance = %id, %why, "channel ended");
        }
        if let Some(slot) = self.slot(peer) {
            slot.channel = None;
        }
        self.inputs.push_back(Input::Closed(peer));
    }

    fn heard(&mut self, news: News) {
        match news {
            News::Exited { instance, pid, exit } => {
                let Some(peer) = self.peer_of(instance) else { return };
                let tell = self.tell.clone();
                let Some(slot) = self.slot(peer) else { return };
                // a launcher that forked and left: the server it started is awaited
                if slot.pid != Some(pid) || (slot.hello.is_none() && slot.outlives(pid, exit, &tell)) {
                    return;
                }
                slot.exit = Some(exit);
                let said = format!("process {pid} {exit}");
                tracing::info!(instance = %instance, pid, %exit, "process ended");
                match peer {
                    Peer::Incumbent => self.last_exit = Some(said),
                    // a kill may be this supervisor's own: it says nothing of the successor
                    Peer::Successor if exit.signal != Some(nix::libc::SIGKILL) => {
                        if let Some(progress) = &mut self.progress {
                            progress.exited(said);
                        }
                    }
                    Peer::Successor | Peer::Retiring(_) | Peer::Supervisor => {}
                }
                self.inputs.push_back(Input::Exited(peer));
            }
            News::Gone(instance) => {
                self.remove_control(instance);
                if let Some(peer) = self.peer_of(instance) {
                    if let Some(slot) = self.slot(peer) {
                        slot.is_gone();
                    }
                    self.inputs.push_back(Input::Gone(peer));
                }
            }
            News::Connected(instance, channel) => self.connected(instance, *channel),
            News::Checked(handoff, result, warnings) => self.checked(handoff, result, warnings),
            News::Configured(build) => self.configured(build),
            News::Kept(id, build) => self.build_kept(id, build),
            News::Tried(number, how) => self.tried(number, how),
            News::Reviewed(reviewed) => self.reviewed(reviewed),
            News::Claimed(epoch, owner) => self.inputs.push_back(Input::Claimed(epoch, Some(owner))),
        }
    }

    /// Life, and progress of the supervisor's own loop.
    fn beat(&mut self) {
        self.heart += 1;
        self.arrivals.look();
        self.beats.arm(Beat::Heart, Self::heartbeat());
        if let Err(error) = self.catch_up() {
            self.journal_trouble = Some(error.to_string());
        }
        let message = Message::Heartbeat { progress: self.heart };
        let frame = Stamped { handoff: HandoffId::NIL, epoch: Epoch::ZERO, message };
        let slots = self.incumbent.iter().chain(&self.successor).chain(self.retiring.values());
        for channel in slots.filter_map(|slot| slot.channel.as_ref()) {
            channel.send(&frame, Vec::new());
        }
    }
}
