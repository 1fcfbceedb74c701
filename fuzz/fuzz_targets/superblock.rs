//! Replaces the superblock and the section table of a good index.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/chunkfs-index/tests/suite/hostile.rs"]
mod hostile;

const GOOD: &[u8] = include_bytes!("../../testdata/golden/v1-everything.index");

fuzz_target!(|input: &[u8]| hostile::open_with_front(GOOD, input));
