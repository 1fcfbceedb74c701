//! Loading the chunks of one image.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use chunkfs_fetch::{BlobDescriptor, BlobSource, Priority};
use chunkfs_format::{BlobId, ChunkId, Codec, DigestAlgorithm};
use futures::future::{Ready, ready};

use crate::cache::CacheInner;
use crate::counters::AtomicCounters;
use crate::disk::Wanted;
use crate::fetch::{Batch, Job};
use crate::flight::{Joined, LoadResult, SharedLoad, TaskGuard};
use crate::key::{CacheDomain, ChunkKey, StoreKey};
use crate::places::Places;

/// A chunk, and where its stored bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRequest {
    /// The algorithm of the id.
    pub algorithm: DigestAlgorithm,
    /// The digest of the uncompressed bytes.
    pub id: ChunkId,
    /// The number of uncompressed bytes.
    pub uncompressed_len: u32,
    /// The blob that holds the stored bytes.
    pub blob: BlobDescriptor,
    /// Where in the blob they start.
    pub offset: u64,
    /// How many they are.
    pub stored_len: u32,
    /// How they are encoded.
    pub codec: Codec,
    /// The number of the chunk in its image, for [`Neighbours`] alone.
    pub number: u32,
}

impl ChunkRequest {
    pub(crate) fn key(&self) -> ChunkKey {
        ChunkKey { algorithm: self.algorithm, id: self.id }
    }
}

/// When bytes are verified.
///
/// Bytes from a source are always verified. The levels differ in what they believe of the disk. Bytes
/// in memory are believed at every level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum VerifyLevel {
    /// Chunks are verified when they are fetched. What lies on disk is believed if it was written since
    /// the system started, and verified once otherwise. A bit that flips on disk, or another process
    /// that writes there, goes unnoticed.
    Fetch,
    /// Chunks are also verified when an image first uses them from disk. Notices what happened to the
    /// disk before; not what happens while the image is open.
    #[default]
    Load,
    /// Every read from disk is verified: with BLAKE3 the groups of 16 KiB that it touches, with SHA-256
    /// the whole chunk. What is damaged while the image is open is noticed too.
    Always,
}

/// Says what else to fetch when a chunk must be fetched: what lies near it and is likely wanted next.
pub trait Neighbours: Send + Sync + fmt::Debug {
    /// Returns the chunks to fetch along with one that a reader waits for and that is in neither
    /// tier. Those that are cached or being loaded already are skipped.
    ///
    /// Called on a worker of the runtime; must not block.
    fn of(&self, missed: &ChunkRequest) -> Vec<ChunkRequest>;

    /// Takes the loads that came of it; they end when they are dropped and nobody else waits.
    fn hold(&self, loads: Vec<ChunkFuture>);

    /// Called when all of a blob comes although a part of it was asked for, because its server does
    /// not give parts: what `loader` loads of it now costs no request. Called for each part that is
    /// read; must not block. The default does nothing.
    fn whole_arrives(&self, blob: BlobId, loader: Loader) {
        let _ = (blob, loader);
    }
}

/// Loads the chunks of one image: from memory, from disk, or from the image's source.
///
/// Cheap to clone. Loads run on the runtime of the cache, so their futures can be awaited on any
/// executor. A load ends when all futures that wait for it have been dropped.
#[derive(Debug, Clone)]
pub struct Loader {
    cache: Arc<CacheInner>,
    source: Arc<dyn BlobSource>,
    verify: VerifyLevel,
    neighbours: Option<Arc<dyn Neighbours>>,
    domain: Option<CacheDomain>,
    places: Arc<Places>,
    drops_pages: bool,
}

impl Loader {
    pub(crate) fn new(
        cache: Arc<CacheInner>,
        source: Arc<dyn BlobSource>,
        verify: VerifyLevel,
    ) -> Self {
        let places = Arc::default();
        let (neighbours, domain, drops_pages) = (None, None, false);
        Self { cache, source, verify, neighbours, domain, places, drops_pages }
    }

    /// A loader as that which started a batch, which brings nothing along.
    pub(crate) fn of_batch(batch: &Batch) -> Self {
        Self {
            cache: Arc::clone(&batch.cache),
            source: Arc::clone(&batch.source),
            verify: batch.verify,
            neighbours: None,
            domain: batch.domain,
            places: Arc::clone(&batch.places),
            drops_pages: batch.drops_pages,
        }
    }

