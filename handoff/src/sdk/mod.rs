//! What a server author uses: two traits, one entry point.

mod context;
mod incumbent;
mod successor;
