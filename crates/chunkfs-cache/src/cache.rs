//! What the images of a process share.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use chunkfs_fetch::BlobSource;
use chunkfs_format::{ChunkDecoder, CodecError};
use quick_cache::sync::{Cache as MemoryTier, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

use crate::counters::{AtomicCounters, CacheCounters};
use crate::error::CacheError;
use crate::flight::Flights;
use crate::loader::{ChunkRequest, Loader, VerifyLevel};
use crate::store::{ChunkKey, ChunkStore, DirectoryStore};

/// How a [`Cache`] is opened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CacheOptions {
    /// Where fetching and decoding run.
    pub runtime: Handle,
    /// The folder of the disk tier; without one chunks are kept in memory only.
    pub folder: Option<PathBuf>,
    /// The most bytes of uncompressed chunks kept in memory. Default: 64 MiB.
    pub memory_len_max: u64,
    /// The most bytes of bodies and decoded chunks under way. Default: 64 MiB.
    pub in_flight_len_max: u64,
    /// Chunks closer than this in a blob are fetched by one request. Default: 32 KiB.
    pub gap_len_max: u64,
    /// The most bytes that one request asks for, unless a chunk alone is longer. Default: 8 MiB.
    pub request_len_max: u64,
}

impl CacheOptions {
    /// Returns the defaults, without a disk tier.
    pub fn new(runtime: Handle) -> Self {
        Self {
            runtime,
            folder: None,
            memory_len_max: 64 << 20,
            in_flight_len_max: 64 << 20,
            gap_len_max: 32 << 10,
            request_len_max: 8 << 20,
        }
    }

    /// Sets the folder of the disk tier.
    #[must_use]
    pub fn with_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Sets the most bytes of uncompressed chunks kept in memory.
    #[must_use]
    pub fn with_memory_len_max(mut self, len: u64) -> Self {
        self.memory_len_max = len;
        self
    }

    /// Sets the most bytes of bodies and decoded chunks under way.
    #[must_use]
    pub fn with_in_flight_len_max(mut self, len: u64) -> Self {
        self.in_flight_len_max = len;
        self
    }

    /// Sets how close chunks must be to be fetched by one request.
    #[must_use]
    pub fn with_gap_len_max(mut self, len: u64) -> Self {
        self.gap_len_max = len;
        self
    }

    /// Sets the most bytes that one request asks for.
    #[must_use]
    pub fn with_request_len_max(mut self, len: u64) -> Self {
        self.request_len_max = len;
        self
    }
}

/// The cache of a process: shared by all images that it opens.
///
/// Cheap to clone; clones are the same cache.
#[derive(Debug, Clone)]
pub struct Cache {
    pub(crate) inner: Arc<CacheInner>,
}

#[derive(Debug)]
pub(crate) struct CacheInner {
    pub(crate) options: CacheOptions,
    pub(crate) memory: MemoryTier<ChunkKey, Bytes, ChunkWeighter>,
    pub(crate) store: Option<Arc<dyn ChunkStore>>,
    pub(crate) flights: Arc<Flights>,
    pub(crate) counters: AtomicCounters,
    /// One permit per KiB under way.
    pub(crate) in_flight: Arc<Semaphore>,
    decoders: Mutex<Vec<ChunkDecoder>>,
    pending_writes: watch::Sender<usize>,
}

#[derive(Debug, Clone)]
pub(crate) struct ChunkWeighter;

impl Weighter<ChunkKey, Bytes> for ChunkWeighter {
    fn weight(&self, _: &ChunkKey, bytes: &Bytes) -> u64 {
        // The key, the entry and the buffer's header.
        bytes.len() as u64 + 128
    }
}

