//! Telling the caller how far a conversion is.

use std::fmt;

use chunkfs_format::BlobId;

/// Is told of progress, from several threads at once; it should return quickly.
pub trait ConvertObserver: Send + Sync + fmt::Debug {
    /// Takes note of one event.
    fn observe(&self, event: &ConvertEvent);
}

/// What happened in a conversion. Layers are numbered from zero, the lowest first.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConvertEvent {
    /// The layers are known.
    Planned {
        /// The length of each layer as stored, or `None` if it is not known beforehand.
        layer_lens: Vec<Option<u64>>,
    },
    /// A layer was converted before and is not read.
    LayerReused {
        /// The layer.
        layer: usize,
    },
    /// Bytes of a layer were read.
    LayerRead {
        /// The layer.
        layer: usize,
        /// The number of bytes as stored that were read since the last such event.
        len: u64,
    },
    /// A layer was read and verified to its end.
    LayerFinished {
        /// The layer.
        layer: usize,
    },
    /// A blob is at the destination.
    BlobStored {
        /// The blob.
        id: BlobId,
        /// Its length.
        len: u64,
        /// How it came there.
        how: BlobTransfer,
    },
}

/// How a blob came to the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlobTransfer {
    /// It was there already.
    Present,
    /// It was sent.
    Pushed,
    /// It was mounted from another repository of the destination.
    Mounted,
    /// It was copied from a reused image.
    Copied,
}
