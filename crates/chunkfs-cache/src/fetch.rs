//! What happens to chunks that are not in memory: disk, else the source, verified, kept.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use chunkfs_fetch::{BlobDescriptor, BlobSource, FetchError, Priority};
use chunkfs_format::CodecError;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

use crate::cache::CacheInner;
use crate::counters::AtomicCounters;
use crate::error::LoadError;
use crate::flight::{Joined, Landing, TaskGuard};
use crate::loader::{ChunkRequest, Neighbours, VerifyLevel};
use crate::store::ChunkStore;

/// A chunk to be loaded, and who is told.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) chunk: ChunkRequest,
    pub(crate) landing: Landing,
}

/// The context of jobs that were started together.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub(crate) cache: Arc<CacheInner>,
    pub(crate) source: Arc<dyn BlobSource>,
    pub(crate) verify: VerifyLevel,
    pub(crate) priority: Priority,
    pub(crate) neighbours: Option<Arc<dyn Neighbours>>,
    /// Alive while somebody waits for a load of this batch.
    pub(crate) guard: Weak<TaskGuard>,
}

/// Neighbouring chunks of one blob, fetched by one request.
#[derive(Debug)]
struct Run {
    blob: BlobDescriptor,
    start: u64,
    end: u64,
    jobs: Vec<Job>,
}

impl Batch {
    /// Loads all jobs. Every landing gets a result, unless this future is dropped.
    pub(crate) async fn run(self, jobs: Vec<Job>) {
        let misses = match &self.cache.store {
            Some(_) => {
                let batch = self.clone();
                let probe = move || {
                    let misses = jobs.into_iter().filter_map(|job| batch.probe(job)).collect();
                    batch.with_neighbours(misses)
                };
                // If the runtime shuts down the jobs are dropped, which tells their waiters.
                tokio::task::spawn_blocking(probe).await.unwrap_or_default()
            }
            None => self.with_neighbours(jobs),
        };
        let options = &self.cache.options;
        let runs = coalesce(misses, options.gap_len_max, options.request_len_max);
        let mut fetches: FuturesUnordered<_> =
            runs.into_iter().map(|run| self.fetch_run(run)).collect();
        while fetches.next().await.is_some() {}
    }

    /// Serves a job from disk, or gives it back.
    fn probe(&self, job: Job) -> Option<Job> {
        let store = self.cache.store.as_ref()?;
        let counters = &self.cache.counters;
        let chunk = &job.chunk;
        match store.read(&chunk.key(), chunk.uncompressed_len) {
            Ok(Some(bytes)) => {
                let is_good = self.verify == VerifyLevel::Fetch
                    || chunk.algorithm.chunk_id(&bytes) == chunk.id;
                if is_good {
                    AtomicCounters::add(&counters.disk_hits, 1);
                    let bytes = Bytes::from(bytes);
                    self.cache.memory.insert(chunk.key(), bytes.clone());
                    job.landing.land(Ok(bytes));
                    return None;
                }
                AtomicCounters::add(&counters.disk_verify_failures, 1);
                if store.remove(&chunk.key()).is_err() {
                    AtomicCounters::add(&counters.disk_errors, 1);
                }
            }
            Ok(None) => {}
            Err(_) => AtomicCounters::add(&counters.disk_errors, 1),
        }
        Some(job)
    }

    /// Adds the neighbours of what is missed that are neither cached nor being loaded.
    fn with_neighbours(&self, mut misses: Vec<Job>) -> Vec<Job> {
        // Without a guard nobody waits any more, and this batch is about to end.
        let (Some(neighbours), Some(guard)) = (&self.neighbours, self.guard.upgrade()) else {
            return misses;
        };
        let wanted: Vec<_> = misses.iter().flat_map(|job| neighbours.of(&job.chunk)).collect();
        let mut loads = Vec::new();
        for chunk in wanted {
            let key = chunk.key();
            let is_stored =
                |store: &Arc<dyn ChunkStore>| store.contains(&key, chunk.uncompressed_len);
            if self.cache.memory.contains_key(&key)
                || self.cache.store.as_ref().is_some_and(is_stored)
            {
                continue;
            }
            if let Joined::New(load, landing) = self.cache.flights.join(key, &guard) {
                loads.push(load.into());
                misses.push(Job { chunk, landing });
            }
        }
        if !loads.is_empty() {
            neighbours.hold(loads);
        }
        misses
    }

