//! Filling the cache in the background.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use chunkfs_cache::{ChunkRequest, LoadError, Loader};
use chunkfs_fetch::Priority;
use chunkfs_format::BlobId;
use chunkfs_index::ChunkIndex;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::task::JoinSet;

use crate::image::Image;

/// The most uncompressed bytes in a batch, so that chunks of zeros do not fill the memory.
const BATCH_UNCOMPRESSED_LEN_MAX: u64 = 16 << 20;

/// How the cache is filled.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct PrefetchOptions {
    /// How many requests are under way at most. Default: 10.
    pub worker_count: usize,
}

impl Default for PrefetchOptions {
    fn default() -> Self {
        Self { worker_count: 10 }
    }
}

impl PrefetchOptions {
    /// Sets how many requests are under way at most; zero counts as one.
    #[must_use]
    pub fn with_worker_count(mut self, count: usize) -> Self {
        self.worker_count = count;
        self
    }
}

/// Chunks could not be prefetched; the others were.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{failed_count} of {chunk_count} chunks could not be fetched")]
pub struct PrefetchError {
    /// How many chunks failed.
    pub failed_count: u64,
    /// How many chunks were wanted.
    pub chunk_count: u64,
    /// What was wrong with the first of them.
    pub source: LoadError,
}

/// A prefetch under way. Dropping it ends it; dropping the image does not.
#[derive(Debug)]
pub struct Prefetch {
    workers: JoinSet<()>,
    progress: Arc<Progress>,
}

#[derive(Debug)]
struct Progress {
    batches: Mutex<VecDeque<Vec<ChunkRequest>>>,
    /// A chunk to be named if the runtime shuts down.
    first_chunk: Option<ChunkRequest>,
    chunk_count: u64,
    finished_count: AtomicU64,
    failed_count: AtomicU64,
    first_error: Mutex<Option<LoadError>>,
}

impl Image {
    /// Begins to fetch all chunks of the image that are not in the cache's disk tier yet.
    ///
    /// Chunks are fetched blob by blob in requests of neighbours. Readers go first: what they
    /// wait for is asked for with higher priority.
    pub fn prefetch(&self, options: PrefetchOptions) -> Prefetch {
        let inner = &self.inner;
        let progress = Arc::new(Progress::new(self.chunk_batches()));
        let mut workers = JoinSet::new();
        for _ in 0..options.worker_count.max(1) {
            workers.spawn_on(work(inner.loader.clone(), Arc::clone(&progress)), &inner.runtime);
        }
        Prefetch { workers, progress }
    }

    /// Returns all chunks, in the order of their blobs, in batches that one request can fetch.
    ///
    /// A batch has at most 16 MiB of uncompressed bytes, or a single chunk.
    pub fn chunk_batches(&self) -> Vec<Vec<ChunkRequest>> {
        let inner = &self.inner;
        let chunks = (0..inner.index.chunk_count()).map(ChunkIndex::new);
        let mut requests: Vec<_> = chunks.filter_map(|chunk| inner.request(chunk)).collect();
        requests.sort_by_key(|chunk| (chunk.blob.id, chunk.offset));
        batches(&requests, inner.cache.request_len_max())
    }
}

/// Watches a prefetch without keeping it alive.
#[derive(Debug, Clone)]
pub struct PrefetchWatcher(Arc<Progress>);

impl PrefetchWatcher {
    /// Returns how many chunks have been fetched, found in the cache, or failed.
    pub fn finished_count(&self) -> u64 {
        self.0.finished_count.load(Ordering::Relaxed)
    }
}

impl Prefetch {
    /// Returns how many chunks are wanted.
    pub fn chunk_count(&self) -> u64 {
        self.progress.chunk_count
    }

    /// Returns a handle that says how far the prefetch is.
    pub fn watcher(&self) -> PrefetchWatcher {
        PrefetchWatcher(Arc::clone(&self.progress))
    }

