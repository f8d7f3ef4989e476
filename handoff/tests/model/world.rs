//! The world around the machines: processes, channels, disk, lock. Small enough to be hashed, real enough to hurt.

use crate::part::{Part, fingerprint};
use crate::rules::Rules;
use handoff::ids::{Epoch, HandoffId, InstanceId};
use handoff::machine::recovery::{FoundHandoff, FoundInstance, FoundTrial};
use handoff::machine::{Effect, Hook, Input, Instance, Peer, Supervisor, Timer};
use handoff::wire::Stamped;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// Everything there is. Dead processes stay as husks, so that an index names one process for ever.
#[derive(Clone, Debug, Hash)]
pub(crate) struct World {
    pub(crate) sup: Part<Sup>,
    pub(crate) procs: Vec<Part<Proc>>,
    pub(crate) disk: Part<Disk>,
    /// Faults that may still happen.
    pub(crate) faults: u8,
    /// Upgrades that may still be ordered.
    pub(crate) upgrades: u8,
    /// Upgrades that were ordered.
    pub(crate) rounds: u8,
    pub(crate) ghost: Ghost,
}

/// What no process knows: kept to judge by.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(crate) struct Ghost {
    /// The highest tenure so far and whose it was.
    pub(crate) last: (Epoch, InstanceId),
    /// Processes that a fault hit directly, or that were ended, one bit each.
    pub(crate) hurt: u64,
    /// Processes that others ended: as healthy as they may have been.
    pub(crate) ended: u64,
    /// Processes that were told Begin.
    pub(crate) begun: u64,
    /// Processes that began to serve.
    pub(crate) served: u64,
}

/// Files and locks. What is not durable is lost with the power.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Disk {
    pub(crate) claims: Vec<ClaimFile>,
    pub(crate) proposals: BTreeSet<(HandoffId, InstanceId)>,
    /// Who has the lock on owner.lock; by open file description, so it ends with the process.
    pub(crate) lock: Option<InstanceId>,
    /// Number of acknowledged writes: an acknowledged write is durable.
    pub(crate) revision: u8,
    /// The epoch of the last record.
    pub(crate) stamped: Epoch,
    /// The format that the last tenure wrote.
    pub(crate) format: u32,
    /// What the journal shows open.
    pub(crate) open: Option<OpenRecord>,
    /// What the journal shows on probation.
    pub(crate) trial: Option<TrialRecord>,
}

#[derive(Clone, Copy, Debug, Hash)]
pub(crate) struct OpenRecord {
    pub(crate) handoff: HandoffId,
    pub(crate) incumbent: InstanceId,
    pub(crate) successor: InstanceId,
    pub(crate) epoch: Epoch,
    pub(crate) probation: bool,
}

#[derive(Clone, Copy, Debug, Hash)]
pub(crate) struct TrialRecord {
    pub(crate) handoff: HandoffId,
    pub(crate) previous: InstanceId,
    pub(crate) serving: InstanceId,
    /// It was turned down, and so many ways back have come to nothing.
    pub(crate) failed: Option<u32>,
}

/// How long anybody is on probation.
pub(crate) const WINDOW: Duration = Duration::from_secs(10);

impl From<TrialRecord> for FoundTrial {
    fn from(t: TrialRecord) -> Self {
        let TrialRecord { handoff, previous, serving, failed } = t;
        let turned_down = failed.map(|failed| ("it was turned down".to_owned(), failed));
        FoundTrial { handoff, previous, serving, window: WINDOW, canary: false, turned_down }
    }
}

impl From<OpenRecord> for FoundHandoff {
    fn from(r: OpenRecord) -> Self {
        let probation = if r.probation { WINDOW } else { Duration::ZERO };
        let OpenRecord { handoff, incumbent, successor, epoch, .. } = r;
        FoundHandoff { handoff, incumbent, successor, epoch, probation, canary: false }
    }
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(crate) struct ClaimFile {
    pub(crate) epoch: Epoch,
    pub(crate) owner: InstanceId,
    pub(crate) handoff: HandoffId,
    pub(crate) durable: bool,
}

impl Disk {
    pub(crate) fn owner(&self, epoch: Epoch) -> Option<InstanceId> {
        self.claim(epoch).map(|c| c.owner)
    }

