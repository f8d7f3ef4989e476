//! The journal itself: records go in durably and come back in order.

use super::format;
use super::record::Record;
use super::replay::{Replay, Torn, replay};
use super::state::JournalState;
use super::storage::Storage;
use std::io;

/// A journal longer than this is compacted when it is opened, and after a report.
const COMPACT_ABOVE: u64 = 4 << 20;

/// Why a journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another kind of file.
    #[error("not a journal: it does not begin like one; move it away, or use another run dir")]
    Foreign,
    /// Written by a later version.
    #[error(
        "journal format {found}: this build reads up to {known}; next: use the build that wrote it or a later one"
    )]
    Newer {
        /// The version in the header.
        found: u16,
        /// The highest one we read.
        known: u16,
    },
    /// What was once written whole is damaged.
    #[error(
        "damaged at byte {offset}: {why}; next: move the journal aside. Who serves is decided by the claims, \
         only history is lost"
    )]
    Corrupt {
        /// Where the damaged record begins.
        offset: u64,
        /// What is wrong with it.
        why: String,
    },
    /// A record that is too long to be written.
    #[error("record {record} of {size} bytes: at most {max} fit")]
    TooLong {
        /// The record.
        record: &'static str,
        /// Its size.
        size: usize,
        /// The limit.
        max: usize,
    },
    /// The storage refuses; the record is not in the journal.
    #[error("{0}")]
    Storage(#[source] io::Error),
    /// An earlier record may be half there and could not be taken back: nothing can be appended any more.
    #[error("broken since a write could not be taken back ({0}); next: restart the supervisor")]
    Broken(String),
}

/// An open journal.
#[derive(Debug)]
pub struct Journal<S> {
    storage: S,
    state: JournalState,
    end: u64,
    torn: Option<Torn>,
    broken: Option<String>,
    compact_above: u64,
}

impl<S: Storage> Journal<S> {
    /// Replays what is stored, cuts a torn tail, writes the header of a new journal, compacts a long one.
    ///
    /// # Errors
    /// See [`replay`]; the storage refuses.
    pub fn open(storage: S) -> Result<Journal<S>, JournalError> {
        Self::open_with_limit(storage, COMPACT_ABOVE)
    }

    fn open_with_limit(mut storage: S, compact_above: u64) -> Result<Journal<S>, JournalError> {
        let bytes = storage.load().map_err(JournalError::Storage)?;
        let Replay { records, unknown: _, mut end, torn } = replay(&bytes)?;
        if torn.is_some() {
            storage.truncate(end).map_err(JournalError::Storage)?;
        }
        if end == 0 {
            let header = format::header();
            storage.append(&header).map_err(JournalError::Storage)?;
            end = header.len() as u64;
        }
        let state = JournalState::fold(&records);
        let mut journal = Journal { storage, state, end, torn, broken: None, compact_above };
        journal.compact_if_long()?;
        Ok(journal)
    }

    /// Adds a record. It is durable when this returns.
    ///
    /// # Errors
    /// The record is not in the journal. After [`JournalError::Storage`] the next one may work: what was written of
    /// this one was taken back.
    pub fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        if let Some(why) = &self.broken {
            return Err(JournalError::Broken(why.clone()));
        }
        let bytes = format::write(record)?;
        if let Err(error) = self.storage.append(&bytes) {
            // a half-written record with a whole one behind it would be a hole
            if let Err(undo) = self.storage.truncate(self.end) {
                self.broken = Some(format!("{error}; {undo}"));
            }
            return Err(JournalError::Storage(error));
        }
        self.end += bytes.len() as u64;
        self.state.apply(record);
        if let Record::Report { .. } = record {
            // between two handoffs: nobody waits. The record is durable whatever comes of this, and the next report
            // tries again
            let _ = self.compact_if_long();
        }
        Ok(())
    }

    /// What all records amount to.
    #[must_use]
    pub fn state(&self) -> &JournalState {
        &self.state
    }

    /// What was cut when the journal was opened.
    #[must_use]
    pub fn torn(&self) -> Option<&Torn> {
        self.torn.as_ref()
    }

    /// Gives the storage back.
    #[must_use]
    pub fn into_storage(self) -> S {
        self.storage
    }

    fn compact_if_long(&mut self) -> Result<(), JournalError> {
        if self.end <= self.compact_above {
            return Ok(());
        }
        let mut bytes = format::header().to_vec();
        for record in self.state.records() {
            bytes.extend_from_slice(&format::write(&record)?);
        }
        self.storage.replace(&bytes).map_err(JournalError::Storage)?;
        self.end = bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
