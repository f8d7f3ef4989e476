//! kill -9 of S, O or N at every crash point that an upgrade comes by.

use crash_matrix::{Fault, JOBS, Matrix};

#[test]
fn kill_9_at_every_point_of_an_upgrade() {
    let matrix = Matrix::record();
    let outcome = matrix.run("", Fault::Kill9, JOBS);
    println!("{outcome}");
    assert_eq!(outcome.green.len(), matrix.cells(Fault::Kill9).len(), "every cell is green\n{outcome}");
}
