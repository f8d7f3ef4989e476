//! `handoffctl`.
fn main() {}
