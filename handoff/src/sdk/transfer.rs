//! Parked connections on their way from the incumbent to the successor.
//!
//! In batches, bounded by descriptors and bytes, acknowledged while they are read: the kernel limits how many
//! descriptors may be under way, and a successor that died must not leave an incumbent that waits for ever.

use super::parked::Parked;
use crate::crash::scaled;
use crate::ids::{Epoch, HandoffId};
use crate::machine::times::SELF_COMMIT;
use crate::os::channel::{Closed, Received, Receiver, Sender};
use crate::os::fds::MAX_FDS;
use crate::wire::{Message, ParkedEntry, Stamped};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

/// Bytes of state in one frame.
const BATCH_BYTES: usize = 32 * 1024;
/// What an entry costs besides its bytes, generously.
const ENTRY_BYTES: usize = 16;
/// Batches that may be under way.
const WINDOW: usize = 2;
/// The most bytes of state in one handoff.
pub(super) const MAX_TOTAL: usize = 64 << 20;

/// The handoff that stands in each frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) handoff: HandoffId,
    pub(super) epoch: Epoch,
}

impl Stamp {
    pub(super) fn on(self, message: Message) -> Stamped {
        Stamped { handoff: self.handoff, epoch: self.epoch, message }
    }

    pub(super) fn is_on(self, frame: &Stamped) -> bool {
        frame.handoff == self.handoff && frame.epoch == self.epoch
    }
}

/// How many of the connections, from the first, fit into one handoff.
pub(super) fn that_fit(parked: &[Parked]) -> usize {
    let mut total = 0usize;
    parked
        .iter()
        .take_while(|p| {
            total = total.saturating_add(p.state.len());
            total <= MAX_TOTAL
        })
        .count()
}

/// O: streams the connections. `acks` is what the other side says it has received.
pub(super) async fn hand_over(
    stamp: Stamp,
    channel: Sender,
    mut acks: watch::Receiver<u64>,
    parked: Vec<Parked>,
) -> Result<(), String> {
    let mut sent = 0usize;
    // how many were sent at the end of each batch under way
    let mut under_way = std::collections::VecDeque::new();
    while sent < parked.len() {
        if under_way.len() == WINDOW {
            let oldest: u64 = under_way.pop_front().unwrap_or_default();
            acked(&mut acks, oldest, &channel).await?;
        }
        let batch = Batch::first_of(&parked[sent..]);
        let fds: Vec<Arc<OwnedFd>> =
            parked[sent..sent + batch.entries.len()].iter().map(|p| Arc::clone(&p.fd)).collect();
        let (count, first) = (batch.entries.len(), sent as u64);
        channel.send(&stamp.on(Message::Parked { first, entries: batch.entries }), fds);
        sent += count;
        rest_of(stamp, &channel, sent as u64 - 1, &parked[sent - 1].state[batch.of_last..]).await?;
        under_way.push_back(sent as u64);
    }
    channel.send(&stamp.on(Message::End { connections: sent as u64 }), Vec::new());
    settled(&channel).await
}

/// O, after the successor has started (overlap): one connection, whole. Acknowledged later.
pub(super) async fn hand_over_one(
    stamp: Stamp,
    channel: &Sender,
    index: u64,
    parked: &Parked,
) -> Result<(), String> {
    let batch = Batch::first_of(std::slice::from_ref(parked));
    let first = Message::Parked { first: index, entries: batch.entries };
    channel.send(&stamp.on(first), vec![Arc::clone(&parked.fd)]);
    rest_of(stamp, channel, index, &parked.state[batch.of_last..]).await
}

/// The state that did not go along with the descriptor.
async fn rest_of(stamp: Stamp, channel: &Sender, index: u64, state: &[u8]) -> Result<(), String> {
    for chunk in state.chunks(BATCH_BYTES) {
        settled(channel).await?;
        channel.send(&stamp.on(Message::ParkedMore { index, bytes: chunk.to_vec() }), Vec::new());
    }
    settled(channel).await
}

struct Batch {
    entries: Vec<ParkedEntry>,
    /// How many bytes of the last entry's state are in it.
    of_last: usize,
}

impl Batch {
    /// As many as one frame may carry; of the last one perhaps only a part of its state.
    fn first_of(parked: &[Parked]) -> Self {
        let mut room = BATCH_BYTES;
        let mut batch = Batch { entries: Vec::new(), of_last: 0 };
        for p in parked.iter().take(MAX_FDS) {
            if !batch.entries.is_empty() && room < p.state.len().saturating_add(ENTRY_BYTES) {
                break;
            }
            room = room.saturating_sub(ENTRY_BYTES);
            batch.of_last = p.state.len().min(room);
            room -= batch.of_last;
            let bytes = p.state[..batch.of_last].to_vec();
            // a connection's state is at most 1 MiB: Parked::park checks it
            batch.entries.push(ParkedEntry { total: p.state.len() as u32, bytes });
        }
        batch
    }
}