    pub(crate) fn claim(&self, epoch: Epoch) -> Option<&ClaimFile> {
        self.claims.iter().find(|c| c.epoch == epoch)
    }

    pub(crate) fn highest(&self) -> Option<(Epoch, InstanceId)> {
        self.claims.iter().max_by_key(|c| c.epoch).map(|c| (c.epoch, c.owner))
    }
}

/// One direction of a stream socket, at its reader: what was written is read even after the writer died.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Stream {
    pub(crate) frames: VecDeque<Stamped>,
    /// The writer's end is closed.
    pub(crate) eof: bool,
}

/// A connection to a supervisor of some generation, at the instance.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Link {
    pub(crate) generation: u64,
    pub(crate) stream: Stream,
}

/// A server process.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Proc {
    pub(crate) id: InstanceId,
    pub(crate) build: u8,
    /// `None`: dead.
    pub(crate) live: Option<Live>,
}

#[derive(Clone, Debug, Hash)]
pub(crate) struct Live {
    pub(crate) machine: Instance,
    pub(crate) stopped: bool,
    /// SIGKILL is on its way.
    pub(crate) doomed: bool,
    /// Effects that a stop interrupted.
    pub(crate) todo: VecDeque<Effect>,
    pub(crate) answers: VecDeque<Input>,
    pub(crate) timers: BTreeSet<Timer>,
    pub(crate) hooks: BTreeSet<Hook>,
    pub(crate) link: Option<Link>,
    /// A connection of a newer supervisor that waits to be accepted.
    pub(crate) knock: Option<Link>,
    /// Waiting for owner.lock; whether its patience ends.
    pub(crate) locking: Option<bool>,
    /// Under which epoch it may acknowledge writes now.
    pub(crate) tenure: Option<Epoch>,
    /// The revision it has in memory.
    pub(crate) memory: Option<u8>,
    /// The last handoff it took part in.
    pub(crate) handoff: HandoffId,
    /// O's view of N.
    pub(crate) peer: Option<PeerView>,
    /// N: the connections were streamed to the end.
    pub(crate) streamed: bool,
    /// It has answered the last canary.
    pub(crate) sings: bool,
    /// N: the incumbent.
    pub(crate) incumbent: InstanceId,
}

#[derive(Clone, Debug, Hash)]
pub(crate) struct PeerView {
    pub(crate) id: InstanceId,
    /// The transfer channel, N to O; `None` once its end was reported.
    pub(crate) transfer: Option<Stream>,
    pub(crate) exit_told: bool,
    pub(crate) kill_due: bool,
}

impl Live {
    pub(crate) fn new(machine: Instance, generation: u64) -> Self {
        Self {
            machine,
            stopped: false,
            doomed: false,
            todo: VecDeque::new(),
            answers: [Input::Start].into(),
            timers: BTreeSet::new(),
            hooks: BTreeSet::new(),
            link: Some(Link { generation, stream: Stream::default() }),
            knock: None,
            locking: None,
            tenure: None,
            memory: None,
            handoff: HandoffId::NIL,
            peer: None,
            streamed: false,
            sings: false,
            incumbent: InstanceId::NIL,
        }
    }
}

/// The supervisor process.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Sup {
    pub(crate) generation: u64,
    pub(crate) stopped: bool,
    pub(crate) mode: Mode,
}

#[derive(Clone, Debug, Hash)]
pub(crate) enum Mode {
    Dead,
    /// It asks everybody who runs.
    Finding {
        inboxes: Vec<Inbox>,
        found: Vec<Finding>,
    },
    Running(Box<Running>),
}

/// [`FoundInstance`], hashable.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Finding {
    pub(crate) id: InstanceId,
    pub(crate) standing: handoff::wire::Standing,
    pub(crate) epoch: Epoch,
    pub(crate) handoff: HandoffId,
    pub(crate) peer: InstanceId,
    pub(crate) build: u8,
}

