//! How a kept build is called: what a cold start needs beside the executable.
//!
//! ```text
//! magic "HANDSPEC"  format version u16  payload length u32  payload (crate::wire::codec)  crc32c of all before u32
//! ```

use super::BuildDigest;
use crate::wire::codec;
use std::fmt;

/// The longest description, in bytes. Nothing longer is written or read.
pub const MAX_SPEC: usize = 64 * 1024;

const MAGIC: [u8; 8] = *b"HANDSPEC";
const VERSION: u16 = 1;
const HEADER: usize = 14;
const CHECKSUM: usize = 4;

/// A build by content, and how an instance of it was started. Its environment may hold secrets.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct KeptSpec {
    /// The build by content.
    pub digest: BuildDigest,
    /// Where the executable lay: the bytes of the path.
    pub executable: Vec<u8>,
    /// Its arguments.
    pub args: Vec<Vec<u8>>,
    /// Its environment.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for KeptSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let executable = String::from_utf8_lossy(&self.executable);
        write!(
            f,
            "KeptSpec({} {executable:?}, {} args, {} variables)",
            self.digest,
            self.args.len(),
            self.env.len()
        )
    }
}

type Raw = ([u8; 32], Vec<u8>, Vec<Vec<u8>>, Vec<(Vec<u8>, Vec<u8>)>);

impl KeptSpec {
    /// The bytes of the file.
    ///
    /// # Errors
    /// Arguments and environment are longer than [`MAX_SPEC`].
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        let payload = codec::encode((&self.digest.0, &self.executable, &self.args, &self.env));
        let whole = HEADER + payload.len() + CHECKSUM;
        if whole > MAX_SPEC {
            return Err(format!(
                "arguments and environment of {whole} bytes: at most {MAX_SPEC} can be kept"
            ));
        }
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        // bounded by MAX_SPEC just above
        bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&payload);
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        Ok(bytes)
    }

    /// Reads a whole file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<KeptSpec, String> {
        let (header, rest) = bytes.split_first_chunk::<HEADER>().ok_or("shorter than a header")?;
        let [m @ .., v0, v1, l0, l1, l2, l3] = *header;
        if m != MAGIC {
            return Err("not the description of a build".to_owned());
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
        let (digest, executable, args, env): Raw =
            codec::decode(payload).map_err(codec::Undecodable::text)?;
        Ok(KeptSpec { digest: BuildDigest(digest), executable, args, env })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> KeptSpec {
        KeptSpec {
            digest: BuildDigest([7; 32]),
            executable: b"/opt/kv/kv\xff".to_vec(),
            args: vec![b"--data".to_vec(), Vec::new()],
            env: vec![(b"TOKEN".to_vec(), b"hunter2".to_vec())],
        }
    }

    #[test]
    fn it_reads_back_and_shows_no_secret() {
        assert_eq!(KeptSpec::decode(&spec().encode().expect("short")), Ok(spec()));
        assert!(!format!("{:?}", spec()).contains("hunter2"));
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_an_error() {
        let bytes = spec().encode().expect("short");
        for length in 0..bytes.len() {
            assert!(KeptSpec::decode(&bytes[..length]).is_err(), "cut at {length}");
        }
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x20;
            assert!(KeptSpec::decode(&bytes).is_err(), "flipped at {at}");
        }
    }

    #[test]
    fn what_is_too_long_is_not_written() {
        let long = KeptSpec { args: vec![vec![b'x'; MAX_SPEC]], ..spec() };
        assert!(long.encode().expect_err("too long").contains("at most"));
    }
}
