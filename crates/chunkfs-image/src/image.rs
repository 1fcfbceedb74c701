//! The handle of an opened image.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use chunkfs_cache::{Cache, CacheDomain, CacheError, CachedImage, ChunkRequest, Loader};
use chunkfs_fetch::{
    BlobDescriptor, BlobSource, ConvertedManifest, FetchCounters, FetchError, ImageSource,
    fetch_verified,
};
use chunkfs_format::{BlobId, ImageId};
use chunkfs_index::{ChunkIndex, Index};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::error::ReadError;
use crate::neighbourhood::Neighbourhood;
use crate::open::OpenOptions;
use crate::readahead::Readahead;

/// The longest image config that is read: 8 MiB.
const CONFIG_LEN_MAX: u64 = 8 << 20;

/// An opened image.
///
/// Cheap to clone; clones are the same image. When the last one is dropped, its background work
/// ends.
#[derive(Clone)]
pub struct Image {
    pub(crate) inner: Arc<ImageInner>,
}

pub(crate) struct ImageInner {
    pub(crate) index: Index,
    pub(crate) loader: Loader,
    pub(crate) cache: Cache,
    pub(crate) runtime: Handle,
    pub(crate) readahead: Readahead,
    pub(crate) read_count: AtomicU64,
    pub(crate) read_len: AtomicU64,
    pub(crate) read_error_count: AtomicU64,
    manifest: ConvertedManifest,
    manifest_id: BlobId,
    source: Arc<dyn ImageSource>,
    /// What it was opened by.
    name: String,
    domain: Option<CacheDomain>,
    /// Readahead and the like; dropped, and so ended, with the image.
    pub(crate) background: Arc<Background>,
}

/// A snapshot of what readers of an image asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ImageCounters {
    /// Reads that were asked for.
    pub reads: u64,
    /// Bytes that reads returned.
    pub read_bytes: u64,
    /// Reads that failed.
    pub read_errors: u64,
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image")
            .field("name", &self.inner.name)
            .field("manifest", &self.inner.manifest_id)
            .field("index", &self.inner.index)
            .finish_non_exhaustive()
    }
}

