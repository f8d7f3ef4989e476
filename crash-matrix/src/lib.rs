//! Kills S, O or N at every crash point that an upgrade comes by, and looks at everything afterwards.
//!
//! A recording finds the points; at each of them somebody dies once, under load, in a rig of its own. What must hold
//! then is in [`cell`](crate::Report) and `leftovers`: one server, named by the highest claim; every acknowledged
//! write; nothing left behind; one clean upgrade commits.

mod cell;
mod leftovers;
mod matrix;

pub use cell::Report;
pub use matrix::{Fault, JOBS, Matrix, Outcome};
