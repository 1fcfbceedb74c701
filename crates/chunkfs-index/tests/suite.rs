//! Public behaviour of the index: what is built is read, and hostile bytes are rejected.

use std::collections::BTreeMap;

use bytes::Bytes;
use chunkfs_format::{BlobId, ChunkSize, Codec, DigestAlgorithm};
use chunkfs_index::{
    Attributes, Blob, BuildError, Content, Device, FileKind, INDEX_LEN_MAX, Index, IndexBuilder,
    InodeIndex, Location, Node, NodeId, OpenError, PieceSource, Segment, SegmentChunk, Timestamp,
    Tree,
};

const CHUNK: u64 = 64 << 10;

/// Builds trees whose files have chunks with made-up ids.
struct Fixture {
    builder: IndexBuilder,
    tree: Tree,
    next: u64,
}

impl Fixture {
    fn new() -> Self {
        let chunk_size = ChunkSize::new(CHUNK).unwrap();
        let mut builder = IndexBuilder::new(DigestAlgorithm::Blake3, chunk_size);
        builder
            .add_blob(Blob {
                id: BlobId::of(b"blob"),
                len: 1 << 40,
            })
            .unwrap();
        Self {
            builder,
            tree: Tree::new(attributes(0o755)),
            next: 0,
        }
    }

    fn chunk(&mut self, len: u64) -> Segment {
        let id = DigestAlgorithm::Blake3.chunk_id(&self.next.to_le_bytes());
        let location = Location {
            blob: chunkfs_index::BlobIndex::new(0),
            offset: self.next * CHUNK,
            stored_len: len as u32,
            codec: Codec::Raw,
        };
        self.next += 1;
        let index = self.builder.add_chunk(id, len as u32, location).unwrap();
        Segment {
            len,
            chunk: Some(SegmentChunk { index, offset: 0 }),
        }
    }

    fn file(&mut self, len: u64) -> Content {
        let full = (0..len / CHUNK).map(|_| CHUNK);
        let lens: Vec<u64> = full
            .chain((!len.is_multiple_of(CHUNK)).then_some(len % CHUNK))
            .collect();
        Content::Regular(lens.into_iter().map(|len| self.chunk(len)).collect())
    }

    fn add(&mut self, directory: NodeId, name: &[u8], content: Content) -> NodeId {
        let node = self.tree.add(Node {
            attributes: attributes(0o644),
            content,
        });
        self.link(directory, name, node);
        node
    }

    fn link(&mut self, directory: NodeId, name: &[u8], node: NodeId) {
        self.tree
            .children_mut(directory)
            .unwrap()
            .insert(name.to_vec(), node);
    }

    fn build(self) -> Index {
        self.builder.build(&self.tree).unwrap()
    }
}

fn attributes(permissions: u16) -> Attributes {
    Attributes {
        permissions,
        ..Attributes::default()
    }
}

/// A tree that has everything that a tree can have.
fn everything() -> Fixture {
    let mut fixture = Fixture::new();
    let root = fixture.tree.root();
    let usr = fixture.add(root, b"usr", Content::Directory(BTreeMap::new()));
    let bin = fixture.add(usr, b"bin", Content::Directory(BTreeMap::new()));
    let content = fixture.file(3 * CHUNK + 5);
    let big = fixture.add(bin, b"big", content);
    fixture.link(root, b"also-big", big);
    fixture.add(root, b"empty", Content::Regular(Vec::new()));
    fixture.add(
        root,
        &[0xff; 255],
        Content::Symlink(b"usr/bin/big".to_vec()),
    );
    fixture.add(root, b"new\nline", Content::Fifo);
    fixture.add(root, b"socket", Content::Socket);
    fixture.add(
        root,
        b"tty",
        Content::CharDevice(Device {
            major: 5,
            minor: 70_000,
        }),
    );
    fixture.add(
        root,
        b"disk",
        Content::BlockDevice(Device { major: 8, minor: 1 }),
    );
    let first = fixture.chunk(CHUNK);
    let last = fixture.chunk(10);
    let hole = Segment {
        len: 1 << 33,
        chunk: None,
    };
    let sparse = fixture.add(root, b"sparse", Content::Regular(vec![first, hole, last]));
    let sparse = &mut fixture.tree.node_mut(sparse).attributes;
    sparse.uid = 3_000_000_000;
    sparse.gid = 70_000;
    sparse.permissions = 0o7777;
    sparse.mtime = Timestamp {
        seconds: -2,
        nanos: 999_999_999,
    };
    sparse.xattrs.insert(b"user.empty".to_vec(), Vec::new());
    sparse
        .xattrs
        .insert(b"security.capability".to_vec(), vec![0, 1, 0xff]);
    fixture
}

