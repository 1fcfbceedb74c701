//! Decompresses arbitrary bytes as the transferred form of an index.
#![no_main]

use chunkfs_index::Index;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(index) = Index::decompress(input, 1 << 20) {
        let again = index.compress().expect("there is enough memory");
        let again = Index::decompress(&again, 1 << 20).expect("what was compressed opens");
        assert_eq!(again.as_bytes(), index.as_bytes());
    }
});
