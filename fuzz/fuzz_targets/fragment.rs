//! Decodes arbitrary bytes as a fragment, as they are and as the content of a good frame.
#![no_main]

use chunkfs_convert::verify_fragment;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let _ = verify_fragment(input);
    let compressed = zstd::bulk::compress(input, 1).expect("there is enough memory");
    let _ = verify_fragment(&compressed);
});
