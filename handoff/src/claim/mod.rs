//! The files that decide: what a proposal says and what the files are called.
//!
//! A claim is a hard link to a proposal; the file *name* is the epoch. So one proposal serves any epoch, and linking
//! is the whole decision. Who does it on a disk is `os::claims`.

mod name;
mod proposal;
mod spec;

pub use name::{FileName, ProposalName};
pub use proposal::{BuildDigest, ClaimError, MAX_PATH, MAX_PROPOSAL, Proposal};
pub use spec::{KeptSpec, MAX_SPEC};
