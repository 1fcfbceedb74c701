//! What the images of a process share.

use std::fmt;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use chunkfs_fetch::BlobSource;
use chunkfs_format::{ChunkDecoder, CodecError};
use quick_cache::sync::{Cache as MemoryTier, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

use crate::counters::{AtomicCounters, CacheCounters};
use crate::disk::Disk;
use crate::files::{DiskFiles, Files};
use crate::flight::Flights;
use crate::health::{DiskObserver, Health};
use crate::key::StoreKey;
use crate::loader::{ChunkRequest, Loader, VerifyLevel};
use crate::places::Places;
use crate::slab::{SlabStore, StoreSettings};
use crate::writing::Writing;

/// How a [`Cache`] is opened.
#[derive(Clone)]
#[non_exhaustive]
pub struct CacheOptions {
    /// Where fetching and decoding run. Its time driver must be enabled.
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
    /// The most bytes of disk that the folder may take. Default: no bound but the reserve.
    pub quota_len: Option<u64>,
    /// The bytes of disk that are left free for others. Default: 1 GiB.
    pub reserve_len: u64,
    /// How long a chunk that another process is fetching is waited for. Default: 10 s.
    pub lease_wait_max: Duration,
    /// How long a disk that failed is left alone at first; each further failure doubles it, up to
    /// 30 s. Default: 100 ms.
    pub disk_pause_min: Duration,
    /// Is told when the disk stops or starts working.
    pub disk_observer: Option<DiskObserver>,
}

impl fmt::Debug for CacheOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheOptions")
            .field("folder", &self.folder)
            .field("memory_len_max", &self.memory_len_max)
            .field("in_flight_len_max", &self.in_flight_len_max)
            .field("gap_len_max", &self.gap_len_max)
            .field("request_len_max", &self.request_len_max)
            .field("quota_len", &self.quota_len)
            .field("reserve_len", &self.reserve_len)
            .field("lease_wait_max", &self.lease_wait_max)
            .field("disk_pause_min", &self.disk_pause_min)
            .finish_non_exhaustive()
    }
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
            quota_len: None,
            reserve_len: 1 << 30,
            lease_wait_max: Duration::from_secs(10),
            disk_pause_min: Duration::from_millis(100),
            disk_observer: None,
        }
    }

    /// Sets the most bytes of disk that the folder may take.
    #[must_use]
    pub fn with_quota_len(mut self, len: u64) -> Self {
        self.quota_len = Some(len);
        self
    }

    /// Sets the bytes of disk that are left free for others.
    #[must_use]
    pub fn with_reserve_len(mut self, len: u64) -> Self {
        self.reserve_len = len;
        self
    }

    /// Sets how long a chunk that another process is fetching is waited for.
    #[must_use]
    pub fn with_lease_wait_max(mut self, wait: Duration) -> Self {
        self.lease_wait_max = wait;
        self
    }

    /// Sets how long a disk that failed is left alone at first.
    #[must_use]
    pub fn with_disk_pause_min(mut self, pause: Duration) -> Self {
        self.disk_pause_min = pause;
        self
    }

    /// Sets who is told when the disk stops or starts working. Called on the thread that noticed.
    #[must_use]
    pub fn with_disk_observer(mut self, observer: DiskObserver) -> Self {
        self.disk_observer = Some(observer);
        self
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
    pub(crate) memory: MemoryTier<StoreKey, Bytes, ChunkWeighter>,
    pub(crate) disk: Option<Disk>,
    pub(crate) flights: Arc<Flights>,
    pub(crate) writing: Writing,
    pub(crate) counters: AtomicCounters,
    /// One permit per KiB under way.
    pub(crate) in_flight: Arc<Semaphore>,
    /// Threads that decode and write at once, by priority. More would spin on the slab's lock in the
    /// kernel, and each keeps some of what it freed.
    pub(crate) demand_threads: Semaphore,
    pub(crate) prefetch_threads: Semaphore,
    decoders: Mutex<Vec<ChunkDecoder>>,
    pending_writes: watch::Sender<usize>,
    places: Mutex<Vec<Weak<Places>>>,
}

#[derive(Debug, Clone)]
pub(crate) struct ChunkWeighter;

impl Weighter<StoreKey, Bytes> for ChunkWeighter {
    fn weight(&self, _: &StoreKey, bytes: &Bytes) -> u64 {
        // The key, the entry and the buffer's header.
        bytes.len() as u64 + 128
    }
}