/// Waits until the socket has taken everything.
async fn settled(channel: &Sender) -> Result<(), String> {
    channel.flush().await;
    channel.broken().map_or(Ok(()), Err)
}

async fn acked(acks: &mut watch::Receiver<u64>, at_least: u64, channel: &Sender) -> Result<(), String> {
    tokio::select! {
        acked = acks.wait_for(|acked| *acked >= at_least) => acked.map(drop).map_err(|_| "the transfer was given up".to_owned()),
        why = channel.until_broken() => Err(why),
    }
}

/// What has arrived.
#[derive(Debug)]
pub(super) struct Arrived {
    /// The connections that are whole, in order.
    pub(super) parked: Vec<Parked>,
    /// The channel, to be watched on.
    pub(super) channel: Receiver,
    /// Why it ended before its `End`.
    pub(super) cut: Option<String>,
}

/// N: takes the connections, until `End` or EOF or, while the supervisor is lost, until nothing came for 3 s.
pub(super) async fn receive(
    stamp: Stamp,
    mut channel: Receiver,
    answers: Sender,
    mut supervisor_lost: watch::Receiver<bool>,
) -> Arrived {
    let mut arrivals = Arrivals::default();
    let mut last_frame = Instant::now();
    let cut = loop {
        let lost = *supervisor_lost.borrow_and_update();
        let silence = async {
            match lost {
                true => sleep_until(last_frame + scaled(SELF_COMMIT)).await,
                false => std::future::pending().await,
            }
        };
        let received = tokio::select! {
            biased;
            received = channel.recv() => received,
            Ok(()) = supervisor_lost.changed() => continue,
            () = silence => break Some("nothing came any more and the supervisor is lost".to_owned()),
        };
        last_frame = Instant::now();
        match received {
            Ok(received) if stamp.is_on(&received.frame) => match arrivals.take(received) {
                Ok(Progress::More) => {
                    let received = arrivals.whole;
                    answers.send(&stamp.on(Message::ParkedAck { received }), Vec::new());
                }
                Ok(Progress::End) => break None,
                Err(why) => break Some(why),
            },
            Ok(Received { frame, .. }) => {
                tracing::warn!(handoff = %frame.handoff, "a frame of another handoff on the transfer channel");
            }
            Err(Closed::Eof) => break Some("the incumbent closed the channel".to_owned()),
            Err(closed) => break Some(closed.to_string()),
        }
    };
    Arrived { parked: arrivals.into_whole(), channel, cut }
}

/// N, while it serves (overlap): passes on each connection that the incumbent lets go of, until the channel ends.
/// Acknowledged before it is passed on: from the acknowledgement on nobody else reads it.
pub(super) async fn receive_each(
    stamp: Stamp,
    channel: Receiver,
    answers: Sender,
    arrived: mpsc::UnboundedSender<Parked>,
) {
    receive_all(stamp, channel, &answers, arrived).await;
    // whoever else has the channel: an incumbent that is not listened to any more has to know
    answers.flush().await;
    answers.close();
}

async fn receive_all(
    stamp: Stamp,
    mut channel: Receiver,
    answers: &Sender,
    arrived: mpsc::UnboundedSender<Parked>,
) {
    let mut current: Option<Arrival> = None;
    let mut count = 0u64;
    while let Ok(Received { frame, fds }) = channel.recv().await {
        if !stamp.is_on(&frame) {
            continue;
        }
        let fits = |state: &[u8], total: usize| state.len() <= total && total <= Parked::MAX_STATE;
        match frame.message {
            Message::Parked { first, entries }
                if first == count && entries.len() == 1 && current.is_none() =>
            {
                let (Some(entry), Some(fd)) = (entries.into_iter().next(), fds.into_iter().next()) else {
                    return;
                };
                current = Some(Arrival { fd, total: entry.total as usize, state: entry.bytes });
            }
            Message::ParkedMore { index, mut bytes } if index == count => {
                let Some(arrival) = &mut current else { return };
                arrival.state.append(&mut bytes);
            }
            other => return tracing::warn!(message = other.name(), "out of place on the transfer channel"),
        }
        if !current.as_ref().is_some_and(|a| fits(&a.state, a.total)) {
            return tracing::warn!(connection = count, "more state than was announced");
        }
        if let Some(whole) = current.take_if(|a| a.state.len() == a.total) {
            count += 1;
            answers.send(&stamp.on(Message::ParkedAck { received: count }), Vec::new());
            // a server that takes none: its copy is closed here
            let _ = arrived.send(Parked { fd: Arc::new(whole.fd), state: whole.state.into() });
        }
    }
}

