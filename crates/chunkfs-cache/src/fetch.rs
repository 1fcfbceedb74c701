//! What happens to chunks that are not in memory: disk, else the source, verified, kept.

use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use chunkfs_fetch::{BlobDescriptor, BlobSource, FetchError, Priority};
use chunkfs_format::{BlobId, CodecError};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

use crate::cache::CacheInner;
use crate::counters::AtomicCounters;
use crate::disk::Wanted;
use crate::error::LoadError;
use crate::flight::{Landing, TaskGuard};
use crate::key::{CacheDomain, StoreKey};
use crate::loader::{ChunkRequest, Loader, Neighbours, VerifyLevel};
use crate::places::Places;
use crate::slab::Lease;

/// How often damaged bytes are fetched again, whatever the source says.
const PLACES_MAX: u32 = 32;

/// A chunk to be loaded, and who is told.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) chunk: ChunkRequest,
    pub(crate) key: StoreKey,
    pub(crate) landing: Landing,
    /// Held until the chunk is on disk, so that other processes wait instead of fetching it too.
    pub(crate) lease: Option<Lease>,
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
    pub(crate) domain: Option<CacheDomain>,
    pub(crate) places: Arc<Places>,
    pub(crate) drops_pages: bool,
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
    pub(crate) fn key(&self, chunk: &ChunkRequest) -> StoreKey {
        StoreKey::new(self.domain.as_ref(), &chunk.key())
    }

    pub(crate) fn wanted<'a>(&'a self, chunk: &'a ChunkRequest, key: StoreKey) -> Wanted<'a> {
        Wanted { key, chunk, places: &self.places, verify: self.verify }
    }

    /// Fetches jobs, neighbouring ones by one request.
    pub(crate) async fn fetch(&self, jobs: Vec<Job>) {
        let options = &self.cache.options;
        let runs = coalesce(jobs, options.gap_len_max, options.request_len_max);
        let mut fetches: FuturesUnordered<_> =
            runs.into_iter().map(|run| self.fetch_run(run)).collect();
        while fetches.next().await.is_some() {}
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
                    let error = self.unavailable(&job.chunk, Arc::clone(&source));
                    job.landing.land(Err(error));
                }
                return;
            }
        };
        self.note_whole(run.blob.id);
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
        self.check_body(blob, &(start..end), body)
    }

    /// Counts a body, and refuses it if it has another length than the range.
    fn check_body(
        &self,
        blob: &BlobDescriptor,
        range: &Range<u64>,
        body: Bytes,
    ) -> Result<Bytes, FetchError> {
        self.cache.counters.count_request(self.priority, body.len() as u64);
        let (expected, actual) = (range.end - range.start, body.len() as u64);
        if actual != expected {
            // A source of somebody else's that does not keep its promise.
            return Err(FetchError::LenMismatch { blob: blob.id, expected, actual });
        }
        Ok(body)
    }

    /// Decodes, verifies, keeps and lands a chunk. Fetches it again while it is damaged: around caches on
    /// the way, then from every other place that has it.
    async fn finish(&self, mut job: Job, mut stored: Bytes) {
        let chunk = job.chunk;
        let range = chunk.offset..chunk.offset + u64::from(chunk.stored_len);
        let mut damaged_count = NonZeroU32::MIN;
        loop {
            let Some((damaged, error)) = self.decode(job, stored).await else {
                return;
            };
            job = damaged;
            let (range, priority) = (range.clone(), self.priority);
            let again =
                self.source.reread_range(&chunk.blob, range.clone(), priority, damaged_count).await;
            stored = match again.and_then(|again| match again {
                Some(bytes) => self.check_body(&chunk.blob, &range, bytes).map(Some),
                None => Ok(None),
            }) {
                Ok(Some(bytes)) if damaged_count.get() < PLACES_MAX => bytes,
                Ok(_) => {
                    let (blob, offset) = (chunk.blob.id, chunk.offset);
                    let (place, source) = (self.source.place().into(), Arc::new(error));
                    let error = LoadError::Corrupt { chunk: chunk.id, blob, offset, place, source };
                    return job.landing.land(Err(error));
                }
                Err(source) => {
                    return job.landing.land(Err(self.unavailable(&chunk, Arc::new(source))));
                }
            };
            damaged_count = damaged_count.saturating_add(1);
        }
    }

    /// Decodes on a thread for blocking work. Gives the job back if the bytes are damaged.
    async fn decode(&self, job: Job, stored: Bytes) -> Option<(Job, CodecError)> {
        let threads = match self.priority {
            Priority::Demand => &self.cache.demand_threads,
            Priority::Prefetch => &self.cache.prefetch_threads,
        };
        // The semaphores are never closed.
        let _permit = threads.acquire().await.ok()?;
        let batch = self.clone();
        let decode = move || batch.decode_blocking(job, &stored);
        tokio::task::spawn_blocking(decode).await.unwrap_or_default()
    }

    fn decode_blocking(&self, job: Job, stored: &[u8]) -> Option<(Job, CodecError)> {
        if job.landing.is_abandoned() {
            return None;
        }
        match self.cache.decode(&job.chunk, stored) {
            Ok(bytes) => {
                self.cache.counters.count_fetched_chunk(self.priority);
                self.keep(job, bytes);
                None
            }
            Err(error) if error.is_corrupt() => {
                AtomicCounters::add(&self.cache.counters.source_verify_failures, 1);
                Some((job, error))
            }
            Err(error) => {
                let source = Arc::new(error);
                job.landing.land(Err(LoadError::Decode { chunk: job.chunk.id, source }));
                None
            }
        }
    }

    /// Hands a verified chunk to its waiters first, then writes it to disk.
    fn keep(&self, job: Job, bytes: Bytes) {
        let cache = &self.cache;
        let Job { chunk, key, landing, lease } = job;
        if self.priority == Priority::Demand || cache.disk.is_none() {
            cache.memory.insert(key, bytes.clone());
        }
        let pending = cache.begin_write();
        let write = cache.disk.as_ref().map(|_| cache.writing.begin(key, bytes.clone()));
        landing.land(Ok(bytes.clone()));
        if let Some(disk) = &cache.disk {
            let wanted = self.wanted(&chunk, key);
            disk.keep(&wanted, &bytes, self.drops_pages, &cache.counters);
        }
        drop(write);
        drop(lease);
        drop(pending);
    }

    fn unavailable(&self, chunk: &ChunkRequest, source: Arc<FetchError>) -> LoadError {
        let (blob, offset, place) = (chunk.blob.id, chunk.offset, self.source.place().into());
        LoadError::Unavailable { chunk: chunk.id, blob, offset, place, source }
    }

    /// If all of a blob came although a part of it was asked for: lets the rest be kept, too.
    fn note_whole(&self, blob: BlobId) {
        let cache = &self.cache;
        if let (Some(neighbours), Some(_)) = (&self.neighbours, &cache.disk)
            && self.source.holds_whole(blob)
        {
            neighbours.whole_arrives(blob, Loader::of_batch(self));
        }
    }
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
