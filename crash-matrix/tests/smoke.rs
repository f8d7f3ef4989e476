//! A death where something is decided or changes hands. `crash-matrix run` does more.

use crash_matrix::{JOBS, Points, Tier, Verdict};

#[test]
fn deaths_at_key_points_of_an_upgrade() {
    let points = Points::record().expect("an upgrade without faults commits");
    let cells = crash_matrix::cells(Tier::Smoke, &points, JOBS, "");
    let records = crash_matrix::run(&cells, &points, None, JOBS, |_| {});
    let told = crash_matrix::text(&records, f64::NAN);
    println!("{told}");
    assert!(cells.len() > 12 && records.len() == cells.len(), "{told}");
    assert!(records.iter().all(|record| record.outcome == Verdict::Green), "every cell is green\n{told}");
}
