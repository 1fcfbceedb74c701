//! Counting what a source does.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::counters::{FetchCounters, PriorityCounters};
use crate::source::Priority;

#[derive(Debug, Default)]
pub(crate) struct Counters {
    demand: ByPriority,
    prefetch: ByPriority,
    pub(crate) retries: Count,
    pub(crate) redirects: Count,
    pub(crate) token_requests: Count,
    pub(crate) whole_blob_transfers: Count,
    pub(crate) hedged_reads: Count,
    pub(crate) rereads: Count,
    pub(crate) mirror_failures: Count,
}

#[derive(Debug, Default)]
pub(crate) struct ByPriority {
    pub(crate) requests: Count,
    pub(crate) bytes_received: Count,
}

/// A number that only grows. Relaxed ordering: counts order nothing else.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    pub(crate) fn of(&self, priority: Priority) -> &ByPriority {
        match priority {
            Priority::Demand => &self.demand,
            Priority::Prefetch => &self.prefetch,
        }
    }

    pub(crate) fn snapshot(&self) -> FetchCounters {
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
