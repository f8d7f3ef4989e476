//! The canary of an open upgrade and of its probation, in a file of the run directory: a supervisor that is started
//! again, or replaces itself, goes on with it.
//!
//! ```text
//! <run>/canary.<handoff>    0600, there as long as the journal shows that handoff open or its server on probation
//! magic "HANDCNRY"  format version u16  payload length u32  payload (crate::wire::codec)  crc32c of all before u32
//! payload: kind u8 (0 exchange, 1 program), time in ms u64, two byte strings: sent and expected, or path and nothing
//! ```
//!
//! It is not in the journal: what is sent may hold a password, and a journal is kept.

use super::canary::{Canary, What};
use super::world::World;
use crate::ids::HandoffId;
use crate::journal::{JournalState, Record};
use crate::os::files::{Dir, FileError};
use crate::wire::codec;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;
use std::time::Duration;

const MAGIC: [u8; 8] = *b"HANDCNRY";
const VERSION: u16 = 1;
const HEADER: usize = 14;
const CHECKSUM: usize = 4;
/// The longest file: two sides, or a path, and what is around them.
const MAX_FILE: usize = 16 * 1024;
const PREFIX: &str = "canary.";

fn name(of: HandoffId) -> String {
    format!("{PREFIX}{of}")
}

impl Canary {
    fn encode(&self) -> Result<Vec<u8>, String> {
        let time = u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX);
        let payload = match &self.what {
            What::Exchange { send, expect } => codec::encode((0_u8, time, send, expect)),
            What::Program(path) => {
                codec::encode((1_u8, time, path.as_os_str().as_bytes().to_vec(), Vec::<u8>::new()))
            }
        };
        let whole = HEADER + payload.len() + CHECKSUM;
        if whole > MAX_FILE {
            return Err(format!("a canary of {whole} bytes: at most {MAX_FILE} can be kept"));
        }
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        // bounded by MAX_FILE just above
        bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&payload);
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        Ok(bytes)
    }

    fn decode(bytes: &[u8]) -> Result<Canary, String> {
        let (header, rest) = bytes.split_first_chunk::<HEADER>().ok_or("shorter than a header")?;
        let [m @ .., v0, v1, l0, l1, l2, l3] = *header;
        if m != MAGIC {
            return Err("not a canary".to_owned());
        }
        match u16::from_le_bytes([v0, v1]) {
            VERSION => {}
            other => return Err(format!("format {other}: this build reads {VERSION}")),
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if length.checked_add(CHECKSUM) != Some(rest.len()) {
            return Err(format!("{} bytes that say they are {length}", rest.len()));
        }
        let (payload, checksum) = rest.split_at(length);
        let checksum = checksum.first_chunk().map_or(0, |c| u32::from_le_bytes(*c));
        if checksum != crc32c::crc32c(&bytes[..HEADER + length]) {
            return Err("its checksum is wrong".to_owned());
        }
        let (kind, time, first, second): (u8, u64, Vec<u8>, Vec<u8>) =
            codec::decode(payload).map_err(codec::Undecodable::text)?;
        let canary = match kind {
            0 => Canary::exchange(first, second),
            1 => Canary::program(PathBuf::from(OsString::from_vec(first))),
            other => return Err(format!("kind {other} is not known")),
        };
        Ok(canary.timeout(Duration::from_millis(time)))
    }
}

/// Keeps what is tried on the new server of this handoff, durably. Blocks.
///
/// # Errors
/// Why a supervisor that is started again would not know it.
pub(super) fn keep(run: &Dir, handoff: HandoffId, canary: &Canary) -> Result<(), String> {
    let kept = canary
        .encode()
        .and_then(|bytes| run.replace(&name(handoff), &bytes, 0o600).map_err(|error| error.to_string()));
    kept.map_err(|why| format!("a supervisor that is started again will not know the canary: {why}"))
}

