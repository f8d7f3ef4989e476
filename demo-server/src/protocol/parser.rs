//! Finds the next command in a connection's input, however its bytes arrive.
//!
//! A command is either an array of bulk strings (what libraries send) or one line of words (what people type).
//! The parser remembers how far it came, so that a large command arriving in many pieces is looked at once;
//! arguments are ranges of the input, so that nothing is copied.

use super::{MAX_ARGS, MAX_COMMAND, MAX_LINE};
use std::ops::{Index, Range};

/// The client broke the protocol: it is told so, in Redis' words, and disconnected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ERR Protocol error: {0}")]
pub(crate) struct Violation(pub(crate) String);

/// What is known of the command at the start of the input.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    ranges: Vec<Range<usize>>,
    /// Words of a typed line; they may hold escapes and so cannot be ranges of the input.
    typed: Option<Vec<u8>>,
    offset: usize,
    missing: Option<usize>,
}

/// The arguments of one command, its name first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Args<'a> {
    bytes: &'a [u8],
    ranges: &'a [Range<usize>],
}

impl<'a> Args<'a> {
    pub(crate) fn len(&self) -> usize {
        self.ranges.len()
    }

    pub(crate) fn at(&self, n: usize) -> Option<&'a [u8]> {
        self.ranges.get(n).map(|r| &self.bytes[r.clone()])
    }

    /// All from the `n`-th on.
    pub(crate) fn from(self, n: usize) -> impl Iterator<Item = &'a [u8]> {
        self.ranges[n.min(self.ranges.len())..].iter().map(move |r| &self.bytes[r.clone()])
    }
}

impl Index<usize> for Args<'_> {
    type Output = [u8];

    fn index(&self, n: usize) -> &[u8] {
        &self.bytes[self.ranges[n].clone()]
    }
}

impl Parser {
    /// Looks for one whole command at the start of `input`. `Ok(Some(n))`: it takes the first `n` bytes, see
    /// [`Self::args`]; the next call begins a new command. `Ok(None)`: call again with the same bytes and more.
    pub(crate) fn parse(&mut self, input: &[u8]) -> Result<Option<usize>, Violation> {
        let mut missing = match self.missing {
            Some(n) => n,
            None => {
                self.ranges.clear();
                self.typed = None;
                match input.first() {
                    None => return Ok(None),
                    Some(b'*') => {}
                    Some(_) => return self.parse_typed(input),
                }
                let Some((line, end)) = line(input, 1, "too big mbulk count string")? else {
                    return Ok(None);
                };
                let count = integer(line).filter(|&n| n <= MAX_ARGS as i64);
                let count = count.ok_or_else(|| Violation("invalid multibulk length".into()))?;
                self.offset = end;
                usize::try_from(count).unwrap_or(0)
            }
        };
        while missing > 0 {
            self.missing = Some(missing);
            match input.get(self.offset) {
                None => return Ok(None),
                Some(b'$') => {}
                Some(&other) => {
                    return Err(Violation(format!(
                        "expected '$', got '{}'",
                        char::from(other).escape_default()
                    )));
                }
            }
            let Some((line, start)) = line(input, self.offset + 1, "too big bulk count string")? else {
                return Ok(None);
            };
            let length = integer(line).and_then(|n| usize::try_from(n).ok());
            let length = length.filter(|&n| n <= MAX_COMMAND && start + n <= MAX_COMMAND);
            let length = length.ok_or_else(|| Violation("invalid bulk length".into()))?;
            if input.len() < start + length + 2 {
                return Ok(None);
            }
            self.ranges.push(start..start + length);
            self.offset = start + length + 2;
            missing -= 1;
        }
        self.missing = None;
        Ok(Some(self.offset))
    }

    /// The arguments of the command that [`Self::parse`] found in the same `input`. Empty for an empty line.
    pub(crate) fn args<'a>(&'a self, input: &'a [u8]) -> Args<'a> {
        Args { bytes: self.typed.as_deref().unwrap_or(input), ranges: &self.ranges }
    }

    fn parse_typed(&mut self, input: &[u8]) -> Result<Option<usize>, Violation> {
        let window = &input[..input.len().min(MAX_LINE)];
        let Some(end) = window.iter().position(|&b| b == b'\n') else {
            return if input.len() >= MAX_LINE {
                Err(Violation("too big inline request".into()))
            } else {
                Ok(None)
            };
        };
        let line = input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]);
        let mut words = Vec::with_capacity(line.len());
        self.ranges =
            split(line, &mut words).ok_or_else(|| Violation("unbalanced quotes in request".into()))?;
        self.typed = Some(words);
        Ok(Some(end + 1))
    }
}

/// The line from `start` without its CRLF, and where the next one starts.
fn line<'a>(input: &'a [u8], start: usize, too_long: &str) -> Result<Option<(&'a [u8], usize)>, Violation> {
    let rest = &input[start.min(input.len())..];
    match rest.iter().take(32).position(|&b| b == b'\n') {
        Some(n) => Ok(Some((rest[..n].strip_suffix(b"\r").unwrap_or(&rest[..n]), start + n + 1))),
        None if rest.len() >= 32 => Err(Violation(too_long.into())),
        None => Ok(None),
    }
}

