//! Bytes into lines. Pure.
//!
//! A line ends with `\n`; the last one may lack it. One that is longer than [`LINE_CAP`] is cut there, and the pieces are
//! lines, so that a line without an end costs no more than that.

use memchr::memchr;

/// The longest line, in bytes without its end.
pub(crate) const LINE_CAP: usize = 1 << 20;

/// The length of the line that `bytes` starts with, its end included; `None` if more has to come first.
///
/// The first `searched` bytes are known to hold no `\n`.
pub(crate) fn first_line(bytes: &[u8], searched: usize) -> Option<usize> {
    let window = &bytes[..bytes.len().min(LINE_CAP + 1)];
    if let Some(at) = memchr(b'\n', &window[searched.min(window.len())..]) {
        return Some(searched + at + 1);
    }
    if bytes.len() <= LINE_CAP {
        return None;
    }
    // not in the middle of a character, if it is one
    let is_inside = |at: usize| bytes[at] & 0b1100_0000 == 0b1000_0000;
    Some((LINE_CAP - 3..=LINE_CAP).rev().find(|at| !is_inside(*at)).unwrap_or(LINE_CAP))
}

/// The text of a line: without its end, without a `\r` before that, and with what is no UTF-8 replaced.
pub(crate) fn text(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    // the lossy way looks at every byte
    std::str::from_utf8(line).map_or_else(|_| String::from_utf8_lossy(line).into_owned(), str::to_owned)
}

/// The lines as one text: joined by `\n`, none behind the last.
pub(crate) fn joined(mut bytes: Vec<u8>) -> String {
    if bytes.ends_with(b"\n") {
        bytes.pop();
    }
    if memchr(b'\r', &bytes).is_some() {
        let mut kept = Vec::with_capacity(bytes.len());
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            match line.strip_suffix(b"\r\n") {
                Some(text) => {
                    kept.extend_from_slice(text);
                    kept.push(b'\n');
                }
                None => kept.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line)),
            }
        }
        bytes = kept;
    }
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_its_lines() {
        for (bytes, text) in
            [("a\r\nb\n\n", "a\nb\n"), ("a\n", "a"), ("a", "a"), ("", ""), ("a\r", "a"), ("a\rb\r\n", "a\rb")]
        {
            assert_eq!(joined(bytes.into()), text);
        }
        assert_eq!(joined(b"\xff\n".to_vec()), "\u{fffd}");
    }
}
