#![no_main]

#[path = "../../tests/properties/source.rs"]
#[expect(dead_code, reason = "the other targets use the rest")]
mod source;
#[path = "../../tests/properties/wire.rs"]
mod wire;

libfuzzer_sys::fuzz_target!(|data: &[u8]| wire::check(data));
