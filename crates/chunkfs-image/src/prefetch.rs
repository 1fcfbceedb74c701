//! Filling the cache in the background.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use chunkfs_cache::{ChunkRequest, LoadError};
use chunkfs_fetch::Priority;
use chunkfs_index::ChunkIndex;
use tokio::task::JoinSet;

use crate::image::{Image, ImageInner};

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

/// A prefetch under way. Dropping it ends it.
#[derive(Debug)]
pub struct Prefetch {
    workers: JoinSet<()>,
    progress: Arc<Progress>,
}

#[derive(Debug)]
struct Progress {
    batches: Mutex<VecDeque<Vec<ChunkRequest>>>,
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
        let progress = Arc::new(Progress {
            batches: Mutex::new(self.chunk_batches().into()),
            chunk_count: inner.index.chunk_count().into(),
            finished_count: AtomicU64::new(0),
            failed_count: AtomicU64::new(0),
            first_error: Mutex::default(),
        });
        let mut workers = JoinSet::new();
        for _ in 0..options.worker_count.max(1) {
            workers.spawn_on(work(Arc::clone(inner), Arc::clone(&progress)), &inner.runtime);
        }
        Prefetch { workers, progress }
    }

    /// Returns all chunks, in the order of their blobs, in batches that one request can fetch.
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

    /// Waits until all chunks are in the cache and returns how many there are.
    ///
    /// # Errors
    /// [`PrefetchError`] with the first error if some could not be fetched.
    pub async fn wait(mut self) -> Result<u64, PrefetchError> {
        while self.workers.join_next().await.is_some() {}
        let error = self.progress.first_error.lock().unwrap_or_else(PoisonError::into_inner).take();
        match error {
            None => Ok(self.progress.chunk_count),
            Some(source) => Err(PrefetchError {
                failed_count: self.progress.failed_count.load(Ordering::Relaxed),
                chunk_count: self.progress.chunk_count,
                source,
            }),
        }
    }
}

/// Cuts sorted chunks into batches that one request each can fetch.
fn batches(requests: &[ChunkRequest], len_max: u64) -> Vec<Vec<ChunkRequest>> {
    let mut batches: Vec<Vec<ChunkRequest>> = Vec::new();
    let mut batch_len = 0;
    for request in requests {
        let len = u64::from(request.stored_len);
        match batches.last_mut() {
            Some(batch) if batch_len + len <= len_max => {
                batch.push(*request);
                batch_len += len;
            }
            _ => {
                batches.push(vec![*request]);
                batch_len = len;
            }
        }
    }
    batches
}

async fn work(image: Arc<ImageInner>, progress: Arc<Progress>) {
    while let Some(batch) = progress.next_batch() {
        let batch_len = batch.len() as u64;
        let loader = image.loader.clone();
        let missing = tokio::task::spawn_blocking(move || loader.missing(&batch)).await;
        let missing = missing.unwrap_or_default();
        let futures = image.loader.load_many(&missing, Priority::Prefetch);
        for future in futures {
            if let Err(error) = future.await {
                progress.failed_count.fetch_add(1, Ordering::Relaxed);
                let mut first = progress.first_error.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert(error);
            }
        }
        progress.finished_count.fetch_add(batch_len, Ordering::Relaxed);
    }
}

impl Progress {
    fn next_batch(&self) -> Option<Vec<ChunkRequest>> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}
