//! The trait a server implements to take over: warm, open, serve.

use super::connection::Connection;
use super::context::{Context, Disk, Opened};
use super::incumbent::Incumbent;
use super::parked::Parked;
use super::tenure::Tenure;
use super::{HookError, HookResult, Service};
use std::future::Future;

/// A server before its tenure. The same path runs at a cold start and when taking over from a running server.
///
/// Write plain `async fn`s; the futures must be `Send`. Order of calls: `warm`, `follow` (may be cancelled at any
/// await), `open`, `canary` (where one is wanted), `serve`. Until `serve` nothing may be written, and no listener is there to accept on.
pub trait Successor: Sized + Send + 'static {
    /// What the program's `main` gives every instance (command line, limits).
    type Config: Send + Sync + 'static;
    /// What it is once it serves.
    type Incumbent: Incumbent;
    /// Name, strategy and formats.
    const SERVICE: Service;
    /// It answers canaries: [`Self::canary`] is there, and what it becomes accepts on its first stream listener through
    /// [`Tenure::listener`], where the canaries of a probation come from too. Without it `upgrade --canary` is refused.
    const CANARY: bool = false;

    /// Loads as much as can be loaded while somebody else writes: opens all files of one manifest generation, stops
    /// at the last complete record, truncates nothing. The disk is read-only by contract: another process may be
    /// the writer.
    fn warm(ctx: Context<Self::Config>) -> impl Future<Output = HookResult<Self>> + Send;

    /// What `warm` loaded, for people, and up to which revision. Shown in reports.
    fn loaded(&self) -> (String, u64) {
        (String::new(), 0)
    }

    /// Follows the log between `warm` and `open`, so that `open` finds a short tail. Must be cancel safe.
    fn follow(&mut self) -> impl Future<Output = HookResult<()>> + Send {
        std::future::pending()
    }

    /// Under owner.lock, still read-only: reads the tail and says what was loaded, computed from memory. The old
    /// writer has stopped. A torn tail may be there only at a cold start; it is cut in `serve`, not here.
    fn open(&mut self, disk: Disk) -> impl Future<Output = HookResult<Opened>> + Send;

    /// Between `open` and the claim: answers on this connection as it would answer a client, by the same code, until the
    /// other side closes it. No client sees it, and nobody else is connected. Another process may still become the owner
    /// of the data: nothing may be written, not even for a request that wants it; refuse that. May be cancelled at any
    /// await, and then `serve` is called, or nothing any more: whatever it changes in memory must be as `open` left it.
    fn canary(&mut self, connection: Connection) -> impl Future<Output = HookResult<()>> + Send {
        drop(connection);
        async { Err(HookError::new("this server answers no canary")) }
    }

    /// After the claim is durable: opens for writing, takes the parked connections, starts its tasks and returns.
    /// From here on it may read, write, accept and acknowledge.
    fn serve(
        self,
        tenure: Tenure,
        parked: Vec<Parked>,
    ) -> impl Future<Output = HookResult<Self::Incumbent>> + Send;
}
