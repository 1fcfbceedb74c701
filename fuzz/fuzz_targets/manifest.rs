//! Parses arbitrary bytes as the manifest of a converted image.
#![no_main]

use chunkfs_fetch::ConvertedManifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(manifest) = ConvertedManifest::parse(input) else { return };
    for descriptor in manifest.descriptors() {
        descriptor.blob().expect("parsing checked every digest");
    }
    let json = manifest.to_json();
    assert_eq!(ConvertedManifest::parse(&json).expect("what was written parses"), manifest);
});
