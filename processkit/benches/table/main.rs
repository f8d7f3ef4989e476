//! Every figure this crate promises, in one table: `cargo bench -p processkit`, a small version with `-- --quick`.
//!
//! Each round asks every contender once, so that whatever else the machine does hits all of them; what is printed are the
//! medians. The published crate runs in a program of its own (`rivals`), built outside of this workspace.

mod measure;
mod report;
mod rivals;
mod rows;

use measure::{Effort, Runtime};
use report::Table;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        return; // `cargo test --all-targets` only wants to see it compile
    }
    let effort =
        if arguments.iter().any(|argument| argument == "--quick") { Effort::QUICK } else { Effort::FULL };
    let runtime = Runtime::new().expect("a runtime");
    let mut rivals = rivals::Rivals::start();
    let mut table = Table::begin(&rivals);
    rows::spawning(&runtime, &mut rivals, effort, &mut table);
    rows::fan_out(&runtime, &mut rivals, effort, &mut table);
    rows::capture(&runtime, &mut rivals, effort, &mut table);
    rows::teardown(&runtime, &mut rivals, effort, &mut table);
    rows::descriptors(&runtime, &mut rivals, effort, &mut table);
    rows::large_parent(&runtime, &mut rivals, effort, &mut table);
    table.end();
}
