//! Writing an index.

mod order;

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use chunkfs_format::{ChunkId, ChunkSize, DigestAlgorithm, GRID};
use zerocopy::IntoBytes as _;

use self::order::{Order, UsedChunks};
use crate::error::BuildError;
use crate::open::{Index, chunk_size_log2, image_id, superblock_checksum};
use crate::record::{
    BLOB_COUNT_MAX, HOLE, MAGIC, RawBlob, RawChunk, RawDirent, RawExtent, RawInode, RawLocation,
    RawXattr, SECTION_ALIGN, SectionEntry, SectionKind, Superblock, VERSION_MAJOR, VERSION_MINOR,
};
use crate::tree::{Content, Node, NodeId, Segment, Tree};
use crate::types::{Blob, BlobIndex, Chunk, ChunkIndex, Location};

/// Collects blobs and chunks, and writes them with a [`Tree`] as an index.
///
/// The bytes are a function of the calls alone: equal calls give equal indexes.
#[derive(Debug)]
pub struct IndexBuilder {
    algorithm: DigestAlgorithm,
    chunk_size: ChunkSize,
    blobs: Vec<Blob>,
    chunks: Vec<Chunk>,
    chunk_by_id: HashMap<ChunkId, ChunkIndex>,
}

impl IndexBuilder {
    /// Creates a builder for an image with this algorithm and chunk size.
    pub fn new(algorithm: DigestAlgorithm, chunk_size: ChunkSize) -> Self {
        Self {
            algorithm,
            chunk_size,
            blobs: Vec::new(),
            chunks: Vec::new(),
            chunk_by_id: HashMap::new(),
        }
    }

    /// Adds a data blob.
    ///
    /// # Errors
    /// [`BuildError::TooMany`] from the 65,536th blob on.
    pub fn add_blob(&mut self, blob: Blob) -> Result<BlobIndex, BuildError> {
        let index = u32::try_from(self.blobs.len()).ok().filter(|index| *index < BLOB_COUNT_MAX);
        let index = index.ok_or(BuildError::TooMany { table: "blob" })?;
        self.blobs.push(blob);
        Ok(BlobIndex::new(index))
    }

    /// Adds a chunk, or returns the one with this id that was added first, whose location stays.
    ///
    /// # Errors
    /// [`BuildError::TooMany`] if the table is full.
    pub fn add_chunk(
        &mut self,
        id: ChunkId,
        uncompressed_len: u32,
        location: Location,
    ) -> Result<ChunkIndex, BuildError> {
        if let Some(index) = self.chunk_by_id.get(&id) {
            return Ok(*index);
        }
        let index = u32::try_from(self.chunks.len()).ok().filter(|index| *index < HOLE);
        let index = ChunkIndex::new(index.ok_or(BuildError::TooMany { table: "chunk" })?);
        self.chunks.push(Chunk { id, uncompressed_len, location });
        self.chunk_by_id.insert(id, index);
        Ok(index)
    }

    /// Returns the chunk with this id, if it was added.
    pub fn find_chunk(&self, id: &ChunkId) -> Option<ChunkIndex> {
        self.chunk_by_id.get(id).copied()
    }

    /// Writes the index of `tree`, leaving out chunks and blobs that no file uses.
    ///
    /// Chunks and blobs keep the order in which they were added. The result was opened again, so
    /// a reader of this version accepts it.
    ///
    /// # Errors
    /// [`BuildError::TooMany`] if a table is full, [`BuildError::Invalid`] if the tree breaks a
    /// rule of the format, for example by a name with a slash or segments that a chunk is too
    /// short for.
    pub fn build(self, tree: &Tree) -> Result<Index, BuildError> {
        let order = Order::new(tree)?;
        let used = UsedChunks::new(self.chunks.len(), tree, &order);
        let mut writer = SectionWriter::default();
        for &id in &order.nodes {
            writer.write_node(
                tree,
                id,
                &order,
                &ChunkNumbers { used: &used, chunks: &self.chunks },
            )?;
        }
        let mut blob_numbers: Vec<Option<u16>> = vec![None; self.blobs.len()];
        for chunk in used.old_indexes.iter().map(|old| &self.chunks[old.get() as usize]) {
            if let Some(number) = blob_numbers.get_mut(chunk.location.blob.get() as usize) {
                *number = Some(0);
            }
        }
        let used_blobs = blob_numbers.iter_mut().filter_map(|number| number.as_mut());
        used_blobs.zip(0..).for_each(|(number, new)| *number = new);
        for (blob, number) in self.blobs.iter().zip(&blob_numbers) {
            if number.is_some() {
                let raw = RawBlob { id: *blob.id.as_bytes(), len: blob.len.into() };
                writer.blobs.extend_from_slice(raw.as_bytes());
            }
        }
        for chunk in used.old_indexes.iter().map(|old| &self.chunks[old.get() as usize]) {
            let location = chunk.location;
            let blob = blob_numbers.get(location.blob.get() as usize).copied().flatten();
            let raw = RawChunk {
                id: *chunk.id.as_bytes(),
                uncompressed_len: chunk.uncompressed_len.into(),
            };
            writer.chunks.extend_from_slice(raw.as_bytes());
            let raw = RawLocation {
                offset: location.offset.into(),
                stored_len: location.stored_len.into(),
                blob: blob.unwrap_or(u16::MAX).into(),
                codec: location.codec.code(),
                reserved: 0,
            };
            writer.locations.extend_from_slice(raw.as_bytes());
        }
        let bytes = writer.assemble(self.algorithm, self.chunk_size);
        Ok(Index::open(bytes)?)
    }
}

