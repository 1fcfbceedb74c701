//! The public type: every operation runs on the blocking pool.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chunkfs_format::BlobId;
use futures::stream::BoxStream;
use tokio::runtime::Handle;

use super::store::Store;
use super::stream_in_steps;
use crate::error::FetchError;
use crate::source::{
    BlobContent, BlobDescriptor, BlobSource, ImageSink, ImageSource, ManifestSelector, Priority,
    StoredManifest,
};
use crate::task;

/// An OCI image layout in a local folder: `oci-layout`, `index.json` and `blobs/sha256/*`.
///
/// Cloning is cheap. Files are read and written on the blocking pool of the runtime given at
/// construction, so the methods can be awaited on any executor.
///
/// A blob appears under its name only when all of it is on disk (temporary file, sync, rename, sync
/// of the folder), so after a power cut a reader finds it whole or not at all. Writers of
/// `index.json` that use this crate exclude each other by a lock on `index.json.lock`; other tools
/// do not know that lock. An entry is replaced if it has the same tag, as skopeo and umoci do.
#[derive(Clone)]
pub struct OciLayout {
    store: Arc<Store>,
    runtime: Handle,
}

/// How much of a blob one step of [`ImageSource::stream_blob`] reads.
const STREAM_STEP: u64 = 1 << 20;

impl OciLayout {
    /// Opens an existing layout. Blocks the calling thread for a few file operations.
    ///
    /// # Errors
    /// [`FetchError::NotFound`] if there is no such folder; [`FetchError::InvalidLayout`] if it is
    /// not a layout of version 1.
    pub fn open(path: impl Into<PathBuf>, runtime: Handle) -> Result<Self, FetchError> {
        Ok(Self { store: Arc::new(Store::open(path.into())?), runtime })
    }

    /// Opens a layout, after creating it if there is none. Blocks the calling thread.
    ///
    /// # Errors
    /// [`FetchError::Io`] if it cannot be written; [`FetchError::InvalidLayout`] if the folder
    /// holds other things than a layout.
    pub fn create(path: impl Into<PathBuf>, runtime: Handle) -> Result<Self, FetchError> {
        Ok(Self { store: Arc::new(Store::create(path.into())?), runtime })
    }

    /// Returns the folder.
    pub fn path(&self) -> &Path {
        self.store.path()
    }

    /// Lists the tags in `index.json`, in its order.
    ///
    /// # Errors
    /// [`FetchError::InvalidLayout`] if `index.json` is damaged.
    pub async fn tags(&self) -> Result<Vec<String>, FetchError> {
        self.blocking(|store| Ok(store.read_index()?.tags())).await
    }

    /// Returns `selector` if there is one, else the digest of the only manifest of the layout.
    ///
    /// # Errors
    /// [`FetchError::NotFound`] if the layout is empty; [`FetchError::Ambiguous`] with the tags if
    /// it holds several manifests.
    pub async fn resolve(
        &self,
        selector: Option<&ManifestSelector>,
    ) -> Result<ManifestSelector, FetchError> {
        match selector {
            Some(selector) => Ok(selector.clone()),
            None => {
                let only = self.blocking(|store| store.read_index()?.only(store.path())).await;
                only.map(ManifestSelector::Digest)
            }
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, FetchError> + Send + 'static,
    ) -> Result<T, FetchError> {
        let store = Arc::clone(&self.store);
        task::run_blocking(&self.runtime, move || work(&store)).await
    }
}

impl fmt::Debug for OciLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OciLayout").field("path", &self.path()).finish()
    }
}

#[async_trait]
impl BlobSource for OciLayout {
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
        let id = blob.id;
        self.blocking(move |store| store.read_range(id, range)).await
    }

    fn place(&self) -> String {
        format!("oci:{}", self.path().display())
    }
}

#[async_trait]
impl ImageSource for OciLayout {
    async fn fetch_manifest(
        &self,
        manifest: &ManifestSelector,
    ) -> Result<StoredManifest, FetchError> {
        let manifest = manifest.clone();
        self.blocking(move |store| store.read_manifest(&manifest)).await
    }

    fn stream_blob(&self, blob: &BlobDescriptor) -> BoxStream<'static, Result<Bytes, FetchError>> {
        stream_in_steps(self, blob, STREAM_STEP)
    }
}

#[async_trait]
impl ImageSink for OciLayout {
    async fn has_blob(&self, blob: &BlobDescriptor) -> Result<bool, FetchError> {
        let blob = *blob;
        self.blocking(move |store| store.has_blob(&blob)).await
    }

    /// Returns whether the layout holds the blob: a layout is one repository.
    async fn mount_blob(
        &self,
        blob: &BlobDescriptor,
        _from_repository: &str,
    ) -> Result<bool, FetchError> {
        self.has_blob(blob).await
    }

    /// Stores a blob, verified. Copies a file of which the caller may keep another handle.
    ///
    /// # Cancel safety
    /// The copy goes on in the background; the blob appears whole or not at all.
    async fn put_blob(
        &self,
        blob: &BlobDescriptor,
        content: BlobContent,
    ) -> Result<(), FetchError> {
        let blob = *blob;
        self.blocking(move |store| store.put_blob(&blob, &content)).await
    }

    async fn put_manifest(
        &self,
        manifest: &ManifestSelector,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<BlobId, FetchError> {
        let (manifest, media_type) = (manifest.clone(), media_type.to_owned());
        self.blocking(move |store| store.put_manifest(&manifest, &media_type, bytes)).await
    }
}
