//! The tree is the architecture: layers, pure modules, sizes, habits.

use handoff_tests::bins::workspace;
use std::path::{Path, PathBuf};

/// The layer of each module of handoff. Nothing may use what stands above it.
const LAYERS: [(&str, u8); 15] = [
    ("ids", 0),
    ("phase", 0),
    ("outcome", 0),
    ("wire", 1),
    ("journal", 1),
    ("claim", 1),
    ("machine", 2),
    ("error", 3),
    ("crash", 3),
    ("os", 3),
    ("driver", 3),
    ("sdk", 4),
    ("supervisor", 4),
    ("lib", 5),
    ("bin", 5),
];

/// Files in a pure module that are the door of that module to the system.
const NOT_PURE: [&str; 1] = ["journal/storage.rs"];

/// What no pure module may name.
const IMPURE: [&str; 12] = [
    "std::time::Instant",
    "time::SystemTime",
    "Instant::now",
    "SystemTime",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "std::env",
    "tokio",
    "nix::",
    "rand",
];

const MOST_LINES: usize = 500;

struct Source {
    /// Relative to its crate's `src`.
    path: String,
    text: String,
}

fn sources(dir: &Path) -> Vec<Source> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).unwrap_or_else(|e| panic!("{}: {e}", next.display())) {
            let path: PathBuf = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text =
                    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                let path = path.strip_prefix(dir).expect("below it").display().to_string();
                found.push(Source { path, text });
            }
        }
    }
    assert!(!found.is_empty(), "no sources below {}", dir.display());
    found
}

fn handoff() -> Vec<Source> {
    sources(&workspace().join("handoff/src"))
}

impl Source {
    fn module(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    fn layer(&self) -> u8 {
        layer(self.module()).unwrap_or_else(|| panic!("{}: which layer? add it to LAYERS", self.path))
    }

    /// Its lines of code with their numbers: no comments, and nothing of its tests.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(n, line)| (n + 1, line));
        lines
            .take_while(|(_, line)| !line.trim_start().starts_with("#[cfg(test)]"))
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

fn layer(module: &str) -> Option<u8> {
    LAYERS.iter().find(|(name, _)| *name == module).map(|(_, layer)| *layer)
}

/// The modules that a line names by `crate::`, also in `crate::{a, b::c}`.
fn named(line: &str) -> Vec<&str> {
    let word = |text: &'_ str| text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let mut names = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        // `$crate::` of a macro is a name from outside
        if line[..at].ends_with('$') {
            continue;
        }
        let rest = &line[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => {
                let list = list.split('}').next().unwrap_or_default();
                names.extend(list.split(',').map(|part| &part.trim()[..word(part.trim())]));
            }
            None => names.push(&rest[..word(rest)]),
        }
    }
    names
}

#[test]
fn nothing_points_up() {
    let mut wrong = Vec::new();
    for source in handoff() {
        for (number, line) in source.code() {
            for name in named(line) {
                match layer(name) {
                    Some(above) if above > source.layer() => {
                        wrong.push(format!("{}:{number}: uses {name}, which is above it", source.path));
                    }
                    _ => {}
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn logic_has_no_io_no_clock_no_dice() {
    let mut wrong = Vec::new();
    for source in handoff().iter().filter(|s| s.layer() <= 2 && !NOT_PURE.contains(&s.path.as_str())) {
        for (number, line) in source.code() {
            for impure in IMPURE.iter().filter(|word| has_word(line, word)) {
                wrong.push(format!("{}:{number}: {impure}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "pure modules that are not:\n{}", wrong.join("\n"));
}

fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().unwrap_or(' ');
        let after = line[at + word.len()..].chars().next().unwrap_or(' ');
        let part = |c: char| c.is_alphanumeric() || c == '_';
        !part(before) && (word.ends_with(':') || !part(after))
    })
}

#[test]
fn the_driver_names_no_phase_and_no_message() {
    let all = handoff();
    let driver = all.iter().find(|s| s.path == "driver.rs").expect("there is a driver");
    let words = ["phase::", "Phase::", "wire::", "Message::", "Stamped", "Hook::", "Timer::"];
    for (number, line) in driver.code() {
        for word in words {
            assert!(!line.contains(word), "driver.rs:{number} knows of {word}");
        }
    }
}

#[test]
fn unsafe_code_has_two_doors() {
    let doors = ["handoff/src/os/fds.rs", "processkit/src/sys/"];
    for krate in ["handoff", "processkit", "demo-server", "tests", "crash-matrix"] {
        for source in sources(&workspace().join(krate).join("src")) {
            let path = format!("{krate}/src/{}", source.path);
            if doors.iter().any(|door| path.starts_with(door)) {
                continue;
            }
            for (number, line) in source.code() {
                assert!(!has_word(line, "unsafe"), "{path}:{number}: unsafe code outside its doors");
            }
        }
    }
}

#[test]
fn a_file_is_one_noun() {
    let mut long = Vec::new();
    for dir in ["handoff", "processkit", "demo-server", "tests", "crash-matrix"] {
        for source in sources(&workspace().join(dir)) {
            let lines = source.text.lines().count();
            if lines > MOST_LINES && !source.path.contains("target/") {
                long.push(format!("{dir}/{}: {lines} lines", source.path));
            }
        }
    }
    assert!(
        long.is_empty(),
        "files with more than {MOST_LINES} lines; which noun is missing?\n{}",
        long.join("\n")
    );
}

#[test]
fn tests_wait_for_events() {
    // in pieces, so that this file is not its own finding
    let forbidden = [concat!("thread::", "sleep"), concat!("time::", "sleep("), concat!("#[", "ignore")];
    for dir in
        ["handoff/tests", "processkit/tests", "demo-server/tests", "tests/src", "tests/suite", "crash-matrix"]
    {
        let dir = workspace().join(dir);
        if !dir.is_dir() {
            continue;
        }
        for source in sources(&dir) {
            for (number, line) in source.text.lines().enumerate() {
                for word in forbidden {
                    assert!(!line.contains(word), "{}/{}:{}: {word}", dir.display(), source.path, number + 1);
                }
            }
        }
    }
}

#[test]
fn the_names_in_a_use_are_found() {
    assert_eq!(named("use crate::wire::Hello;"), ["wire"]);
    assert_eq!(named("use crate::{ids::Epoch, machine};"), ["ids", "machine"]);
    assert_eq!(named("let x = crate::os::fds::watch(y);"), ["os"]);
    assert!(named("$crate::wire").is_empty());
    assert!(has_word("use nix::fcntl;", "nix::") && !has_word("operand", "rand"));
}
