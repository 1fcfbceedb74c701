//! The public type: every operation runs as a task on the runtime of the options.

use std::fmt;
use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use bytes::Bytes;
use chunkfs_format::BlobId;
use futures::stream::BoxStream;
use object_store::ObjectStore;

use super::connect::Connect;
use super::options::StoreOptions;
use super::range::Wanted;
use super::store::Store;
use crate::counters::FetchCounters;
use crate::error::FetchError;
use crate::layout::remote::{self, Expected, LayoutFiles, SmallFile};
use crate::layout::stream_in_steps;
use crate::reference::StoreReference;
use crate::registry::counters::Counters;
use crate::registry::limits::Limits;
use crate::registry::patience::REREADS_MAX;
use crate::source::{
    BlobContent, BlobDescriptor, BlobSource, ImageSink, ImageSource, ManifestSelector, Priority,
    StoredManifest,
};
use crate::task;

/// An OCI image layout in an object store: S3 and what speaks its protocol, GCS, Azure, or any
/// other [`ObjectStore`].
///
/// Cloning is cheap. All requests run on the runtime given in [`StoreOptions`], because those of
/// object_store panic elsewhere.
///
/// Blobs appear whole, `index.json` is written last, and writers of it exclude each other where
/// the store can compare versions (S3, GCS and Azure can); elsewhere the last one wins. An
/// interrupted upload may leave invisible parts, which a rule of the bucket should expire.
///
/// A store that refuses what it has served before is set up anew, so that keys that were rotated,
/// revoked, or outlived in a suspended machine are looked up again. That is not possible for a store
/// that was given to [`new`](Self::new).
#[derive(Clone)]
pub struct ObjectLayout {
    objects: Arc<Objects>,
}

/// A store, and how it is talked to.
pub(super) struct Objects {
    pub(super) store: Store,
    pub(super) prefix: String,
    pub(super) place: String,
    pub(super) options: StoreOptions,
    pub(super) limits: Limits,
    pub(super) counters: Counters,
    /// Whether a read has succeeded, so that refusals need not be final.
    pub(super) has_served: AtomicBool,
}

/// How much of a blob one step of [`ImageSource::stream_blob`] reads.
const STREAM_STEP: u64 = 4 << 20;

impl ObjectLayout {
    /// Connects to the store of a reference. Sends nothing, but reads the system's root
    /// certificates and, for some stores, configuration files that settings name.
    ///
    /// # Errors
    /// [`FetchError::Store`] if the build lacks the store's feature or a setting makes no sense;
    /// [`FetchError::Tls`] if TLS cannot be set up.
    pub fn connect(reference: &StoreReference, options: StoreOptions) -> Result<Self, FetchError> {
        let connect = Connect::new(reference, &options)?;
        let store = Store::new(connect.connect()?, Some(connect));
        Ok(Self::with_store(store, reference.prefix(), &reference.place(), options))
    }

    /// Uses any store; `place` names it in messages. The settings of the options are not used.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        prefix: &str,
        place: &str,
        options: StoreOptions,
    ) -> Self {
        Self::with_store(Store::new(store, None), prefix, place, options)
    }

    fn with_store(store: Store, prefix: &str, place: &str, options: StoreOptions) -> Self {
        let limits = Limits::new(options.connections_max, options.prefetch_connections_max);
        let objects = Objects {
            store,
            prefix: prefix.to_owned(),
            place: place.to_owned(),
            options,
            limits,
            counters: Counters::default(),
            has_served: AtomicBool::new(false),
        };
        Self { objects: Arc::new(objects) }
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
        let selector = selector.cloned();
        self.run(|objects| async move { remote::resolve(&*objects, selector.as_ref()).await }).await
    }

    /// Runs one operation on the runtime of the options.
    async fn run<T: Send + 'static, F>(
        &self,
        work: impl FnOnce(Arc<Objects>) -> F + Send,
    ) -> Result<T, FetchError>
    where
        F: Future<Output = Result<T, FetchError>> + Send + 'static,
    {
        task::run(&self.objects.options.runtime, work(Arc::clone(&self.objects))).await
    }
}

