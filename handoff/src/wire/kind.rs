//! What every message is besides its content: a stable number, critical or not, with how many descriptors.

use super::frame::MAX_DESCRIPTORS;
use super::message::Message;
use std::ops::RangeInclusive;

/// The most bytes of one parked connection's state.
pub const MAX_PARKED: usize = 1 << 20;

/// The type numbers. Never changed, never used again for something else.
pub(super) mod number {
    pub(crate) const HELLO: u16 = 1;
    pub(crate) const HELLO_ACK: u16 = 2;
    pub(crate) const REFUSED: u16 = 3;
    pub(crate) const WARMED: u16 = 4;
    pub(crate) const PREPARE_HANDOFF: u16 = 5;
    pub(crate) const DRAINED: u16 = 6;
    pub(crate) const SEAL_REQUEST: u16 = 7;
    pub(crate) const SEAL_PROGRESS: u16 = 8;
    pub(crate) const HEARTBEAT: u16 = 9;
    pub(crate) const SEAL_COMPLETE: u16 = 10;
    pub(crate) const SEAL_FAILED: u16 = 11;
    pub(crate) const BEGIN: u16 = 12;
    pub(crate) const READY: u16 = 13;
    pub(crate) const COMMIT: u16 = 14;
    pub(crate) const STARTED: u16 = 15;
    pub(crate) const ACTIVE: u16 = 16;
    pub(crate) const RETIRE: u16 = 17;
    pub(crate) const RESOLVE: u16 = 18;
    pub(crate) const RESUMED: u16 = 19;
    pub(crate) const RETIRING: u16 = 20;
    pub(crate) const ABORT: u16 = 21;
    pub(crate) const ADOPT: u16 = 22;
    pub(crate) const ADOPTED: u16 = 23;
    pub(crate) const PARKED: u16 = 24;
    pub(crate) const PARKED_MORE: u16 = 25;
    pub(crate) const PARKED_ACK: u16 = 26;
    pub(crate) const END: u16 = 27;
    pub(crate) const UNHEALTHY: u16 = 28;
    pub(crate) const CANARY: u16 = 29;
}

/// Index + 1 is the type number.
const NAMES: [&str; 29] = [
    "Hello",
    "HelloAck",
    "Refused",
    "Warmed",
    "PrepareHandoff",
    "Drained",
    "SealRequest",
    "SealProgress",
    "Heartbeat",
    "SealComplete",
    "SealFailed",
    "Begin",
    "Ready",
    "Commit",
    "Started",
    "Active",
    "Retire",
    "Resolve",
    "Resumed",
    "Retiring",
    "Abort",
    "Adopt",
    "Adopted",
    "Parked",
    "ParkedMore",
    "ParkedAck",
    "End",
    "Unhealthy",
    "Canary",
];

/// The type number of `PrepareHandoff`, for the refusal of one that is no longer at hand.
pub(crate) const PREPARE_HANDOFF: u16 = number::PREPARE_HANDOFF;

impl Message {
    /// The type number in the frame header.
    #[must_use]
    pub fn kind(&self) -> u16 {
        match self {
            Message::Hello(_) => number::HELLO,
            Message::HelloAck(_) => number::HELLO_ACK,
            Message::Refused(_) => number::REFUSED,
            Message::Warmed { .. } => number::WARMED,
            Message::PrepareHandoff { .. } => number::PREPARE_HANDOFF,
            Message::Drained { .. } => number::DRAINED,
            Message::SealRequest => number::SEAL_REQUEST,
            Message::SealProgress { .. } => number::SEAL_PROGRESS,
            Message::Heartbeat { .. } => number::HEARTBEAT,
            Message::SealComplete { .. } => number::SEAL_COMPLETE,
            Message::SealFailed { .. } => number::SEAL_FAILED,
            Message::Begin { .. } => number::BEGIN,
            Message::Ready { .. } => number::READY,
            Message::Commit => number::COMMIT,
            Message::Started => number::STARTED,
            Message::Active { .. } => number::ACTIVE,
            Message::Retire { .. } => number::RETIRE,
            Message::Resolve => number::RESOLVE,
            Message::Resumed { .. } => number::RESUMED,
            Message::Retiring => number::RETIRING,
            Message::Abort { .. } => number::ABORT,
            Message::Adopt { .. } => number::ADOPT,
            Message::Adopted { .. } => number::ADOPTED,
            Message::Parked { .. } => number::PARKED,
            Message::ParkedMore { .. } => number::PARKED_MORE,
            Message::ParkedAck { .. } => number::PARKED_ACK,
            Message::End { .. } => number::END,
            Message::Unhealthy { .. } => number::UNHEALTHY,
            Message::Canary => number::CANARY,
        }
    }

    /// The name of a type number, `None` when this build does not know it.
    #[must_use]
    pub fn name_of(kind: u16) -> Option<&'static str> {
        NAMES.get(usize::from(kind).checked_sub(1)?).copied()
    }

    /// Whether a receiver that does not know this type must refuse it instead of skipping it.
    ///
    /// All that changes a state is critical. Signs of life are not: to skip one costs nothing. Nor is
    /// `Unhealthy`: a supervisor that does not know it has no probation. Nor is `Canary`: skipped it is not answered,
    /// and that says it. Nor is `Refused`: a refusal that is refused would go on for ever.
    #[must_use]
    pub fn is_critical(&self) -> bool {
        !matches!(
            self,
            Message::SealProgress { .. }
                | Message::Heartbeat { .. }
                | Message::Unhealthy { .. }
                | Message::Canary
                | Message::Refused(_)
        )
    }

    /// How many descriptors may come with a frame of this message.
    ///
    /// Ranges where it depends on who is spoken to: `HelloAck` brings the transfer channel to a successor only;
    /// `PrepareHandoff` brings N's pidfd and O's end of the transfer channel, and `cgroup.kill` and `cgroup.events`
    /// where there are cgroups; `Adopted` brings the lineage lock, if there is data, and the listeners; `Canary` a
    /// connection.
    #[must_use]
    pub fn descriptors(&self) -> RangeInclusive<usize> {
        match self {
            Message::HelloAck(_) => 0..=1,
            Message::Canary => 1..=1,
            Message::PrepareHandoff { .. } => 2..=4,
            Message::Adopted { .. } => 0..=MAX_DESCRIPTORS,
            Message::Parked { entries, .. } => entries.len()..=entries.len(),
            Message::Hello(_)
            | Message::Refused(_)
            | Message::Warmed { .. }
            | Message::Drained { .. }
            | Message::SealRequest
            | Message::SealProgress { .. }
            | Message::Heartbeat { .. }
            | Message::SealComplete { .. }
            | Message::SealFailed { .. }
            | Message::Begin { .. }
            | Message::Ready { .. }
            | Message::Commit
            | Message::Started
            | Message::Active { .. }
            | Message::Retire { .. }
            | Message::Resolve
            | Message::Resumed { .. }
            | Message::Retiring
            | Message::Abort { .. }
            | Message::Adopt { .. }
            | Message::ParkedMore { .. }
            | Message::ParkedAck { .. }
            | Message::Unhealthy { .. }
            | Message::End { .. } => 0..=0,
        }
    }

    /// Whether the encoding is frozen: the same in every wire version.
    pub(super) fn is_frozen(&self) -> bool {
        Self::is_frozen_kind(self.kind())
    }

    pub(super) fn is_frozen_kind(kind: u16) -> bool {
        matches!(kind, number::HELLO | number::HELLO_ACK | number::REFUSED)
    }
}
