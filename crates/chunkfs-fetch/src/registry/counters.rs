//! Counting what a source does.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::counters::{FetchCounters, PriorityCounters};
use crate::source::Priority;

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
