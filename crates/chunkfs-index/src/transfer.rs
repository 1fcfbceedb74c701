//! The form in which an index travels: one zstd frame.

use bytes::Bytes;

use crate::error::{BuildError, OpenError};
use crate::open::Index;

/// The largest index that [`Index::decompress`] accepts by default: 1 GiB, some 8 million files.
pub const INDEX_LEN_MAX: u64 = 1 << 30;

/// The zstd level for indexes: they are small, written once and fetched by every start.
const LEVEL: i32 = 19;

impl Index {
    /// Returns the index as one zstd frame, as it is stored and sent.
    ///
    /// # Errors
    /// [`BuildError::Compress`] if zstd runs out of memory.
    pub fn compress(&self) -> Result<Vec<u8>, BuildError> {
        zstd::bulk::compress(self.as_bytes(), LEVEL)
            .map_err(|error| BuildError::Compress { problem: error.to_string() })
    }

    /// Decompresses and opens an index that is `compressed` as exactly one zstd frame.
    ///
    /// The frame must state its content length; more than `len_max` bytes are never allocated. A
    /// few KiB may decompress to that much, so callers that care pass less than [`INDEX_LEN_MAX`].
    ///
    /// # Errors
    /// [`OpenError::Transfer`] if the frame is bad or too long, and those of [`Index::open`].
    pub fn decompress(compressed: &[u8], len_max: u64) -> Result<Self, OpenError> {
        let error = |problem: &str| OpenError::Transfer { problem: problem.to_owned() };
        let len = zstd::zstd_safe::get_frame_content_size(compressed)
            .map_err(|_| error("it is not a zstd frame"))?
            .ok_or_else(|| error("the frame does not state its content length"))?;
        if len > len_max {
            return Err(error(&format!("it claims {len} bytes, above the limit of {len_max}")));
        }
        // Walks the headers of the blocks. One block is at most 128 KiB and takes three bytes, so
        // that a frame which is whole and shorter than this cannot hold what it claims.
        let frame_len = zstd::zstd_safe::find_frame_compressed_size(compressed);
        if frame_len != Ok(compressed.len()) || len / (128 << 10) > compressed.len() as u64 / 3 {
            return Err(error("it is not one whole zstd frame of the length that it claims"));
        }
        let mut bytes = Vec::new();
        let reserved = usize::try_from(len).map(|len| bytes.try_reserve_exact(len));
        if !matches!(reserved, Ok(Ok(()))) {
            return Err(error(&format!("{len} bytes do not fit into memory")));
        }
        let mut decompressor = zstd::bulk::Decompressor::new()
            .map_err(|source| OpenError::Transfer { problem: source.to_string() })?;
        decompressor
            .decompress_to_buffer(compressed, &mut bytes)
            .map_err(|source| OpenError::Transfer { problem: source.to_string() })?;
        Self::open(Bytes::from(bytes))
    }
}
