//! The trait a server implements to take over: warm, open, serve.

use super::context::{Context, Disk, Opened};
use super::incumbent::Incumbent;
use super::parked::Parked;
use super::tenure::Tenure;
use super::{HookResult, Service};
use std::future::Future;

/// A server before its tenure. The same path runs at a cold start and when taking over from a running server.
///
/// Write plain `async fn`s; the futures must be `Send`. Order of calls: `warm`, `follow` (may be cancelled at any
/// await), `open`, `serve`. Until `serve` nothing may be written, and no listener is there to accept on.
pub trait Successor: Sized + Send + 'static {
    /// What the program's `main` gives every instance (command line, limits).
    type Config: Send + Sync + 'static;
    /// What it is once it serves.
    type Incumbent: Incumbent;
    /// Name, strategy and formats.
    const SERVICE: Service;

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

    /// After the claim is durable: opens for writing, takes the parked connections, starts its tasks and returns.
    /// From here on it may read, write, accept and acknowledge.
    fn serve(
        self,
        tenure: Tenure,
        parked: Vec<Parked>,
    ) -> impl Future<Output = HookResult<Self::Incumbent>> + Send;
}
