//! What the order of the chunk table says about the chunks in it.

use chunkfs_index::{BlobIndex, FileKind, Index, InodeIndex, PieceSource};

/// A chunk that is not a piece of a larger file: a pack, or the only chunk of its file.
const SHARED: u32 = u32::MAX;

/// Which chunks lie next to each other and are parts of one thing.
///
/// The pieces of a large file are neighbours in its blob, and so are the packs of one lane.
/// Takes 12 bytes for each chunk.
#[derive(Debug)]
pub(crate) struct ChunkOrder {
    chunks: Vec<Place>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    stored_len: u32,
    blob: BlobIndex,
    /// The inode whose pieces this chunk is one of, or [`SHARED`].
    file: u32,
}

impl ChunkOrder {
    pub(crate) fn new(index: &Index) -> Self {
        let place = |chunk: chunkfs_index::Chunk| Place {
            stored_len: chunk.location.stored_len,
            blob: chunk.location.blob,
            file: SHARED,
        };
        let mut order = Self { chunks: index.chunks().map(place).collect() };
        // Files may share chunks, so that hostile indexes have more pieces than anyone can visit.
        let mut visits_left = 4 * order.chunks.len();
        for number in 0..index.inode_count() {
            let file = index.inode(InodeIndex::new(number));
            let Some(file) = file.filter(|file| file.kind == FileKind::Regular) else { continue };
            let mut pieces = index.pieces(&file, 0, file.len);
            let Some(first) = pieces.next() else { continue };
            if first.len == file.len {
                continue;
            }
            for piece in std::iter::once(first).chain(pieces) {
                let Some(left) = visits_left.checked_sub(1) else { return order };
                visits_left = left;
                if let PieceSource::Chunk { index, .. } = piece.source
                    && let Some(place) = order.chunks.get_mut(index.get() as usize)
                {
                    place.file = number;
                }
            }
        }
        order
    }

    /// Returns whether two chunks are pieces of one file, or both none and in one blob.
    pub(crate) fn are_together(&self, a: u32, b: u32) -> bool {
        let place = |chunk: u32| self.chunks.get(chunk as usize);
        let is_one =
            |(a, b): (&Place, &Place)| a.file == b.file && (a.file != SHARED || a.blob == b.blob);
        place(a).zip(place(b)).is_some_and(is_one)
    }

    /// Returns the stored length of a chunk.
    pub(crate) fn stored_len(&self, chunk: u32) -> u64 {
        self.chunks.get(chunk as usize).map_or(0, |place| place.stored_len.into())
    }
}
