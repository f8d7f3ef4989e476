//! Bytes that nobody wrote on purpose: nothing panics, nothing is read two ways.

use crate::samples::{messages, proposal, records, stamped};
use handoff::claim::{FileName, Proposal};
use handoff::ids::{Digest, Epoch, HandoffId, InstanceId, ShardDigest};
use handoff::journal::{Journal, MemoryStorage, replay};
use handoff::wire::{Decoded, Decoder, Frame, Message, ParkedEntry, Stamped, WireError};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// All that comes out of a stream, cut into these pieces.
fn decoded<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Decoded>, Option<WireError>) {
    let mut decoder = Decoder::new();
    let mut frames = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.pull() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

fn pieces<'a>(bytes: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.sort_unstable();
    let (mut pieces, mut rest, mut at) = (Vec::new(), bytes, 0);
    for cut in cuts {
        let (piece, after) = rest.split_at(cut - at);
        pieces.push(piece);
        (rest, at) = (after, cut);
    }
    pieces.push(rest);
    pieces
}

fn message() -> impl Strategy<Value = Message> {
    let digest = (any::<u32>(), any::<u64>(), vec((any::<u64>(), any::<u64>(), any::<u64>()), 0..1024));
    let digest = digest.prop_map(|(format, generation, shards)| {
        let shard = |(revision, bytes, checksum)| ShardDigest { revision, bytes, checksum };
        Digest { format, generation, shards: shards.into_iter().map(shard).collect() }
    });
    let entry = vec(any::<u8>(), 0..200).prop_flat_map(|bytes| {
        (bytes.len() as u32..=1 << 20).prop_map(move |total| ParkedEntry { total, bytes: bytes.clone() })
    });
    prop_oneof![
        select(messages()).prop_map(|(_, message)| message),
        ("\\PC{0,200}", any::<u64>()).prop_map(|(loaded, revision)| Message::Warmed { loaded, revision }),
        "\\PC{0,200}".prop_map(|reason| Message::Abort { reason }),
        (digest, any::<u64>())
            .prop_map(|(digest, connections)| Message::SealComplete { digest, connections }),
        (any::<u64>(), vec(entry, 0..253)).prop_map(|(first, entries)| Message::Parked { first, entries }),
        (any::<u64>(), vec(any::<u8>(), 0..65_000))
            .prop_map(|(index, bytes)| Message::ParkedMore { index, bytes }),
    ]
}

fn frame() -> impl Strategy<Value = Stamped> {
    (any::<u128>(), any::<u64>(), message()).prop_map(|(handoff, epoch, message)| Stamped {
        handoff: HandoffId(handoff),
        epoch: Epoch(epoch),
        message,
    })
}

fn stream(frames: &[Stamped]) -> Vec<u8> {
    frames.iter().flat_map(|frame| Frame::encode(frame, 1).expect("within the limits")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frames_read_back_however_the_stream_is_cut(
        frames in vec(frame(), 0..6),
        cuts in vec(any::<Index>(), 0..20),
    ) {
        let bytes = stream(&frames);
        let (read, error) = decoded(pieces(&bytes, &cuts));
        prop_assert_eq!(error, None);
        prop_assert_eq!(read, frames.into_iter().map(Decoded::Frame).collect::<Vec<_>>());
    }

    #[test]
    fn damaged_streams_are_read_the_same_however_they_are_cut(
        frames in vec(frame(), 1..4),
        damage in vec((any::<Index>(), any::<u8>()), 1..8),
        cuts in vec(any::<Index>(), 0..20),
    ) {
        let mut bytes = stream(&frames);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let whole = decoded([&bytes[..]]);
        prop_assert_eq!(decoded(pieces(&bytes, &cuts)), whole.clone());
        prop_assert_eq!(decoded(bytes.chunks(1)), whole);
    }

    #[test]
    fn arbitrary_bytes_are_an_error_at_most(
        kind in 0..30_u16,
        payload in vec(any::<u8>(), 0..400),
        garbage in vec(any::<u8>(), 0..400),
    ) {
        let (_, _) = decoded([&garbage[..]]);
        let _ = Proposal::decode(&garbage);
        let _ = replay(&garbage);
        let mut bytes = ((34 + payload.len()) as u32).to_le_bytes().to_vec();
        bytes.extend_from_slice(&1_u16.to_le_bytes());
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&[0; 26]);
        bytes.extend_from_slice(&payload);
        let (read, error) = decoded([&bytes[..]]);
        prop_assert!(read.len() + usize::from(error.is_some()) == 1);
        // whatever is read is written as the same bytes again: nothing has two spellings (but unknown fields)
        if let Some(Decoded::Frame(frame)) = read.first() && kind > 3 {
            let mut again = Frame::encode(frame, 1).expect("what was read is within the limits");
            again[8] = 0;
            prop_assert_eq!(again, bytes);
        }
    }

    #[test]
    fn damaged_journals_give_a_beginning_of_what_was_written(
        damage in vec((any::<Index>(), any::<u8>()), 1..4),
        cut in any::<Index>(),
    ) {
        let mut journal = Journal::open(MemoryStorage::default()).expect("memory can be opened");
        let all: Vec<_> = records().into_iter().map(|(_, record)| record).collect();
        for record in &all {
            journal.append(record).expect("memory has room");
        }
        let mut bytes = journal.into_storage().bytes;
        bytes.truncate(cut.index(bytes.len()) + 1);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(replayed) = replay(&bytes) {
            prop_assert!(all.starts_with(&replayed.records));
        }
    }

    #[test]
    fn names_have_one_spelling(text in "(prop|epoch)\\.[0-9a-f-]{0,40}(\\.[ONX])?", id in any::<u128>()) {
        if let Some(name) = FileName::parse(&text) {
            prop_assert_eq!(name.to_string(), text);
        }
        let name = FileName::Proposal(handoff::claim::ProposalName::Cold(InstanceId(id)));
        prop_assert_eq!(FileName::parse(&name.to_string()), Some(name));
    }
}

#[test]
fn every_cut_and_every_flipped_bit_of_every_sample() {
    for (name, message) in messages() {
        let bytes = Frame::encode(&stamped(message), 1).expect("samples fit their limits");
        for length in 0..bytes.len() {
            assert_eq!(decoded([&bytes[..length]]), (vec![], None), "{name} cut at {length}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let _ = decoded([&bytes[..]]);
        }
    }
    let bytes = proposal().encode();
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(Proposal::decode(&bytes).is_err(), "bit {bit}");
    }
}