    async fn fetch_run(&self, run: Run) {
        let uncompressed_len: u64 =
            run.jobs.iter().map(|job| u64::from(job.chunk.uncompressed_len)).sum();
        let in_flight_len = (run.end - run.start).saturating_add(uncompressed_len);
        let kib_max = self.cache.options.in_flight_len_max >> 10;
        let kib = in_flight_len.div_ceil(1024).min(kib_max).max(1);
        let kib = u32::try_from(kib).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        let Ok(_permit) = Arc::clone(&self.cache.in_flight).acquire_many_owned(kib).await else {
            return;
        };
        let body = match self.read_range(&run.blob, run.start, run.end).await {
            Ok(body) => body,
            Err(source) => {
                let source = Arc::new(source);
                for job in run.jobs {
                    let error = unavailable(&job.chunk, Arc::clone(&source));
                    job.landing.land(Err(error));
                }
                return;
            }
        };
        let decodes = run.jobs.into_iter().map(|job| {
            let start = (job.chunk.offset - run.start) as usize;
            let stored = body.slice(start..start + job.chunk.stored_len as usize);
            self.finish(job, stored)
        });
        let mut decodes: FuturesUnordered<_> = decodes.collect();
        drop(body);
        while decodes.next().await.is_some() {}
    }

    async fn read_range(
        &self,
        blob: &BlobDescriptor,
        start: u64,
        end: u64,
    ) -> Result<Bytes, FetchError> {
        let body = self.source.read_range(blob, start..end, self.priority).await?;
        self.cache.counters.count_request(self.priority, body.len() as u64);
        if body.len() as u64 != end - start {
            // A source of somebody else's that does not keep its promise.
            let (expected, actual) = (end - start, body.len() as u64);
            return Err(FetchError::LenMismatch { blob: blob.id, expected, actual });
        }
        Ok(body)
    }

    /// Decodes, verifies, keeps and lands a chunk; fetches it once more if it is damaged.
    async fn finish(&self, job: Job, stored: Bytes) {
        let Some((job, _)) = self.decode(job, stored).await else {
            return;
        };
        let chunk = job.chunk;
        let end = chunk.offset + u64::from(chunk.stored_len);
        match self.read_range(&chunk.blob, chunk.offset, end).await {
            Ok(stored) => {
                if let Some((job, error)) = self.decode(job, stored).await {
                    let (blob, offset) = (chunk.blob.id, chunk.offset);
                    let source = Arc::new(error);
                    let error = LoadError::Corrupt { chunk: chunk.id, blob, offset, source };
                    job.landing.land(Err(error));
                }
            }
            Err(source) => job.landing.land(Err(unavailable(&chunk, Arc::new(source)))),
        }
    }

    /// Decodes on a thread for blocking work. Gives the job back if the bytes are damaged.
    async fn decode(&self, job: Job, stored: Bytes) -> Option<(Job, CodecError)> {
        let batch = self.clone();
        let decode = move || batch.decode_blocking(job, &stored);
        tokio::task::spawn_blocking(decode).await.unwrap_or_default()
    }

    fn decode_blocking(&self, job: Job, stored: &[u8]) -> Option<(Job, CodecError)> {
        if job.landing.is_abandoned() {
            return None;
        }
        let Job { chunk, landing } = job;
        match self.cache.decode(&chunk, stored) {
            Ok(bytes) => {
                self.cache.counters.count_fetched_chunk(self.priority);
                self.keep(&chunk, bytes, landing);
                None
            }
            Err(error) if error.is_corrupt() => {
                AtomicCounters::add(&self.cache.counters.source_verify_failures, 1);
                Some((Job { chunk, landing }, error))
            }
            Err(error) => {
                let source = Arc::new(error);
                landing.land(Err(LoadError::Decode { chunk: chunk.id, source }));
                None
            }
        }
    }

    /// Hands a verified chunk to its waiters first, then writes it to disk.
    fn keep(&self, chunk: &ChunkRequest, bytes: Bytes, landing: Landing) {
        let cache = &self.cache;
        if self.priority == Priority::Demand || cache.store.is_none() {
            cache.memory.insert(chunk.key(), bytes.clone());
        }
        let pending = cache.begin_write();
        landing.land(Ok(bytes.clone()));
        if let Some(store) = &cache.store
            && store.write(&chunk.key(), &bytes).is_err()
        {
            AtomicCounters::add(&cache.counters.disk_errors, 1);
        }
        drop(pending);
    }
}

fn unavailable(chunk: &ChunkRequest, source: Arc<FetchError>) -> LoadError {
    let (blob, offset) = (chunk.blob.id, chunk.offset);
    LoadError::Unavailable { chunk: chunk.id, blob, offset, source }
}

/// Sorts jobs by their place and joins neighbours, up to a gap and a total length.
fn coalesce(mut jobs: Vec<Job>, gap_len_max: u64, request_len_max: u64) -> Vec<Run> {
    jobs.sort_by_key(|job| (job.chunk.blob.id, job.chunk.offset));
    let mut runs: Vec<Run> = Vec::new();
    for job in jobs {
        let (blob, start) = (job.chunk.blob, job.chunk.offset);
        let end = start.saturating_add(u64::from(job.chunk.stored_len));
        let joined = runs.last_mut().filter(|run| {
            run.blob == blob
                && start <= run.end.saturating_add(gap_len_max)
                && end.max(run.end) - run.start <= request_len_max
        });
        match joined {
            Some(run) => {
                run.end = run.end.max(end);
                run.jobs.push(job);
            }
            None => runs.push(Run { blob, start, end, jobs: vec![job] }),
        }
    }
    runs
}
