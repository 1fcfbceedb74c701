//! What a conversion read, found and wrote.

use chunkfs_format::{BlobId, ImageId};

use crate::progress::BlobTransfer;

/// The result of a conversion.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConvertReport {
    /// The digest of the manifest that was put.
    pub manifest: BlobId,
    /// The id of the image.
    pub image_id: ImageId,
    /// What was read, found and written.
    pub statistics: Statistics,
}

/// What a conversion read, found and wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Statistics {
    /// The regular files in all layers, also those that a higher layer replaces.
    pub files: u64,
    /// The bytes of these files that are no holes.
    pub source_bytes: u64,
    /// The uncompressed bytes of the chunks in the index.
    pub unique_bytes: u64,
    /// The stored bytes of the chunks in the index.
    pub stored_bytes: u64,
    /// The chunks in the index.
    pub chunks: u64,
    /// How often a chunk of a layer was there already, in the same layer or a lower one.
    pub duplicate_chunks: u64,
    /// The files that share chunks with others.
    pub packed_files: u64,
    /// The data blobs that the manifest lists.
    pub blobs: u64,
    /// The length of the index as transferred.
    pub index_bytes: u64,
    /// The layers of the source.
    pub layers: u64,
    /// The layers that were not read because a reused image has them.
    pub reused_layers: u64,
    /// The chunks of changed layers that were found in a reused image.
    pub reused_chunks: u64,
    /// The bytes of layers as stored that were read.
    pub read_bytes: u64,
    /// The bytes of blobs that were at the destination already.
    pub present_bytes: u64,
    /// The bytes of blobs that were sent, including index, configuration and fragments.
    pub pushed_bytes: u64,
    /// The bytes of blobs that were mounted from another repository.
    pub mounted_bytes: u64,
    /// The bytes of blobs that were copied from a reused image.
    pub copied_bytes: u64,
}

impl Statistics {
    /// Counts a blob that is now at the destination.
    pub(crate) fn count_transfer(&mut self, how: BlobTransfer, len: u64) {
        let counter = match how {
            BlobTransfer::Present => &mut self.present_bytes,
            BlobTransfer::Pushed => &mut self.pushed_bytes,
            BlobTransfer::Mounted => &mut self.mounted_bytes,
            BlobTransfer::Copied => &mut self.copied_bytes,
        };
        // The lengths of reused blobs are whatever their manifest says.
        *counter = counter.saturating_add(len);
    }
}
