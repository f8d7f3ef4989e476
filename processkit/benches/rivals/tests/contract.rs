//! What the contract says of a listed item is asked of the published 0.9.1: what it means there it has to mean here.

extern crate first as processkit;

#[path = "../../../tests/contract/command.rs"]
mod command;
#[path = "../../../tests/contract/group.rs"]
mod group;
#[path = "../../../tests/contract/many.rs"]
mod many;
#[path = "../../../tests/contract/process.rs"]
mod process;
#[path = "../../../tests/contract/rig.rs"]
mod rig;
