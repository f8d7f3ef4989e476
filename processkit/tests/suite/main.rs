//! What the containment core promises, on real processes. One binary, so that it links once.

mod containment;
mod descriptors;
mod groups;
mod guardian;
mod lifecycle;
mod rig;
mod roles;
mod spawning;
mod teardown;
