//! A proposal, and so a claim: read one way or not at all.

use handoff::claim::{MAX_PROPOSAL, Proposal};

pub(crate) fn check(data: &[u8]) {
    for bytes in [data, &sealed(*b"HANDPROP", data)] {
        if let Ok(proposal) = Proposal::decode(bytes) {
            assert!(bytes.len() <= MAX_PROPOSAL);
            assert_eq!(proposal.encode(), bytes, "{proposal:?}");
            drop(proposal.executable_text());
        }
    }
    // cut, it is no other proposal
    if let Some((_, rest)) = data.split_last() {
        assert!(Proposal::decode(data).is_err() || Proposal::decode(rest).is_err());
    }
}

/// A payload with everything right around it: what a fuzzer would not come by.
pub(crate) fn sealed(magic: [u8; 8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = magic.to_vec();
    bytes.extend_from_slice(&1_u16.to_le_bytes());
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}
