//! Reading ranges: resumed after failures, with a second request beside one that is stuck.

use std::ops::Range;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use futures::future::{Either, select};
use object_store::{GetOptions, GetRange, GetResult, ObjectStore};
use tokio::time::Instant;

use super::source::Objects;
use super::tries::Tries;
use crate::error::{ErrorSource, FetchError};
use crate::layout::remote::blob_path;
use crate::registry::pace::Pace;
use crate::source::{BlobDescriptor, Priority};

/// What a caller wants; the range is not empty and lies within the blob.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) blob: BlobDescriptor,
    pub(super) range: Range<u64>,
    pub(super) priority: Priority,
}

/// How a read goes, for those who watch it.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The bytes received so far, those of failed tries that are not used included.
    received: AtomicU64,
    last_error: Mutex<Option<FetchError>>,
}

impl Objects {
    /// Reads exactly the range within the deadline.
    pub(super) async fn read_range(&self, wanted: Wanted) -> Result<Bytes, FetchError> {
        let progress = Progress::default();
        let read = self.read_hedged(&wanted, &progress);
        let after = self.options.deadline;
        match tokio::time::timeout(after, read).await {
            Ok(result) => result,
            Err(_) => Err(progress.timeout(format!("blob {}", wanted.blob.id), after)),
        }
    }

    /// Sends a second request if the first makes no progress; the first answer wins.
    async fn read_hedged(&self, wanted: &Wanted, progress: &Progress) -> Result<Bytes, FetchError> {
        let first = self.read_patiently(wanted, progress);
        let hedge_after = self.options.hedge_after;
        let Some(hedge_after) = hedge_after.filter(|_| wanted.priority == Priority::Demand) else {
            return first.await;
        };
        let mut first = pin!(first);
        if let Either::Left((result, _)) =
            select(&mut first, pin!(progress.stuck(hedge_after))).await
        {
            return result;
        }
        let unwatched = Progress::default();
        let second = pin!(self.read_patiently(wanted, &unwatched));
        match select(first, second).await {
            Either::Left((Ok(bytes), _)) | Either::Right((Ok(bytes), _)) => Ok(bytes),
            Either::Left((Err(_), second)) => second.await,
            Either::Right((Err(_), first)) => first.await,
        }
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
            let read = self.read_once(&store, &wanted.blob, range, &mut received, progress);
            let result = read.await;
            drop(permit);
            let Err(error) = result else {
                tries.succeeded();
                return Ok(received.freeze());
            };
            progress.note_error(&error);
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
                    progress.received.fetch_add(piece.len() as u64, Ordering::Relaxed);
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

impl Progress {
    pub(super) fn note_error(&self, error: &FetchError) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
    }

    /// Returns the error of a read that took too long.
    pub(super) fn timeout(&self, what: String, after: Duration) -> FetchError {
        let last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let last = last.map(|error| Arc::new(error) as ErrorSource);
        FetchError::Timeout { what, after, last }
    }

    /// Waits until nothing has come for a while.
    async fn stuck(&self, hedge_after: Duration) {
        let mut before = 0;
        loop {
            tokio::time::sleep(hedge_after).await;
            let now = self.received.load(Ordering::Relaxed);
            if now == before {
                return;
            }
            before = now;
        }
    }
}
