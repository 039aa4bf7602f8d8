//! A body that the look takes for one message or a batch says the same to a full parser: method, id and name.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| portcullis::fuzz_json_peek(data));
