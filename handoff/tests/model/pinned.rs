//! How many states each run has. A machine that was changed on purpose changes them; one that was not must not.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// One line a run: its name, a tab, the number of its states.
const TABLE: &str = include_str!("states.txt");

static WRITING: Mutex<()> = Mutex::new(());

fn read(text: &str) -> BTreeMap<String, usize> {
    let lines = text.lines().filter_map(|line| line.rsplit_once('\t'));
    lines.filter_map(|(name, count)| Some((name.to_owned(), count.parse().ok()?))).collect()
}

/// Asked for by hand, another number of faults has no line.
fn by_hand() -> bool {
    ["HANDOFF_MODEL_FAULTS", "HANDOFF_MODEL_UPGRADES", "HANDOFF_MODEL_KINDS", "HANDOFF_MODEL_KILLS"]
        .iter()
        .any(|name| std::env::var_os(name).is_some())
}

pub(crate) fn is_as_before(name: &str, states: usize) {
    if std::env::var_os("HANDOFF_MODEL_PIN").is_some() {
        return pin(name, states);
    }
    match read(TABLE).get(name) {
        Some(before) if *before == states => {}
        None if by_hand() => {}
        before => panic!(
            "{name}: {states} states, and {before:?} in handoff/tests/model/states.txt. Where a machine or the model was \
             changed on purpose, HANDOFF_MODEL_PIN=1 cargo test -p handoff --no-default-features --test model writes \
             the new ones: look whether each change of them has its reason. Otherwise a machine does something else than before"
        ),
    }
}

fn pin(name: &str, states: usize) {
    let _one_at_a_time = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/model/states.txt");
    let mut all = read(&std::fs::read_to_string(&path).expect("the table"));
    all.insert(name.to_owned(), states);
    let text: String = all.iter().map(|(name, states)| format!("{name}\t{states}\n")).collect();
    std::fs::write(&path, text).expect("the table");
}
