//! A canary: a connection from the supervisor that is answered like a client's.

use super::connection::Connection;
use super::host::Order;
use super::tenure::first_stream;
use super::world::InstanceWorld;

impl InstanceWorld {
    /// While it serves a canary is a client like others; before, a hook has it.
    pub(super) fn answer_canary(&mut self) {
        let Some(fd) = self.canary.take() else { return };
        if !self.is_incumbent() {
            match Connection::from_unix(fd.into()) {
                Ok(connection) => self.host.call(Order::Canary(connection)),
                Err(error) => tracing::warn!(%error, "the connection of a canary"),
            }
        } else if let Some(name) = first_stream(&self.listeners) {
            self.gate.visit(name.as_str(), fd.into());
        }
    }
}
