//! The cross-crate tests, in one binary: programs, processes, sockets and files as users have them.

mod abort;
mod alone;
mod builds;
mod canary;
mod canary_kept;
mod cli;
mod connections;
mod digest;
mod hangs;
mod hundred;
mod interop;
mod listeners;
mod order;
mod overlap;
mod power;
mod probation;
mod recovery;
mod replace;
mod restarts;
mod rollback_to;
mod start;
mod state;
mod systemd;
mod systemd_real;
mod tidy;
mod upgrade;
mod way_back;

use handoff_tests::bins::{Build, Programs};
use handoff_tests::rig::{Rig, Setup};

/// demo-server under `handoffctl run`, serving.
fn rig() -> Rig {
    Setup::new(Programs::of(Build::Plain)).start()
}