impl Finding {
    pub(crate) fn found(&self, rules: &Rules) -> FoundInstance {
        FoundInstance {
            hello: crate::hello(self.id, handoff::wire::Role::Incumbent, self.epoch, self.build, rules),
            standing: self.standing,
            epoch: self.epoch,
            handoff: self.handoff,
            peer: self.peer,
        }
    }
}

/// What one instance wrote to this supervisor.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Inbox {
    pub(crate) from: InstanceId,
    pub(crate) stream: Stream,
}

#[derive(Clone, Debug, Hash)]
pub(crate) struct Running {
    pub(crate) machine: Supervisor,
    pub(crate) todo: VecDeque<Effect>,
    pub(crate) answers: VecDeque<Input>,
    pub(crate) timers: BTreeSet<Timer>,
    pub(crate) watch: Option<Epoch>,
    pub(crate) incumbent: Option<InstanceId>,
    pub(crate) successor: Option<InstanceId>,
    pub(crate) retiring: Vec<InstanceId>,
    pub(crate) inboxes: Vec<Inbox>,
    pub(crate) exit_told: BTreeSet<InstanceId>,
    /// Kill orders whose `Gone` is due.
    pub(crate) due: BTreeSet<Peer>,
    /// The build that the open upgrade brings.
    pub(crate) wanted: u8,
    /// Who was handed the canary that is under way.
    pub(crate) canary: Option<InstanceId>,
    /// The way back to the build of this instance is being looked for.
    pub(crate) turning: Option<InstanceId>,
    /// Found and of no handoff that is known: they end before anything else happens.
    pub(crate) strangers: Vec<InstanceId>,
}

impl Running {
    pub(crate) fn new(machine: Supervisor) -> Self {
        Self {
            machine,
            todo: VecDeque::new(),
            answers: VecDeque::new(),
            timers: BTreeSet::new(),
            watch: None,
            incumbent: None,
            successor: None,
            retiring: Vec::new(),
            inboxes: Vec::new(),
            exit_told: BTreeSet::new(),
            due: BTreeSet::new(),
            wanted: 0,
            canary: None,
            turning: None,
            strangers: Vec::new(),
        }
    }

    pub(crate) fn id_of(&self, peer: Peer) -> Option<InstanceId> {
        match peer {
            Peer::Incumbent => self.incumbent,
            Peer::Successor => self.successor,
            Peer::Retiring(id) => self.retiring.contains(&id).then_some(id),
            Peer::Supervisor => None,
        }
    }

    pub(crate) fn name_of(&self, id: InstanceId) -> Option<Peer> {
        if self.incumbent == Some(id) {
            Some(Peer::Incumbent)
        } else if self.successor == Some(id) {
            Some(Peer::Successor)
        } else {
            self.retiring.contains(&id).then_some(Peer::Retiring(id))
        }
    }
}

impl World {
    pub(crate) fn index(&self, id: InstanceId) -> Option<usize> {
        self.procs.iter().position(|p| p.id == id)
    }

    pub(crate) fn live(&self, id: InstanceId) -> Option<&Live> {
        self.procs.iter().find(|p| p.id == id)?.live.as_ref()
    }

    pub(crate) fn live_mut(&mut self, id: InstanceId) -> Option<&mut Live> {
        let n = self.index(id)?;
        self.procs[n].edit().live.as_mut()
    }

    pub(crate) fn build(&self, id: InstanceId) -> u8 {
        self.procs.iter().find(|p| p.id == id).map_or(0, |p| p.build)
    }

    pub(crate) fn alive(&self, id: InstanceId) -> bool {
        self.live(id).is_some()
    }

    pub(crate) fn running(&self) -> Option<&Running> {
        if let Mode::Running(r) = &self.sup.mode { Some(r) } else { None }
    }

    pub(crate) fn running_mut(&mut self) -> Option<&mut Running> {
        if let Mode::Running(r) = &mut self.sup.edit().mode { Some(r) } else { None }
    }

    pub(crate) fn disk_mut(&mut self) -> &mut Disk {
        self.disk.edit()
    }

    /// 128 bits of the state. Text is left out: reasons are told, nothing is decided by them.
    pub(crate) fn fingerprint(&self) -> u128 {
        fingerprint(self)
    }
}