impl Cache {
    /// Opens a cache with a [`DirectoryStore`] in the folder of the options, if they name one.
    ///
    /// # Errors
    /// [`CacheError::Folder`] if the folder cannot be created.
    pub fn open(options: CacheOptions) -> Result<Self, CacheError> {
        let store = match &options.folder {
            Some(path) => {
                let store = DirectoryStore::open(path)
                    .map_err(|source| CacheError::Folder { path: path.clone(), source })?;
                Some(Arc::new(store) as Arc<dyn ChunkStore>)
            }
            None => None,
        };
        Ok(Self::with_store(options, store))
    }

    /// Opens a cache whose disk tier is the given store; the folder of the options is not used.
    pub fn with_store(options: CacheOptions, store: Option<Arc<dyn ChunkStore>>) -> Self {
        let in_flight_kib = (options.in_flight_len_max >> 10).clamp(1, u64::from(u32::MAX));
        let inner = CacheInner {
            memory: memory_tier(options.memory_len_max),
            store,
            flights: Arc::default(),
            counters: AtomicCounters::default(),
            in_flight: Arc::new(Semaphore::new(in_flight_kib as usize)),
            decoders: Mutex::default(),
            pending_writes: watch::Sender::new(0),
            options,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Returns a loader for the chunks of one image, which it fetches from `source`.
    pub fn loader(&self, source: Arc<dyn BlobSource>, verify: VerifyLevel) -> Loader {
        Loader::new(Arc::clone(&self.inner), source, verify)
    }

    /// Returns what the cache has done so far.
    pub fn counters(&self) -> CacheCounters {
        self.inner.counters.snapshot()
    }

    /// Returns the runtime that fetching and decoding run on.
    pub fn runtime(&self) -> &Handle {
        &self.inner.options.runtime
    }

    /// Returns the most bytes that one request asks for, unless a chunk alone is longer.
    pub fn request_len_max(&self) -> u64 {
        self.inner.options.request_len_max
    }

    /// Waits until every chunk handed out so far is in the disk tier, or could not be written.
    pub async fn flush(&self) {
        let mut pending = self.inner.pending_writes.subscribe();
        // The sender lives in `self`, so the wait cannot fail.
        let _ = pending.wait_for(|count| *count == 0).await;
    }
}

/// Shards split the capacity, and a chunk must fit into one: give each at least 32 MiB.
fn memory_tier(len_max: u64) -> MemoryTier<ChunkKey, Bytes, ChunkWeighter> {
    let shards = (len_max / (32 << 20)).clamp(1, 16) as usize;
    let items = (len_max / (256 << 10)).clamp(16, 1 << 20) as usize;
    let options = OptionsBuilder::new()
        .shards(1 << shards.ilog2())
        .estimated_items_capacity(items)
        .weight_capacity(len_max)
        .build()
        .expect("both capacities are set");
    MemoryTier::with_options(
        options,
        ChunkWeighter,
        Default::default(),
        DefaultLifecycle::default(),
    )
}

impl CacheInner {
    /// Decodes and verifies a chunk with a pooled context.
    pub(crate) fn decode(&self, chunk: &ChunkRequest, stored: &[u8]) -> Result<Bytes, CodecError> {
        let pooled = self.decoders.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut decoder = match pooled {
            Some(decoder) => decoder,
            None => ChunkDecoder::new()?,
        };
        let mut bytes = Vec::new();
        let (len, codec) = (chunk.uncompressed_len, chunk.codec);
        let result = decoder.decode(chunk.algorithm, chunk.id, len, codec, stored, &mut bytes);
        self.decoders.lock().unwrap_or_else(PoisonError::into_inner).push(decoder);
        result.map(|()| bytes.into())
    }

    /// Counts a write as pending until the returned value is dropped.
    pub(crate) fn begin_write(self: &Arc<Self>) -> PendingWrite {
        self.pending_writes.send_modify(|count| *count += 1);
        PendingWrite(Arc::clone(self))
    }
}

pub(crate) struct PendingWrite(Arc<CacheInner>);

impl Drop for PendingWrite {
    fn drop(&mut self) {
        self.0.pending_writes.send_modify(|count| *count -= 1);
    }
}
