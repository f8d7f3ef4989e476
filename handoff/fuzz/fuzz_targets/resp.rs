//! The modules of demo-server, which is a program and no library.
#![no_main]
#![expect(dead_code, unused_imports, reason = "the rest of demo-server uses it")]

#[path = "../../../demo-server/src/log/mod.rs"]
mod log;
#[path = "../../../demo-server/src/operation.rs"]
mod operation;
#[path = "../../../demo-server/src/properties.rs"]
mod properties;
#[path = "../../../demo-server/src/protocol/mod.rs"]
mod protocol;
#[path = "../../../demo-server/src/store.rs"]
mod store;

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::resp(data));
