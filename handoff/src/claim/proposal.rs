//! What a proposal, and so a claim, says.
//!
//! ```text
//! magic "HANDPROP"  format version u16  payload length u32  payload (crate::wire::codec)  crc32c of all before u32
//! ```

use crate::ids::{BuildId, HandoffId, InstanceId};
use crate::wire::FileId;
use crate::wire::codec;
use crate::wire::text::{MAX_BUILD, clip};
use std::fmt;

/// The longest path of an executable, in bytes (the kernel's `PATH_MAX`).
pub const MAX_PATH: usize = 4096;
/// The longest proposal, in bytes. Nothing longer is read.
pub const MAX_PROPOSAL: usize = 8192;

const MAGIC: [u8; 8] = *b"HANDPROP";
const VERSION: u16 = 1;
const HEADER: usize = 14;
const CHECKSUM: usize = 4;

/// SHA-256 of an executable's content, computed by the supervisor before it starts it; all zero when nobody did (a
/// server that was started by hand).
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BuildDigest(pub [u8; 32]);

impl BuildDigest {
    /// Nobody computed it.
    pub const UNKNOWN: BuildDigest = BuildDigest([0; 32]);

    /// Reads the 64 hexadecimal digits that `Display` writes, and nothing else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return None;
        }
        let mut digest = [0; 32];
        for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(digest))
    }
}

impl fmt::Display for BuildDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for BuildDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Who would serve, and what it would serve with: enough to find the process, or to start its build again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Proposal {
    /// The handoff it belongs to; nil for a cold start.
    pub handoff: HandoffId,
    /// Whom a claim made from it names.
    pub instance: InstanceId,
    /// The build by name, at most 128 bytes.
    pub build: BuildId,
    /// The build by content.
    pub build_digest: BuildDigest,
    /// Path of the executable: the bytes the kernel gave, at most [`MAX_PATH`].
    pub executable: Vec<u8>,
    /// Device and inode of the executable.
    pub executable_file: FileId,
    /// Size of the executable.
    pub executable_size: u64,
    /// When the executable was modified, nanoseconds since the Unix epoch.
    pub executable_mtime_ns: i64,
    /// The state format it writes.
    pub state_format: u32,
    /// Which boot of the machine `pid` and `start_time` belong to.
    pub boot_id: u128,
    /// Process id.
    pub pid: u32,
    /// When the process started, in clock ticks since boot (`/proc/<pid>/stat`, field 22).
    pub start_time: u64,
}

/// Why bytes are no proposal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Another kind of file.
    #[error("not a proposal: it does not begin with {:?}", MAGIC.escape_ascii().to_string())]
    Foreign,
    /// Written by a later version.
    #[error(
        "proposal format {0}: this build reads up to {VERSION}; use the build that wrote it or a later one"
    )]
    Newer(u16),
    /// Cut, or longer than it says.
    #[error("a proposal of {actual} bytes that says it has {promised}")]
    Length {
        /// What the header says.
        promised: usize,
        /// What is there.
        actual: usize,
    },
    /// The content is not what was written.
    #[error("checksum {found:08x}, computed {computed:08x}: the content was damaged after it was written")]
    Checksum {
        /// The stored one.
        found: u32,
        /// That of the content.
        computed: u32,
    },
    /// The payload is not one.
    #[error("payload: {0}")]
    Payload(String),
}

type Raw = (u128, u128, String, [u8; 32], Vec<u8>, (u64, u64), u64, i64, u32, u128, u32, u64);

impl Proposal {
    /// The executable's path as text, for people.
    #[must_use]
    pub fn executable_text(&self) -> String {
        crate::wire::escape(&String::from_utf8_lossy(&self.executable))
    }

