//! What the records amount to.

use super::record::Record;
use crate::ids::{Epoch, HandoffId, InstanceId};
use crate::outcome::{Ended, Outcome};
use std::collections::VecDeque;

/// The most reports that are kept for `history`.
const MAX_REPORTS: usize = 128;
/// The most bytes of reports that are kept.
const MAX_REPORT_BYTES: usize = 1 << 20;
/// The most containers that are remembered.
const MAX_CONTAINERS: usize = 64;

/// A journal, read to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalState {
    /// The highest generation that took the run dir.
    pub generation: u64,
    /// The handoff that began and did not end.
    pub open: Option<OpenHandoff>,
    /// Who was last seen to serve, and under which epoch.
    pub last_serving: Option<(InstanceId, Epoch)>,
    /// How the last handoff ended.
    pub last_ended: Option<Ended>,
    /// Whether the last supervisor stopped cleanly and nothing was started since.
    pub stopped: bool,
    /// Instances that were given a container since the last clean stop, newest last, at most 64: what their
    /// containers hold may be killed.
    pub containers: VecDeque<InstanceId>,
    /// The server that is on probation.
    pub trial: Option<Trial>,
    /// Reports of ended handoffs, newest last, limited in number and size.
    pub reports: VecDeque<(HandoffId, String)>,
}

/// A server on probation, or one that is being rolled back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// The handoff that committed.
    pub handoff: HandoffId,
    /// Who served before.
    pub previous: InstanceId,
    /// Who serves since.
    pub serving: InstanceId,
    /// Its base epoch.
    pub epoch: Epoch,
    /// How long it is on probation, from its commit.
    pub probation_ms: u64,
    /// Why it has not stood it, and how many ways back have come to nothing since.
    pub turned_down: Option<(String, u32)>,
}

/// A handoff whose end the journal does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenHandoff {
    /// Its id.
    pub handoff: HandoffId,
    /// Who served when it began.
    pub incumbent: InstanceId,
    /// Who was to serve.
    pub successor: InstanceId,
    /// The epoch under which the incumbent served.
    pub epoch: Epoch,
    /// Whether SealRequest may have been sent. `false` proves nothing.
    pub sealed: bool,
    /// Why who owns the next epoch was being found out, if it was.
    pub resolving: Option<String>,
    /// How long its server will be on probation.
    pub probation_ms: u64,
}

