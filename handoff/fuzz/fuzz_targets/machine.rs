#![no_main]

#[path = "../../tests/properties/machine.rs"]
mod machine;
#[path = "../../tests/properties/source.rs"]
#[expect(dead_code, reason = "the other targets use the rest")]
mod source;
#[path = "../../tests/properties/wild.rs"]
mod wild;

#[path = "../../tests/tables/incumbent.rs"]
mod incumbent;
#[path = "../../tests/tables/successor.rs"]
mod successor;
#[path = "../../tests/tables/supervisor.rs"]
mod supervisor;
#[path = "../../tests/tables/table.rs"]
mod table;
#[path = "../../tests/tables/words.rs"]
mod words;

use table::Table;

libfuzzer_sys::fuzz_target!(|data: &[u8]| machine::check(data));