    /// Keeps the chunks in a domain of their own, apart from those of all others.
    #[must_use]
    pub fn with_domain(mut self, domain: CacheDomain) -> Self {
        self.domain = Some(domain);
        self
    }

    /// Remembers where chunks with numbers below `chunk_count` lie on disk, so that
    /// [`read_cached`](Self::read_cached) can read parts of them. Takes some 80 bytes for each.
    #[must_use]
    pub fn with_chunk_count(mut self, chunk_count: u32) -> Self {
        self.places = Arc::new(Places::new(chunk_count));
        self.cache.track(&self.places);
        self
    }

    /// Lets go of the cache folder's pages once they were read or written: for readers whose bytes go
    /// into another page cache, so that memory does not hold them twice.
    #[must_use]
    pub fn with_dropped_pages(mut self, drops_pages: bool) -> Self {
        self.drops_pages = drops_pages;
        self
    }

    /// Fetches what `neighbours` says along with what readers miss.
    #[must_use]
    pub fn with_neighbours(mut self, neighbours: Arc<dyn Neighbours>) -> Self {
        self.neighbours = Some(neighbours);
        self
    }

    /// Returns a chunk if it is in memory, without waiting.
    pub fn get(&self, chunk: &ChunkRequest) -> Option<bytes::Bytes> {
        self.get_by(&self.key(chunk))
    }

    fn get_by(&self, key: &StoreKey) -> Option<bytes::Bytes> {
        let bytes = self.cache.memory.get(key)?;
        AtomicCounters::add(&self.cache.counters.memory_hits, 1);
        Some(bytes)
    }

    fn key(&self, chunk: &ChunkRequest) -> StoreKey {
        StoreKey::new(self.domain.as_ref(), &chunk.key())
    }

    /// Fills `buffer` from `offset` of a chunk if that needs no waiting, and returns whether it did:
    /// the chunk is in memory, or its place on disk is known, its pages are in the page cache, and the
    /// level asks for no more than what can be verified here. One pread of the bytes and one of eight
    /// more; no lock that other chunks share.
    pub fn read_cached(&self, chunk: &ChunkRequest, offset: u64, buffer: &mut [u8]) -> bool {
        let key = self.key(chunk);
        if let Some(bytes) = self.cache.memory.get(&key) {
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let part = bytes.get(start..).and_then(|rest| rest.get(..buffer.len()));
            let Some(part) = part else { return false };
            AtomicCounters::add(&self.cache.counters.memory_hits, 1);
            buffer.copy_from_slice(part);
            return true;
        }
        let Some(disk) = &self.cache.disk else { return false };
        let wanted = Wanted { key, chunk, places: &self.places, verify: self.verify };
        let is_done = disk.read_cached(&wanted, offset, buffer, self.drops_pages);
        if is_done {
            AtomicCounters::add(&self.cache.counters.disk_hits, 1);
        }
        is_done
    }

    /// Finds out where on disk a chunk lies, for [`read_cached`](Self::read_cached). Blocks, and verifies
    /// nothing: at level [`Always`](VerifyLevel::Always) reads verify themselves, at the others a first
    /// [`load`](Self::load) is needed.
    pub fn locate(&self, chunk: &ChunkRequest) {
        let key = self.key(chunk);
        if let Some(disk) = &self.cache.disk
            && let Ok(Some(place)) = disk.store.find(&key, chunk.uncompressed_len)
        {
            self.places.set(chunk.number, &key, Some(place));
        }
    }

    /// Returns whether the chunk is in memory, or its place on disk is known.
    pub fn is_near(&self, chunk: &ChunkRequest) -> bool {
        let key = self.key(chunk);
        self.cache.memory.contains_key(&key) || self.places.get(chunk.number, &key).is_some()
    }

    /// Returns the open file of the cache folder in which a chunk lies uncompressed, and the chunk's
    /// offset in it, a multiple of 4,096, if it is there. Blocks.
    ///
    /// For those that map it or hand it to the kernel. What lies there is a hint until it is verified,
    /// and reads as zeros once it is evicted: keep it from that by a pin or
    /// [`Cache::hold_for_mount`](crate::Cache::hold_for_mount).
    pub fn resolve(&self, chunk: &ChunkRequest) -> Option<(std::os::fd::OwnedFd, u64)> {
        let disk = self.cache.disk.as_ref()?;
        let place = disk.store.find(&self.key(chunk), chunk.uncompressed_len).ok()??;
        disk.store.resolve(&place).ok()?
    }