    /// The bytes of the file. A build id or path over its limit is cut: it is information, not identity.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let payload = codec::encode((
            self.handoff.0,
            self.instance.0,
            clip(&self.build.0, MAX_BUILD),
            self.build_digest.0,
            &self.executable[..self.executable.len().min(MAX_PATH)],
            (self.executable_file.dev, self.executable_file.ino),
            self.executable_size,
            self.executable_mtime_ns,
            self.state_format,
            self.boot_id,
            self.pid,
            self.start_time,
        ));
        let length = u32::try_from(payload.len()).expect("the fields are limited to a few KiB");
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&payload);
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    /// Reads a whole file.
    ///
    /// # Errors
    /// What is wrong with it. A later format version is told apart from damage as long as the magic is whole.
    pub fn decode(bytes: &[u8]) -> Result<Proposal, ClaimError> {
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else {
            return Err(match bytes.starts_with(&MAGIC[..bytes.len().min(MAGIC.len())]) {
                true => ClaimError::Length { promised: HEADER + CHECKSUM, actual: bytes.len() },
                false => ClaimError::Foreign,
            });
        };
        let [m @ .., v0, v1, l0, l1, l2, l3] = *header;
        if m != MAGIC {
            return Err(ClaimError::Foreign);
        }
        let version = u16::from_le_bytes([v0, v1]);
        if version > VERSION {
            return Err(ClaimError::Newer(version));
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let promised = HEADER.saturating_add(length).saturating_add(CHECKSUM);
        if promised != bytes.len() || promised > MAX_PROPOSAL {
            return Err(ClaimError::Length { promised, actual: bytes.len() });
        }
        let (payload, checksum) = rest.split_at(length);
        let checksum = checksum.first_chunk().map_or(0, |c| u32::from_le_bytes(*c));
        let computed = crc32c::crc32c(&bytes[..HEADER + length]);
        if checksum != computed {
            return Err(ClaimError::Checksum { found: checksum, computed });
        }
        let raw: Raw = codec::decode(payload).map_err(|e| ClaimError::Payload(e.text()))?;
        let (handoff, instance, build, build_digest, executable, (dev, ino), ..) = raw;
        let (.., executable_size, executable_mtime_ns, state_format, boot_id, pid, start_time) = raw;
        if build.len() > MAX_BUILD || executable.len() > MAX_PATH {
            return Err(ClaimError::Payload("the build id or the path is longer than allowed".into()));
        }
        Ok(Proposal {
            handoff: HandoffId(handoff),
            instance: InstanceId(instance),
            build: BuildId(build),
            build_digest: BuildDigest(build_digest),
            executable,
            executable_file: FileId { dev, ino },
            executable_size,
            executable_mtime_ns,
            state_format,
            boot_id,
            pid,
            start_time,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposal() -> Proposal {
        Proposal {
            handoff: HandoffId(1),
            instance: InstanceId(2),
            build: BuildId("v2".into()),
            executable: b"/usr/bin/kv".to_vec(),
            pid: 7,
            ..Proposal::default()
        }
    }

    #[test]
    fn a_digest_reads_back_and_has_one_spelling() {
        let digest = BuildDigest(std::array::from_fn(|n| n as u8 * 8));
        assert_eq!(BuildDigest::parse(&digest.to_string()), Some(digest));
        for text in ["", "00", &"G".repeat(64), &"A".repeat(64), &"ä".repeat(32)] {
            assert_eq!(BuildDigest::parse(text), None, "{text}");
        }
    }

    #[test]
    fn it_reads_back() {
        assert_eq!(Proposal::decode(&proposal().encode()), Ok(proposal()));
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_an_error() {
        let bytes = proposal().encode();
        for length in 0..bytes.len() {
            assert!(Proposal::decode(&bytes[..length]).is_err(), "cut at {length}");
        }
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x20;
            assert!(Proposal::decode(&bytes).is_err(), "flipped at {at}");
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(matches!(Proposal::decode(&longer), Err(ClaimError::Length { .. })));
    }

    #[test]
    fn later_formats_and_foreign_files_are_told_apart() {
        let mut bytes = proposal().encode();
        bytes[8] = 2;
        assert_eq!(Proposal::decode(&bytes), Err(ClaimError::Newer(2)));
        assert_eq!(Proposal::decode(b"#!/bin/sh\n and so on and on"), Err(ClaimError::Foreign));
        assert_eq!(Proposal::decode(b"x"), Err(ClaimError::Foreign));
    }

    #[test]
    fn the_longest_proposal_fits_its_limit() {
        let long =
            Proposal { build: BuildId("ä".repeat(500)), executable: vec![b'x'; 2 * MAX_PATH], ..proposal() };
        let bytes = long.encode();
        assert!(bytes.len() <= MAX_PROPOSAL);
        let read = Proposal::decode(&bytes).unwrap();
        assert_eq!((read.build.0.len(), read.executable.len()), (MAX_BUILD, MAX_PATH));
    }
}
