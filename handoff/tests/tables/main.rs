//! The tables of `docs/protocol.md`: what each machine does in each state with each input, asked from the machines.

mod incumbent;
mod successor;
mod supervisor;
mod table;
mod words;

use handoff::machine::Machine;
use std::path::PathBuf;
use table::Table;

impl<M: Machine + Clone + PartialEq> Table<M> {
    fn print(&self) -> String {
        let mut text = String::new();
        for (state, way) in &self.states {
            let mut machine = self.first.clone();
            for input in way {
                machine.handle(input.clone());
            }
            assert_eq!((self.name)(&machine), *state, "the way to {state} leads elsewhere");
            text += &format!("**{state}**\n\n| on | effects, in order | then |\n|---|---|---|\n");
            let (mut rows, mut ignored): (Vec<(String, Vec<&str>)>, Vec<&str>) = (Vec::new(), Vec::new());
            for (label, input) in &self.inputs {
                let mut after = machine.clone();
                let effects = after.handle(input.clone());
                if effects.is_empty() && after == machine {
                    ignored.push(label);
                    continue;
                }
                let points: Vec<String> = effects.iter().map(|e| e.point().replace('_', "\\_")).collect();
                let then = if (self.name)(&after) == *state { "=" } else { (self.name)(&after) };
                let points = if points.is_empty() { "noted".to_owned() } else { points.join(", ") };
                let row = format!("{points} | {then}");
                match rows.iter_mut().find(|(have, _)| *have == row) {
                    Some((_, labels)) => labels.push(label),
                    None => rows.push((row, vec![label])),
                }
            }
            for (row, labels) in rows {
                text += &format!("| {} | {row} |\n", labels.join("; "));
            }
            if ignored.len() == self.inputs.len() {
                ignored = vec!["everything"];
            }
            text += &format!("\nNo effect: {}.\n\n", ignored.join("; "));
        }
        text
    }

    fn names(&self) -> Vec<&'static str> {
        self.states.iter().map(|(name, _)| *name).collect()
    }
}

const COMMAND: &str = "HANDOFF_WRITE_TABLES=1 cargo test -p handoff --no-default-features --test tables";

/// Puts each table between its markers.
fn with_tables(document: &str, tables: &[(&str, String)]) -> String {
    let mut text = document.to_owned();
    for (name, table) in tables {
        let (begin, end) = (format!("<!-- table: {name} -->\n"), format!("<!-- end: {name} -->"));
        let from =
            text.find(&begin).unwrap_or_else(|| panic!("docs/protocol.md has no {begin}")) + begin.len();
        let to = text.find(&end).unwrap_or_else(|| panic!("docs/protocol.md has no {end}"));
        text.replace_range(from..to, &format!("\n{table}"));
    }
    text
}

#[test]
fn the_document_shows_what_the_machines_do() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol.md");
    let document = std::fs::read_to_string(&path).expect("docs/protocol.md is there");
    let current = with_tables(
        &document,
        &[
            ("incumbent", incumbent::table().print()),
            ("successor", successor::table().print()),
            ("cold", successor::cold_table().print()),
            ("supervisor", supervisor::table().print()),
        ],
    );
    if std::env::var_os("HANDOFF_WRITE_TABLES").is_some() {
        std::fs::write(&path, current).expect("docs/protocol.md can be written");
        return;
    }
    assert!(document == current, "docs/protocol.md differs from the machines; this rewrites it: {COMMAND}");
}

#[test]
fn no_state_is_left_out() {
    // the walk over every input from every state that is known finds no other
    incumbent::table().closed();
    successor::table().closed();
    successor::cold_table().closed();
    supervisor::table().closed();
}

impl<M: Machine + Clone + PartialEq> Table<M> {
    fn closed(&self) {
        for (state, way) in &self.states {
            let mut machine = self.first.clone();
            for input in way {
                machine.handle(input.clone());
            }
            for (label, input) in &self.inputs {
                let mut after = machine.clone();
                after.handle(input.clone());
                let name = (self.name)(&after);
                assert!(self.names().contains(&name), "{name}, by {label} in {state}, has no table");
            }
        }
    }
}
