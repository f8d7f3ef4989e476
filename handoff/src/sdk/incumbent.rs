//! The trait a server implements to hand over: drain, seal, resume, retire.

use super::HookResult;
use super::context::{Disk, DrainReport};
use super::leaving::Leaving;
use super::parked::Parked;
use super::tenure::{SealGuard, Sealed, Tenure};
use crate::ids::Digest;
use std::future::Future;
use std::time::Duration;

/// A server that serves.
pub trait Incumbent: Sized + Send + 'static {
    /// Prepares for the seal while serving on: flushes until little dirty data is left, puts off compaction until
    /// `resume` or `retire`, says goodbye only to what cannot be parked. Waits for nothing that can be parked.
    /// May be cancelled at any await; then `resume` is called. By default there is nothing to prepare.
    fn drain(&mut self, grace: Duration) -> impl Future<Output = HookResult<DrainReport>> + Send {
        let _ = grace;
        async { Ok(DrainReport::default()) }
    }

    /// Stops being a writer. When it is called the accept gate is closed and no accept is in flight. Stops reading
    /// at a message boundary, stops the writers (forked ones too), flushes and fsyncs, and gives the digest of the
    /// data with the parked connections to `guard.complete`, the only way to a [`Sealed`]. Answers nothing from
    /// here on, reads included. On an error everything must still be as before for `resume` to go on.
    fn seal(&mut self, guard: SealGuard) -> impl Future<Output = HookResult<Sealed>> + Send;

    /// The digest of what is on disk now, under owner.lock. Called before a sealed server resumes: a digest other
    /// than the sealed one means that somebody else wrote.
    fn verify(&mut self, disk: Disk) -> impl Future<Output = HookResult<Digest>> + Send;

    /// Serves on: after a seal with the connections it had parked and a new tenure; after a drain that was
    /// cancelled, or a failed seal, with none and the old epoch. The listeners of the earlier tenure are closed in
    /// each case (their `accept` gives `None`): accept on those of this one. Connections that were not parked go on.
    fn resume(&mut self, tenure: Tenure, parked: Vec<Parked>) -> impl Future<Output = HookResult<()>> + Send;

    /// Whether it is fit to serve, asked every two seconds while it serves and no handoff is open. `Err` says why it is
    /// not. While it is on probation after an upgrade, an error, or no answer for the supervisor's lease, takes the
    /// service back to the build before it; later it changes nothing. Look at what a client would notice,
    /// and do not wait for long. May be cancelled at any await. By default it is healthy.
    /// [`Context::vote_down`](super::Context::vote_down) says the same at any time.
    fn health(&mut self) -> impl Future<Output = HookResult<()>> + Send {
        async { Ok(()) }
    }

    /// Leaves. The accept gate is closed. After an exclusive handover its connections are the successor's; under the
    /// overlap strategy each goes to it by [`Leaving::hand_over`] when it becomes idle; at a stop (SIGTERM) there is
    /// nobody to hand over to: finish what is being answered within the grace, flush, return. By default it just
    /// leaves.
    fn retire(self, leaving: Leaving) -> impl Future<Output = HookResult<()>> + Send {
        let _ = leaving;
        async { Ok(()) }
    }
}
