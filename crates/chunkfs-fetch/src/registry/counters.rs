//! What a source has done so far.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::source::Priority;

/// What a [`RegistrySource`](crate::RegistrySource) has done so far: a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct FetchCounters {
    /// Requests and bytes for demand reads, manifests, streams and pushes.
    pub demand: PriorityCounters,
    /// Requests and bytes for prefetch reads.
    pub prefetch: PriorityCounters,
    /// Requests that were tried again after a failure, and bodies that were continued.
    pub retries: u64,
    /// Redirects followed.
    pub redirects: u64,
    /// Requests to token endpoints; they are not part of the other counts.
    pub token_requests: u64,
    /// Range requests that were answered with the whole blob.
    pub whole_blob_transfers: u64,
    /// Demand reads that stood still and got a second request beside the first.
    pub hedged_reads: u64,
    /// Reads repeated because what came first was damaged.
    pub rereads: u64,
    /// Reads and manifests that a mirror failed to give, so that the next place was asked.
    pub mirror_failures: u64,
}

/// The part of [`FetchCounters`] that is counted by priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PriorityCounters {
    /// HTTP requests sent, redirects included.
    pub requests: u64,
    /// Bytes of blobs and manifests received.
    pub bytes_received: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    demand: ByPriority,
    prefetch: ByPriority,
    pub(super) retries: Count,
    pub(super) redirects: Count,
    pub(super) token_requests: Count,
    pub(super) whole_blob_transfers: Count,
    pub(super) hedged_reads: Count,
    pub(super) rereads: Count,
    pub(super) mirror_failures: Count,
}

#[derive(Debug, Default)]
pub(super) struct ByPriority {
    pub(super) requests: Count,
    pub(super) bytes_received: Count,
}

/// A number that only grows. Relaxed ordering: counts order nothing else.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    pub(super) fn of(&self, priority: Priority) -> &ByPriority {
        match priority {
            Priority::Demand => &self.demand,
            Priority::Prefetch => &self.prefetch,
        }
    }

    pub(super) fn snapshot(&self) -> FetchCounters {
        FetchCounters {
            demand: self.demand.snapshot(),
            prefetch: self.prefetch.snapshot(),
            retries: self.retries.get(),
            redirects: self.redirects.get(),
            token_requests: self.token_requests.get(),
            whole_blob_transfers: self.whole_blob_transfers.get(),
            hedged_reads: self.hedged_reads.get(),
            rereads: self.rereads.get(),
            mirror_failures: self.mirror_failures.get(),
        }
    }
}

impl ByPriority {
    fn snapshot(&self) -> PriorityCounters {
        PriorityCounters {
            requests: self.requests.get(),
            bytes_received: self.bytes_received.get(),
        }
    }
}
