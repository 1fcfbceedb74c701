//! What can go wrong in a conversion.

use std::io;
use std::path::PathBuf;

use chunkfs_fetch::FetchError;
use chunkfs_format::{BlobId, CodecError};
use chunkfs_index::{BuildError, OpenError};

use crate::fragment::FragmentError;

/// An image was not converted; nothing points at what was already sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// Something could not be read from the source or written to the destination.
    #[error("{what} could not be transferred")]
    Transfer {
        /// What was to be transferred.
        what: String,
        /// Why not.
        source: FetchError,
    },
    /// A manifest, an image index or a configuration is not what it should be.
    #[error("{what} is invalid: {problem}")]
    InvalidImage {
        /// The document.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The image is already a converted one.
    #[error("the image is already converted; copy it with an OCI tool instead")]
    AlreadyConverted,
    /// The image index has no image for the platform.
    #[error("the image has no variant for {platform}, but for {available}; choose one of these")]
    NoSuchPlatform {
        /// The platform that was asked for.
        platform: String,
        /// The platforms that the image index lists.
        available: String,
    },
    /// A layer is damaged or hostile.
    #[error("layer {layer} cannot be converted")]
    Layer {
        /// The digest of the layer, or the name of the archive or directory.
        layer: String,
        /// Why not.
        source: LayerError,
    },
    /// The index of an image to be reused is damaged.
    #[error("the index of an image to be reused is invalid")]
    ReuseIndex(#[source] OpenError),
    /// A fragment of an image to be reused is damaged.
    #[error("the fragment of layer {layer} in an image to be reused is invalid")]
    ReuseFragment {
        /// The digest of the layer's uncompressed archive.
        layer: BlobId,
        /// What is wrong with it.
        source: FragmentError,
    },
    /// The merged tree cannot be expressed as an index.
    #[error("the index could not be written")]
    Build(#[from] BuildError),
    /// A chunk could not be compressed.
    #[error("a chunk could not be compressed")]
    Compress(#[from] CodecError),
    /// A fragment could not be compressed for want of memory.
    #[error("a fragment could not be compressed")]
    Fragment(#[source] io::Error),
    /// The temporary file that collects a blob could not be written.
    #[error(
        "a temporary file in {directory:?} could not be written; choose another spool directory"
    )]
    Spool {
        /// The directory for temporary files.
        directory: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another part of the conversion failed first. Never returned to callers.
    #[error("the conversion was stopped")]
    #[doc(hidden)]
    Stopped,
}

impl ConvertError {
    /// Returns whether the source holds other bytes than its digests or formats say.
    pub fn is_corrupt(&self) -> bool {
        match self {
            Self::InvalidImage { .. } | Self::ReuseIndex(_) | Self::ReuseFragment { .. } => true,
            Self::Layer { source, .. } => source.is_corrupt(),
            _ => false,
        }
    }

    pub(crate) fn transfer(what: impl ToString) -> impl FnOnce(FetchError) -> Self {
        let what = what.to_string();
        move |source| Self::Transfer { what, source }
    }
}

/// A layer could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// The bytes could not be read or decompressed.
    #[error("it could not be read")]
    Read {
        /// Why not.
        source: io::Error,
    },
    /// The archive ends inside an entry.
    #[error("the archive is cut off at byte {offset}")]
    Truncated {
        /// Where it ends.
        offset: u64,
    },
    /// A header of the archive is invalid.
    #[error("the header at byte {offset} of the archive is invalid: {problem}")]
    Header {
        /// Where the header starts.
        offset: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An entry is invalid, or does not fit to what is already there.
    #[error("entry {entry}: {problem}")]
    Entry {
        /// The path of the entry, with unprintable bytes escaped.
        entry: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The content of an entry ends early.
    #[error("entry {entry} is cut off")]
    EntryTruncated {
        /// The path of the entry, with unprintable bytes escaped.
        entry: String,
    },
    /// A file of a directory tree could not be read.
    #[error("{path:?} could not be read")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file of a directory tree has another length than before it was read.
    #[error("{path:?} changed while it was read; convert a tree that nobody writes to")]
    FileChanged {
        /// The file.
        path: PathBuf,
    },
    /// The layer as stored has another digest than the manifest says.
    #[error("its bytes have the digest {actual} instead of {expected}")]
    DigestMismatch {
        /// The digest in the manifest.
        expected: BlobId,
        /// The digest of what was read.
        actual: BlobId,
    },
    /// The layer as stored has another length than the manifest says.
    #[error("it is {actual} bytes long instead of {expected}")]
    LengthMismatch {
        /// The length in the manifest.
        expected: u64,
        /// The number of bytes read before this was noticed.
        actual: u64,
    },
    /// The uncompressed layer has another digest than the configuration says.
    #[error("its uncompressed bytes have the digest {actual} instead of {expected}")]
    DiffIdMismatch {
        /// The digest in the configuration.
        expected: BlobId,
        /// The digest of what was read.
        actual: BlobId,
    },
    /// Bytes follow the end of the compressed stream.
    #[error("something follows the end of its compressed bytes")]
    TrailingBytes,
    /// The uncompressed layer is longer than the options allow.
    #[error("it is longer than {len_max} bytes uncompressed; raise the limit if that is expected")]
    TooLong {
        /// The limit.
        len_max: u64,
    },
    /// The entries of all layers take more memory than they may.
    #[error("the image has more entries than memory is allowed for")]
    TooManyEntries,
    /// The layer could not be fetched.
    #[error("it could not be fetched")]
    Fetch {
        /// Why not.
        source: FetchError,
    },
    /// Another part of the conversion failed first. Never returned to callers.
    #[error("the conversion was stopped")]
    #[doc(hidden)]
    Stopped,
}

impl LayerError {
    /// Returns whether the bytes of the layer are to blame.
    pub fn is_corrupt(&self) -> bool {
        !matches!(
            self,
            Self::File { .. } | Self::FileChanged { .. } | Self::Fetch { .. } | Self::Stopped
        )
    }

    /// Unwraps a layer error that travelled as an I/O error through a decoder.
    pub(crate) fn from_io(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(error) => error,
            Err(source) => Self::Read { source },
        }
    }
}

/// Writes a path for people: bytes that are not printable ASCII are escaped.
pub(crate) fn display_path(path: &[u8]) -> String {
    const LEN_MAX: usize = 300;
    match path.split_at_checked(LEN_MAX) {
        Some((start, rest)) if !rest.is_empty() => format!("`{}...`", start.escape_ascii()),
        _ => format!("`{}`", path.escape_ascii()),
    }
}
