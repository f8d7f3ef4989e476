//! Choices out of bytes: whoever has the bytes has the whole run.

/// Bytes that decide. At their end every choice is the first one.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    rest: &'a [u8],
}

impl<'a> Source<'a> {
    pub(crate) fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        match self.rest.split_first() {
            Some((byte, rest)) => {
                self.rest = rest;
                *byte
            }
            None => 0,
        }
    }

    /// One of so many.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count.max(1)
    }

    /// At most so many of the next bytes.
    pub(crate) fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = rest;
        taken
    }
}

/// The bytes in pieces: cut by their own checksum, so that the bytes alone say how.
pub(crate) fn pieces(bytes: &[u8]) -> Vec<&[u8]> {
    let (mut pieces, mut rest) = (Vec::new(), bytes);
    let mut dice = u64::from(crc32c::crc32c(bytes)) | 1;
    while !rest.is_empty() {
        dice = dice.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let longest = if dice >> 62 == 0 { 3 } else { 97 };
        let (piece, after) = rest.split_at(rest.len().min((dice >> 33) as usize % longest));
        pieces.push(piece);
        rest = after;
    }
    pieces
}
