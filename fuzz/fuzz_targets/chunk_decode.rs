//! Decodes arbitrary bytes as a stored chunk.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/chunkfs-format/tests/suite/hostile.rs"]
mod hostile;

fuzz_target!(|input: &[u8]| hostile::decode_fuzz_input(input));
