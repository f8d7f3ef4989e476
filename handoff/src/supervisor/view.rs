//! The machine as it is seen from outside its loop.

use crate::ids::{Epoch, HandoffId, InstanceId};
use crate::machine::{Effects, Input, Machine, Supervisor};
use crate::phase::Phase;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// What the machine says of itself after its last step.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) state: &'static str,
    pub(super) phase: Option<Phase>,
    /// When it entered that phase.
    pub(super) since: Instant,
    pub(super) handoff: Option<HandoffId>,
    pub(super) serving: Option<(InstanceId, Epoch)>,
    pub(super) upgrade_possible: bool,
    pub(super) abort_possible: bool,
    pub(super) failed: Option<String>,
    pub(super) cold_starts: u64,
    /// The handoff whose server is on probation or is being undone.
    pub(super) probation: Option<HandoffId>,
    /// Whose build a rollback goes back to.
    pub(super) previous: Option<InstanceId>,
    /// It has failed, and the way back is being looked for.
    pub(super) turning: bool,
    /// Failures that count, and how many may.
    pub(super) failures: (u32, u32),
}

impl View {
    fn of(machine: &Supervisor, since: Instant) -> Self {
        Self {
            state: machine.state_name(),
            phase: machine.phase(),
            since,
            handoff: machine.handoff(),
            serving: machine.serving(),
            upgrade_possible: machine.upgrade_possible(),
            abort_possible: machine.abort_possible(),
            failed: machine.failed().map(str::to_owned),
            cold_starts: machine.cold_starts(),
            probation: machine.probation(),
            previous: machine.previous(),
            turning: machine.turns_back(),
            failures: machine.failures(),
        }
    }
}

/// The machine, and a picture of it that the world can look at while it performs the effects.
#[derive(Debug)]
pub(super) struct Watched {
    machine: Supervisor,
    /// What a recovered machine wants done before its first input.
    first: Option<Effects>,
    view: Arc<Mutex<View>>,
}

/// The world's side of [`Watched`].
#[derive(Clone, Debug)]
pub(super) struct Window(Arc<Mutex<View>>);

impl Watched {
    pub(super) fn new(machine: Supervisor, first: Effects) -> (Self, Window) {
        let view = Arc::new(Mutex::new(View::of(&machine, Instant::now())));
        let window = Window(Arc::clone(&view));
        (Self { machine, first: Some(first), view }, window)
    }
}

impl Window {
    pub(super) fn look(&self) -> View {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Machine for Watched {
    /// The first input, whatever it is, yields the effects of the recovery.
    fn handle(&mut self, input: Input) -> Effects {
        let effects = match self.first.take() {
            Some(first) => first,
            None => self.machine.handle(input),
        };
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        let same = view.phase == self.machine.phase() && view.handoff == self.machine.handoff();
        let since = if same { view.since } else { Instant::now() };
        *view = View::of(&self.machine, since);
        effects
    }
}
