//! demo-server.
fn main() {}
