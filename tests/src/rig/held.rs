//! What a process holds open, by kind: a number says that there is one more, this says of what.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// A program that somebody may be started from: the file itself, or the copy that is kept of it.
pub const EXECUTABLE: &str = "executable";

/// The open descriptors of a process, counted by what they are; nothing when it is gone.
#[must_use]
pub fn held(pid: u32) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
        // closed meanwhile
        let Ok(link) = std::fs::read_link(entry.path()) else { continue };
        // of the open file, also where its name is gone
        let is_executable = std::fs::metadata(entry.path())
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
        let kind = if is_executable { EXECUTABLE.to_owned() } else { kind(&link) };
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}

/// Without the numbers and names that are others each time.
fn kind(link: &Path) -> String {
    let text = link.to_string_lossy();
    if text.starts_with('/') {
        let name = link.file_name().unwrap_or_default().to_string_lossy();
        // segments of a log
        let unnumbered = text.trim_end_matches(|c: char| c.is_ascii_digit());
        return match unnumbered.strip_suffix('.') {
            _ if name.starts_with("inst-") => "control group of an instance".into(),
            Some(start) if unnumbered.len() < text.len() => format!("{start}.N"),
            _ => text.into_owned(),
        };
    }
    match text.split_once(":[") {
        // socket:[1234]
        Some((what, number)) if number.starts_with(|c: char| c.is_ascii_digit()) => what.to_owned(),
        _ => text.into_owned(),
    }
}

/// Of what there is more than before, beyond what `may` says.
#[must_use]
pub fn more(
    before: &BTreeMap<String, usize>,
    now: &BTreeMap<String, usize>,
    may: impl Fn(&str) -> usize,
) -> Vec<String> {
    let counts = now.iter().map(|(kind, count)| (kind, before.get(kind).copied().unwrap_or(0), *count));
    let grown = counts.filter(|(kind, before, now)| *now > before + may(kind));
    grown.map(|(kind, before, now)| format!("{kind}: {before}, then {now}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn what_is_open_has_a_kind_and_one_more_is_named() {
        let before = held(std::process::id());
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let program = File::open("/proc/self/exe").expect("this program");
        let now = held(std::process::id());
        // other tests of this process open and close, too
        let (path, one_more) = (file.path().display().to_string(), now[EXECUTABLE]);
        assert_eq!(now[&path], 1);
        assert!(more(&before, &now, |_| 0).contains(&format!("{path}: 0, then 1")));
        assert!(
            !more(&before, &now, |kind| usize::from(kind == path)).iter().any(|told| told.contains(&path))
        );
        drop(program);
        assert!(one_more >= 1, "{now:?}");
    }

    #[test]
    fn names_that_are_others_each_time_are_one_kind() {
        for (link, expected) in [
            ("socket:[4711]", "socket"),
            ("pipe:[1]", "pipe"),
            ("anon_inode:[pidfd]", "anon_inode:[pidfd]"),
            ("/sys/fs/cgroup/processkit/inst-1b2c", "control group of an instance"),
            ("/run/x/journal", "/run/x/journal"),
            ("/data/log.17", "/data/log.N"),
            ("/tmp/handoff-1.x2", "/tmp/handoff-1.x2"),
        ] {
            assert_eq!(kind(Path::new(link)), expected);
        }
    }
}
