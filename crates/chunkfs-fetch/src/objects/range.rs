//! Reading ranges: resumed after failures, with a second request beside one that is stuck.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use object_store::{GetOptions, GetRange, GetResult, ObjectStore};
use tokio::time::Instant;

use super::source::Objects;
use super::tries::Tries;
use crate::error::FetchError;
use crate::layout::remote::blob_path;
use crate::registry::pace::Pace;
use crate::registry::progress::{Progress, hedged};
use crate::source::{BlobDescriptor, Priority};

/// What a caller wants; the range is not empty and lies within the blob.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) blob: BlobDescriptor,
    pub(super) range: Range<u64>,
    pub(super) priority: Priority,
}

impl Objects {
    /// Reads exactly the range within the deadline.
    pub(super) async fn read_range(&self, wanted: Wanted) -> Result<Bytes, FetchError> {
        let progress = self.progress(&wanted);
        let first = self.read_patiently(&wanted, &progress);
        let after = self.options.deadline;
        let hedge_after = self.options.hedge_after;
        let hedge_after = hedge_after.filter(|_| wanted.priority == Priority::Demand);
        let unwatched = self.progress(&wanted);
        let read = async {
            let Some(hedge_after) = hedge_after else { return first.await };
            let stuck = progress.stuck(hedge_after, || true);
            hedged(first, stuck, || {
                self.counters.hedged_reads.add(1);
                self.read_patiently(&wanted, &unwatched)
            })
            .await
        };
        match tokio::time::timeout(after, read).await {
            Ok(result) => result,
            Err(_) => Err(progress.timeout(format!("blob {}", wanted.blob.id))),
        }
    }

    fn progress(&self, wanted: &Wanted) -> Progress {
        Progress::new(wanted.range.end - wanted.range.start, self.options.deadline)
    }

    /// Reads in as many requests as failures make of it.
    async fn read_patiently(
        &self,
        wanted: &Wanted,
        progress: &Progress,
    ) -> Result<Bytes, FetchError> {
        let mut tries = Tries::new(self, wanted.priority);
        let mut received = BytesMut::new();
        loop {
            let before = received.len();
            let range = wanted.range.start + before as u64..wanted.range.end;
            let permit = self.limits.acquire(wanted.priority).await?;
            let store = self.store.current();
            let counters = self.counters.of(wanted.priority);
            counters.requests.add(1);
            progress.begin_request();
            let read = self.read_once(&store, &wanted.blob, range, &mut received, progress);
            let result = read.await;
            drop(permit);
            counters.bytes_received.add((received.len() - before) as u64);
            let Err(error) = result else {
                tries.succeeded();
                return Ok(received.freeze());
            };
            progress.end_request(&error);
            tries.after(error, &store, received.len() > before).await?;
        }
    }

    async fn read_once(
        &self,
        store: &Arc<dyn ObjectStore>,
        blob: &BlobDescriptor,
        range: Range<u64>,
        received: &mut BytesMut,
        progress: &Progress,
    ) -> Result<(), FetchError> {
        let what = format!("blob {}", blob.id);
        let options = GetOptions::new().with_range(Some(GetRange::Bounded(range.clone())));
        let path = self.path(&blob_path(blob.id));
        let result = store.get_opts(&path, options).await;
        let result = result.map_err(|error| self.failure(&what, error))?;
        if result.meta.size != blob.len {
            let (blob, expected, actual) = (blob.id, blob.len, result.meta.size);
            return Err(FetchError::LenMismatch { blob, expected, actual });
        }
        if result.range != range {
            let actual = format!("bytes {}-{}", result.range.start, result.range.end);
            let url = self.place.clone();
            return Err(FetchError::RangeMismatch { url, expected: range, actual });
        }
        self.take(result, &what, received, progress).await
    }

    /// Takes what was announced from the body of an answer.
    pub(super) async fn take(
        &self,
        result: GetResult,
        what: &str,
        received: &mut BytesMut,
        progress: &Progress,
    ) -> Result<(), FetchError> {
        let expected = result.range.end - result.range.start;
        let mut missing = usize::try_from(expected).unwrap_or(usize::MAX);
        let mut pace = Pace::new(self.options.progress_timeout);
        let mut pieces = result.into_stream();
        let url = || self.place.clone();
        while missing > 0 {
            let started = Instant::now();
            match tokio::time::timeout(pace.patience(), pieces.next()).await {
                Err(_) => {
                    let after = self.options.progress_timeout;
                    return Err(FetchError::Stalled { url: url(), after });
                }
                Ok(Some(Err(error))) => return Err(self.failure(what, error)),
                Ok(Some(Ok(mut piece))) => {
                    piece.truncate(missing);
                    missing -= piece.len();
                    received.extend_from_slice(&piece);
                    pace.note(started.elapsed(), piece.len() as u64);
                    progress.add(piece.len());
                }
                Ok(None) => {
                    let received = expected - missing as u64;
                    return Err(FetchError::Truncated { url: url(), received, expected });
                }
            }
        }
        Ok(())
    }
}
