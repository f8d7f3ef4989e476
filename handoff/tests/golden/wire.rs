use crate::Golden;
use crate::samples::{messages, stamped};
use handoff::wire::{Decoded, Decoder, Frame, Message};
use std::collections::BTreeSet;

#[test]
fn frames() {
    let mut golden = Golden::of("wire");
    for (name, message) in messages() {
        let frame = stamped(message);
        let bytes = golden.check(&name, &Frame::encode(&frame, 1).expect("samples fit their limits"));
        let mut decoder = Decoder::new();
        decoder.push(&bytes);
        assert_eq!(decoder.pull(), Ok(Some(Decoded::Frame(frame))));
    }
    golden.finish();
}

#[test]
fn every_message_has_a_sample_and_a_number_of_its_own() {
    let numbers: BTreeSet<u16> = messages().iter().map(|(_, message)| message.kind()).collect();
    assert_eq!(numbers, (1..=29).collect());
    for (_, message) in messages() {
        assert_eq!(Message::name_of(message.kind()), Some(message.name()));
    }
    assert_eq!(Message::name_of(30), None);
    assert_eq!(Message::name_of(0), None);
}

#[test]
fn what_may_be_skipped_changes_no_state() {
    let skippable: BTreeSet<_> =
        messages().iter().filter(|(_, m)| !m.is_critical()).map(|(_, m)| m.name()).collect();
    assert_eq!(skippable, BTreeSet::from(["SealProgress", "Heartbeat", "Unhealthy", "Canary", "Refused"]));
}

#[test]
fn parked_connections_bring_one_descriptor_each() {
    for (_, message) in messages() {
        let (low, high) = message.descriptors().into_inner();
        assert!(low <= high && high <= handoff::wire::MAX_DESCRIPTORS, "{}", message.name());
        if let Message::Parked { entries, .. } = &message {
            assert_eq!((low, high), (entries.len(), entries.len()));
        }
    }
}