#[test]
fn everything_that_was_built_is_read() {
    let index = everything().build();
    let get = |path: &[u8]| index.lookup_path(path).unwrap();
    assert_eq!(index.root().link_count, 3);
    assert_eq!(get(b"/usr").link_count, 3);
    assert_eq!(get(b"usr/bin/big"), get(b"/also-big"));
    assert_eq!(
        (get(b"also-big").link_count, get(b"also-big").len),
        (2, 3 * CHUNK + 5)
    );
    assert_eq!(get(b"empty").len, 0);
    assert_eq!(
        index.symlink_target(&get(&[0xff; 255])),
        Some(&b"usr/bin/big"[..])
    );
    assert_eq!(get(b"new\nline").kind, FileKind::Fifo);
    assert_eq!(get(b"socket").kind, FileKind::Socket);
    assert_eq!(
        get(b"tty").device,
        Device {
            major: 5,
            minor: 70_000
        }
    );
    assert_eq!(get(b"disk").mode(), 0o060644);
    let sparse = get(b"sparse");
    assert_eq!(
        (sparse.uid, sparse.gid, sparse.permissions),
        (3_000_000_000, 70_000, 0o7777)
    );
    assert_eq!(
        sparse.mtime,
        Timestamp {
            seconds: -2,
            nanos: 999_999_999
        }
    );
    let xattrs: Vec<_> = index
        .xattrs(&sparse)
        .map(|xattr| (xattr.name, xattr.value))
        .collect();
    assert_eq!(
        xattrs,
        [
            (&b"security.capability"[..], &[0, 1, 0xff][..]),
            (&b"user.empty"[..], &[][..])
        ]
    );
    let names: Vec<_> = index
        .dirents(&index.root(), 0)
        .map(|dirent| dirent.name)
        .collect();
    assert!(names.is_sorted());
    assert_eq!(names.len(), 9);
}

#[test]
fn paths_need_no_slash_and_follow_dots_but_no_links() {
    let index = everything().build();
    let bin = index.lookup_path(b"/usr/bin").unwrap();
    for path in [
        &b"usr/bin"[..],
        b"usr/bin/",
        b"//usr/./bin",
        b"usr/bin/../bin",
        b"../usr/bin",
    ] {
        assert_eq!(index.lookup_path(path), Some(bin), "{path:?}");
    }
    for path in [
        &b"usr/bin/none"[..],
        b"empty/",
        b"empty/x",
        b"empty/..",
        b"usr/bi",
    ] {
        assert_eq!(index.lookup_path(path), None, "{path:?}");
    }
    assert_eq!(index.lookup_path(b""), Some(index.root()));
    assert_eq!(bin.parent(), index.lookup_path(b"usr").unwrap().index);
}

#[test]
fn inode_numbers_round_trip() {
    assert_eq!(InodeIndex::ROOT.ino(), 1);
    for ino in [1, 2, 1 << 32] {
        assert_eq!(InodeIndex::from_ino(ino).unwrap().ino(), ino);
    }
    assert_eq!(InodeIndex::from_ino(0), None);
    assert_eq!(InodeIndex::from_ino((1 << 32) + 1), None);
}

#[test]
fn consecutive_chunks_are_one_extent_and_ranges_are_cut_exactly() {
    let index = everything().build();
    let big = index.lookup_path(b"also-big").unwrap();
    let pieces = |offset, len| -> Vec<(u64, u64, u32, u32)> {
        let pieces = index.pieces(&big, offset, len);
        pieces
            .map(|piece| match piece.source {
                PieceSource::Chunk { index, offset } => {
                    (piece.file_offset, piece.len, index.get(), offset)
                }
                PieceSource::Hole => panic!("{piece:?}"),
            })
            .collect()
    };
    assert_eq!(pieces(0, 1), [(0, 1, 0, 0)]);
    assert_eq!(
        pieces(CHUNK - 1, 2),
        [(CHUNK - 1, 1, 0, CHUNK as u32 - 1), (CHUNK, 1, 1, 0)]
    );
    assert_eq!(pieces(3 * CHUNK, 100), [(3 * CHUNK, 5, 3, 0)]);
    assert_eq!(pieces(0, u64::MAX).len(), 4);
    assert_eq!(pieces(3 * CHUNK + 5, 1), []);
    assert_eq!(pieces(u64::MAX, u64::MAX), []);
    assert_eq!(pieces(7, 0), []);
}

