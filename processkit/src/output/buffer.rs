//! What is kept of an output. Pure.

use super::lines::{first_line, text};

/// Compact only what is worth a move.
const COMPACT: usize = 64 * 1024;

/// How much of an output is kept. Whatever it says, the pipe is drained and the process never blocked.
///
/// A line longer than 1 MiB is cut there, and its pieces count as lines: with a bound of `n`, no more than `n` + 1 MiB are
/// held for each stream, whatever is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutputBufferPolicy {
    /// The lines to keep; all of them without.
    pub max_lines: Option<usize>,
    /// Which lines go when there are more.
    pub overflow: OverflowMode,
}

/// Which lines are dropped when there are more than are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OverflowMode {
    /// The first ones: the end of the output stays.
    #[default]
    DropOldest,
    /// The last ones: the start of the output stays.
    DropNewest,
}

impl OutputBufferPolicy {
    /// Keep everything. The default.
    pub fn unbounded() -> Self {
        OutputBufferPolicy { max_lines: None, overflow: OverflowMode::DropOldest }
    }

    /// Keep this many lines of each stream, the last ones unless [told otherwise](OutputBufferPolicy::with_overflow).
    pub fn bounded(max_lines: usize) -> Self {
        OutputBufferPolicy { max_lines: Some(max_lines), overflow: OverflowMode::DropOldest }
    }

    /// Which lines go when there are more than the bound.
    pub fn with_overflow(mut self, overflow: OverflowMode) -> Self {
        self.overflow = overflow;
        self
    }
}

impl Default for OutputBufferPolicy {
    fn default() -> Self {
        Self::unbounded()
    }
}

/// The bytes that were read and not yet taken or dropped, with the ends of their lines.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    policy: OutputBufferPolicy,
    bytes: Vec<u8>,
    /// What lies before is taken or dropped.
    head: usize,
    /// Whole lines lie between `head` and here, and one that is not complete behind.
    open: usize,
    /// Nothing between `open` and here ends it.
    searched: usize,
    /// How many lines lie between `head` and `open`.
    whole: usize,
    seen: usize,
    truncated: bool,
    /// Nothing more comes: a rest without an end is a line.
    ended: bool,
}

impl Buffer {
    pub(crate) fn new(policy: OutputBufferPolicy) -> Self {
        Buffer { policy, ..Buffer::default() }
    }

    /// Let `read` append to the bytes; at least `room` fit without another allocation.
    pub(crate) fn append<R>(&mut self, room: usize, read: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        if self.head > COMPACT && self.head > self.bytes.len() / 2 {
            self.compact();
        }
        if self.bytes.capacity() - self.bytes.len() < room {
            self.bytes.reserve(room);
        }
        let result = read(&mut self.bytes);
        self.look();
        result
    }

    /// Append what was read elsewhere; its memory is exchanged where that spares a copy.
    pub(crate) fn give(&mut self, chunk: &mut Vec<u8>) {
        if self.head == self.bytes.len() {
            std::mem::swap(&mut self.bytes, chunk);
            (self.head, self.open, self.searched) = (0, 0, 0);
            self.look();
        } else {
            self.append(chunk.len(), |bytes| bytes.extend_from_slice(chunk));
        }
    }

    fn look(&mut self) {
        if self.policy.max_lines.is_some() {
            self.split(); // now, since what is too much must go now; without a bound only when somebody asks
        }
    }

    /// Nothing more will come: an unterminated rest is a line.
    pub(crate) fn finish(&mut self) {
        self.ended = true;
        self.look();
    }

    /// The length of the line that begins at `open`, if it is complete.
    fn next_length(&self) -> Option<usize> {
        let rest = &self.bytes[self.open..];
        let last = || Some(rest.len()).filter(|length| self.ended && *length > 0);
        first_line(rest, self.searched - self.open).or_else(last)
    }

    /// Find the lines that are complete by now.
    fn split(&mut self) {
        let mut excess = None;
        while let Some(length) = self.next_length() {
            self.line(length, &mut excess);
        }
        self.cut(excess);
        self.searched = self.bytes.len();
    }

    /// One more line is complete: keep it, or another, or drop it (`excess` is where such lines begin).
    fn line(&mut self, length: usize, excess: &mut Option<usize>) {
        let start = self.open;
        self.open += length;
        self.searched = self.open;
        self.seen += 1;
        let is_full = self.policy.max_lines.is_some_and(|max| self.whole >= max);
        self.truncated |= is_full;
        match self.policy.overflow {
            OverflowMode::DropNewest if is_full => _ = excess.get_or_insert(start),
            OverflowMode::DropOldest | OverflowMode::DropNewest => {
                self.whole += 1;
                if is_full {
                    self.head += self.first();
                    self.whole -= 1;
                }
            }
        }
    }

    /// Drop the lines from `excess` on.
    fn cut(&mut self, excess: Option<usize>) {
        if let Some(start) = excess {
            self.bytes.drain(start..self.open);
            self.open = start;
            self.searched = start;
        }
    }

    /// The length of the first whole line.
    fn first(&self) -> usize {
        let lines = &self.bytes[self.head..self.open];
        first_line(lines, 0).unwrap_or(lines.len())
    }

    fn compact(&mut self) {
        self.bytes.drain(..self.head);
        self.open -= self.head;
        self.searched -= self.head;
        self.head = 0;
    }

