//! The store, and what of it is not in the log yet.
//!
//! An operation changes the store at once and joins the current batch; the writer takes whole batches. Nobody may
//! hear of a change before it is as durable as the server promises, readers included: whoever executed something
//! while a batch was under way waits for the next [`Ledger::barrier`] before it answers. So the store may be ahead of
//! the disk, but no client ever is. When the log refuses a batch (disk full), that batch and the one that was built on
//! it are taken back, newest operation first, and everybody who waits is told that nothing was applied.

use crate::log::{self, Stamp};
use crate::operation::Operation;
use crate::store::{Prior, Store};
use std::sync::Arc;
use tokio::sync::oneshot;

/// What became of a batch: durable, or why not.
pub(crate) type Outcome = Result<(), Arc<str>>;

/// The store with its current batch.
#[derive(Debug)]
pub(crate) struct Ledger {
    store: Store,
    /// Of this tenure; `None` while this process is no writer.
    stamp: Option<Stamp>,
    sequence: u64,
    batch: Batch,
    in_flight: bool,
}

/// Operations that become durable together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) bytes: Vec<u8>,
    /// Sum of the records' shares.
    pub(crate) sum: u64,
    /// Number of the last operation.
    pub(crate) sequence: u64,
    /// Of each record: where it begins and what it replaced.
    priors: Vec<(usize, Prior)>,
    waiting: Vec<oneshot::Sender<Outcome>>,
}

impl Ledger {
    pub(crate) fn new(store: Store, sequence: u64) -> Self {
        Self { store, stamp: None, sequence, batch: Batch::default(), in_flight: false }
    }

    /// A tenure begins: operations carry this stamp. `None`: it ended.
    pub(crate) fn tenure(&mut self, stamp: Option<Stamp>) {
        self.stamp = stamp;
    }

    /// Whether this process is the writer.
    pub(crate) fn is_writer(&self) -> bool {
        self.stamp.is_some()
    }

    /// The store, for who goes on with it.
    pub(crate) fn take_store(&mut self) -> Store {
        std::mem::take(&mut self.store)
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Number of the last operation.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Makes the operation true here, and durable with the next batch.
    pub(crate) fn commit(&mut self, operation: &Operation<'_>) {
        let stamp = self.stamp.expect("connections execute nothing outside of a tenure");
        // a bug that an oracle of the crash matrix has to find: acknowledged, and in no log
        let counter = matches!(operation, Operation::Set { key, .. } if key.ends_with(b":count"));
        if counter && handoff::crash::planted("O4") {
            self.store.apply(operation);
            return;
        }
        let start = self.batch.bytes.len();
        self.sequence += 1;
        let share = log::append(&mut self.batch.bytes, stamp, self.sequence, |out| operation.encode(out));
        self.batch.sum = self.batch.sum.wrapping_add(share);
        self.batch.sequence = self.sequence;
        self.batch.priors.push((start, self.store.apply(operation)));
    }

    /// Everything executed so far may be told to a client when this says so. `None`: at once.
    pub(crate) fn barrier(&mut self) -> Option<oneshot::Receiver<Outcome>> {
        if self.batch.bytes.is_empty() && !self.in_flight {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        self.batch.waiting.push(sender);
        Some(receiver)
    }

    /// Whether somebody waits for the writer.
    pub(crate) fn has_work(&self) -> bool {
        !self.batch.bytes.is_empty() || !self.batch.waiting.is_empty()
    }

    /// The batch is under way to the disk; `spare` collects the next.
    pub(crate) fn take(&mut self, spare: Batch) -> Batch {
        self.in_flight = !self.batch.bytes.is_empty();
        std::mem::replace(&mut self.batch, spare)
    }

    /// The log refused `batch`: takes back everything since.
    pub(crate) fn refuse(&mut self, batch: Batch, why: &Arc<str>) {
        for mut batch in [std::mem::take(&mut self.batch), batch] {
            self.sequence -= batch.priors.len() as u64;
            for (start, prior) in batch.priors.drain(..).rev() {
                let record = log::read(&batch.bytes[start..]).expect("it was just written");
                let operation = Operation::decode(record.operation).expect("it was just encoded");
                self.store.undo(&operation, prior);
            }
            batch.settle(&Err(Arc::clone(why)));
        }
        self.in_flight = false;
    }
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Tells all who wait and empties it for reuse.
    pub(crate) fn settle(&mut self, outcome: &Outcome) {
        for waiting in self.waiting.drain(..) {
            // a connection that is gone does not wait any more
            let _ = waiting.send(outcome.clone());
        }
        self.bytes.clear();
        self.bytes.shrink_to(1 << 20);
        self.priors.clear();
        self.sum = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set<'a>(key: &'a [u8], value: &'a [u8]) -> Operation<'a> {
        Operation::Set { key, value, expires: None }
    }

    #[test]
    fn a_refused_batch_takes_the_next_one_with_it() {
        let mut ledger = Ledger::new(Store::default(), 0);
        ledger.tenure(Some(Stamp::default()));
        ledger.commit(&set(b"k", b"durable"));
        ledger.take(Batch::default()).settle(&Ok(()));
        assert!(ledger.barrier().is_some(), "the writer has not come back for more");
        ledger.take(Batch::default()).settle(&Ok(()));
        assert!(ledger.barrier().is_none());

        ledger.commit(&set(b"k", b"refused"));
        let mut first = ledger.barrier().unwrap();
        let batch = ledger.take(Batch::default());
        let mut reader = ledger.barrier().expect("what it read is not durable");
        ledger.commit(&Operation::Append { key: b"k", value: b" too" });
        assert_eq!(ledger.store().get(b"k", 0).unwrap().value, b"refused too");
        ledger.refuse(batch, &"disk full".into());
        assert_eq!(ledger.store().get(b"k", 0).unwrap().value, b"durable");
        assert_eq!(ledger.sequence(), 1);
        for told in [&mut first, &mut reader] {
            assert_eq!(&*told.try_recv().unwrap().unwrap_err(), "disk full");
        }
        assert!(!ledger.has_work() && ledger.barrier().is_none());
    }
}
