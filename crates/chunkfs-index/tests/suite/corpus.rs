//! The seeds of the fuzz targets, and inputs that once failed, without a fuzzer.

use std::path::{Path, PathBuf};

use chunkfs_index::Index;

use crate::hostile::{open_fuzz_input, open_with_front};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn replay(target: &str, run: impl Fn(&[u8])) {
    let mut count = 0;
    for entry in std::fs::read_dir(root().join("fuzz/corpus").join(target)).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        run(&std::fs::read(path).unwrap());
        count += 1;
    }
    assert!(count > 0, "{target} has seeds");
}

/// [F-64]
#[test]
fn fuzz_seeds_do_not_panic() {
    let good = std::fs::read(root().join("testdata/golden/v1-everything.index")).unwrap();
    replay("index_open", open_fuzz_input);
    replay("superblock", |input| open_with_front(&good, input));
    replay("index_transfer", |input| drop(Index::decompress(input, 1 << 20)));
}
