//! Replace the binary of a running, stateful server while clients keep their connections.
//!
//! A handoff is decided by one file: the **claim** of the next epoch, a hard link that exactly one instance can make.
//! The incumbent drains, seals its data and parks its connections; the successor loads the tail, claims, and serves.
//! Whoever dies in between, the claim says who owns the service. [`machine`] holds that logic as pure values.
//!
//! * A server implements [`sdk::Successor`] and [`sdk::Incumbent`] and calls [`sdk::serve`].
//! * [`Supervisor`] starts it, watches it and hands it over; the program `handoffctl` is one user of it.
//!
//! | layer | modules | may use |
//! |---|---|---|
//! | 0 words | [`ids`], [`phase`] | nothing |
//! | 1 formats | [`wire`], [`journal`], [`claim`] | layer 0 |
//! | 2 logic | [`machine`] | layers 0 and 1 |
//! | 3 system | `os`, `driver`, `crash` | tokio, nix |
//! | 4 faces | `sdk`, `supervisor` | everything below |
//!
//! Layers 0 to 2 build with `--no-default-features`: no tokio, no nix, no clock, no randomness.

pub mod claim;
pub mod ids;
pub mod journal;
pub mod machine;
pub mod outcome;
pub mod phase;
pub mod wire;

#[cfg(feature = "system")]
pub mod crash;
#[cfg(feature = "system")]
pub mod driver;
#[cfg(feature = "system")]
pub mod error;
#[cfg(feature = "system")]
pub mod os;
#[cfg(feature = "system")]
pub mod sdk;
#[cfg(feature = "system")]
pub mod supervisor;

#[cfg(feature = "system")]
pub use error::{Error, Result};
#[cfg(feature = "system")]
pub use supervisor::{HandoffOutcome, SpawnSpec, Supervisor};

/// The README's example is compiled with the documentation tests.
#[cfg(all(doctest, feature = "system"))]
#[doc = include_str!("../../README.md")]
mod readme {}
