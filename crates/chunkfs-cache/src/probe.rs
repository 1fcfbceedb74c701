//! Before anything is fetched: the disk, and other processes that fetch the same.

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep};

use crate::counters::AtomicCounters;
use crate::disk::{Disk, LeaseState};
use crate::fetch::{Batch, Job};
use crate::flight::Joined;

/// How long a process waits before it looks again whether another one has the chunk.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(25);

/// Jobs that were not served from disk.
#[derive(Debug, Default)]
struct Misses {
    /// To be fetched by this process.
    own: Vec<Job>,
    /// Being fetched by other processes.
    foreign: Vec<Job>,
}

impl Batch {
    /// Loads all jobs. Every landing gets a result, unless this future is dropped.
    pub(crate) async fn run(self, jobs: Vec<Job>) {
        if self.cache.disk.is_none() {
            let misses = self.with_neighbours(Misses { own: jobs, ..Misses::default() });
            return self.fetch(misses.own).await;
        }
        let batch = self.clone();
        let probe = move || batch.with_neighbours(batch.probe(jobs));
        // If the runtime shuts down the jobs are dropped, which tells their waiters.
        let misses = tokio::task::spawn_blocking(probe).await.unwrap_or_default();
        let count = misses.foreign.len() as u64;
        AtomicCounters::add(&self.cache.counters.lease_waits, count);
        let deadline = Instant::now() + self.cache.options.lease_wait_max;
        futures::join!(
            self.fetch(misses.own),
            self.wait_for_others(misses.foreign, deadline, PAUSE_MIN)
        );
    }

    /// Looks again and again whether other processes have what they fetch, and fetches what they gave
    /// up, or what takes them too long.
    fn wait_for_others(
        &self,
        jobs: Vec<Job>,
        deadline: Instant,
        pause: Duration,
    ) -> BoxFuture<'_, ()> {
        async move {
            if jobs.is_empty() {
                return;
            }
            sleep(pause).await;
            let batch = self.clone();
            let probe = move || batch.probe(jobs);
            let mut misses = tokio::task::spawn_blocking(probe).await.unwrap_or_default();
            if Instant::now() >= deadline {
                let count = misses.foreign.len() as u64;
                AtomicCounters::add(&self.cache.counters.lease_timeouts, count);
                misses.own.append(&mut misses.foreign);
            }
            let pause = (pause * 2).min(PAUSE_MAX);
            futures::join!(
                self.fetch(misses.own),
                self.wait_for_others(misses.foreign, deadline, pause)
            );
        }
        .boxed()
    }

    /// Serves jobs from disk and takes the leases of the others.
    fn probe(&self, jobs: Vec<Job>) -> Misses {
        let mut misses = Misses::default();
        let Some(disk) = &self.cache.disk else {
            return Misses { own: jobs, ..misses };
        };
        for job in jobs {
            let Some(mut job) = self.load_from_disk(disk, job) else { continue };
            match disk.lease(&job.key) {
                Ok(LeaseState::Foreign) => misses.foreign.push(job),
                Ok(LeaseState::Own(lease)) => {
                    job.lease = Some(lease);
                    // Whoever had the lease before may just have finished.
                    misses.own.extend(self.load_from_disk(disk, job));
                }
                Err(error) => {
                    disk.count_failure(
                        "fetches cannot be coordinated",
                        &error,
                        &self.cache.counters,
                    );
                    misses.own.push(job);
                }
            }
        }
        misses
    }

    /// Serves a job from disk, or gives it back.
    fn load_from_disk(&self, disk: &Disk, job: Job) -> Option<Job> {
        let counters = &self.cache.counters;
        let wanted = self.wanted(&job.chunk, job.key);
        match disk.load(&wanted, counters) {
            Ok(Some(bytes)) => {
                AtomicCounters::add(&counters.disk_hits, 1);
                let bytes = Bytes::from(bytes);
                self.cache.memory.insert(job.key, bytes.clone());
                job.landing.land(Ok(bytes));
                return None;
            }
            Ok(None) => {}
            Err(error) => disk.count_failure("a chunk cannot be read", &error, counters),
        }
        Some(job)
    }

    /// Adds the neighbours of what is missed that are neither cached nor being loaded.
    fn with_neighbours(&self, mut misses: Misses) -> Misses {
        // Without a guard nobody waits any more, and this batch is about to end.
        let (Some(neighbours), Some(guard)) = (&self.neighbours, self.guard.upgrade()) else {
            return misses;
        };
        let wanted: Vec<_> = misses.own.iter().flat_map(|job| neighbours.of(&job.chunk)).collect();
        let mut loads = Vec::new();
        for chunk in wanted {
            let key = self.key(&chunk);
            let is_stored = |disk: &Disk| {
                disk.store.find(&key, chunk.uncompressed_len).is_ok_and(|place| place.is_some())
            };
            let disk = self.cache.disk.as_ref();
            if self.cache.memory.contains_key(&key) || disk.is_some_and(is_stored) {
                continue;
            }
            let Joined::New(load, landing) = self.cache.flights.join(key, chunk.id, &guard) else {
                continue;
            };
            if let Some(bytes) = self.cache.writing.get(&key) {
                landing.land(Ok(bytes));
                continue;
            }
            loads.push(load.into());
            let job = Job { chunk, key, landing, lease: None };
            match disk.map(|disk| disk.lease(&key)) {
                Some(Ok(LeaseState::Foreign)) => misses.foreign.push(job),
                Some(Ok(LeaseState::Own(lease))) => {
                    misses.own.push(Job { lease: Some(lease), ..job });
                }
                Some(Err(_)) | None => misses.own.push(job),
            }
        }
        if !loads.is_empty() {
            neighbours.hold(loads);
        }
        misses
    }
}