impl JournalState {
    /// The state after these records.
    #[must_use]
    pub fn fold<'a>(records: impl IntoIterator<Item = &'a Record>) -> JournalState {
        let mut state = JournalState::default();
        records.into_iter().for_each(|record| state.apply(record));
        state
    }

    /// The state after one more record.
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Generation { generation } => self.generation = self.generation.max(*generation),
            Record::Intent { handoff, incumbent, successor, epoch } => {
                self.stopped = false;
                self.remember(*successor);
                self.open = Some(OpenHandoff {
                    handoff: *handoff,
                    incumbent: *incumbent,
                    successor: *successor,
                    epoch: *epoch,
                    sealed: false,
                    resolving: None,
                    probation_ms: 0,
                });
            }
            Record::SealRequested { handoff } => {
                if let Some(open) = self.open_as(*handoff) {
                    open.sealed = true;
                }
            }
            Record::Resolving { handoff, reason } => {
                if let Some(open) = self.open_as(*handoff) {
                    open.resolving = Some(reason.clone());
                }
            }
            Record::Ended { handoff, outcome, reason, epoch } => {
                let open = self.open.take_if(|open| open.handoff == *handoff);
                if let (Some(open), Outcome::Committed) = (open, outcome) {
                    self.committed(&open);
                }
                let went_back = self
                    .last_ended
                    .as_ref()
                    .is_some_and(|last| last.handoff == *handoff && last.outcome == Outcome::RolledBack);
                if !went_back {
                    let (outcome, reason, epoch) = (*outcome, reason.clone(), *epoch);
                    self.last_ended = Some(Ended { handoff: *handoff, outcome, reason, epoch });
                }
            }
            Record::Terms { handoff, probation_ms } => {
                if let Some(open) = self.open_as(*handoff) {
                    open.probation_ms = *probation_ms;
                }
            }
            Record::TurnedDown { handoff, reason, failed } => {
                if let Some(trial) = self.trial.as_mut().filter(|trial| trial.handoff == *handoff) {
                    trial.turned_down = Some((reason.clone(), *failed));
                }
            }
            Record::ProbationOver { handoff } => {
                self.trial.take_if(|trial| trial.handoff == *handoff);
            }
            Record::RolledBack { handoff, reason, epoch } => {
                self.trial = None;
                let (outcome, reason, epoch) = (Outcome::RolledBack, Some(reason.clone()), *epoch);
                self.last_ended = Some(Ended { handoff: *handoff, outcome, reason, epoch });
            }
            Record::ColdStart { instance, .. } => {
                self.stopped = false;
                self.remember(*instance);
            }
            Record::Serving { instance, epoch } => {
                self.stopped = false;
                self.last_serving = Some((*instance, *epoch));
            }
            Record::Stopped => {
                self.stopped = true;
                self.open = None;
                self.trial = None;
                self.containers.clear();
            }
            Record::Report { handoff, json } => {
                self.reports.push_back((*handoff, json.clone()));
                let mut bytes: usize = self.reports.iter().map(|(_, json)| json.len()).sum();
                while self.reports.len() > MAX_REPORTS || bytes > MAX_REPORT_BYTES {
                    bytes -= self.reports.pop_front().map_or(bytes, |(_, json)| json.len());
                }
            }
        }
    }

    /// Records that amount to this state: what is left when a journal is compacted.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        let mut records = vec![Record::Generation { generation: self.generation }];
        if let Some((instance, epoch)) = self.last_serving {
            records.push(Record::Serving { instance, epoch });
        }
        records.extend(self.reports.iter().map(|(handoff, json)| {
            let (handoff, json) = (*handoff, json.clone());
            Record::Report { handoff, json }
        }));
        if self.stopped {
            records.push(Record::Stopped);
        }
        let reason = "its container may exist; the journal was compacted since";
        records.extend(
            self.containers.iter().map(|i| Record::ColdStart { instance: *i, reason: reason.to_owned() }),
        );
        // a handoff that committed on terms is what a trial is
        if let Some(Trial { handoff, previous, serving, epoch, probation_ms, turned_down }) =
            self.trial.clone()
        {
            records.push(Record::Intent { handoff, incumbent: previous, successor: serving, epoch });
            records.push(Record::Terms { handoff, probation_ms });
            let (outcome, reason) = (Outcome::Committed, None);
            records.push(Record::Ended { handoff, outcome, reason, epoch: epoch.next() });
            records.extend(turned_down.map(|(reason, failed)| Record::TurnedDown {
                handoff,
                reason,
                failed,
            }));
        }
        if let Some(Ended { handoff, outcome, reason, epoch }) = self.last_ended.clone() {
            records.push(match outcome {
                Outcome::RolledBack => {
                    Record::RolledBack { handoff, reason: reason.unwrap_or_default(), epoch }
                }
                Outcome::Committed
                | Outcome::Aborted
                | Outcome::Reclaimed
                | Outcome::ColdStarted
                | Outcome::PreflightFailed
                | Outcome::Unknown => Record::Ended { handoff, outcome, reason, epoch },
            });
        }
        if let Some(OpenHandoff { handoff, incumbent, successor, epoch, sealed, resolving, probation_ms }) =
            self.open.clone()
        {
            records.push(Record::Intent { handoff, incumbent, successor, epoch });
            if probation_ms > 0 {
                records.push(Record::Terms { handoff, probation_ms });
            }
            if sealed {
                records.push(Record::SealRequested { handoff });
            }
            if let Some(reason) = resolving {
                records.push(Record::Resolving { handoff, reason });
            }
        }
        records
    }

    fn committed(&mut self, open: &OpenHandoff) {
        let OpenHandoff { handoff, incumbent: previous, successor: serving, epoch, probation_ms, .. } = *open;
        let turned_down = None;
        self.trial = (probation_ms > 0).then_some(Trial {
            handoff,
            previous,
            serving,
            epoch,
            probation_ms,
            turned_down,
        });
    }

    fn open_as(&mut self, handoff: HandoffId) -> Option<&mut OpenHandoff> {
        self.open.as_mut().filter(|open| open.handoff == handoff)
    }

    fn remember(&mut self, instance: InstanceId) {
        if !self.containers.contains(&instance) {
            self.containers.push_back(instance);
            if self.containers.len() > MAX_CONTAINERS {
                self.containers.pop_front();
            }
        }
    }
}
