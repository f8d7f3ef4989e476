//! The published crate of the same name, measured beside ours.

extern crate first as processkit;

// compiled for the proof that the list of the contract is what was published
#[path = "../../../tests/contract/listed.rs"]
mod listed;

fn main() {}