/// The chunks that files name, and which of them are written.
struct ChunkNumbers<'a> {
    used: &'a UsedChunks,
    chunks: &'a [Chunk],
}

impl ChunkNumbers<'_> {
    fn len(&self, chunk: ChunkIndex) -> u64 {
        let chunk = self.chunks.get(chunk.get() as usize);
        chunk.map_or(0, |chunk| chunk.uncompressed_len.into())
    }
}

#[derive(Default)]
struct SectionWriter {
    inodes: Vec<u8>,
    dirents: Vec<u8>,
    extents: Vec<u8>,
    chunks: Vec<u8>,
    xattrs: Vec<u8>,
    strings: Vec<u8>,
    locations: Vec<u8>,
    blobs: Vec<u8>,
    /// Sets of xattrs that were written before: the first record.
    xattr_sets: HashMap<BTreeMap<Vec<u8>, Vec<u8>>, u32>,
}

impl SectionWriter {
    fn write_node(
        &mut self,
        tree: &Tree,
        id: NodeId,
        order: &Order,
        chunks: &ChunkNumbers<'_>,
    ) -> Result<(), BuildError> {
        let node = tree.node(id);
        let position = Tree::position(id);
        let kind = node.content.kind();
        let (xattr_first, xattr_count) = self.write_xattrs(node)?;
        let (first, count, len) = match &node.content {
            Content::Directory(children) => {
                let first = record_count(&self.dirents, SectionKind::Dirents)?;
                for (name, child) in children {
                    let raw = RawDirent {
                        inode: order.inode_of[Tree::position(*child)].into(),
                        name_offset: self.write_string(name)?.into(),
                        name_len: u8::try_from(name.len()).unwrap_or(0),
                        mode_high: (tree.node(*child).content.kind().mode_bits() >> 12) as u8,
                        reserved: 0.into(),
                    };
                    self.dirents.extend_from_slice(raw.as_bytes());
                }
                let count = u32::try_from(children.len());
                (first, count.map_err(|_| BuildError::TooMany { table: "dirent" })?, 0)
            }
            Content::Regular(segments) => self.write_extents(segments, chunks)?,
            Content::Symlink(target) => (self.write_string(target)?, 0, target.len() as u64),
            Content::CharDevice(device) | Content::BlockDevice(device) => {
                (device.major, device.minor, 0)
            }
            Content::Fifo | Content::Socket => (0, 0, 0),
        };
        let is_directory = |child: &&NodeId| tree.children(**child).is_some();
        let link_count = match tree.children(id) {
            Some(children) => 2 + children.values().filter(is_directory).count() as u32,
            None => order.name_counts[position],
        };
        let attributes = &node.attributes;
        let raw = RawInode {
            mode: (kind.mode_bits() | attributes.permissions & 0o7777).into(),
            xattr_count: xattr_count.into(),
            uid: attributes.uid.into(),
            gid: attributes.gid.into(),
            link_count: link_count.into(),
            mtime_seconds: attributes.mtime.seconds.into(),
            mtime_nanos: attributes.mtime.nanos.into(),
            first: first.into(),
            len: len.into(),
            count: count.into(),
            xattr_first: xattr_first.into(),
            parent: order.parents[position].into(),
        };
        self.inodes.extend_from_slice(raw.as_bytes());
        Ok(())
    }

    fn write_string(&mut self, string: &[u8]) -> Result<u32, BuildError> {
        let offset = u32::try_from(self.strings.len());
        let offset = offset.map_err(|_| BuildError::TooMany { table: "string" })?;
        self.strings.extend_from_slice(string);
        Ok(offset)
    }

    /// Writes the xattrs of a node, or finds the equal set of an earlier one.
    fn write_xattrs(&mut self, node: &Node) -> Result<(u32, u16), BuildError> {
        let xattrs = &node.attributes.xattrs;
        if xattrs.is_empty() {
            return Ok((0, 0));
        }
        let too_many = |_| BuildError::TooMany { table: "xattr" };
        let count = u16::try_from(xattrs.len()).map_err(too_many)?;
        if let Some(first) = self.xattr_sets.get(xattrs) {
            return Ok((*first, count));
        }
        let first = record_count(&self.xattrs, SectionKind::Xattrs)?;
        for (name, value) in xattrs {
            let raw = RawXattr {
                name_offset: self.write_string(name)?.into(),
                value_offset: self.write_string(value)?.into(),
                name_len: u16::try_from(name.len()).unwrap_or(0).into(),
                reserved: 0.into(),
                value_len: u32::try_from(value.len()).unwrap_or(u32::MAX).into(),
            };
            self.xattrs.extend_from_slice(raw.as_bytes());
        }
        self.xattr_sets.insert(xattrs.clone(), first);
        Ok((first, count))
    }

