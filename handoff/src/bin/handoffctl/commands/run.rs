//! `run`: binds the listeners, starts the server, supervises until a signal.

use crate::args::Run;
use crate::exit::Exit;

pub(crate) fn main(args: Run) -> Exit {
    let _ = args;
    Exit::Internal
}
