//! The converted form of one layer, kept with the image so that a layer is converted only once.
//!
//! A fragment holds the entries of a layer in order, whiteouts included, and its chunk and blob
//! tables. It travels as one zstd frame that states its content length. The content, with integers
//! in little-endian order and *strings* as a `u32` length and that many bytes:
//!
//! | part | values |
//! | --- | --- |
//! | head | magic `CHUNKFSF`, version `u16` = 1 |
//! | counters | files `u64`, source bytes `u64`, packed files `u64`, cut chunks `u64` |
//! | blobs | count `u32`, then for each: SHA-256 (32 bytes), length `u64` |
//! | chunks | count `u32`, then for each: id (32 bytes), uncompressed length `u32`, blob `u32`, offset `u64`, stored length `u32`, codec `u8` |
//! | entries | count `u32`, then for each: path string, permissions `u16`, uid `u32`, gid `u32`, mtime seconds `i64`, nanoseconds `u32`, xattrs, kind `u8`, what the kind needs |
//! | xattrs | count `u32`, then for each, in ascending order: name string, value string |
//! | kind | 0 whiteout, 1 opaque whiteout, 2 directory, 3 regular, 4 symlink, 5 hard link, 6 character device, 7 block device, 8 fifo, 9 socket |
//! | regular | count `u32`, then for each part: length `u64`, chunk `u32` (2^32 - 1: a hole), offset in the chunk `u32` |
//! | symlink, hard link | target string |
//! | devices | major `u32`, minor `u32` |

mod decode;
mod encode;

use chunkfs_index::{Blob, Chunk};

use crate::entry::LayerEntry;
use crate::pipeline::{LayerCounters, StoredLayer};

const MAGIC: &[u8; 8] = b"CHUNKFSF";
const VERSION: u16 = 1;
/// The longest fragment that is read, uncompressed.
pub(crate) const FRAGMENT_LEN_MAX: u64 = 1 << 30;
/// The zstd level: fragments are written once and read by machines that build images.
const LEVEL: i32 = 9;
/// The chunk number of a hole.
const HOLE: u32 = u32::MAX;

/// A converted layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub(crate) counters: LayerCounters,
    pub(crate) entries: Vec<LayerEntry>,
    /// The chunks, whose locations name blobs by their positions in `blobs`.
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) blobs: Vec<Blob>,
}

/// Bytes are not a fragment that this version can read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FragmentError {
    /// The frame is damaged, or claims to be longer than a fragment may be.
    #[error("the compressed bytes cannot be decoded: {problem}")]
    Transfer {
        /// What is wrong.
        problem: String,
    },
    /// The bytes end early.
    #[error("the bytes end early")]
    Truncated(#[from] chunkfs_format::wire::Truncated),
    /// The bytes before this offset cannot be what they should be.
    #[error("before byte {offset}: {problem}")]
    Invalid {
        /// Where this was noticed.
        offset: usize,
        /// What is wrong.
        problem: &'static str,
    },
}

/// Checks that bytes are a fragment that this version can read, for tools that examine images.
///
/// Takes the memory of the decoded fragment for the time of the call.
///
/// # Errors
/// A [`FragmentError`] that says what is wrong.
pub fn verify_fragment(compressed: &[u8]) -> Result<(), FragmentError> {
    Fragment::decompress(compressed).map(drop)
}

impl From<StoredLayer> for Fragment {
    fn from(layer: StoredLayer) -> Self {
        let StoredLayer { entries, counters, chunks, blobs, .. } = layer;
        Self { counters, entries, chunks, blobs }
    }
}

/// The number that stands for each kind of entry.
mod kind {
    pub(super) const WHITEOUT: u8 = 0;
    pub(super) const OPAQUE_WHITEOUT: u8 = 1;
    pub(super) const DIRECTORY: u8 = 2;
    pub(super) const REGULAR: u8 = 3;
    pub(super) const SYMLINK: u8 = 4;
    pub(super) const HARD_LINK: u8 = 5;
    pub(super) const CHAR_DEVICE: u8 = 6;
    pub(super) const BLOCK_DEVICE: u8 = 7;
    pub(super) const FIFO: u8 = 8;
    pub(super) const SOCKET: u8 = 9;
}

#[cfg(test)]
mod tests;
