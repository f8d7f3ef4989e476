//! The formats on the wire and on disk, byte for byte.
//!
//! `testdata/<what>/v1` holds one file for each kind of thing, written when that version was made. What is written
//! today must be those bytes, and those bytes must still be read as the same thing. A file is never rewritten; one
//! that is missing fails the test. A new kind of thing gets its file by
//! `HANDOFF_GOLDEN_WRITE=1 cargo test -p handoff --test golden`, which creates what is missing and changes nothing.

mod arbitrary;
mod claim;
mod dialects;
mod journal;
mod samples;
mod wire;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// The files of one format.
struct Golden {
    dir: PathBuf,
    seen: BTreeSet<String>,
}

impl Golden {
    fn of(what: &str) -> Golden {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata").join(what).join("v1");
        Golden { dir, seen: BTreeSet::new() }
    }

    /// Compares with the file, and gives what is in it.
    fn check(&mut self, name: &str, bytes: &[u8]) -> Vec<u8> {
        let path = self.dir.join(name);
        assert!(self.seen.insert(name.to_owned()), "{name} is checked twice");
        if !path.exists() && std::env::var_os("HANDOFF_GOLDEN_WRITE").is_some() {
            fs::create_dir_all(&self.dir).expect("the testdata folder is writable");
            fs::write(&path, bytes).expect("the testdata folder is writable");
        }
        let golden = fs::read(&path).unwrap_or_else(|e| panic!("golden file {}: {e}", path.display()));
        assert!(golden == bytes, "{}:\n golden {}\n    now {}", path.display(), hex(&golden), hex(bytes));
        golden
    }

    /// Every file was compared with something.
    fn finish(self) {
        let there = fs::read_dir(&self.dir).expect("the folder was used").map(|entry| {
            entry.expect("it can be listed").file_name().into_string().expect("golden names are ASCII")
        });
        assert_eq!(there.collect::<BTreeSet<_>>(), self.seen);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
