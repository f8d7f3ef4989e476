//! The manifest: which files make up the data.

use super::{Context, Error, FORMAT, Result, sync_dir};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

const NAME: &str = "manifest";
/// What becomes the manifest, once it is whole.
pub(super) const NEW: &str = "manifest.new";
const TITLE: &str = "demo-server data";

/// What the manifest says. Generation 0: there is none, and no data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) generation: u64,
    /// The first segment of the log.
    pub(super) first: u64,
    pub(super) snapshot: Option<Snapshot>,
}

/// The snapshot that the first segment continues.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) records: u64,
    pub(super) checksum: u64,
    /// The last operation it contains, and the epoch of that.
    pub(super) sequence: u64,
    pub(super) epoch: u64,
}

impl Manifest {
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(NAME);
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text).map_err(|why| Error::Manifest { path, why }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                // an empty one is all that a crash in a first start leaves
                if std::fs::metadata(super::segment(dir, 1)).is_ok_and(|m| m.len() > 0) {
                    return Err(Error::Manifest { path, why: "missing, though there is a log".into() });
                }
                Ok(Self::default())
            }
            Err(source) => Err(Error::Io { action: "read", path, source }),
        }
    }

    /// Makes this the manifest, durably: all of it or nothing.
    pub(super) fn install(&self, dir: &Path) -> Result<()> {
        let (path, new) = (dir.join(NAME), dir.join(NEW));
        let mut file = File::create(&new).context("create", &new)?;
        file.write_all(self.text().as_bytes()).and_then(|()| file.sync_all()).context("write", &new)?;
        std::fs::rename(&new, &path).context("replace", &path)?;
        sync_dir(dir)
    }

    fn text(&self) -> String {
        let mut text =
            format!("{TITLE}\nformat {FORMAT}\ngeneration {}\nfirst {}\n", self.generation, self.first);
        if let Some(Snapshot { records, checksum, sequence, epoch }) = &self.snapshot {
            text += &format!("snapshot {records} {checksum} {sequence} {epoch}\n");
        }
        let crc = crc32c::crc32c(text.as_bytes());
        text + &format!("crc32c {crc:08x}\n")
    }

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let (body, crc) =
            text.trim_end().rsplit_once("crc32c ").ok_or("not a manifest, or only a part of one")?;
        if u32::from_str_radix(crc, 16) != Ok(crc32c::crc32c(body.as_bytes())) {
            return Err("its checksum is wrong".into());
        }
        let mut manifest = Self::default();
        for line in body.lines() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            let numbers: Vec<u64> = rest.split(' ').map_while(|n| n.parse().ok()).collect();
            match (word, &numbers[..]) {
                ("format", [format]) if *format == u64::from(FORMAT) => {}
                ("format", _) => return Err(format!("format {rest}, this build reads format {FORMAT}")),
                ("generation", [n]) => manifest.generation = *n,
                ("first", [n]) => manifest.first = *n,
                ("snapshot", &[records, checksum, sequence, epoch]) => {
                    manifest.snapshot = Some(Snapshot { records, checksum, sequence, epoch });
                }
                _ if line == TITLE => {}
                _ => return Err(format!("line {line:?} is not understood")),
            }
        }
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_is_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Manifest::read(dir.path()).unwrap(), Manifest::default());
        let snapshot = Some(Snapshot { records: 1, checksum: u64::MAX, sequence: 3, epoch: 4 });
        for manifest in [
            Manifest { generation: 1, first: 1, snapshot: None },
            Manifest { generation: 2, first: 9, snapshot },
        ] {
            manifest.install(dir.path()).unwrap();
            assert_eq!(Manifest::read(dir.path()).unwrap(), manifest);
        }
    }

    #[test]
    fn damage_is_refused() {
        let text = Manifest { generation: 5, first: 2, snapshot: Some(Snapshot::default()) }.text();
        for cut in 0..text.len() - 1 {
            assert!(Manifest::parse(&text[..cut]).is_err(), "{cut}");
        }
        assert!(Manifest::parse(&text.replace("generation 5", "generation 6")).is_err());
    }
}
