//! crash-matrix.
fn main() {}
