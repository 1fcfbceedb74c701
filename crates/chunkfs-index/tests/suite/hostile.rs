//! What tests and fuzz targets do with bytes that may be anything. Used by both: no test helpers here.
#![allow(dead_code, reason = "each user needs a part")]

use std::ops::Range;

use bytes::Bytes;
use chunkfs_format::{DigestAlgorithm, ImageHasher};
use chunkfs_index::{Index, InodeIndex, PieceSource};

pub(crate) const SUPERBLOCK_LEN: usize = 80;
pub(crate) const ENTRY_LEN: usize = 24;
/// Walking stops after this many steps: extents and xattrs may share what they refer to.
const STEPS_MAX: u32 = 100_000;

/// Reads all that an index offers; must not panic, whatever it holds.
pub(crate) fn walk(index: &Index) {
    let mut steps = 0..STEPS_MAX;
    for inode in (0..index.inode_count()).filter_map(|at| index.inode(InodeIndex::new(at))) {
        for dirent in index.dirents(&inode, 0) {
            let found = index.lookup(&inode, dirent.name).expect("a listed name is found");
            assert_eq!((found.index, found.kind), (dirent.inode, dirent.kind));
        }
        let names: Vec<_> = index.xattrs(&inode).map(|xattr| xattr.name).take(1000).collect();
        assert!(names.is_sorted_by(|a, b| a < b), "xattrs are in ascending order");
        if let Some(target) = index.symlink_target(&inode) {
            assert_eq!(target.len() as u64, inode.len);
        }
        let mut at = 0;
        for piece in index.pieces(&inode, 0, u64::MAX) {
            assert_eq!(piece.file_offset, at);
            assert!(piece.len > 0, "a piece is not empty");
            at += piece.len;
            if let PieceSource::Chunk { index: chunk, offset } = piece.source {
                let chunk = index.chunk(chunk).expect("a piece's chunk exists");
                assert!(u64::from(offset) + piece.len <= u64::from(chunk.uncompressed_len));
                let blob = index.blob(chunk.location.blob).expect("a chunk's blob exists");
                let end = chunk.location.offset + u64::from(chunk.location.stored_len);
                assert!(end <= blob.len);
            }
            if steps.next().is_none() {
                return;
            }
        }
        if inode.kind == chunkfs_index::FileKind::Regular {
            assert_eq!(at, inode.len, "the pieces cover the file");
        }
    }
}

/// Opens the rest of `input` as an index; bit 0 of its first byte asks for valid digests.
pub(crate) fn open_fuzz_input(input: &[u8]) {
    let Some((mode, bytes)) = input.split_first() else { return };
    let mut bytes = bytes.to_vec();
    if mode & 1 != 0 {
        let total_len = (bytes.len() as u64).to_le_bytes();
        if let Some(field) = bytes.get_mut(32..40) {
            field.copy_from_slice(&total_len);
        }
        resign(&mut bytes);
    }
    if let Ok(index) = Index::open(Bytes::from(bytes)) {
        walk(&index);
    }
}

/// Opens `good` with its front replaced by the rest of `input`; bit 0 of the first byte asks for a
/// valid checksum.
pub(crate) fn open_with_front(good: &[u8], input: &[u8]) {
    let Some((mode, front)) = input.split_first() else { return };
    let mut bytes = good.to_vec();
    let len = front.len().min(SUPERBLOCK_LEN + 8 * ENTRY_LEN).min(bytes.len());
    bytes[..len].copy_from_slice(&front[..len]);
    if mode & 1 != 0 {
        sign_superblock(&mut bytes);
    }
    if let Ok(index) = Index::open(Bytes::from(bytes)) {
        walk(&index);
    }
}

/// Rewrites the image id and the checksum after a change, as an attacker would.
pub(crate) fn resign(bytes: &mut [u8]) {
    if bytes.len() < SUPERBLOCK_LEN {
        return;
    }
    let mut hasher = ImageHasher::new();
    hasher.update(&bytes[12..14]);
    for kind in 1..=6 {
        let Some(section) = section(bytes, kind).and_then(|range| bytes.get(range)) else { return };
        hasher.update(section);
    }
    let id = hasher.finish();
    bytes[40..72].copy_from_slice(id.as_bytes());
    sign_superblock(bytes);
}

/// Rewrites the checksum of the superblock and the section table.
pub(crate) fn sign_superblock(bytes: &mut [u8]) {
    let Some(count) = bytes.get(14..16) else { return };
    let count = usize::from(u16::from_le_bytes([count[0], count[1]]));
    let Some(covered) = bytes.get_mut(..SUPERBLOCK_LEN + count * ENTRY_LEN) else { return };
    covered[72..80].fill(0);
    let checksum = DigestAlgorithm::Blake3.chunk_id(covered);
    covered[72..80].copy_from_slice(&checksum.as_bytes()[..8]);
}

/// Returns where the section table says that the section of this kind is, if all is in order.
pub(crate) fn section(bytes: &[u8], kind: u32) -> Option<Range<usize>> {
    let entry = SUPERBLOCK_LEN + (kind as usize - 1) * ENTRY_LEN;
    let field = |at: usize| {
        let field = bytes.get(at..at + 8)?;
        usize::try_from(u64::from_le_bytes(field.try_into().ok()?)).ok()
    };
    let (start, len) = (field(entry + 8)?, field(entry + 16)?);
    Some(start..start.checked_add(len)?)
}
