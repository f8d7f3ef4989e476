//! What the containment core promises, on real processes. One binary, so that it links once.

mod batch;
mod capture;
mod containment;
mod descriptors;
mod groups;
mod guardian;
mod lifecycle;
mod pipeline;
mod play;
mod privileges;
mod probes;
mod rig;
mod roles;
mod runners;
mod running;
mod spawning;
mod stdin;
mod streaming;
mod supervisor;
mod teardown;
mod timeouts;
