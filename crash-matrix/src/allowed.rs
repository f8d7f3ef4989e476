//! Which outcomes a cell may have.
//!
//! The seam for outcomes that are generated from the model: whoever does that puts them behind [`outcomes`].

use crate::cell::{Cell, Fault, Strike};
use std::collections::BTreeSet;

/// Outcome as the report words it, and who serves: `O`, `N` or `X`. `None`: any that agrees with the claims.
pub(crate) fn outcomes(cell: &Cell) -> Option<BTreeSet<(&'static str, &'static str)>> {
    let every = |strike: &Strike| strike.fault == Fault::Slow;
    // nobody may take slowness for a fault
    cell.strikes().all(every).then(|| BTreeSet::from([("committed", "N")]))
}
