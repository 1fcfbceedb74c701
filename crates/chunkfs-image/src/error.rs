//! What can go wrong with opening and reading an image.

use std::sync::Arc;

use chunkfs_cache::LoadError;
use chunkfs_fetch::FetchError;
use chunkfs_format::ImageId;

/// An image cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The manifest cannot be had, or is not that of a converted image.
    #[error("the manifest of {image} cannot be used")]
    Manifest {
        /// The image that was asked for.
        image: String,
        /// What the source said.
        source: FetchError,
    },
    /// The index cannot be had.
    #[error("the index of {image} cannot be fetched")]
    Index {
        /// The image that was asked for.
        image: String,
        /// What the source said.
        source: FetchError,
    },
    /// The index is damaged or was written by a newer version.
    #[error("the index of {image} cannot be opened")]
    InvalidIndex {
        /// The image that was asked for.
        image: String,
        /// What is wrong.
        source: chunkfs_index::OpenError,
    },
    /// The manifest promises another image than its index describes.
    #[error("the index of {image} describes {actual}, its manifest says {expected}")]
    ImageId {
        /// The image that was asked for.
        image: String,
        /// What the manifest says.
        expected: String,
        /// What the index says.
        actual: ImageId,
    },
    /// The source cannot be set up.
    #[error("{image} cannot be reached")]
    Source {
        /// The image that was asked for.
        image: String,
        /// What is wrong.
        source: FetchError,
    },
}

impl OpenError {
    /// Returns whether there is no such image.
    pub fn is_not_found(&self) -> bool {
        self.fetch_error().is_some_and(FetchError::is_not_found)
    }

    /// Returns whether a later call may succeed without anybody mending anything.
    pub fn is_retryable(&self) -> bool {
        self.fetch_error().is_some_and(FetchError::is_retryable)
    }

    fn fetch_error(&self) -> Option<&FetchError> {
        match self {
            Self::Manifest { source, .. }
            | Self::Index { source, .. }
            | Self::Source { source, .. } => Some(source),
            Self::InvalidIndex { .. } | Self::ImageId { .. } => None,
        }
    }
}

/// A file cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The inode is no regular file.
    #[error("inode {ino} is not a regular file")]
    NotAFile {
        /// The inode number.
        ino: u64,
    },
    /// The result would be too long.
    #[error(
        "a read of {len} bytes of inode {ino} is above the limit of {len_max}; read it in parts"
    )]
    TooLong {
        /// The inode number.
        ino: u64,
        /// How many bytes the file has in the range that was asked for.
        len: u64,
        /// The limit.
        len_max: u64,
    },
    /// A chunk of the range cannot be had.
    #[error("bytes at {file_offset} of inode {ino} cannot be read")]
    Chunk {
        /// The inode number.
        ino: u64,
        /// The offset in the file where the chunk's bytes are wanted.
        file_offset: u64,
        /// What is wrong with the chunk.
        source: LoadError,
    },
    /// The config of the image cannot be had.
    #[error("the image config cannot be fetched")]
    Config {
        /// What the source said.
        source: Arc<FetchError>,
    },
    /// The runtime shut down while a callback waited for its read.
    #[error("the runtime shut down before the read was done")]
    Shutdown,
}

impl ReadError {
    /// Returns whether the source does not have the blob.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Chunk { source, .. } => source.is_not_found(),
            Self::Config { source } => source.is_not_found(),
            Self::NotAFile { .. } | Self::TooLong { .. } | Self::Shutdown => false,
        }
    }

    /// Returns whether a later call may succeed without anybody mending anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Chunk { source, .. } => source.is_retryable(),
            Self::Config { source } => source.is_retryable(),
            Self::NotAFile { .. } | Self::TooLong { .. } | Self::Shutdown => false,
        }
    }

    /// Returns whether the source served wrong bytes.
    pub fn is_corrupt(&self) -> bool {
        matches!(self, Self::Chunk { source, .. } if source.is_corrupt())
    }
}