impl fmt::Debug for ObjectLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectLayout")
            .field("place", &self.objects.place)
            .field("options", &self.objects.options)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl LayoutFiles for Objects {
    fn place(&self) -> String {
        self.place.clone()
    }

    async fn get(&self, path: &str, len_max: u64) -> Result<Option<SmallFile>, FetchError> {
        self.get_small(path, len_max).await
    }

    async fn put(&self, path: &str, bytes: Bytes, expected: Expected) -> Result<bool, FetchError> {
        let _permit = self.limits.acquire(Priority::Demand).await?;
        self.put_small(path, bytes, expected).await
    }
}

#[async_trait]
impl BlobSource for ObjectLayout {
    async fn read_range(
        &self,
        blob: &BlobDescriptor,
        range: Range<u64>,
        priority: Priority,
    ) -> Result<Bytes, FetchError> {
        blob.check_range(&range)?;
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let wanted = Wanted { blob: *blob, range, priority };
        self.run(|objects| async move { objects.read_range(wanted).await }).await
    }

    /// Reads again, at most three times and with growing pauses.
    async fn reread_range(
        &self,
        blob: &BlobDescriptor,
        range: Range<u64>,
        priority: Priority,
        damaged_count: NonZeroU32,
    ) -> Result<Option<Bytes>, FetchError> {
        if damaged_count.get() > REREADS_MAX {
            return Ok(None);
        }
        self.objects.counters.rereads.add(1);
        let options = &self.objects.options;
        let pause = options.backoff * (damaged_count.get() - 1);
        task::run(&options.runtime, async move {
            tokio::time::sleep(pause).await;
            Ok(())
        })
        .await?;
        self.read_range(blob, range, priority).await.map(Some)
    }

    /// Counts reads as object_store was asked for them: its own retries are not among them.
    fn counters(&self) -> FetchCounters {
        self.objects.counters.snapshot()
    }

    fn place(&self) -> String {
        self.objects.place.clone()
    }
}

#[async_trait]
impl ImageSource for ObjectLayout {
    async fn fetch_manifest(
        &self,
        manifest: &ManifestSelector,
    ) -> Result<StoredManifest, FetchError> {
        let manifest = manifest.clone();
        self.run(|objects| async move { remote::fetch_manifest(&*objects, &manifest).await }).await
    }

    fn stream_blob(&self, blob: &BlobDescriptor) -> BoxStream<'static, Result<Bytes, FetchError>> {
        stream_in_steps(self, blob, STREAM_STEP)
    }
}

#[async_trait]
impl ImageSink for ObjectLayout {
    async fn has_blob(&self, blob: &BlobDescriptor) -> Result<bool, FetchError> {
        let blob = *blob;
        self.run(|objects| async move { objects.has_blob(&blob).await }).await
    }

    /// Returns whether the layout holds the blob: a layout is one repository.
    async fn mount_blob(
        &self,
        blob: &BlobDescriptor,
        _from_repository: &str,
    ) -> Result<bool, FetchError> {
        self.has_blob(blob).await
    }

    /// Stores a blob, verified. Blobs above 8 MiB are sent in parts and need 24 MiB of memory.
    async fn put_blob(
        &self,
        blob: &BlobDescriptor,
        content: BlobContent,
    ) -> Result<(), FetchError> {
        let blob = *blob;
        self.run(|objects| async move {
            let _permit = objects.limits.acquire(Priority::Demand).await?;
            objects.put_blob(&blob, content).await
        })
        .await
    }

    async fn put_manifest(
        &self,
        manifest: &ManifestSelector,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<BlobId, FetchError> {
        let (manifest, media_type) = (manifest.clone(), media_type.to_owned());
        self.run(|objects| async move {
            remote::put_manifest(&*objects, &manifest, &media_type, bytes).await
        })
        .await
    }
}