impl Image {
    pub(crate) fn new(
        name: String,
        index: Index,
        manifest: ConvertedManifest,
        manifest_id: BlobId,
        source: Arc<dyn ImageSource>,
        cache: &Cache,
        options: &OpenOptions,
    ) -> Self {
        let blobs: Arc<dyn BlobSource> = source.clone();
        let background = Arc::new(Background::new(cache.runtime().clone()));
        let mut loader = cache
            .loader(blobs, options.verify)
            .with_chunk_count(index.chunk_count())
            .with_dropped_pages(options.drop_pages);
        if let Some(domain) = options.domain {
            loader = loader.with_domain(domain);
        }
        let (guesses, weak) = (options.fetch_neighbours, Arc::downgrade(&background));
        let neighbourhood = Neighbourhood::new(index.clone(), guesses, weak);
        let loader = loader.with_neighbours(Arc::new(neighbourhood));
        let inner = ImageInner {
            loader,
            runtime: cache.runtime().clone(),
            cache: cache.clone(),
            readahead: Readahead::new(index.chunk_size(), options.readahead_len_max),
            read_count: AtomicU64::new(0),
            read_len: AtomicU64::new(0),
            read_error_count: AtomicU64::new(0),
            background,
            index,
            manifest,
            manifest_id,
            source,
            name,
            domain: options.domain,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Tells the cache of the image, in the background: only statistics and pins depend on it.
    pub(crate) fn register(&self) {
        let inner = Arc::clone(&self.inner);
        let write = inner.cache.begin_background_write();
        self.inner.runtime.spawn_blocking(move || {
            inner.register();
            drop(write);
        });
    }

    /// Fetches no chunk, and keeps those that are or come into the cache from being evicted. Blocks.
    ///
    /// # Errors
    /// [`CacheError`] if the cache has no folder or it cannot be written.
    pub fn pin(&self) -> Result<(), CacheError> {
        let chunks = self.inner.requests();
        self.inner.cache.pin(&self.inner.cached(&chunks))
    }

    /// Returns whether every chunk is in the cache folder. Blocks.
    ///
    /// # Errors
    /// [`CacheError`] if the cache has no folder or it cannot be read.
    pub fn is_complete(&self) -> Result<bool, CacheError> {
        let chunks = self.inner.requests();
        self.inner.cache.is_complete(&self.inner.cached(&chunks))
    }

    /// Returns the index: the whole tree.
    pub fn index(&self) -> &Index {
        &self.inner.index
    }

    /// Returns the id of the image, which depends on its tree and content alone.
    pub fn id(&self) -> ImageId {
        self.inner.index.image_id()
    }

    /// Returns the digest of the manifest that was opened, with which it can be opened again.
    pub fn manifest_id(&self) -> BlobId {
        self.inner.manifest_id
    }

    /// Returns the manifest that was opened.
    pub fn manifest(&self) -> &ConvertedManifest {
        &self.inner.manifest
    }

    /// Returns the cache that the image reads through.
    pub fn cache(&self) -> &Cache {
        &self.inner.cache
    }

    /// Returns what readers asked for so far.
    pub fn counters(&self) -> ImageCounters {
        ImageCounters {
            reads: self.inner.read_count.load(Ordering::Relaxed),
            read_bytes: self.inner.read_len.load(Ordering::Relaxed),
            read_errors: self.inner.read_error_count.load(Ordering::Relaxed),
        }
    }

    /// Returns what the source of the image has done so far, for all who use it.
    pub fn source_counters(&self) -> FetchCounters {
        self.inner.source.counters()
    }

    /// Fetches the configuration of the original image: an OCI image config in JSON, verified.
    ///
    /// Sends one request each time; nothing is kept.
    ///
    /// # Errors
    /// [`ReadError::Config`] if it cannot be had.
    pub async fn config(&self) -> Result<Bytes, ReadError> {
        let error = |source: FetchError| ReadError::Config { source: Arc::new(source) };
        let blob = self.inner.manifest.config.blob().map_err(error)?;
        fetch_verified(&*self.inner.source, &blob, CONFIG_LEN_MAX).await.map_err(error)
    }
}

impl ImageInner {
    fn requests(&self) -> Vec<ChunkRequest> {
        let numbers = 0..self.index.chunk_count();
        numbers.filter_map(|number| self.request(ChunkIndex::new(number))).collect()
    }

    fn cached<'a>(&'a self, chunks: &'a [ChunkRequest]) -> CachedImage<'a> {
        let (id, domain) = (self.index.image_id(), self.domain.as_ref());
        CachedImage { id, name: &self.name, domain, chunks }
    }

    fn register(&self) {
        let chunks = self.requests();
        // A folder that cannot be written is reported when a chunk is.
        let _ = self.cache.register(&self.cached(&chunks));
    }

    /// Returns what the loader needs to know of a chunk.
    pub(crate) fn request(&self, index: ChunkIndex) -> Option<ChunkRequest> {
        chunk_request(&self.index, index)
    }
}

/// Returns what a loader needs to know of a chunk, or `None` if there is no such chunk.
pub(crate) fn chunk_request(index: &Index, number: ChunkIndex) -> Option<ChunkRequest> {
    let chunk = index.chunk(number)?;
    let blob = index.blob(chunk.location.blob)?;
    Some(ChunkRequest {
        algorithm: index.algorithm(),
        id: chunk.id,
        uncompressed_len: chunk.uncompressed_len,
        blob: BlobDescriptor { id: blob.id, len: blob.len },
        offset: chunk.location.offset,
        stored_len: chunk.location.stored_len,
        codec: chunk.location.codec,
        number: number.get(),
    })
}

/// Work that ends with the image.
#[derive(Debug)]
pub(crate) struct Background {
    runtime: Handle,
    tasks: Mutex<JoinSet<()>>,
}

impl Background {
    fn new(runtime: Handle) -> Self {
        Self { runtime, tasks: Mutex::default() }
    }

    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(work, &self.runtime);
    }
}
