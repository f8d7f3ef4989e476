//! The supervisor: spawns, drives the handoff, watches, answers operators.

pub mod protocol;
pub mod report;
