//! The words that identify things: newtypes with limits, so that an epoch cannot be taken for a pid.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The fencing token of a tenure. Every tenure of a writer has its own; they strictly increase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch before any tenure: nothing was ever claimed.
    pub const ZERO: Epoch = Epoch(0);

    /// The epoch that the next claim decides. After the last one there is none: it stays the last, which is claimed.
    #[must_use]
    pub fn next(self) -> Epoch {
        Epoch(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! uuid_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u128);

        impl $name {
            /// Nobody: the value of "no handoff" and "no instance" in a frame header.
            pub const NIL: $name = $name(0);

            /// Whether this is [`Self::NIL`].
            #[must_use]
            pub fn is_nil(self) -> bool {
                self.0 == 0
            }

            /// Reads the hyphenated form that `Display` writes.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                uuid::Uuid::parse_str(text).ok().map(|u| Self(u.as_u128()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                uuid::Uuid::from_u128(self.0).fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                uuid::Uuid::from_u128(self.0).fmt(f)
            }
        }
    };
}

uuid_newtype! {
    /// One try to hand over. Sorts by time when made by the supervisor (UUID v7).
    HandoffId
}
uuid_newtype! {
    /// One process that serves, shall serve or has served. Claims name their owner by it.
    InstanceId
}

impl InstanceId {
    /// The `n`-th instance of a supervisor whose own random base is `self`.
    #[must_use]
    pub fn nth(self, n: u32) -> InstanceId {
        InstanceId((self.0 & !u128::from(u32::MAX)) | u128::from(n))
    }
}

/// A listener's name: 1 to 64 printable ASCII characters without `:` and `/` (systemd's `FDNAME` rules, narrower).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ListenerName(String);

impl ListenerName {
    /// Checks the limits.
    ///
    /// # Errors
    /// The text when it is empty, longer than 64 bytes or holds anything but ASCII letters, digits, `.`, `_`, `-`.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        let ok = (1..=64).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if ok { Ok(Self(name.to_owned())) } else { Err(InvalidName(name.chars().take(80).collect())) }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for ListenerName {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for ListenerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A listener name outside the limits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no listener name: use 1 to 64 letters, digits, '.', '_' or '-'")]
pub struct InvalidName(String);

/// What a sealed server's data is, by content: two digests are equal when the data is.
///
/// The incumbent keeps it incrementally and gives it at the seal, the successor computes it from what it loaded.
/// Epoch stamps are excluded; any write changes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Digest {
    /// The state format the data is in.
    pub format: u32,
    /// Generation of the manifest (which files make up the data).
    pub generation: u64,
    /// One entry a shard, at most [`Digest::MAX_SHARDS`].
    pub shards: Vec<ShardDigest>,
}

impl Digest {
    /// The most shards a digest may have; a frame must hold it.
    pub const MAX_SHARDS: usize = 1024;
}

/// One shard's share of a [`Digest`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ShardDigest {
    /// Number of the last change.
    pub revision: u64,
    /// Length of the log in bytes.
    pub bytes: u64,
    /// Running checksum over the content of the log.
    pub checksum: u64,
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "format {} generation {}", self.format, self.generation)?;
        for (n, s) in self.shards.iter().take(4).enumerate() {
            write!(f, ", shard {n}: revision {} bytes {} checksum {:016x}", s.revision, s.bytes, s.checksum)?;
        }
        if self.shards.len() > 4 {
            write!(f, ", and {} shards more", self.shards.len() - 4)?;
        }
        Ok(())
    }
}

/// Which build an instance runs: what the program says of itself, at most 128 bytes of printable text.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BuildId(pub String);

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listener_names_are_limited() {
        assert!(ListenerName::new("resp").is_ok());
        for bad in ["", "a:b", "a/b", "white space", "ü", &"x".repeat(65)] {
            assert!(ListenerName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn instances_of_one_supervisor_differ() {
        let base = InstanceId(0xdead_beef_0000_0000_1111_2222_3333_4444);
        assert_ne!(base.nth(1), base.nth(2));
        assert_eq!(base.nth(7).to_string().len(), 36);
        assert_eq!(InstanceId::parse(&base.nth(7).to_string()), Some(base.nth(7)));
    }
}
