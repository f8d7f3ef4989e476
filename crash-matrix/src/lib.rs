//! Strikes S, O or N at every crash point that an upgrade comes by, and looks at everything afterwards.
//!
//! A recording finds the points. A [`Cell`] is one of them with a fault, a workload and what becomes of a dead
//! supervisor; it is tried in a rig of its own, under load. What was seen is collected first and judged then, by eleven
//! oracles, none of which knows what was done. [`Record`]s are what is kept: `matrix.jsonl`, a grid, a page.

mod allowed;
mod cell;
mod evidence;
mod grid;
mod lead;
mod leftovers;
mod oracle;
mod page;
mod plan;
mod plants;
mod points;
mod record;
mod soak;
mod sweep;
mod trial;
mod words;

pub use cell::{Cell, Fault, Policy, Strike, Workload};
pub use grid::{explained, text, totals};
pub use oracle::Violation;
pub use page::html;
pub use plan::{Tier, cells};
pub use plants::{PLANTS, Plant, hunt};
pub use points::Points;
pub use record::{Record, Verdict, read, write};
pub use soak::Soak;
pub use sweep::{JOBS, once, processor, run};
pub use words::explain;