#[derive(Debug, Default)]
struct Arrivals {
    connections: Vec<Arrival>,
    whole: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Arrival {
    fd: OwnedFd,
    total: usize,
    state: Vec<u8>,
}

enum Progress {
    More,
    End,
}

impl Arrivals {
    fn take(&mut self, received: Received) -> Result<Progress, String> {
        match received.frame.message {
            Message::Parked { first, entries } => {
                if first != self.connections.len() as u64 {
                    return Err(format!("connection {first} came where {} was next", self.connections.len()));
                }
                for (entry, fd) in entries.into_iter().zip(received.fds) {
                    let total = entry.total as usize;
                    self.bytes = self.bytes.saturating_add(total);
                    if total > Parked::MAX_STATE || self.bytes > MAX_TOTAL || entry.bytes.len() > total {
                        return Err(format!(
                            "connection {}: more state than allowed",
                            self.connections.len()
                        ));
                    }
                    self.whole += u64::from(entry.bytes.len() == total);
                    self.connections.push(Arrival { fd, total, state: entry.bytes });
                }
            }
            Message::ParkedMore { index, mut bytes } => {
                let arrival = usize::try_from(index).ok().and_then(|n| self.connections.get_mut(n));
                let Some(arrival) = arrival.filter(|a| a.state.len() + bytes.len() <= a.total) else {
                    return Err(format!("more state for connection {index} than was announced"));
                };
                let was_whole = arrival.state.len() == arrival.total;
                arrival.state.append(&mut bytes);
                self.whole += u64::from(!was_whole && arrival.state.len() == arrival.total);
            }
            Message::End { connections } if connections == self.whole => return Ok(Progress::End),
            Message::End { connections } => {
                return Err(format!("{connections} connections were sent, {} arrived", self.whole));
            }
            other => return Err(format!("{} has no place on the transfer channel", other.name())),
        }
        Ok(Progress::More)
    }

