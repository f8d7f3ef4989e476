//! What is seen of S from outside its loop.

use super::{State, Supervisor, Why};
use crate::ids::{Epoch, HandoffId, InstanceId};
use crate::phase::Phase;

impl Supervisor {
    /// The phase of the open handoff.
    #[must_use]
    pub fn phase(&self) -> Option<Phase> {
        match &self.state {
            State::Greeting { .. } => Some(Phase::Spawn),
            State::Warming { .. } => Some(Phase::Warm),
            State::Preparing { .. } => Some(Phase::Drain),
            State::Sealing { .. } => Some(Phase::Seal),
            State::Readying { .. } => Some(Phase::Begin),
            State::Canary { .. } => Some(Phase::Canary),
            State::Activating { .. } => Some(Phase::Commit),
            State::Resolving { .. } | State::Settling { .. } => Some(Phase::Resolve),
            // the phase in which it ended: nothing has to be resolved before the incumbent is touched
            State::Ending { t, .. } => Some(if t.successor.is_some() { Phase::Warm } else { Phase::Spawn }),
            State::Emptying { why: Why::Handoff { .. }, .. }
            | State::Pausing { why: Why::Handoff { .. } }
            | State::Starting { why: Why::Handoff { .. }, .. }
            | State::StartFailed { why: Why::Handoff { .. }, .. } => Some(Phase::Resolve),
            State::Empty { .. }
            | State::Emptying { .. }
            | State::Pausing { .. }
            | State::Starting { .. }
            | State::StartFailed { .. }
            | State::Idle { .. }
            | State::Probation { .. }
            | State::Failed { .. }
            | State::Stopping { .. }
            | State::Stopped => None,
        }
    }

    /// The open handoff.
    #[must_use]
    pub fn handoff(&self) -> Option<HandoffId> {
        match &self.state {
            State::Greeting { t }
            | State::Warming { t }
            | State::Ending { t, .. }
            | State::Preparing { t }
            | State::Sealing { t }
            | State::Readying { t, .. }
            | State::Canary { t, .. }
            | State::Activating { t, .. }
            | State::Settling { t, .. } => Some(t.upgrade.handoff),
            State::Resolving { r } => Some(r.t.upgrade.handoff),
            State::Emptying { why: Why::Handoff { handoff, .. }, .. }
            | State::Pausing { why: Why::Handoff { handoff, .. } }
            | State::Starting { why: Why::Handoff { handoff, .. }, .. }
            | State::StartFailed { why: Why::Handoff { handoff, .. }, .. } => Some(*handoff),
            State::Empty { .. }
            | State::Emptying { .. }
            | State::Pausing { .. }
            | State::Starting { .. }
            | State::StartFailed { .. }
            | State::Idle { .. }
            | State::Probation { .. }
            | State::Failed { .. }
            | State::Stopping { .. }
            | State::Stopped => None,
        }
    }

    /// Who serves now as far as S knows, and under which epoch. During a handoff: the incumbent.
    #[must_use]
    pub fn serving(&self) -> Option<(InstanceId, Epoch)> {
        match &self.state {
            State::Idle { server } | State::Probation { server, .. } => {
                Some((server.facts.instance, server.epoch))
            }
            State::Greeting { t }
            | State::Warming { t }
            | State::Ending { t, .. }
            | State::Preparing { t }
            | State::Sealing { t }
            | State::Readying { t, .. }
            | State::Canary { t, .. }
            | State::Activating { t, .. } => Some((t.server.facts.instance, t.server.epoch)),
            State::Settling { t, epoch, .. } => Some((t.server.facts.instance, *epoch)),
            State::Resolving { r } => Some((r.t.server.facts.instance, r.t.server.epoch)),
            State::Empty { .. }
            | State::Emptying { .. }
            | State::Pausing { .. }
            | State::Starting { .. }
            | State::StartFailed { .. }
            | State::Failed { .. }
            | State::Stopping { .. }
            | State::Stopped => None,
        }
    }

    /// Whether an upgrade can begin now.
    #[must_use]
    pub fn upgrade_possible(&self) -> bool {
        matches!(self.state, State::Idle { .. })
            || matches!(&self.state, State::Probation { trial, .. } if !trial.is_over())
    }

    /// Whether the open handoff can still be aborted.
    #[must_use]
    pub fn abort_possible(&self) -> bool {
        matches!(
            self.state,
            State::Greeting { .. }
                | State::Warming { .. }
                | State::Preparing { .. }
                | State::Sealing { .. }
                | State::Readying { .. }
                | State::Canary { .. }
        )
    }

