//! The contract: a program from outside that uses every listed item, and asks what each means.
//!
//! All but `ours` is compiled against the published 0.9.1 as well (benches/rivals), and run with it.

mod command;
mod group;
mod listed;
mod many;
mod ours;
mod process;
mod rig;
