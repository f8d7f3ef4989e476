//! The entry point.

use super::launch::{Error, Launch};
use super::successor::Successor;

/// Runs a server: cold, by hand, or as the successor of a running one; later as an incumbent that hands over.
///
/// Returns when the server has left: it handed over and retired, or was asked to stop. Call it from a multi-threaded
/// tokio runtime and map an error to [`Error::exit_code`].
///
/// # Errors
/// See [`Error`]; nothing is served any more then.
pub async fn serve<S: Successor>(launch: Launch<S::Config>) -> Result<(), Error> {
    let _ = super::launch::addresses(&launch.binds)?;
    Err(Error::Start("the runtime is not there yet".to_owned()))
}
