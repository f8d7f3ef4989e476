#![no_main]

#[path = "../../tests/properties/proposal.rs"]
mod proposal;

libfuzzer_sys::fuzz_target!(|data: &[u8]| proposal::check(data));