impl Cache {
    /// Opens a cache, with a disk tier in the folder of the options if they name one.
    ///
    /// Never fails: with a folder that cannot be used, chunks are kept in memory, the
    /// [observer](CacheOptions::with_disk_observer) is told, and the folder is tried again when there
    /// is something to write. One that can only be read is read.
    pub fn open(options: CacheOptions) -> Self {
        let files = options.folder.as_ref().map(|folder| Arc::new(DiskFiles::new(folder)) as _);
        Self::with_files(options, files)
    }

    /// Opens a cache whose disk tier is in the given files; the folder of the options is not used.
    pub fn with_files(options: CacheOptions, files: Option<Arc<dyn Files>>) -> Self {
        let in_flight_kib = (options.in_flight_len_max >> 10).clamp(1, u64::from(u32::MAX));
        let counters = AtomicCounters::default();
        let disk = files.map(|files| {
            let (quota_len, reserve_len) = (options.quota_len, options.reserve_len);
            let store = SlabStore::new(files, StoreSettings { quota_len, reserve_len });
            let health = Health::new(options.disk_pause_min, options.disk_observer.clone());
            let disk = Disk::new(store, health);
            if let Err(error) = disk.store.open() {
                disk.count_failure("the cache folder cannot be opened", &error, &counters);
            }
            disk
        });
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let inner = CacheInner {
            memory: memory_tier(options.memory_len_max),
            disk,
            flights: Arc::default(),
            writing: Writing::default(),
            counters,
            in_flight: Arc::new(Semaphore::new(in_flight_kib as usize)),
            demand_threads: Semaphore::new(2 * cores + 2),
            prefetch_threads: Semaphore::new(cores),
            decoders: Mutex::default(),
            pending_writes: watch::Sender::new(0),
            places: Mutex::default(),
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

    /// Returns the folder, if there is one that works, and how many bytes may be spent there on copies
    /// that need not last: half of what is free on its volume, less the reserve, and no more than half of
    /// the quota, because chunks come beside them. Asks the file system.
    pub fn spare(&self) -> Option<(PathBuf, u64)> {
        let CacheOptions { folder, quota_len, reserve_len, .. } = &self.inner.options;
        let folder = folder.as_ref()?;
        let free_len = self.inner.disk.as_ref()?.store.files.free_len().ok()?;
        let len = free_len.saturating_sub(*reserve_len).min(quota_len.unwrap_or(u64::MAX));
        Some((folder.clone(), len / 2))
    }

    /// Returns the runtime that fetching and decoding run on.
    pub fn runtime(&self) -> &Handle {
        &self.inner.options.runtime
    }

    /// Returns the most bytes that one request asks for, unless a chunk alone is longer.
    pub fn request_len_max(&self) -> u64 {
        self.inner.options.request_len_max
    }

    /// Makes [`flush`](Self::flush) wait until the returned value is dropped.
    pub fn begin_background_write(&self) -> BackgroundWrite {
        BackgroundWrite { _pending: self.inner.begin_write() }
    }

    /// Waits until every chunk handed out so far is in the disk tier, or could not be written.
    pub async fn flush(&self) {
        let mut pending = self.inner.pending_writes.subscribe();
        // The sender lives in `self`, so the wait cannot fail.
        let _ = pending.wait_for(|count| *count == 0).await;
    }
}

impl CacheInner {
    /// Counts the memory that a loader uses to find chunks.
    pub(crate) fn track(&self, places: &Arc<Places>) {
        let mut all = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|places| places.strong_count() > 0);
        all.push(Arc::downgrade(places));
    }

    pub(crate) fn directory_memory_len(&self) -> u64 {
        let all = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(Weak::upgrade).map(|places| places.memory_len()).sum()
    }
}

/// Shards split the capacity, and a chunk must fit into one: give each at least 32 MiB.
fn memory_tier(len_max: u64) -> MemoryTier<StoreKey, Bytes, ChunkWeighter> {
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

/// Something that is being written to the cache folder; see [`Cache::begin_background_write`].
pub struct BackgroundWrite {
    _pending: PendingWrite,
}

impl fmt::Debug for BackgroundWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackgroundWrite").finish_non_exhaustive()
    }
}

pub(crate) struct PendingWrite(Arc<CacheInner>);

impl Drop for PendingWrite {
    fn drop(&mut self) {
        self.0.pending_writes.send_modify(|count| *count -= 1);
    }
}
