//! The program with the published crate in it, in its own target directory.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The columns. `rivals/Cargo.toml` pins them.
pub(crate) const VERSIONS: [&str; 2] = ["0.9.1", "3.3.4"];

/// Answers questions as long as it runs; without it every answer is `None`.
#[derive(Debug)]
pub(crate) struct Rivals {
    program: Option<(Child, ChildStdin, BufReader<ChildStdout>)>,
    lines: PathBuf,
}

impl Rivals {
    /// Build and start it. One that cannot be had (no registry, say) is told on standard error and left out.
    pub(crate) fn start() -> Rivals {
        let lines = std::env::temp_dir().join(format!("processkit-bench-{}", std::process::id()));
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/rivals/Cargo.toml");
        // target/release/deps/table-..: below the same target directory, so that one `cargo clean` is enough
        let target =
            std::env::current_exe().ok().and_then(|own| Some(own.ancestors().nth(3)?.join("rivals")));
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(["run", "--release", "--locked", "--quiet", "--manifest-path", manifest]);
        command.env("RIVALS_LINES", &lines).stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(target) = target {
            command.env("CARGO_TARGET_DIR", target);
        }
        eprintln!("building the rivals ..");
        let mut rivals = Rivals { program: None, lines };
        rivals.program = command.spawn().ok().and_then(|mut child| {
            let stdin = child.stdin.take()?;
            let stdout = child.stdout.take()?;
            Some((child, stdin, BufReader::new(stdout)))
        });
        // the first answer comes when it is built
        if rivals.ask("start", "memory", 0).is_none() {
            eprintln!("the rivals cannot be had: their columns stay empty");
            rivals.program = None;
        }
        rivals
    }

    /// Where the file with lines is that every contender reads.
    pub(crate) fn lines(&self) -> &std::path::Path {
        &self.lines
    }

    pub(crate) fn ask(&mut self, row: &str, version: &str, count: u32) -> Option<u64> {
        let (_, stdin, stdout) = self.program.as_mut()?;
        writeln!(stdin, "{row} {version} {count}").ok()?;
        let mut line = String::new();
        stdout.read_line(&mut line).ok()?;
        let answer = line.trim().parse().ok();
        if answer.is_none() {
            eprintln!("{row}, processkit {version}: {}", line.trim());
        }
        answer
    }
}

impl Drop for Rivals {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.lines); // there only if a row needed it
        if let Some((mut child, stdin, _)) = self.program.take() {
            drop(stdin); // ends it
            let _ = child.wait();
        }
    }
}