    fn into_whole(self) -> Vec<Parked> {
        self.connections
            .into_iter()
            .filter(|a| a.state.len() == a.total)
            .map(|a| Parked { fd: Arc::new(a.fd), state: a.state.into() })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::channel::Channel;

    const STAMP: Stamp = Stamp { handoff: HandoffId(9), epoch: Epoch(4) };

    fn parked(n: usize, size: usize) -> Parked {
        let (a, b) = std::os::unix::net::UnixStream::pair().expect("pair");
        drop(b);
        Parked { fd: Arc::new(a.into()), state: vec![n as u8; size].into() }
    }

    struct Ends {
        o: (Sender, Receiver),
        n: (Sender, Receiver),
    }

    fn ends() -> Ends {
        let (a, b) = Channel::pair().expect("pair");
        let o = Channel::from_fd(a).expect("channel").split();
        Ends { o, n: Channel::from_fd(b).expect("channel").split() }
    }

    /// What the incumbent's world does with frames from the successor.
    async fn forward(mut from: Receiver, acks: watch::Sender<u64>) {
        while let Ok(received) = from.recv().await {
            if let Message::ParkedAck { received } = received.frame.message {
                acks.send_replace(received);
            }
        }
    }

    async fn transfer(all: Vec<Parked>) -> Arrived {
        let Ends { o, n } = ends();
        let (acks, acked) = watch::channel(0);
        tokio::spawn(forward(o.1, acks));
        let sending = tokio::spawn(hand_over(STAMP, o.0, acked, all));
        let (_lost, supervisor) = watch::channel(false);
        let arrived = receive(STAMP, n.1, n.0, supervisor).await;
        sending.await.expect("task").expect("sent");
        arrived
    }

    #[tokio::test]
    async fn every_size_of_state_arrives_whole_and_in_order() {
        let sizes = [0, 1, 100, BATCH_BYTES - ENTRY_BYTES, BATCH_BYTES, BATCH_BYTES + 1, 1 << 20, 0, 70_000];
        let all: Vec<_> = sizes.iter().enumerate().map(|(n, size)| parked(n, *size)).collect();
        let arrived = transfer(all.clone()).await;
        assert_eq!(arrived.cut, None);
        let states = |list: &[Parked]| list.iter().map(|p| p.state().to_vec()).collect::<Vec<_>>();
        assert_eq!(states(&arrived.parked), states(&all));
        for (before, after) in all.iter().zip(&arrived.parked) {
            let identity = |p: &Parked| crate::os::listeners::identity(&*p.fd).expect("open");
            assert_eq!(identity(before), identity(after));
        }
    }

    #[tokio::test]
    async fn a_thousand_connections_arrive() {
        let all: Vec<_> = (0..300).map(|n| parked(n, n * 7 % 300)).collect();
        // the same sockets several times: a test process has few descriptors
        let all: Vec<_> = all.iter().cycle().take(1000).cloned().collect();
        let arrived = transfer(all).await;
        assert_eq!((arrived.parked.len(), arrived.cut), (1000, None));
    }

    #[tokio::test]
    async fn none_is_a_number_too() {
        let arrived = transfer(Vec::new()).await;
        assert_eq!((arrived.parked.len(), arrived.cut), (0, None));
    }

    #[tokio::test]
    async fn an_incumbent_does_not_wait_for_a_dead_successor() {
        let Ends { o, mut n } = ends();
        let (acks, acked) = watch::channel(0);
        let forwarding = tokio::spawn(forward(o.1, acks));
        let all = (0..20).map(|n| parked(n, 100_000)).collect();
        let sending = tokio::spawn(hand_over(STAMP, o.0, acked, all));
        n.1.recv().await.expect("the first batch");
        drop(n);
        assert!(sending.await.expect("task").is_err());
        forwarding.await.expect("the channel ended");
    }

    #[tokio::test]
    async fn what_a_dead_incumbent_had_sent_whole_is_kept() {
        let Ends { o, n } = ends();
        let entry = |total: u32, bytes: usize| ParkedEntry { total, bytes: vec![1; bytes] };
        let first = Message::Parked { first: 0, entries: vec![entry(3, 3), entry(9, 4)] };
        o.0.send(&STAMP.on(first), vec![parked(0, 0).fd, parked(0, 0).fd]);
        drop(o);
        let (_lost, supervisor) = watch::channel(false);
        let arrived = receive(STAMP, n.1, n.0, supervisor).await;
        assert_eq!(arrived.parked.len(), 1, "half a state is none");
        assert!(arrived.cut.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_it_only_while_the_supervisor_is_lost() {
        let Ends { o, n } = ends();
        let (lost, supervisor) = watch::channel(false);
        let mut receiving = tokio::spawn(receive(STAMP, n.1, n.0, supervisor));
        let patience = SELF_COMMIT * 3;
        assert!(
            tokio::time::timeout(patience, &mut receiving).await.is_err(),
            "the incumbent may take its time"
        );
        lost.send_replace(true);
        let arrived = tokio::time::timeout(patience, receiving).await.expect("in time").expect("task");
        assert!(arrived.cut.is_some());
        drop(o);
    }

    // a connection that did not arrive whole ended the handover for the successor alone: the channel stayed open, and
    // the incumbent waited for acknowledgements to the end of its grace
    #[tokio::test]
    async fn an_incumbent_hears_that_nobody_listens_any_more() {
        let Ends { mut o, n } = ends();
        let (_kept, (arrived, _)) = (n.0.clone(), mpsc::unbounded_channel());
        o.0.send(&STAMP.on(Message::ParkedMore { index: 3, bytes: vec![1] }), Vec::new());
        receive_each(STAMP, n.1, n.0, arrived).await;
        assert_eq!(o.1.recv().await.expect_err("the end"), Closed::Eof);
    }

    #[tokio::test]
    async fn nonsense_ends_it() {
        let entry = |total: u32, bytes: usize| ParkedEntry { total, bytes: vec![1; bytes] };
        let nonsense: [(Message, usize); 4] = [
            (Message::Parked { first: 3, entries: vec![entry(1, 1)] }, 1),
            (Message::Parked { first: 0, entries: vec![entry(1, 2)] }, 1),
            (Message::ParkedMore { index: 7, bytes: vec![1] }, 0),
            (Message::End { connections: 1 }, 0),
        ];
        for (message, fds) in nonsense {
            let Ends { o, n } = ends();
            o.0.send(&STAMP.on(message.clone()), (0..fds).map(|_| parked(0, 0).fd).collect());
            let (_lost, supervisor) = watch::channel(false);
            let arrived = receive(STAMP, n.1, n.0, supervisor).await;
            assert!(arrived.cut.is_some() && arrived.parked.is_empty(), "{message:?}: {arrived:?}");
        }
    }
}
