//! Trees for tests.

use std::collections::BTreeMap;

use chunkfs_format::{BlobId, ChunkSize, Codec, DigestAlgorithm};
use chunkfs_index::{
    Attributes, Blob, BlobIndex, Content, Device, Index, IndexBuilder, Location, Node, NodeId,
    Segment, SegmentChunk, Timestamp, Tree,
};

pub(crate) const CHUNK: u64 = 64 << 10;

/// Builds trees whose files have chunks with made-up ids.
pub(crate) struct Fixture {
    pub(crate) builder: IndexBuilder,
    pub(crate) tree: Tree,
    next: u64,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let chunk_size = ChunkSize::new(CHUNK).unwrap();
        let mut builder = IndexBuilder::new(DigestAlgorithm::Blake3, chunk_size);
        builder.add_blob(Blob { id: BlobId::of(b"blob"), len: 1 << 40 }).unwrap();
        Self { builder, tree: Tree::new(attributes(0o755)), next: 0 }
    }

    pub(crate) fn chunk(&mut self, len: u64) -> Segment {
        let id = DigestAlgorithm::Blake3.chunk_id(&self.next.to_le_bytes());
        let location = location(0, self.next * CHUNK, len as u32);
        self.next += 1;
        let index = self.builder.add_chunk(id, len as u32, location).unwrap();
        Segment { len, chunk: Some(SegmentChunk { index, offset: 0 }) }
    }

    pub(crate) fn file(&mut self, len: u64) -> Content {
        let full = (0..len / CHUNK).map(|_| CHUNK);
        let lens: Vec<u64> =
            full.chain((!len.is_multiple_of(CHUNK)).then_some(len % CHUNK)).collect();
        Content::Regular(lens.into_iter().map(|len| self.chunk(len)).collect())
    }

    pub(crate) fn add(&mut self, directory: NodeId, name: &[u8], content: Content) -> NodeId {
        let node = self.tree.add(Node { attributes: attributes(0o644), content });
        self.link(directory, name, node);
        node
    }

    pub(crate) fn link(&mut self, directory: NodeId, name: &[u8], node: NodeId) {
        self.tree.children_mut(directory).unwrap().insert(name.to_vec(), node);
    }

    pub(crate) fn attributes(&mut self, node: NodeId) -> &mut Attributes {
        &mut self.tree.node_mut(node).attributes
    }

    pub(crate) fn build(self) -> Index {
        self.builder.build(&self.tree).unwrap()
    }
}

pub(crate) fn attributes(permissions: u16) -> Attributes {
    Attributes { permissions, ..Attributes::default() }
}

/// The place of a raw chunk.
pub(crate) fn location(blob: u32, offset: u64, stored_len: u32) -> Location {
    Location { blob: BlobIndex::new(blob), offset, stored_len, codec: Codec::Raw }
}

pub(crate) fn directory() -> Content {
    Content::Directory(BTreeMap::new())
}

/// A tree that has everything that a tree can have; the golden index of version 1 holds it.
pub(crate) fn everything() -> Fixture {
    let mut fixture = Fixture::new();
    let root = fixture.tree.root();
    let usr = fixture.add(root, b"usr", directory());
    let bin = fixture.add(usr, b"bin", directory());
    let content = fixture.file(3 * CHUNK + 5);
    let big = fixture.add(bin, b"big", content);
    fixture.link(root, b"also-big", big);
    fixture.add(root, b"empty", Content::Regular(Vec::new()));
    fixture.add(root, &[0xff; 255], Content::Symlink(b"usr/bin/big".to_vec()));
    fixture.add(root, b"new\nline", Content::Fifo);
    fixture.add(root, b"socket", Content::Socket);
    fixture.add(root, b"tty", Content::CharDevice(Device { major: 5, minor: 70_000 }));
    fixture.add(root, b"disk", Content::BlockDevice(Device { major: 8, minor: 1 }));
    let first = fixture.chunk(CHUNK);
    let last = fixture.chunk(10);
    let hole = Segment { len: 1 << 33, chunk: None };
    let sparse = fixture.add(root, b"sparse", Content::Regular(vec![first, hole, last]));
    let sparse = fixture.attributes(sparse);
    sparse.uid = 3_000_000_000;
    sparse.gid = 70_000;
    sparse.permissions = 0o7777;
    sparse.mtime = Timestamp { seconds: -2, nanos: 999_999_999 };
    sparse.xattrs.insert(b"user.empty".to_vec(), Vec::new());
    sparse.xattrs.insert(b"security.capability".to_vec(), vec![0, 1, 0xff]);

    // Two files that share a pack, one of them under two names, and the modes that print oddly.
    let packed = fixture.add(usr, b"packed", directory());
    fixture.attributes(packed).permissions = 0o1777;
    let pack = fixture.chunk(4096 + 300);
    let in_pack = |offset, len| {
        let chunk = pack.chunk.map(|chunk| SegmentChunk { offset, ..chunk });
        Content::Regular(vec![Segment { len, chunk }])
    };
    let one = fixture.add(packed, b"back\\slash \xc3\xa4", in_pack(0, 4000));
    fixture.attributes(one).permissions = 0o6644;
    fixture.attributes(one).mtime = Timestamp { seconds: 1 << 33, nanos: 1 };
    let two = fixture.add(packed, b"setuid", in_pack(4096, 300));
    fixture.attributes(two).permissions = 0o4711;
    fixture.attributes(two).xattrs.insert(b"user.empty".to_vec(), Vec::new());
    fixture.link(usr, b"setuid", two);
    let link = fixture.add(packed, b"link", Content::Symlink(b"../b\\i\x7fn/..".to_vec()));
    fixture.attributes(link).permissions = 0o777;
    let none = fixture.add(packed, b"none", directory());
    fixture.attributes(none).permissions = 0o1000;
    fixture
}

/// A small generator, so that a failure can be replayed from its seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self, below: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below
    }
}