    /// The next line, and no other reader gets it.
    pub(crate) fn pop(&mut self) -> Option<String> {
        let length = if self.whole > 0 {
            self.whole -= 1;
            self.first()
        } else {
            // One more and not all: with a bound there is none, and without the others need not be counted yet.
            let length = self.next_length();
            self.searched = length.map_or(self.bytes.len(), |length| self.open + length);
            self.seen += usize::from(length.is_some());
            self.open += length?;
            length?
        };
        let text = text(&self.bytes[self.head..self.head + length]);
        self.head += length;
        Some(text)
    }

    /// Everything that is left, as it came.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.compact();
        (self.open, self.searched, self.whole) = (0, 0, 0);
        std::mem::take(&mut self.bytes)
    }

    /// Lines so far, taken and dropped ones included.
    pub(crate) fn seen(&mut self) -> usize {
        self.split();
        self.seen
    }

    pub(crate) fn is_truncated(&self) -> bool {
        self.truncated
    }
}

#[cfg(test)]
mod tests {
    use super::super::lines::LINE_CAP;
    use super::*;
    use proptest::prelude::*;

    fn fill(policy: OutputBufferPolicy, chunks: &[&[u8]]) -> Buffer {
        let mut buffer = Buffer::new(policy);
        for chunk in chunks {
            buffer.append(chunk.len(), |bytes| bytes.extend_from_slice(chunk));
        }
        buffer.finish();
        buffer
    }

    fn lines(mut buffer: Buffer) -> Vec<String> {
        std::iter::from_fn(|| buffer.pop()).collect()
    }

    #[test]
    fn lines_are_what_they_are() {
        let of = |text: &str| lines(fill(OutputBufferPolicy::unbounded(), &[text.as_bytes()]));
        assert_eq!(of("a\nb\r\n\nc"), ["a", "b", "", "c"]);
        assert_eq!(of(""), [""; 0]);
        assert_eq!(of("\n"), [""]);
        assert_eq!(lines(fill(OutputBufferPolicy::unbounded(), &[b"a\xffb"])), ["a\u{fffd}b"]);
    }

    #[test]
    fn bounds_keep_one_end() {
        let text = b"1\n2\n3\n4";
        assert_eq!(fill(OutputBufferPolicy::bounded(2), &[text]).take(), b"3\n4");
        let newest = OutputBufferPolicy::bounded(2).with_overflow(OverflowMode::DropNewest);
        let mut kept = fill(newest, &[text]);
        assert!(kept.is_truncated());
        assert_eq!((kept.seen(), kept.take()), (4, b"1\n2\n".to_vec()));
        assert_eq!(fill(OutputBufferPolicy::bounded(0), &[text]).take(), b"");
        assert!(!fill(OutputBufferPolicy::bounded(4), &[text]).is_truncated());
    }

    /// A line without an end is cut, and what is held follows the bound; the control holds everything.
    #[test]
    fn a_line_without_an_end_is_cut() {
        let chunk = vec![b'x'; LINE_CAP / 4];
        let mut sizes = Vec::new();
        for policy in [OutputBufferPolicy::bounded(2), OutputBufferPolicy::unbounded()] {
            let mut buffer = Buffer::new(policy);
            for _ in 0..40 {
                buffer.append(chunk.len(), |bytes| bytes.extend_from_slice(&chunk));
            }
            buffer.finish();
            sizes.push((buffer.bytes.capacity(), buffer.take().len()));
        }
        assert!(sizes[0].0 <= 8 * LINE_CAP && sizes[0].1 <= 2 * LINE_CAP, "{sizes:?}");
        assert_eq!(sizes[1].1, 10 * LINE_CAP, "control");
        let euros = "\u{20ac}".repeat(LINE_CAP);
        let pieces = lines(fill(OutputBufferPolicy::unbounded(), &[euros.as_bytes()]));
        assert_eq!(pieces.concat(), euros, "no character is cut");
    }

    proptest! {
        /// However the bytes are cut into reads, the lines are those of the whole; a bound keeps one end of them.
        #[test]
        fn any_cut_gives_the_same_lines(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..400),
            cuts in proptest::collection::vec(0usize..400, 0..12),
            max in 0usize..20,
            pops in any::<bool>(),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            let mut expected: Vec<String> = bytes
                .split(|byte| *byte == b'\n')
                .map(|line| String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned())
                .collect();
            if bytes.last().is_none_or(|byte| *byte == b'\n') {
                expected.pop();
            }

            prop_assert_eq!(fill(OutputBufferPolicy::unbounded(), &chunks).take(), bytes.clone());
            if pops {
                let mut buffer = Buffer::new(OutputBufferPolicy::unbounded());
                let mut popped = Vec::new();
                for chunk in &chunks {
                    buffer.give(&mut chunk.to_vec());
                    popped.extend(std::iter::from_fn(|| buffer.pop()));
                }
                buffer.finish();
                popped.extend(std::iter::from_fn(|| buffer.pop()));
                prop_assert_eq!(&popped, &expected);
            }
            let first = expected.len().saturating_sub(max);
            let oldest = fill(OutputBufferPolicy::bounded(max), &chunks);
            prop_assert_eq!(oldest.is_truncated(), first > 0);
            prop_assert_eq!(lines(oldest), &expected[first..]);
            let policy = OutputBufferPolicy::bounded(max).with_overflow(OverflowMode::DropNewest);
            let mut newest = fill(policy, &chunks);
            prop_assert_eq!(newest.seen(), expected.len());
            prop_assert_eq!(lines(newest), &expected[..max.min(expected.len())]);
        }
    }
}