#[test]
fn holes_are_pieces_too() {
    let index = everything().build();
    let sparse = index.lookup_path(b"sparse").unwrap();
    let pieces: Vec<_> = index.pieces(&sparse, CHUNK - 1, (1 << 33) + 2).collect();
    assert_eq!(pieces.len(), 3);
    assert_eq!(
        (pieces[1].len, pieces[1].source),
        (1 << 33, PieceSource::Hole)
    );
    assert_eq!(pieces[2].len, 1);
}

#[test]
fn equal_chunks_resolve_to_the_first_and_unused_ones_are_left_out() {
    let mut fixture = Fixture::new();
    let root = fixture.tree.root();
    let unused_blob = Blob {
        id: BlobId::of(b"unused"),
        len: 5,
    };
    fixture.builder.add_blob(unused_blob).unwrap();
    fixture.chunk(5);
    let used = fixture.chunk(7);
    let id = DigestAlgorithm::Blake3.chunk_id(&1u64.to_le_bytes());
    let elsewhere = Location {
        blob: chunkfs_index::BlobIndex::new(1),
        offset: 0,
        stored_len: 5,
        codec: Codec::Zstd,
    };
    let again = fixture.builder.add_chunk(id, 7, elsewhere).unwrap();
    assert_eq!(Some(again), used.chunk.map(|chunk| chunk.index));
    fixture.add(root, b"file", Content::Regular(vec![used]));
    let index = fixture.build();
    assert_eq!((index.chunk_count(), index.blob_count()), (1, 1));
    assert_eq!(index.chunks().next().unwrap().location.offset, CHUNK);
}

#[test]
fn the_image_id_depends_on_the_tree_but_not_on_locations() {
    let build = |name: &[u8], offset| {
        let mut fixture = Fixture::new();
        let root = fixture.tree.root();
        let location = Location {
            blob: chunkfs_index::BlobIndex::new(0),
            offset,
            stored_len: 3,
            codec: Codec::Raw,
        };
        let id = DigestAlgorithm::Blake3.chunk_id(b"abc");
        let index = fixture.builder.add_chunk(id, 3, location).unwrap();
        let chunk = Some(SegmentChunk { index, offset: 0 });
        fixture.add(
            root,
            name,
            Content::Regular(vec![Segment { len: 3, chunk }]),
        );
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
    let inner = fixture.add(root, b"inner", Content::Directory(BTreeMap::new()));
    fixture.link(inner, b"loop", inner);
    assert!(fixture.builder.build(&fixture.tree).is_err());
}

#[test]
fn the_compressed_form_round_trips_and_is_bounded() {
    let index = everything().build();
    let compressed = index.compress().unwrap();
    let again = Index::decompress(&compressed, INDEX_LEN_MAX).unwrap();
    assert_eq!(again.as_bytes(), index.as_bytes());
    let len = index.as_bytes().len() as u64;
    assert!(Index::decompress(&compressed, len).is_ok());
    let error = Index::decompress(&compressed, len - 1).unwrap_err();
    assert!(matches!(error, OpenError::Transfer { .. }), "{error}");
    for cut in 0..compressed.len() {
        assert!(
            Index::decompress(&compressed[..cut], INDEX_LEN_MAX).is_err(),
            "{cut}"
        );
    }
}

/// Reads all that an index offers; must not panic, whatever it holds.
fn walk(index: &Index) {
    let mut work = 0u64;
    for inode in (0..index.inode_count()).filter_map(|at| index.inode(InodeIndex::new(at))) {
        for dirent in index.dirents(&inode, 0) {
            let found = index.lookup(&inode, dirent.name).unwrap();
            assert_eq!(found.index, dirent.inode);
        }
        work += index.xattrs(&inode).count() as u64;
        index.symlink_target(&inode);
        for piece in index.pieces(&inode, 0, u64::MAX).take(10_000) {
            work += piece.len.min(1);
            if let PieceSource::Chunk {
                index: chunk,
                offset,
            } = piece.source
            {
                let chunk = index.chunk(chunk).unwrap();
                assert!(u64::from(offset) + piece.len <= u64::from(chunk.uncompressed_len));
                let blob = index.blob(chunk.location.blob).unwrap();
                let end = chunk.location.offset + u64::from(chunk.location.stored_len);
                assert!(end <= blob.len);
            }
        }
    }
    assert!(work > 0);
}

#[test]
fn a_truncated_index_is_rejected_at_every_length() {
    let bytes = everything().build().as_bytes().clone();
    for len in 0..bytes.len() {
        assert!(Index::open(bytes.slice(..len)).is_err(), "{len}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(matches!(
        Index::open(longer.into()),
        Err(OpenError::Length { .. })
    ));
}

#[test]
fn every_changed_byte_is_noticed() {
    let bytes = everything().build().as_bytes().to_vec();
    let locations_start = bytes.len() - 6 * 16 - 40 - 8;
    for position in 0..bytes.len() {
        for flip in [1, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[position] ^= flip;
            match Index::open(Bytes::from(damaged)) {
                Err(_) => {}
                // Locations need no trust: chunks verify themselves.
                Ok(index) => {
                    assert!(
                        position >= locations_start,
                        "byte {position} flipped by {flip:#x}"
                    );
                    walk(&index);
                }
            }
        }
    }
}

/// Rewrites the checksum and the image id after a change, as an attacker would.
fn resign(bytes: &mut [u8]) {
    let count = usize::from(u16::from_le_bytes([bytes[14], bytes[15]]));
    let mut hasher = chunkfs_format::ImageHasher::new();
    hasher.update(&bytes[12..14]);
    for entry in 0..count.min(6) {
        let at = 80 + entry * 24;
        let field = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
        let (start, len) = (field(at + 8), field(at + 16));
        let Some(section) = bytes.get(start..start.saturating_add(len)) else {
            return;
        };
        hasher.update(section);
    }
    let id = hasher.finish();
    bytes[40..72].copy_from_slice(id.as_bytes());
    bytes[72..80].fill(0);
    let checksum = blake3_prefix(&bytes[..80 + count * 24]);
    bytes[72..80].copy_from_slice(&checksum);
}

fn blake3_prefix(bytes: &[u8]) -> [u8; 8] {
    let id = DigestAlgorithm::Blake3.chunk_id(bytes);
    id.as_bytes()[..8].try_into().unwrap()
}

/// A small generator, so that a failure can be replayed from its seed.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below
    }
}

