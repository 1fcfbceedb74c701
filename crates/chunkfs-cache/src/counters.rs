//! What a cache has done so far.

use std::sync::atomic::{AtomicU64, Ordering};

use chunkfs_fetch::Priority;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A snapshot of what a cache has done since it was opened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct CacheCounters {
            $($(#[$doc])* pub $name: u64,)*
        }

        #[derive(Debug, Default)]
        pub(crate) struct AtomicCounters {
            $(pub(crate) $name: AtomicU64,)*
        }

        impl AtomicCounters {
            pub(crate) fn snapshot(&self) -> CacheCounters {
                CacheCounters { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Reads of chunks, or of parts of them, from memory.
    memory_hits,
    /// Reads of chunks, or of parts of them, from disk.
    disk_hits,
    /// Chunks that somebody else was already loading.
    joined_loads,
    /// Chunks fetched because a reader waited for them.
    demand_chunks,
    /// Ranges read from sources because a reader waited.
    demand_requests,
    /// Bytes read from sources because a reader waited.
    demand_bytes,
    /// Chunks fetched ahead of readers.
    prefetch_chunks,
    /// Ranges read from sources ahead of readers.
    prefetch_requests,
    /// Bytes read from sources ahead of readers.
    prefetch_bytes,
    /// Chunks on disk that were damaged, and were fetched again.
    disk_verify_failures,
    /// Chunks that a source served damaged.
    source_verify_failures,
    /// Reads and writes of the disk tier that failed; readers were served from the source.
    disk_errors,
    /// Chunks that were not kept on disk because nothing could be evicted for them.
    disk_refusals,
    /// Chunks that another process was already fetching.
    lease_waits,
    /// Of those, chunks that this process fetched all the same, since the other took too long.
    lease_timeouts,
}

impl AtomicCounters {
    pub(crate) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn count_request(&self, priority: Priority, bytes: u64) {
        let (requests, total) = match priority {
            Priority::Demand => (&self.demand_requests, &self.demand_bytes),
            Priority::Prefetch => (&self.prefetch_requests, &self.prefetch_bytes),
        };
        Self::add(requests, 1);
        Self::add(total, bytes);
    }

    pub(crate) fn count_fetched_chunk(&self, priority: Priority) {
        Self::add(
            match priority {
                Priority::Demand => &self.demand_chunks,
                Priority::Prefetch => &self.prefetch_chunks,
            },
            1,
        );
    }
}
