//! A journal in a file.

use super::files::{Dir, FileError};
use crate::crash::{Disk, disk_fault};
use crate::journal::Storage;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;

/// The longest journal that is read. Compaction keeps it far below.
const LIMIT: u64 = 256 << 20;

/// The bytes of a journal in a file of a directory that only one supervisor uses at a time (`supervisor.lock`).
#[derive(Debug)]
pub struct JournalFile {
    dir: Dir,
    name: String,
    file: File,
    end: u64,
    /// An fsync failed: what is on the disk is not known, and no later fsync would tell (fsync(2)).
    failed: bool,
}

impl JournalFile {
    /// Opens the file; creates it, mode 0600, durably, if it is missing. Removes what a compaction left half-written.
    ///
    /// # Errors
    /// It cannot be opened; it is a symbolic link or no regular file.
    pub fn open(dir: &Dir, name: &str) -> Result<JournalFile, FileError> {
        dir.sweep_temps()?;
        let file = match dir.create_new(name, 0o600) {
            Ok(file) => {
                dir.sync_dir()?;
                file
            }
            Err(e) if e.is(nix::errno::Errno::EEXIST) => dir.open_rw(name)?,
            Err(e) => return Err(e),
        };
        let metadata =
            file.metadata().map_err(|source| FileError { op: "look at", path: dir.join(name), source })?;
        if !metadata.is_file() {
            return Err(FileError::content(dir.join(name), "not a regular file"));
        }
        Ok(JournalFile { dir: dir.clone(), name: name.to_owned(), file, end: metadata.len(), failed: false })
    }

    fn guarded(&self) -> io::Result<()> {
        let why = "an earlier fsync failed, so nothing here can be promised; restart the supervisor";
        if self.failed { Err(self.named(io::Error::other(why))) } else { Ok(()) }
    }

    fn works(does: Disk) -> io::Result<()> {
        // a test may make the disk fail here
        disk_fault(does).map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }

    fn sync(&mut self) -> io::Result<()> {
        Self::works(Disk::Sync).and_then(|()| self.file.sync_all()).map_err(|e| {
            self.failed = true;
            self.named(e)
        })
    }

    /// The error with the path in it: the layers above know none.
    fn named(&self, error: io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("journal {}: {error}", self.dir.join(&self.name).display()))
    }
}

impl Storage for JournalFile {
    fn load(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file.seek(SeekFrom::Start(0)).map_err(|e| self.named(e))?;
        (&self.file).take(LIMIT + 1).read_to_end(&mut bytes).map_err(|e| self.named(e))?;
        if bytes.len() as u64 > LIMIT {
            return Err(self.named(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("longer than {LIMIT} bytes, so not written by a supervisor; move it aside"),
            )));
        }
        self.end = bytes.len() as u64;
        Ok(bytes)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.guarded()?;
        Self::works(Disk::Write)
            .and_then(|()| self.file.write_all_at(bytes, self.end))
            .map_err(|e| self.named(e))?;
        self.sync()?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.guarded()?;
        self.file.set_len(len).map_err(|e| self.named(e))?;
        self.sync()?;
        self.end = len;
        Ok(())
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.guarded()?;
        let temp = self.dir.write_temp(bytes, 0o600).map_err(io::Error::other)?;
        // opened before it takes the name: from the rename on, nothing may go to the old file
        let file = self.dir.open_rw(&temp).map_err(io::Error::other)?;
        if let Err(e) = self.dir.rename(&temp, &self.name) {
            // the first error is the one that tells something
            let _ = self.dir.unlink(&temp);
            return Err(io::Error::other(e));
        }
        self.file = file;
        self.end = bytes.len() as u64;
        self.dir.sync_dir().map_err(|e| {
            self.failed = true;
            io::Error::other(e)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::HandoffId;
    use crate::journal::{Journal, Record};
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn records_outlive_the_process_that_wrote_them() {
        let root = tempfile::tempdir().unwrap();
        let dir = Dir::open(root.path()).unwrap();
        let mut journal = Journal::open(JournalFile::open(&dir, "journal").unwrap()).unwrap();
        journal.append(&Record::Generation { generation: 4 }).unwrap();
        drop(journal);
        let path = root.path().join("journal");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(b"half");
        std::fs::write(&path, &bytes).unwrap();
        let journal = Journal::open(JournalFile::open(&dir, "journal").unwrap()).unwrap();
        assert_eq!((journal.state().generation, journal.torn().map(|t| t.bytes)), (4, Some(4)));
        assert_eq!(path.metadata().unwrap().len(), bytes.len() as u64 - 4);
    }

    #[test]
    fn a_long_journal_is_replaced_by_a_short_one() {
        let root = tempfile::tempdir().unwrap();
        let dir = Dir::open(root.path()).unwrap();
        let mut journal = Journal::open(JournalFile::open(&dir, "journal").unwrap()).unwrap();
        let report = |n| Record::Report { handoff: HandoffId(n), json: "x".repeat(60_000) };
        for n in 0..80 {
            journal.append(&report(n)).unwrap();
        }
        let length = root.path().join("journal").metadata().unwrap().len();
        assert!(length < 4 << 20, "{length}");
        let state = journal.state().clone();
        drop(journal);
        assert_eq!(Journal::open(JournalFile::open(&dir, "journal").unwrap()).unwrap().state(), &state);
        assert_eq!(dir.list().unwrap(), ["journal"]);
    }

    #[test]
    fn links_and_directories_are_no_journals() {
        let root = tempfile::tempdir().unwrap();
        let dir = Dir::open(root.path()).unwrap();
        std::os::unix::fs::symlink("elsewhere", root.path().join("link")).unwrap();
        std::fs::create_dir(root.path().join("dir")).unwrap();
        for name in ["link", "dir"] {
            let error = JournalFile::open(&dir, name).unwrap_err();
            assert!(error.path.ends_with(name), "{error}");
        }
    }
}
