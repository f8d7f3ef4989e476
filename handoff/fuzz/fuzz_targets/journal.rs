#![no_main]

#[path = "../../tests/properties/source.rs"]
#[expect(dead_code, reason = "the other targets use the rest")]
mod source;
#[path = "../../tests/properties/journal.rs"]
mod journal;

libfuzzer_sys::fuzz_target!(|data: &[u8]| journal::check(data));