    /// Loads one chunk; see [`load_many`](Self::load_many).
    pub fn load(&self, chunk: &ChunkRequest, priority: Priority) -> ChunkFuture {
        match self.get(chunk) {
            Some(bytes) => ChunkFuture(State::Ready(ready(Ok(bytes)))),
            None => self.start(&[*chunk], priority).remove(0),
        }
    }

    /// Begins to load chunks and returns a future for each, in the order of `chunks`.
    ///
    /// Chunks that are neither cached nor under way, and that lie next to each other in a blob,
    /// are fetched by one request. Each future resolves as soon as its chunk is there, to exactly
    /// `uncompressed_len` verified bytes.
    ///
    /// The work begins at once, not when a future is first polled.
    ///
    /// # Cancel safety
    /// Dropping a future loses nothing; when no future waits for a request's chunks it is ended.
    ///
    /// # Errors
    /// The futures resolve to a [`LoadError`](crate::LoadError) if the chunk cannot be had;
    /// nothing is cached then and a later call tries again.
    pub fn load_many(&self, chunks: &[ChunkRequest], priority: Priority) -> Vec<ChunkFuture> {
        match chunks {
            [chunk] => vec![self.load(chunk, priority)],
            chunks => self.start(chunks, priority),
        }
    }

    fn start(&self, chunks: &[ChunkRequest], priority: Priority) -> Vec<ChunkFuture> {
        let guard = Arc::new(TaskGuard::default());
        let mut jobs = Vec::new();
        let mut futures = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            if let Some(bytes) = self.get(chunk) {
                futures.push(ChunkFuture(State::Ready(ready(Ok(bytes)))));
                continue;
            }
            let key = self.key(chunk);
            let load = match self.cache.flights.join(key, chunk.id, &guard) {
                Joined::Existing(load) => {
                    AtomicCounters::add(&self.cache.counters.joined_loads, 1);
                    load
                }
                Joined::New(load, landing) => {
                    if let Some(bytes) = self.cache.writing.get(&key) {
                        AtomicCounters::add(&self.cache.counters.memory_hits, 1);
                        landing.land(Ok(bytes));
                        futures.push(load.into());
                        continue;
                    }
                    jobs.push(Job { chunk: *chunk, key, landing, lease: None });
                    load
                }
            };
            futures.push(ChunkFuture(State::Shared(load)));
        }
        if !jobs.is_empty() {
            let batch = Batch {
                cache: Arc::clone(&self.cache),
                source: Arc::clone(&self.source),
                verify: self.verify,
                priority,
                neighbours: match priority {
                    Priority::Demand => self.neighbours.clone(),
                    Priority::Prefetch => None,
                },
                guard: Arc::downgrade(&guard),
                domain: self.domain,
                places: Arc::clone(&self.places),
                drops_pages: self.drops_pages,
            };
            guard.set(self.cache.options.runtime.spawn(batch.run(jobs)).abort_handle());
        }
        futures
    }

    /// Returns where the chunks are fetched from.
    pub fn source(&self) -> &Arc<dyn BlobSource> {
        &self.source
    }

    /// Returns the most bytes that one request asks for, unless a chunk alone is longer.
    pub fn request_len_max(&self) -> u64 {
        self.cache.options.request_len_max
    }

    /// Returns those of `chunks` that are neither in memory nor in the disk tier.
    ///
    /// Asks the file system about each, so it blocks; nothing is read or verified.
    pub fn missing(&self, chunks: &[ChunkRequest]) -> Vec<ChunkRequest> {
        let is_there = |chunk: &ChunkRequest| {
            let key = self.key(chunk);
            match &self.cache.disk {
                Some(disk) => {
                    let found = disk.store.find(&key, chunk.uncompressed_len);
                    found.is_ok_and(|place| place.is_some())
                }
                None => self.cache.memory.contains_key(&key),
            }
        };
        chunks.iter().filter(|chunk| !is_there(chunk)).copied().collect()
    }
}

/// A chunk that is being loaded; see [`Loader::load_many`].
#[derive(Debug)]
pub struct ChunkFuture(State);

#[derive(Debug)]
enum State {
    Ready(Ready<LoadResult>),
    Shared(SharedLoad),
}

impl From<SharedLoad> for ChunkFuture {
    fn from(load: SharedLoad) -> Self {
        Self(State::Shared(load))
    }
}

impl Future for ChunkFuture {
    type Output = LoadResult;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<LoadResult> {
        match &mut self.0 {
            State::Ready(ready) => Pin::new(ready).poll(context),
            State::Shared(load) => Pin::new(load).poll(context),
        }
    }
}
