//! Loading the chunks of one image.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use chunkfs_fetch::{BlobDescriptor, BlobSource, Priority};
use chunkfs_format::{ChunkId, Codec, DigestAlgorithm};
use futures::future::{Ready, ready};

use crate::cache::CacheInner;
use crate::counters::AtomicCounters;
use crate::fetch::{Batch, Job};
use crate::flight::{Joined, LoadResult, SharedLoad, TaskGuard};
use crate::store::ChunkKey;

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
/// Bytes from a source are always verified. The levels differ in what they believe of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum VerifyLevel {
    /// Chunks are verified when they are fetched; the disk tier is believed afterwards. A bit that
    /// flips on disk, or another process that writes there, goes unnoticed.
    Fetch,
    /// Chunks are also verified whenever they come from disk into memory.
    #[default]
    Load,
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
}

impl Loader {
    pub(crate) fn new(
        cache: Arc<CacheInner>,
        source: Arc<dyn BlobSource>,
        verify: VerifyLevel,
    ) -> Self {
        Self { cache, source, verify, neighbours: None }
    }

    /// Fetches what `neighbours` says along with what readers miss.
    #[must_use]
    pub fn with_neighbours(mut self, neighbours: Arc<dyn Neighbours>) -> Self {
        self.neighbours = Some(neighbours);
        self
    }

    /// Returns a chunk if it is in memory, without waiting.
    pub fn get(&self, chunk: &ChunkRequest) -> Option<bytes::Bytes> {
        let bytes = self.cache.memory.get(&chunk.key())?;
        AtomicCounters::add(&self.cache.counters.memory_hits, 1);
        Some(bytes)
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
            let load = match self.cache.flights.join(chunk.key(), &guard) {
                Joined::Existing(load) => {
                    AtomicCounters::add(&self.cache.counters.joined_loads, 1);
                    load
                }
                Joined::New(load, landing) => {
                    jobs.push(Job { chunk: *chunk, landing });
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
            };
            guard.set(self.cache.options.runtime.spawn(batch.run(jobs)).abort_handle());
        }
        futures
    }

    /// Returns those of `chunks` that are neither in memory nor in the disk tier.
    ///
    /// Asks the file system about each, so it blocks; nothing is read or verified.
    pub fn missing(&self, chunks: &[ChunkRequest]) -> Vec<ChunkRequest> {
        let is_there = |chunk: &ChunkRequest| match &self.cache.store {
            Some(store) => store.contains(&chunk.key(), chunk.uncompressed_len),
            None => self.cache.memory.contains_key(&chunk.key()),
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
