//! Opens arbitrary bytes as an index and reads all of what opens.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/chunkfs-index/tests/suite/hostile.rs"]
mod hostile;

fuzz_target!(|input: &[u8]| hostile::open_fuzz_input(input));
