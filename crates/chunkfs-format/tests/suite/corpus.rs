//! The seeds of the fuzz target for chunks, without a fuzzer.

use std::path::Path;

use crate::hostile::decode_fuzz_input;

/// [F-6] [F-11]
#[test]
fn fuzz_seeds_decode_to_what_they_should_or_not_at_all() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/chunk_decode");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        decode_fuzz_input(&std::fs::read(path).unwrap());
        count += 1;
    }
    assert!(count >= 5, "there are seeds");
}
