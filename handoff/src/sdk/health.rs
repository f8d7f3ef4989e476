//! What a server that serves says of itself: by its own check every heartbeat, and whenever it wants to.

use super::world::InstanceWorld;
use crate::ids::HandoffId;
use crate::machine::Hook;
use crate::wire::{Message, Stamped};

impl InstanceWorld {
    /// Asks the server how it is, where nothing else is going on.
    pub(super) fn examine(&mut self) {
        let serves = self.is_incumbent() && self.takeover.is_none() && !self.stopping;
        if serves && self.supervisor.is_some() && self.host.is_idle() {
            self.call(Hook::Health);
        }
    }

    /// What the server found out about itself. An answer is progress, whatever it says.
    pub(super) fn examined(&mut self, found: Result<(), String>) {
        self.progress.tick();
        if let Err(why) = found {
            self.unhealthy(why);
        }
    }

    pub(super) fn unhealthy(&self, why: String) {
        let Some(line) = &self.supervisor else { return };
        let message = Message::Unhealthy { why };
        line.sender.send(&Stamped { handoff: HandoffId::NIL, epoch: self.epoch, message }, Vec::new());
    }
}