/// What is tried on the server of this handoff.
pub(super) fn find(run: &Dir, handoff: HandoffId) -> Option<Canary> {
    let name = name(handoff);
    let read = match run.read(&name, MAX_FILE) {
        Err(error) if error.is_not_found() => return None,
        Err(error) => Err(error.to_string()),
        Ok(bytes) => Canary::decode(&bytes).map_err(|why| format!("{}: {why}", run.join(&name).display())),
    };
    read.inspect_err(|why| {
        tracing::warn!(target: "handoff.canary", why, "the probation goes on without its canary");
    })
    .ok()
}

/// Removes those of handoffs that are over, and which the journal shows neither open nor on probation.
///
/// # Errors
/// Those of listing and removing.
pub(super) fn tidy(run: &Dir, journal: &JournalState, asked: Option<HandoffId>) -> Result<(), FileError> {
    let open = journal.open.as_ref().map(|open| open.handoff);
    let trial = journal.trial.as_ref().map(|trial| trial.handoff);
    let named: Vec<String> = [open, trial, asked].into_iter().flatten().map(name).collect();
    for file in run.list()? {
        if file.starts_with(PREFIX) && !named.contains(&file) {
            run.unlink_if_there(&file)?;
        }
    }
    Ok(())
}

impl World {
    /// The end of a handoff or of a probation is the end of its canary.
    pub(super) fn tidy_canaries_after(&self, record: &Record) {
        match record {
            Record::Ended { .. } | Record::ProbationOver { .. } | Record::RolledBack { .. } => {
                self.tidy_canaries();
            }
            Record::Stopped => self.tidy_all_but(None),
            _ => {}
        }
    }

    /// Removes what is over.
    pub(super) fn tidy_canaries(&self) {
        // one that is in its preflight is not in the journal yet
        self.tidy_all_but(self.ask.as_ref().map(|ask| ask.handoff));
    }

    fn tidy_all_but(&self, asked: Option<HandoffId>) {
        if let Err(error) = tidy(&self.site.run, self.journal.state(), asked) {
            tracing::warn!(%error, "a canary that is over stays in its file");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canaries() -> [Canary; 3] {
        let exchange = Canary::exchange(b"AUTH hunter2\r\n", b"+\xff");
        let long = Canary::exchange(vec![b'x'; 4096], vec![b'y'; 4096]);
        [exchange.timeout(Duration::from_millis(750)), long, Canary::program("/opt/kv/canary")]
    }

    fn private() -> (tempfile::TempDir, Dir) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let run = Dir::open(dir.path()).expect("a directory of ours");
        (dir, run)
    }

    #[test]
    fn it_is_found_as_it_was_kept_and_only_its_owner_may_read_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let (dir, run) = private();
        for (n, canary) in (1..).zip(canaries()) {
            keep(&run, HandoffId(n), &canary).expect("kept");
            assert_eq!(find(&run, HandoffId(n)), Some(canary));
            let path = dir.path().join(name(HandoffId(n)));
            let mode = std::fs::metadata(path).expect("a file of ours").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert_eq!(find(&run, HandoffId(9)), None);
    }

    #[test]
    fn what_is_damaged_or_newer_is_none() {
        let (_dir, run) = private();
        let bytes = canaries()[0].encode().expect("short");
        for length in 0..bytes.len() {
            assert!(Canary::decode(&bytes[..length]).is_err(), "cut at {length}");
        }
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x20;
            assert!(Canary::decode(&bytes).is_err(), "flipped at {at}");
        }
        run.replace(&name(HandoffId(1)), b"HANDCNRY", 0o600).expect("written");
        assert_eq!(find(&run, HandoffId(1)), None);
    }

    #[test]
    fn what_is_over_is_removed_and_nothing_else() {
        let (dir, run) = private();
        for n in 1..=3 {
            keep(&run, HandoffId(n), &canaries()[0]).expect("kept");
        }
        std::fs::write(dir.path().join("journal"), b"").expect("a file of ours");
        tidy(&run, &JournalState::default(), Some(HandoffId(2))).expect("tidied");
        let mut left = run.list().expect("listed");
        left.sort();
        assert_eq!(left, [name(HandoffId(2)), "journal".to_owned()]);
    }
}