fn integer(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Splits a typed line into words; quotes and escapes as in redis-cli. `None`: a quote is not closed.
fn split(line: &[u8], words: &mut Vec<u8>) -> Option<Vec<Range<usize>>> {
    let mut ranges = Vec::new();
    let mut rest = line.iter().copied().peekable();
    loop {
        while rest.next_if(u8::is_ascii_whitespace).is_some() {}
        if rest.peek().is_none() {
            return Some(ranges);
        }
        let start = words.len();
        while let Some(byte) = rest.next_if(|b| !b.is_ascii_whitespace()) {
            match byte {
                b'"' | b'\'' => {
                    loop {
                        let inner = rest.next()?;
                        if inner == byte {
                            break;
                        }
                        words.push(if inner == b'\\' { escaped(byte, &mut rest)? } else { inner });
                    }
                    if rest.peek().is_some_and(|b| !b.is_ascii_whitespace()) {
                        return None;
                    }
                }
                other => words.push(other),
            }
        }
        ranges.push(start..words.len());
    }
}

fn escaped(quote: u8, rest: &mut std::iter::Peekable<impl Iterator<Item = u8>>) -> Option<u8> {
    if quote == b'\'' {
        return Some(if rest.next_if_eq(&b'\'').is_some() { b'\'' } else { b'\\' });
    }
    Some(match rest.next()? {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        b'x' => {
            let mut digit = || rest.next().and_then(|d| char::from(d).to_digit(16));
            u8::try_from(digit()? * 16 + digit()?).ok()?
        }
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Commands = Vec<Vec<Vec<u8>>>;

    fn all(mut input: &[u8]) -> Result<(Commands, usize), Violation> {
        let (mut parser, mut found) = (Parser::default(), Vec::new());
        while let Some(n) = parser.parse(input)? {
            found.push(parser.args(input).from(0).map(<[u8]>::to_vec).collect());
            input = &input[n..];
        }
        Ok((found, input.len()))
    }

    fn encode(command: &[Vec<u8>]) -> Vec<u8> {
        let mut out = format!("*{}\r\n", command.len()).into_bytes();
        for arg in command {
            out.extend(format!("${}\r\n", arg.len()).bytes());
            out.extend(arg);
            out.extend(b"\r\n");
        }
        out
    }

    #[test]
    fn typed_lines_split_like_a_shell() {
        let (found, rest) = all(b"set k \"a b\\x41\\n\"\r\n\r\nget 'it\\'s'\nPI").unwrap();
        let words = |w: &[&[u8]]| w.iter().map(|w| w.to_vec()).collect::<Vec<_>>();
        assert_eq!(found, [words(&[b"set", b"k", b"a bA\n"]), words(&[]), words(&[b"get", b"it's"])]);
        assert_eq!(rest, 2);
    }

    #[test]
    fn violations_are_worded_like_redis() {
        for (input, words) in [
            (&b"*1\r\n+PING\r\n"[..], "ERR Protocol error: expected '$', got '+'"),
            (b"*9999999\r\n", "ERR Protocol error: invalid multibulk length"),
            (b"*x\r\n", "ERR Protocol error: invalid multibulk length"),
            (b"*1\r\n$-1\r\n", "ERR Protocol error: invalid bulk length"),
            (b"*1\r\n$99999999999\r\n", "ERR Protocol error: invalid bulk length"),
            (b"get \"x\r\n", "ERR Protocol error: unbalanced quotes in request"),
            (b"*11111111111111111111111111111111111", "ERR Protocol error: too big mbulk count string"),
        ] {
            assert_eq!(all(input).unwrap_err().to_string(), words, "{}", input.escape_ascii());
        }
        assert_eq!(all(&vec![b'a'; MAX_LINE]).unwrap_err().0, "too big inline request");
    }

    #[test]
    fn empty_arrays_are_skipped() {
        let (found, rest) = all(b"*0\r\n*-1\r\n*1\r\n$4\r\nPING\r\n").unwrap();
        assert_eq!(found, [vec![], vec![], vec![b"PING".to_vec()]]);
        assert_eq!(rest, 0);
    }

    proptest! {
        #[test]
        fn pieces_make_the_same_commands(
            commands in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 1..5), 1..6),
            cut in 1usize..9,
        ) {
            let bytes: Vec<u8> = commands.iter().flat_map(|c| encode(c)).collect();
            let (mut parser, mut start, mut found) = (Parser::default(), 0, Vec::new());
            for end in (0..bytes.len()).step_by(cut).chain([bytes.len()]) {
                while let Some(n) = parser.parse(&bytes[start..end]).unwrap() {
                    found.push(parser.args(&bytes[start..end]).from(0).map(<[u8]>::to_vec).collect::<Vec<_>>());
                    start += n;
                }
            }
            prop_assert_eq!(found, commands);
            prop_assert_eq!(start, bytes.len());
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(all(&bytes));
        }
    }
}
