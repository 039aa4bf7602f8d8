//! What a target sends: the same stream gives the same responses, in whatever pieces it arrives, and nothing panics.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: (&[u8], &[u8], bool)| {
    let (bytes, sizes, to_head) = data;
    portcullis::upstream::fuzz_h1_response(bytes, sizes, to_head);
});
