//! Reads of what need not be waited for.

use bytes::Bytes;
use chunkfs_index::{FileKind, Inode, PieceSource};

use crate::image::ImageInner;
use crate::read::index;

/// The longest read that is tried without a plan.
const CACHED_LEN_MAX: u64 = 2 << 20;

impl ImageInner {
    /// Returns a range of a file if none of it has to be waited for.
    pub(crate) fn read_cached(&self, file: &Inode, offset: u64, len: u64) -> Option<Bytes> {
        if file.kind != FileKind::Regular {
            return None;
        }
        let range = offset.min(file.len)..offset.saturating_add(len).min(file.len);
        let len = range.end - range.start;
        if len == 0 || len > CACHED_LEN_MAX {
            return None;
        }
        let first = self.index.pieces(file, range.start, len).next()?;
        if let PieceSource::Chunk { index: number, offset } = first.source
            && first.len == len
            && let Some(chunk) = self.loader.get(&self.request(number)?)
        {
            // One piece of one chunk: a slice of it.
            let start = offset as usize;
            return Some(chunk.slice(start..start + index(len)));
        }
        let mut bytes = vec![0; index(len)];
        let filled = self.fill_cached(file, range.start, &mut bytes);
        (filled == bytes.len()).then(|| bytes.into())
    }

    /// Fills the front of a buffer, as far as nothing has to be waited for, and returns how far.
    pub(crate) fn fill_cached(&self, file: &Inode, offset: u64, buffer: &mut [u8]) -> usize {
        if file.kind != FileKind::Regular || offset >= file.len {
            return 0;
        }
        let mut filled = 0;
        for piece in self.index.pieces(file, offset, buffer.len() as u64) {
            let Some(part) = buffer.get_mut(filled..filled + index(piece.len)) else { break };
            match piece.source {
                PieceSource::Hole => part.fill(0),
                PieceSource::Chunk { index: number, offset } => {
                    let request = self.request(number);
                    let is_read = request
                        .is_some_and(|chunk| self.loader.read_cached(&chunk, offset.into(), part));
                    if !is_read {
                        break;
                    }
                }
            }
            filled += index(piece.len);
        }
        filled
    }
}