    /// Writes segments as runs, joining those whose chunks follow each other.
    fn write_extents(
        &mut self,
        segments: &[Segment],
        chunks: &ChunkNumbers<'_>,
    ) -> Result<(u32, u32, u64), BuildError> {
        let first = record_count(&self.extents, SectionKind::Extents)?;
        let mut runs: Vec<RawExtent> = Vec::new();
        let mut file_len = 0u64;
        // The lengths of the first and of the last chunk of the last run: a run goes on after chunks
        // of one length only.
        let (mut chunk_len, mut last_len) = (0u64, 0u64);
        for segment in segments {
            let (chunk, offset) = match segment.chunk {
                Some(chunk) => (chunks.used.new_index(chunk.index), chunk.offset),
                None => (HOLE, 0),
            };
            let joined = runs.last_mut().filter(|run| {
                let (run_first, run_len) = (run.first_chunk.get(), run.len.get());
                match (run_first, chunk) {
                    (HOLE, HOLE) => true,
                    (HOLE, _) | (_, HOLE) => false,
                    _ => {
                        (run.chunk_offset.get(), offset) == (0, 0)
                            && chunk_len != 0
                            && chunk_len == last_len
                            && chunk_len.is_multiple_of(u64::from(GRID))
                            && run_len.is_multiple_of(chunk_len)
                            && segment.len <= chunk_len
                            && u64::from(run_first) + run_len / chunk_len == u64::from(chunk)
                    }
                }
            });
            let segment_chunk_len = segment.chunk.map_or(0, |chunk| chunks.len(chunk.index));
            last_len = segment_chunk_len;
            match joined {
                Some(run) => run.len = run.len.get().saturating_add(segment.len).into(),
                None => {
                    chunk_len = segment_chunk_len;
                    runs.push(RawExtent {
                        file_offset: file_len.into(),
                        len: segment.len.into(),
                        first_chunk: chunk.into(),
                        chunk_offset: offset.into(),
                    });
                }
            }
            file_len = file_len.saturating_add(segment.len);
        }
        self.extents.extend_from_slice(runs.as_bytes());
        let count = u32::try_from(runs.len());
        Ok((first, count.map_err(|_| BuildError::TooMany { table: "extent" })?, file_len))
    }

    fn assemble(&self, algorithm: DigestAlgorithm, chunk_size: ChunkSize) -> Bytes {
        let sections: [&[u8]; SectionKind::ALL.len()] = [
            &self.inodes,
            &self.dirents,
            &self.extents,
            &self.chunks,
            &self.xattrs,
            &self.strings,
            &self.locations,
            &self.blobs,
        ];
        let mut table = Vec::new();
        let mut end = size_of::<Superblock>() + sections.len() * size_of::<SectionEntry>();
        for (kind, section) in SectionKind::ALL.iter().zip(&sections) {
            let start = end.next_multiple_of(SECTION_ALIGN);
            let entry = SectionEntry {
                kind: (*kind as u32).into(),
                reserved: 0.into(),
                offset: (start as u64).into(),
                len: (section.len() as u64).into(),
            };
            table.extend_from_slice(entry.as_bytes());
            end = start + section.len();
        }
        let covered = sections[..SectionKind::COVERED_COUNT].iter().copied();
        let mut superblock = Superblock {
            magic: MAGIC,
            version_major: VERSION_MAJOR.into(),
            version_minor: VERSION_MINOR.into(),
            digest_algorithm: algorithm.code(),
            chunk_size_log2: chunk_size_log2(chunk_size),
            section_count: (sections.len() as u16).into(),
            features_incompatible: 0.into(),
            features_compatible: 0.into(),
            total_len: (end as u64).into(),
            image_id: *image_id(algorithm, chunk_size, covered).as_bytes(),
            checksum: [0; 8],
        };
        superblock.checksum = superblock_checksum(&superblock, &table);
        let mut bytes = Vec::with_capacity(end);
        bytes.extend_from_slice(superblock.as_bytes());
        bytes.extend_from_slice(&table);
        for section in sections {
            bytes.resize(bytes.len().next_multiple_of(SECTION_ALIGN), 0);
            bytes.extend_from_slice(section);
        }
        bytes.into()
    }
}

fn record_count(section: &[u8], kind: SectionKind) -> Result<u32, BuildError> {
    u32::try_from(section.len() / kind.record_len())
        .map_err(|_| BuildError::TooMany { table: kind.name() })
}
