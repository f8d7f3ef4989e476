//! Every dialect with every other one, message by message.

use crate::samples::{messages, stamped};
use handoff::wire::dialect::{Dialect, Heard};
use handoff::wire::{Decoded, Decoder, Frame, HEADER, Message, WireError, version};

fn is_frozen(message: &Message) -> bool {
    matches!(message, Message::Hello(_) | Message::HelloAck(_) | Message::Refused(_))
}

fn frames(bytes: &[u8], listener: Dialect) -> (Vec<Decoded>, Heard) {
    let mut decoder = Decoder::of(listener);
    decoder.push(bytes);
    let mut frames = Vec::new();
    while let Some(frame) = decoder.pull().expect("is understood") {
        frames.push(frame);
    }
    assert!(!decoder.mid_frame());
    (frames, decoder.heard())
}

#[test]
fn everybody_understands_everybody() {
    for speaker in Dialect::ALL {
        for listener in Dialect::ALL {
            let agreed = speaker.highest().min(listener.highest());
            for spoken in version::MIN..=agreed {
                for (name, message) in messages() {
                    let frozen = is_frozen(&message);
                    let bytes = Frame::encode_in(speaker, &stamped(message.clone()), spoken).expect(&name);
                    let (frames, heard) = frames(&bytes, listener);
                    let pair = format!("{name} in {spoken} by {speaker:?} to {listener:?}");
                    assert_eq!(frames[0], Decoded::Frame(stamped(message)), "{pair}");
                    let strange = frames[1..].iter().all(|f| matches!(f, Decoded::Unknown { .. }));
                    assert!(strange, "{pair}: {frames:?}");
                    let critical = |f: &&Decoded| matches!(f, Decoded::Unknown { critical: true, .. });
                    let begins = ["Warmed", "PrepareHandoff"].contains(&name.as_str());
                    let insists = speaker == Dialect::Stranger && begins;
                    assert_eq!(frames.iter().filter(critical).count(), usize::from(insists), "{pair}");
                    let (new, later) = (speaker != Dialect::One, listener != Dialect::One);
                    assert_eq!(heard.note, new && later, "{pair}");
                    assert_eq!(heard.field, spoken > 1 && !frozen, "{pair}");
                    let future = matches!(speaker, Dialect::Future | Dialect::Stranger);
                    assert_eq!(heard.skipped, future || new && !later, "{pair}");
                }
            }
        }
    }
}

/// What this build says today is what it says in every release: the golden files are of that.
#[test]
fn this_build_says_nothing_more() {
    for (_, message) in messages() {
        let plain = Frame::encode(&stamped(message.clone()), 1);
        assert_eq!(plain, Frame::encode_in(Dialect::One, &stamped(message.clone()), 1));
        let next = Frame::encode_in(Dialect::Two, &stamped(message), 1).expect("within the limits");
        assert!(next.starts_with(&plain.expect("within the limits")), "a later one says it, too");
    }
}

#[test]
fn a_version_that_was_not_agreed_on_is_an_error_on_both_sides() {
    let commit = stamped(Message::Commit);
    for (speaker, listener) in [(Dialect::Two, Dialect::One), (Dialect::Future, Dialect::Two)] {
        let version = speaker.highest();
        let bytes = Frame::encode_in(speaker, &commit, version).expect("it speaks that");
        let mut decoder = Decoder::of(listener);
        decoder.push(&bytes);
        let wrong = WireError::Version { message: "Commit", version };
        assert_eq!(decoder.pull(), Err(wrong.clone()));
        assert_eq!(Frame::encode_in(listener, &commit, version), Err(wrong));
    }
}

#[test]
fn fields_that_are_none_are_named() {
    let plain = Frame::encode_in(Dialect::Two, &stamped(Message::Heartbeat { progress: 1 }), 2)
        .expect("within the limits");
    let length = plain.iter().take(4).rev().fold(0, |length, byte| length << 8 | usize::from(*byte));
    let frame = &plain[..length];
    let says = |change: &dyn Fn(&mut Vec<u8>), text: &str| {
        let mut bytes = frame.to_vec();
        change(&mut bytes);
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        let mut decoder = Decoder::of(Dialect::Two);
        decoder.push(&bytes);
        let error = decoder.pull().expect_err(text).to_string();
        assert!(error.contains(text), "{error:?} does not say {text:?}");
    };
    says(&|bytes| bytes.truncate(HEADER + 1), "ends before its fields");
    says(&|bytes| bytes[frame.len() - 1] = 0xff, "its fields are longer than it is");
    says(&|bytes| bytes[frame.len() - 2] -= 1, "ends after");
    // one field less: it would be a part of the payload
    says(&|bytes| (bytes[frame.len() - 2], bytes[frame.len() - 1]) = (0, 0), "12 bytes follow the payload");
}
