//! What can go wrong with the cache and with loading a chunk.

use std::io;
use std::sync::Arc;

use chunkfs_fetch::FetchError;
use chunkfs_format::{BlobId, ChunkId, CodecError};

/// The upkeep of a cache folder failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// The cache has no folder.
    #[error("this cache has no folder; open it with one")]
    NoFolder,
    /// The system refused something.
    #[error("{operation}")]
    Upkeep {
        /// What was being done.
        operation: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// A chunk cannot be had. Nothing is cached then; a later call tries again.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The source serves other bytes than the chunk, also when asked again.
    #[error("chunk {chunk} is corrupt at {place}, in blob {blob} at byte {offset}")]
    Corrupt {
        /// The chunk.
        chunk: ChunkId,
        /// The blob that should hold it.
        blob: BlobId,
        /// Where in the blob.
        offset: u64,
        /// What the source calls itself.
        place: Arc<str>,
        /// How the bytes differ.
        source: Arc<CodecError>,
    },
    /// The stored bytes cannot be read from the source.
    #[error("chunk {chunk} cannot be fetched from {place}, blob {blob} at byte {offset}")]
    Unavailable {
        /// The chunk.
        chunk: ChunkId,
        /// The blob that holds it.
        blob: BlobId,
        /// Where in the blob.
        offset: u64,
        /// What the source calls itself.
        place: Arc<str>,
        /// What the source said.
        source: Arc<FetchError>,
    },
    /// The chunk cannot be decoded for want of memory.
    #[error("chunk {chunk} cannot be decoded")]
    Decode {
        /// The chunk.
        chunk: ChunkId,
        /// What the codec said.
        source: Arc<CodecError>,
    },
    /// The runtime that does the work has shut down.
    #[error("the runtime shut down while chunk {chunk} was loaded")]
    Shutdown {
        /// The chunk.
        chunk: ChunkId,
    },
}

impl LoadError {
    /// Returns whether the source does not have the blob.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Unavailable { source, .. } if source.is_not_found())
    }

    /// Returns whether a later call may succeed without anybody mending anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable { source, .. } => source.is_retryable(),
            Self::Decode { .. } => true,
            Self::Corrupt { .. } | Self::Shutdown { .. } => false,
        }
    }

    /// Returns whether the source served wrong bytes.
    pub fn is_corrupt(&self) -> bool {
        matches!(self, Self::Corrupt { .. })
    }
}
