//! Indexes of every format version that was ever written stay readable.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use chunkfs_format::{ChunkSize, DigestAlgorithm};
use chunkfs_index::{Attributes, Index, IndexBuilder, Tree};

use crate::fixture::everything;
use crate::hostile::walk;
use crate::listing::listing;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden")
}

/// What `chunkfs-format` checks.
const VECTORS: [&str; 2] = ["v1-chunks.txt", "v1-packs.txt"];

#[test]
fn every_golden_index_opens_and_lists_as_it_always_did() {
    let entries = std::fs::read_dir(folder()).unwrap();
    let names: BTreeSet<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let mut rest = names.clone();
    let mut count = 0;
    for name in names.iter().filter(|name| name.ends_with(".index")) {
        let bytes = std::fs::read(folder().join(name)).unwrap();
        let index = Index::open(bytes.into()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected = name.replace(".index", ".listing");
        let text = std::fs::read_to_string(folder().join(&expected)).unwrap();
        assert_eq!(listing(&index), text, "{name}");
        walk(&index);
        assert!(name.starts_with("v1-"), "{name} names its format version");
        assert!(rest.remove(name) && rest.remove(&expected));
        count += 1;
    }
    assert_eq!(count, 2);
    VECTORS.iter().for_each(|name| assert!(rest.remove(*name), "{name} is missing"));
    assert!(rest.is_empty(), "no test reads {rest:?}");
}

/// [F-1] [F-60] Equal trees give equal bytes, so that equal images have equal ids everywhere.
///
/// After a wanted change of the writer, add golden files under new names and compare with those;
/// `CHUNKFS_WRITE_GOLDEN=folder` writes what the builder makes today.
#[test]
fn the_builder_still_writes_the_golden_bytes() {
    let sixteen_mib = ChunkSize::new(16 << 20).unwrap();
    let least = IndexBuilder::new(DigestAlgorithm::Sha256, sixteen_mib);
    let least = least.build(&Tree::new(Attributes::default())).unwrap();
    for (name, index, image_id) in
        [("v1-everything", everything().build(), EVERYTHING_ID), ("v1-least", least, LEAST_ID)]
    {
        if let Some(folder) = std::env::var_os("CHUNKFS_WRITE_GOLDEN").map(PathBuf::from) {
            let write =
                |end, bytes: &[u8]| std::fs::write(folder.join(format!("{name}{end}")), bytes);
            write(".index", index.as_bytes()).unwrap();
            write(".listing", listing(&index).as_bytes()).unwrap();
            println!("{name}: {}", index.image_id());
            continue;
        }
        let golden = std::fs::read(folder().join(format!("{name}.index"))).unwrap();
        assert!(index.as_bytes() == &golden[..], "the bytes of {name} differ");
        assert_eq!(index.image_id().to_string(), image_id);
    }
}

const EVERYTHING_ID: &str =
    "blake3:2bf314adac073bd25faac728c682e8f86a99bff7adda18d4f426e1b57a841304";
const LEAST_ID: &str = "blake3:ce2bc5229667b566f325ad74fa888f5d6c9e457b55bd7c012ec746509407cc55";
