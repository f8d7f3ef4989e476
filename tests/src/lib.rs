//! Rig, clients and histories for the cross-crate tests.