#[test]
fn signed_mutations_are_rejected_or_safe_to_walk() {
    let original = everything().build().as_bytes().to_vec();
    let interesting = [0u8, 1, 2, 0x7f, 0x80, 0xfe, 0xff];
    let (mut opened, mut rejected) = (0, 0);
    for seed in 0..60_000 {
        let mut random = Random(seed);
        let mut bytes = original.clone();
        for _ in 0..=random.next(3) {
            let position = 80 + 8 * 24 + random.next(bytes.len() - 80 - 8 * 24);
            for offset in 0..=random.next(4) {
                if let Some(byte) = bytes.get_mut(position + offset) {
                    *byte = interesting[random.next(interesting.len())];
                }
            }
        }
        resign(&mut bytes);
        match Index::open(bytes.into()) {
            Ok(index) => {
                walk(&index);
                opened += 1;
            }
            Err(_) => rejected += 1,
        }
    }
    // Both must happen, or the mutations test nothing.
    assert!(
        opened > 1_000 && rejected > 10_000,
        "{opened} opened, {rejected} rejected"
    );
}

#[test]
fn unknown_versions_features_and_sections_are_told_apart() {
    let bytes = everything().build().as_bytes().to_vec();
    let change = |position: usize, value: u8| {
        let mut changed = bytes.clone();
        changed[position] = value;
        resign(&mut changed);
        Index::open(changed.into())
    };
    assert_eq!(change(0, b'X').unwrap_err(), OpenError::NotAnIndex);
    assert_eq!(
        change(8, 2).unwrap_err(),
        OpenError::UnknownVersion { version: 2 }
    );
    assert!(change(10, 9).is_ok(), "minor versions are ignored");
    assert_eq!(
        change(16, 4).unwrap_err(),
        OpenError::UnknownFeatures { features: 4 }
    );
    assert!(change(24, 4).is_ok(), "compatible features are ignored");
    assert!(matches!(
        change(12, 9).unwrap_err(),
        OpenError::Superblock { .. }
    ));
    assert!(matches!(
        change(13, 63).unwrap_err(),
        OpenError::Superblock { .. }
    ));
    assert!(matches!(
        change(14, 7).unwrap_err(),
        OpenError::Section { entry: 0, .. }
    ));
}

#[test]
fn many_files_open_in_linear_time_and_are_found() {
    let mut fixture = Fixture::new();
    let root = fixture.tree.root();
    for number in 0..100_000u32 {
        fixture.add(
            root,
            format!("file-{number}").as_bytes(),
            Content::Regular(Vec::new()),
        );
    }
    let index = fixture.build();
    assert_eq!(index.dirent_count(&index.root()), 100_000);
    for number in [0, 1, 9, 10, 50_000, 99_999] {
        assert!(
            index
                .lookup(&index.root(), format!("file-{number}").as_bytes())
                .is_some()
        );
    }
    assert!(index.lookup(&index.root(), b"file-100000").is_none());
}
