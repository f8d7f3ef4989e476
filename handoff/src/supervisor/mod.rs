//! The supervisor: spawns, drives the handoff, watches, answers operators.

mod control;
mod options;
mod orders;
mod preflight;
mod progress;
pub mod protocol;
pub mod report;