    /// Waits until all chunks have been loaded and returns how many there are.
    ///
    /// The last of them may still be on their way to the disk tier, which
    /// [`Cache::flush`](crate::Cache::flush) waits for.
    ///
    /// # Errors
    /// [`PrefetchError`] with the first error if some could not be fetched, also because the
    /// runtime shut down.
    pub async fn wait(mut self) -> Result<u64, PrefetchError> {
        while let Some(worker) = self.workers.join_next().await {
            if let Err(error) = worker
                && let Ok(panic) = error.try_into_panic()
            {
                std::panic::resume_unwind(panic);
            }
        }
        let Progress { chunk_count, finished_count, failed_count, .. } = &*self.progress;
        let unfinished_count = chunk_count - finished_count.load(Ordering::Relaxed);
        let mut error = self.progress.first_error();
        if unfinished_count > 0 {
            let first = self.progress.first_chunk;
            error = error.or(first.map(|chunk| LoadError::Shutdown { chunk: chunk.id }));
        }
        match error {
            None => Ok(*chunk_count),
            Some(source) => Err(PrefetchError {
                failed_count: failed_count.load(Ordering::Relaxed) + unfinished_count,
                chunk_count: *chunk_count,
                source,
            }),
        }
    }
}

/// Cuts sorted chunks into batches that one request each can fetch.
fn batches(requests: &[ChunkRequest], len_max: u64) -> Vec<Vec<ChunkRequest>> {
    let mut batches: Vec<Vec<ChunkRequest>> = Vec::new();
    let (mut batch_len, mut uncompressed_len) = (0, 0);
    for request in requests {
        batch_len += u64::from(request.stored_len);
        uncompressed_len += u64::from(request.uncompressed_len);
        match batches.last_mut() {
            Some(batch)
                if batch_len <= len_max && uncompressed_len <= BATCH_UNCOMPRESSED_LEN_MAX =>
            {
                batch.push(*request);
            }
            _ => {
                batches.push(vec![*request]);
                batch_len = u64::from(request.stored_len);
                uncompressed_len = u64::from(request.uncompressed_len);
            }
        }
    }
    batches
}

/// Fetches those chunks of a blob that are not in the cache's disk tier, while its source holds all of it.
pub(crate) async fn fill(loader: &Loader, blob: BlobId, mut chunks: Vec<ChunkRequest>) {
    let source = loader.source();
    chunks.sort_by_key(|chunk| chunk.offset);
    let progress = Progress::new(batches(&chunks, loader.request_len_max()));
    while let Some(batch) = progress.next_batch() {
        // Once it was let go, the rest would cost what keeping was to save.
        if !source.holds_whole(blob) || progress.load(loader, batch).await.is_none() {
            return;
        }
    }
    // What cannot be had is told to whoever reads it.
    if progress.first_error().is_none() {
        source.release_whole(blob);
    }
}

async fn work(loader: Loader, progress: Arc<Progress>) {
    while let Some(batch) = progress.next_batch() {
        if progress.load(&loader, batch).await.is_none() {
            return;
        }
    }
}

impl Progress {
    fn new(batches: Vec<Vec<ChunkRequest>>) -> Self {
        Self {
            first_chunk: batches.first().and_then(|batch| batch.first()).copied(),
            chunk_count: batches.iter().map(|batch| batch.len() as u64).sum(),
            batches: Mutex::new(batches.into()),
            finished_count: AtomicU64::new(0),
            failed_count: AtomicU64::new(0),
            first_error: Mutex::default(),
        }
    }

    /// Loads what is missing of a batch; `None` if the runtime shuts down, so that what is left counts as
    /// unfinished.
    async fn load(&self, loader: &Loader, batch: Vec<ChunkRequest>) -> Option<()> {
        let batch_len = batch.len() as u64;
        let prober = loader.clone();
        let missing = tokio::task::spawn_blocking(move || prober.missing(&batch)).await.ok()?;
        let loads = loader.load_many(&missing, Priority::Prefetch);
        // Takes chunks as they come, so that none is held until those before it are there.
        let mut loads: FuturesUnordered<_> = loads.into_iter().collect();
        while let Some(result) = loads.next().await {
            if let Err(error) = result {
                self.failed_count.fetch_add(1, Ordering::Relaxed);
                let mut first = self.first_error.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert(error);
            }
        }
        self.finished_count.fetch_add(batch_len, Ordering::Relaxed);
        Some(())
    }

    fn next_batch(&self) -> Option<Vec<ChunkRequest>> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn first_error(&self) -> Option<LoadError> {
        self.first_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
