//! Where a journal's bytes are kept.

use std::io;

/// A place for one journal. Whatever returns `Ok` is durable.
pub trait Storage {
    /// All bytes.
    ///
    /// # Errors
    /// They cannot be read.
    fn load(&mut self) -> io::Result<Vec<u8>>;

    /// Adds bytes at the end. After an error any part of them may be there.
    ///
    /// # Errors
    /// No room; the bytes may not be durable.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Cuts everything after the first `len` bytes.
    ///
    /// # Errors
    /// It cannot, or no longer promises anything after an fsync that failed.
    fn truncate(&mut self, len: u64) -> io::Result<()>;

    /// Puts these bytes in the place of all others, at once: after a crash there are the old ones or the new.
    ///
    /// # Errors
    /// The old ones are still there, or every later call fails.
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// Storage in memory, for tests and simulations. Can be told to run full.
#[derive(Clone, Debug, Default)]
pub struct MemoryStorage {
    /// What is stored.
    pub bytes: Vec<u8>,
    /// How many bytes fit; `None` for as many as you like.
    pub room: Option<usize>,
}

impl MemoryStorage {
    fn full() -> io::Error {
        io::Error::new(io::ErrorKind::StorageFull, "no room in memory storage")
    }
}

impl Storage for MemoryStorage {
    fn load(&mut self) -> io::Result<Vec<u8>> {
        Ok(self.bytes.clone())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let fits =
            self.room.map_or(bytes.len(), |room| room.saturating_sub(self.bytes.len()).min(bytes.len()));
        self.bytes.extend_from_slice(&bytes[..fits]);
        if fits == bytes.len() { Ok(()) } else { Err(Self::full()) }
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.bytes.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        Ok(())
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.room.is_some_and(|room| bytes.len() > room) {
            return Err(Self::full());
        }
        self.bytes = bytes.to_vec();
        Ok(())
    }
}
