//! What a source has done so far.

/// What a source has done so far: a snapshot. A source that does not count something has zero there.
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
    /// Demand reads that stood still, or were too slow, and got a second request beside the first.
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
