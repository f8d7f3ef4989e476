//! What the containment core promises, on real processes. One binary, so that it links once.

mod capture;
mod containment;
mod descriptors;
mod groups;
mod guardian;
mod lifecycle;
mod probes;
mod rig;
mod roles;
mod running;
mod spawning;
mod stdin;
mod streaming;
mod teardown;
mod timeouts;
