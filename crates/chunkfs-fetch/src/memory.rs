//! Blobs and manifests in memory.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use chunkfs_format::BlobId;
use futures::stream::{BoxStream, StreamExt as _};

use crate::error::FetchError;
use crate::source::{
    BlobContent, BlobDescriptor, BlobSource, ImageSink, ImageSource, ManifestSelector, Priority,
    StoredManifest,
};

/// Blobs and manifests in memory, for tests and embedders.
///
/// Reads share the stored bytes and never wait. Writes are verified. Nothing is ever evicted.
#[derive(Default)]
pub struct MemorySource {
    content: Mutex<Content>,
}

#[derive(Default)]
struct Content {
    blobs: HashMap<BlobId, Bytes>,
    manifests: HashMap<BlobId, StoredManifest>,
    tags: HashMap<String, BlobId>,
}

impl MemorySource {
    /// Creates a source without blobs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a blob and returns its descriptor. Hashes `bytes`.
    pub fn insert_blob(&self, bytes: Bytes) -> BlobDescriptor {
        let descriptor = BlobDescriptor { id: BlobId::of(&bytes), len: bytes.len() as u64 };
        self.content().blobs.insert(descriptor.id, bytes);
        descriptor
    }

    /// Removes a blob and returns whether it was there.
    pub fn remove_blob(&self, blob: BlobId) -> bool {
        self.content().blobs.remove(&blob).is_some()
    }

    /// Returns the number of stored blobs, without manifests.
    pub fn blob_count(&self) -> usize {
        self.content().blobs.len()
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn blob(&self, blob: BlobId) -> Result<Bytes, FetchError> {
        let found = self.content().blobs.get(&blob).cloned();
        found.ok_or_else(|| FetchError::NotFound { what: format!("blob {blob} in memory") })
    }
}

impl fmt::Debug for MemorySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let content = self.content();
        f.debug_struct("MemorySource")
            .field("blob_count", &content.blobs.len())
            .field("manifest_count", &content.manifests.len())
            .finish()
    }
}

#[async_trait]
impl BlobSource for MemorySource {
    async fn read_range(
        &self,
        blob: &BlobDescriptor,
        range: Range<u64>,
        _priority: Priority,
    ) -> Result<Bytes, FetchError> {
        blob.check_range(&range)?;
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let bytes = self.blob(blob.id)?;
        let ends = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        match ends {
            Some((start, end)) if end <= bytes.len() => Ok(bytes.slice(start..end)),
            _ => Err(FetchError::OutOfRange { blob: blob.id, range, len: bytes.len() as u64 }),
        }
    }
}

#[async_trait]
impl ImageSource for MemorySource {
    async fn fetch_manifest(
        &self,
        manifest: &ManifestSelector,
    ) -> Result<StoredManifest, FetchError> {
        let content = self.content();
        let id = match manifest {
            ManifestSelector::Tag(tag) => content.tags.get(tag).copied(),
            ManifestSelector::Digest(id) => Some(*id),
        };
        let found = id.and_then(|id| content.manifests.get(&id)).cloned();
        found.ok_or_else(|| FetchError::NotFound { what: format!("manifest {manifest} in memory") })
    }

    fn stream_blob(&self, blob: &BlobDescriptor) -> BoxStream<'static, Result<Bytes, FetchError>> {
        let bytes = self.blob(blob.id);
        futures::stream::once(async move { bytes }).boxed()
    }
}

#[async_trait]
impl ImageSink for MemorySource {
    async fn has_blob(&self, blob: &BlobDescriptor) -> Result<bool, FetchError> {
        Ok(self.content().blobs.contains_key(&blob.id))
    }

    async fn mount_blob(&self, blob: &BlobDescriptor, _from: &str) -> Result<bool, FetchError> {
        self.has_blob(blob).await
    }

    /// Stores a blob in memory. A file is read here and now, which blocks the caller's thread.
    async fn put_blob(
        &self,
        blob: &BlobDescriptor,
        content: BlobContent,
    ) -> Result<(), FetchError> {
        let bytes = match content {
            BlobContent::Bytes(bytes) => bytes,
            BlobContent::File(file) => read_file(&file, blob)?,
        };
        blob.check_content(&bytes)?;
        self.content().blobs.insert(blob.id, bytes);
        Ok(())
    }

    async fn put_manifest(
        &self,
        manifest: &ManifestSelector,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<BlobId, FetchError> {
        let id = manifest.check_content(&bytes)?;
        let media_type = Some(media_type.to_owned());
        let mut content = self.content();
        content.manifests.insert(id, StoredManifest { id, media_type, bytes });
        if let ManifestSelector::Tag(tag) = manifest {
            content.tags.insert(tag.clone(), id);
        }
        Ok(id)
    }
}

fn read_file(file: &std::fs::File, blob: &BlobDescriptor) -> Result<Bytes, FetchError> {
    let failed = |error| FetchError::io("(blob content)", error);
    let actual = file.metadata().map_err(failed)?.len();
    if actual != blob.len {
        return Err(FetchError::LenMismatch { blob: blob.id, expected: blob.len, actual });
    }
    let len = usize::try_from(actual).map_err(|_| FetchError::TooLarge {
        what: blob.id.to_string(),
        len: actual,
        len_max: usize::MAX as u64,
    })?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0).map_err(failed)?;
    Ok(bytes.into())
}
