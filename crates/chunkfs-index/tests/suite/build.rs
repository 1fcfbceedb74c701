//! Writing an index.

use chunkfs_format::{BlobId, DigestAlgorithm};
use chunkfs_index::{Blob, BuildError, Content, Segment, SegmentChunk};

use crate::fixture::{CHUNK, Fixture, directory, location};

#[test]
fn equal_chunks_resolve_to_the_first_and_unused_ones_are_left_out() {
    let mut fixture = Fixture::new();
    let root = fixture.tree.root();
    let unused_blob = Blob { id: BlobId::of(b"unused"), len: 5 };
    fixture.builder.add_blob(unused_blob).unwrap();
    fixture.chunk(5);
    let used = fixture.chunk(7);
    let id = DigestAlgorithm::Blake3.chunk_id(&1u64.to_le_bytes());
    let elsewhere = location(1, 0, 5);
    let again = fixture.builder.add_chunk(id, 7, elsewhere).unwrap();
    assert_eq!(Some(again), used.chunk.map(|chunk| chunk.index));
    fixture.add(root, b"file", Content::Regular(vec![used]));
    let index = fixture.build();
    assert_eq!((index.chunk_count(), index.blob_count()), (1, 1));
    assert_eq!(index.chunks().next().unwrap().location.offset, CHUNK);
}

/// [F-60]
#[test]
fn the_image_id_depends_on_the_tree_but_not_on_locations() {
    let build = |name: &[u8], offset| {
        let mut fixture = Fixture::new();
        let root = fixture.tree.root();
        let location = location(0, offset, 3);
        let id = DigestAlgorithm::Blake3.chunk_id(b"abc");
        let index = fixture.builder.add_chunk(id, 3, location).unwrap();
        let chunk = Some(SegmentChunk { index, offset: 0 });
        fixture.add(root, name, Content::Regular(vec![Segment { len: 3, chunk }]));
        fixture.build().image_id()
    };
    assert_eq!(build(b"a", 0), build(b"a", 4096));
    assert_ne!(build(b"a", 0), build(b"b", 0));
}

#[test]
fn trees_that_break_the_format_cannot_be_built() {
    let broken = |change: fn(&mut Fixture)| {
        let mut fixture = Fixture::new();
        change(&mut fixture);
        fixture.builder.build(&fixture.tree).unwrap_err()
    };
    let changes: [fn(&mut Fixture); 7] = [
        |f| {
            f.add(f.tree.root(), b"a/b", Content::Fifo);
        },
        |f| {
            f.add(f.tree.root(), b"..", Content::Fifo);
        },
        |f| {
            f.add(f.tree.root(), &[b'x'; 256], Content::Fifo);
        },
        |f| {
            f.add(f.tree.root(), b"link", Content::Symlink(Vec::new()));
        },
        |f| {
            f.add(f.tree.root(), b"link", Content::Symlink(vec![b'x'; 4096]));
        },
        |f| {
            let mut segment = f.chunk(5);
            segment.len = 6;
            f.add(f.tree.root(), b"long", Content::Regular(vec![segment]));
        },
        |f| {
            let mut segment = f.chunk(CHUNK);
            segment.len = 5;
            segment.chunk.as_mut().unwrap().offset = 100;
            f.add(f.tree.root(), b"off-grid", Content::Regular(vec![segment]));
        },
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let error = broken(change);
        assert!(matches!(error, BuildError::Invalid(_)), "{number}: {error}");
    }
}

#[test]
fn a_directory_that_is_its_own_descendant_cannot_be_built() {
    let mut fixture = Fixture::new();
    let root = fixture.tree.root();
    let inner = fixture.add(root, b"inner", directory());
    fixture.link(inner, b"loop", inner);
    assert!(fixture.builder.build(&fixture.tree).is_err());
}

/// [F-59]
#[test]
fn a_65_536th_blob_is_too_many() {
    let mut fixture = Fixture::new();
    for number in 1..65_535u32 {
        let blob = Blob { id: BlobId::of(&number.to_le_bytes()), len: 5 };
        assert_eq!(fixture.builder.add_blob(blob).unwrap().get(), number);
    }
    let error = fixture.builder.add_blob(Blob { id: BlobId::of(b"one more"), len: 5 }).unwrap_err();
    assert_eq!(error, BuildError::TooMany { table: "blob" });
    let root = fixture.tree.root();
    let id = DigestAlgorithm::Blake3.chunk_id(b"last");
    let index = fixture.builder.add_chunk(id, 5, location(65_534, 0, 5)).unwrap();
    let chunk = Some(SegmentChunk { index, offset: 0 });
    fixture.add(root, b"file", Content::Regular(vec![Segment { len: 5, chunk }]));
    assert_eq!(fixture.build().blob_count(), 1);
}

#[test]
fn a_chunk_in_a_blob_that_was_not_added_cannot_be_built() {
    let mut fixture = Fixture::new();
    let id = DigestAlgorithm::Blake3.chunk_id(b"lost");
    let index = fixture.builder.add_chunk(id, 5, location(1, 0, 5)).unwrap();
    let chunk = Some(SegmentChunk { index, offset: 0 });
    fixture.add(fixture.tree.root(), b"f", Content::Regular(vec![Segment { len: 5, chunk }]));
    assert!(matches!(fixture.builder.build(&fixture.tree), Err(BuildError::Invalid(_))));
}
