//! A stream of bytes on the wire: read one way, however it is cut, by whoever listens.

use crate::source::pieces;
use handoff::wire::dialect::Dialect;
use handoff::wire::version::MAX;
use handoff::wire::{Decoded, Decoder, Frame, HEADER, MAX_FRAME, Message, Stamped, WireError, escape};

pub(crate) fn check(data: &[u8]) {
    for dialect in Dialect::ALL {
        let whole = decoded(dialect, [data]);
        assert_eq!(decoded(dialect, pieces(data)), whole, "cut in pieces");
        assert_eq!(decoded(dialect, data.chunks(1)), whole, "byte by byte");
        let (frames, _, position) = whole;
        assert!(position <= data.len() as u64, "more was read than is there");
        for frame in &frames {
            if let Decoded::Frame(frame) = frame {
                reads_back(dialect, frame);
            }
        }
        if dialect == Dialect::One {
            has_one_spelling(data, &frames);
        }
    }
    if let Ok(text) = str::from_utf8(data) {
        let safe = escape(text);
        assert_eq!(escape(&safe), safe, "escaped twice");
    }
}

fn decoded<'a>(
    dialect: Dialect,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Decoded>, Option<WireError>, u64) {
    let (mut decoder, mut frames) = (Decoder::of(dialect), Vec::new());
    for piece in pieces {
        decoder.push(piece);
        loop {
            assert!(decoder.missing() <= MAX_FRAME, "more is asked for than a frame may have");
            match decoder.pull() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.pull(), Err(error.clone()), "a broken stream stays broken");
                    // where the rest of the error shows depends on nothing but the bytes
                    return (frames, Some(error), decoder.position());
                }
            }
        }
        assert!(decoder.missing() > 0, "a frame that is here whole was not given");
    }
    (frames, None, decoder.position())
}

/// Whatever was read can be said again, and is read as the same.
fn reads_back(dialect: Dialect, frame: &Stamped) {
    let name = frame.message.name();
    for version in 1..=dialect.highest() {
        let bytes = Frame::encode_in(dialect, frame, version);
        if version > MAX && matches!(bytes, Err(WireError::Limit { .. })) {
            // no room for what this version adds
            continue;
        }
        let bytes = bytes.unwrap_or_else(|e| panic!("{name} cannot be said again: {e}"));
        let (frames, error, _) = decoded(dialect, [&bytes[..]]);
        assert_eq!(error, None, "{name}");
        assert_eq!(frames.first(), Some(&Decoded::Frame(frame.clone())), "{name}");
    }
}

/// But for flags and unknown fields of the frozen messages there is one way to write a frame.
fn has_one_spelling(data: &[u8], frames: &[Decoded]) {
    let mut rest = data;
    for frame in frames {
        let length = rest.iter().take(4).rev().fold(0, |length, byte| length << 8 | usize::from(*byte));
        let (bytes, after) = rest.split_at(length);
        rest = after;
        let Decoded::Frame(frame) = frame else { continue };
        let frozen = matches!(frame.message, Message::Hello(_) | Message::HelloAck(_) | Message::Refused(_));
        if !frozen {
            let again = Frame::encode(frame, MAX).expect("was said again already");
            assert_eq!(again[..8], bytes[..8], "{}", frame.message.name());
            assert_eq!(again[10..HEADER], bytes[10..HEADER], "{}", frame.message.name());
            assert_eq!(again[HEADER..], bytes[HEADER..], "{}", frame.message.name());
        }
    }
}
