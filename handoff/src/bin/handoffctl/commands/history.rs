//! `history`: the reports in the journal, newest first.

use crate::args::Query;
use crate::exit::Exit;

pub(crate) fn main(args: &Query) -> Exit {
    let _ = args;
    Exit::Internal
}
