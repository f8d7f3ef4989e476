//! The supervisor: spawns, drives the handoff, watches, answers operators.
//!
//! | module | noun |
//! |---|---|
//! | `face` | what an embedding program calls |
//! | `open` | taking a run directory: lock, journal, adoption |
//! | `world` | what the machine sees and moves, and how each effect is done |
//! | `events` | the one wait |
//! | `ask` | orders of the face and of operators, and their answers |
//! | `launch`, `spawn` | from a build to a process |
//! | `instance` | one process: channel, pidfd, container |
//! | `gather`, `adopt` | what an earlier supervisor left running |
//! | `guest` | a supervisor for the time of one upgrade |
//! | `salvage` | what is taken from one that does not speak, before it is ended |
//! | `builds` | which build a server is started from |
//! | `leftovers` | what the dead left behind |
//! | `preflight`, `place` | what is checked before the incumbent hears of an upgrade: the program, and where it will serve |
//! | `kept_builds` | which of them a rollback by hand goes to |
//! | `rollback` | the way back to the build before, and who waits for the end of a probation |
//! | `manager` | what a service manager hears and keeps |
//! | `progress`, `report`, `status` | what people see |
//! | `replace` | another program in the place of this supervisor |
//! | `control`, `protocol` | the operator socket |
//! | `canary`, `kept_canary` | a request tried on a new server, and what a later supervisor knows of it |

mod adopt;
mod ask;
mod begin;
mod builds;
mod canary;
mod control;
mod events;
mod face;
mod gather;
mod guest;
mod instance;
mod kept_builds;
mod kept_canary;
mod launch;
mod leftovers;
mod manager;
mod open;
mod options;
mod orders;
mod place;
mod preflight;
mod progress;
pub mod protocol;
pub mod replace;
pub mod report;
mod rollback;
mod salvage;
mod spawn;
mod status;
mod view;
mod world;

pub use crate::machine::Restarts;
pub use canary::Canary;
pub use face::{HandoffOutcome, StateJournal, Supervisor};
pub use manager::Manager;
pub use options::SpawnSpec;
pub use orders::{Child, PhaseEvent, Serving};
pub use replace::candidate::Ability;
pub use replace::carried::Carried;
