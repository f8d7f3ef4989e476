#![no_main]

#[path = "../../tests/properties/proposal.rs"]
#[expect(dead_code, reason = "the other targets use the rest")]
mod proposal;
#[path = "../../tests/properties/claim.rs"]
mod claim;

libfuzzer_sys::fuzz_target!(|data: &[u8]| claim::check(data));