    /// Why no server is started any more.
    #[must_use]
    pub fn failed(&self) -> Option<&str> {
        if let State::Failed { why } = &self.state { Some(why) } else { None }
    }

    /// Cold starts after a death, since this supervisor began.
    #[must_use]
    pub fn cold_starts(&self) -> u64 {
        self.cold_starts
    }

    /// Deaths and failed starts that count, and after how many nothing is started any more.
    #[must_use]
    pub fn failures(&self) -> (u32, u32) {
        (self.failures.count(), self.restarts.budget)
    }

    /// Former incumbents that are leaving.
    #[must_use]
    pub fn retiring(&self) -> &[InstanceId] {
        &self.retiring
    }

    /// Name of the state, for traces and tables.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        match &self.state {
            State::Empty { .. } => "Empty",
            State::Emptying { .. } => "Emptying",
            State::Pausing { .. } => "Pausing",
            State::Starting { .. } => "Starting",
            State::StartFailed { .. } => "StartFailed",
            State::Idle { .. } => "Idle",
            State::Probation { trial, .. } if trial.is_over() => "Probation (turning back)",
            State::Probation { trial, .. } if trial.has_canary() => "Probation (canary)",
            State::Probation { .. } => "Probation",
            State::Greeting { .. } => "Greeting",
            State::Warming { .. } => "Warming",
            State::Ending { .. } => "Ending",
            State::Preparing { .. } => "Preparing",
            State::Sealing { .. } => "Sealing",
            State::Readying { .. } => "Readying",
            State::Canary { .. } => "Canary",
            State::Activating { .. } => "Activating",
            State::Resolving { r } => r.state_name(),
            State::Settling { .. } => "Settling",
            State::Failed { .. } => "Failed",
            State::Stopping { .. } => "Stopping",
            State::Stopped => "Stopped",
        }
    }

    /// The handoff whose server is on probation or is being undone.
    #[must_use]
    pub fn probation(&self) -> Option<HandoffId> {
        match &self.state {
            State::Probation { trial, .. } => Some(trial.handoff),
            State::Greeting { t }
            | State::Warming { t }
            | State::Ending { t, .. }
            | State::Preparing { t }
            | State::Sealing { t }
            | State::Readying { t, .. }
            | State::Canary { t, .. }
            | State::Activating { t, .. }
            | State::Settling { t, .. } => t.back.as_ref()?.undoes(),
            State::Resolving { r } => r.t.back.as_ref()?.undoes(),
            State::Emptying { why: Why::Handoff { handoff, back: Some(_), .. }, .. }
            | State::Pausing { why: Why::Handoff { handoff, back: Some(_), .. } }
            | State::Starting { why: Why::Handoff { handoff, back: Some(_), .. }, .. }
            | State::StartFailed { why: Why::Handoff { handoff, back: Some(_), .. }, .. } => Some(*handoff),
            State::Empty { .. }
            | State::Emptying { .. }
            | State::Pausing { .. }
            | State::Starting { .. }
            | State::StartFailed { .. }
            | State::Idle { .. }
            | State::Failed { .. }
            | State::Stopping { .. }
            | State::Stopped => None,
        }
    }

    /// The server has failed its probation, and the way back is being looked for.
    #[must_use]
    pub fn turns_back(&self) -> bool {
        matches!(&self.state, State::Probation { trial, .. } if trial.is_over())
    }

    /// Whose build a rollback goes back to.
    #[must_use]
    pub fn previous(&self) -> Option<InstanceId> {
        match &self.state {
            State::Probation { trial, .. } => Some(trial.previous),
            State::Greeting { t }
            | State::Warming { t }
            | State::Ending { t, .. }
            | State::Preparing { t }
            | State::Sealing { t }
            | State::Readying { t, .. }
            | State::Canary { t, .. }
            | State::Activating { t, .. }
            | State::Settling { t, .. } => t.previous(),
            State::Resolving { r } => r.t.previous(),
            State::Emptying { why: Why::Handoff { back, .. }, .. }
            | State::Pausing { why: Why::Handoff { back, .. } }
            | State::Starting { why: Why::Handoff { back, .. }, .. }
            | State::StartFailed { why: Why::Handoff { back, .. }, .. } => *back,
            State::Empty { .. }
            | State::Emptying { .. }
            | State::Pausing { .. }
            | State::Starting { .. }
            | State::StartFailed { .. }
            | State::Idle { .. }
            | State::Failed { .. }
            | State::Stopping { .. }
            | State::Stopped => None,
        }
    }
}
