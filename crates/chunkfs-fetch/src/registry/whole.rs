//! Whole blobs in memory, for servers that answer range requests with everything.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use chunkfs_format::{BlobHasher, BlobId};
use reqwest::StatusCode;
use tokio::sync::watch;

use super::blobs::{BlobRequest, BlobState};
use super::body::{Body, ContentRange};
use super::exchange::Exchange;
use super::limits::Permit;
use super::origin::redacted;
use super::patience::Patience;
use crate::error::FetchError;
use crate::source::{BlobDescriptor, Priority};
use crate::task::AbortOnDrop;

/// The whole blobs that are held or on their way, oldest first, with a limit on their bytes.
#[derive(Debug)]
pub(super) struct Wholes {
    len_max: u64,
    entries: Mutex<VecDeque<Entry>>,
}

#[derive(Debug)]
struct Entry {
    blob: BlobDescriptor,
    transfer: Arc<Transfer>,
    /// Ends with the entry, and so with the source.
    _task: AbortOnDrop<()>,
}

/// A transfer of a whole blob, from which many readers are served, also while it runs.
///
/// It goes on when readers are dropped, because the next one will need it.
#[derive(Debug)]
pub(super) struct Transfer {
    bytes: Mutex<Vec<u8>>,
    progress: watch::Sender<Progress>,
}

#[derive(Debug, Clone)]
enum Progress {
    Received(u64),
    Done,
    Failed(FetchError),
}

impl Wholes {
    pub(super) fn new(len_max: u64) -> Self {
        Self { len_max, entries: Mutex::default() }
    }

    /// Returns the transfer of a blob, running or done.
    pub(super) fn find(&self, blob: BlobId) -> Option<Arc<Transfer>> {
        let mut entries = self.entries();
        let index = entries.iter().position(|entry| entry.blob.id == blob)?;
        let entry = entries.remove(index)?;
        if entry.transfer.has_failed() {
            return None;
        }
        let transfer = Arc::clone(&entry.transfer);
        entries.push_back(entry);
        Some(transfer)
    }

    /// Starts to keep the blob whose whole content `answer` brings.
    ///
    /// # Errors
    /// Returns `answer` if there is no room for the blob.
    pub(super) fn start(
        &self,
        exchange: &Arc<Exchange>,
        state: &Arc<BlobState>,
        (blob, priority): (BlobDescriptor, Priority),
        answer: Body,
        permit: Permit,
    ) -> Result<Arc<Transfer>, Box<Body>> {
        let mut entries = self.entries();
        if !make_room(&mut entries, blob.len, self.len_max) {
            return Err(Box::new(answer));
        }
        let (progress, _) = watch::channel(Progress::Received(0));
        let transfer = Arc::new(Transfer { bytes: Mutex::default(), progress });
        let filling = Filling {
            exchange: Arc::clone(exchange),
            state: Arc::clone(state),
            transfer: Arc::clone(&transfer),
            blob,
            priority,
            hasher: BlobHasher::new(),
            received: 0,
        };
        let task = AbortOnDrop::spawn(&exchange.options.runtime, filling.run(answer, permit));
        entries.push_back(Entry { blob, transfer: Arc::clone(&transfer), _task: task });
        Ok(transfer)
    }

    fn entries(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops the oldest complete blobs until `len` more bytes fit; returns whether they do.
fn make_room(entries: &mut VecDeque<Entry>, len: u64, len_max: u64) -> bool {
    entries.retain(|entry| !entry.transfer.has_failed());
    let Some(room) = len_max.checked_sub(len) else { return false };
    let mut held: u64 = entries.iter().map(|entry| entry.blob.len).sum();
    while held > room {
        let Some(oldest) = entries.iter().position(|entry| entry.transfer.is_done()) else {
            return false;
        };
        held -= entries.remove(oldest).map_or(0, |entry| entry.blob.len);
    }
    true
}

impl Transfer {
    /// Waits until `range` has arrived and copies it out, so that it does not keep the whole alive.
    pub(super) async fn read(&self, range: Range<u64>) -> Result<Bytes, FetchError> {
        let mut progress = self.progress.subscribe();
        let is_settled = |progress: &Progress| match progress {
            Progress::Received(count) => *count >= range.end,
            Progress::Done | Progress::Failed(_) => true,
        };
        let settled = progress.wait_for(is_settled).await;
        match settled.as_deref() {
            Ok(Progress::Failed(error)) => return Err(error.clone()),
            Ok(_) => {}
            Err(_) => return Err(FetchError::Shutdown),
        }
        let index = |offset| usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let slice = bytes.get(index(range.start)..index(range.end));
        slice.map(Bytes::copy_from_slice).ok_or(FetchError::Shutdown)
    }

    /// Waits until the digest of the whole blob is known to be right.
    pub(super) async fn verified(&self) -> Result<(), FetchError> {
        let mut progress = self.progress.subscribe();
        let is_settled = |progress: &Progress| !matches!(progress, Progress::Received(_));
        match progress.wait_for(is_settled).await.as_deref() {
            Ok(Progress::Failed(error)) => Err(error.clone()),
            Ok(_) => Ok(()),
            Err(_) => Err(FetchError::Shutdown),
        }
    }

    fn has_failed(&self) -> bool {
        matches!(*self.progress.borrow(), Progress::Failed(_))
    }

    fn is_done(&self) -> bool {
        matches!(*self.progress.borrow(), Progress::Done)
    }
}

/// The task that fills a transfer.
struct Filling {
    exchange: Arc<Exchange>,
    state: Arc<BlobState>,
    transfer: Arc<Transfer>,
    blob: BlobDescriptor,
    priority: Priority,
    hasher: BlobHasher,
    received: u64,
}

impl Filling {
    async fn run(mut self, answer: Body, _permit: Permit) {
        let outcome = match self.fill(answer).await {
            // The digest of a whole blob is known, so a damaged one need not be kept.
            Ok(()) => match std::mem::take(&mut self.hasher).finish() {
                actual if actual == self.blob.id => {
                    self.state.set_doubted(false);
                    Progress::Done
                }
                actual => {
                    self.state.set_doubted(true);
                    let expected = self.blob.id;
                    Progress::Failed(FetchError::DigestMismatch { expected, actual })
                }
            },
            Err(error) => Progress::Failed(error),
        };
        self.transfer.progress.send_replace(outcome);
    }

    async fn fill(&mut self, first: Body) -> Result<(), FetchError> {
        let exchange = Arc::clone(&self.exchange);
        let mut patience = Patience::new(&exchange.options);
        let mut next = Some((first, 0));
        loop {
            let before = self.received;
            let result = match next.take() {
                Some((answer, skip)) => self.drain(answer, skip).await,
                None => match self.resume().await {
                    Ok((answer, skip)) => self.drain(answer, skip).await,
                    Err(error) => Err(error),
                },
            };
            let Err(error) = result else { return Ok(()) };
            exchange.counters.retries.add(1);
            patience.after(error, self.received > before).await?;
        }
    }

    /// Asks for the rest; returns the answer and how much of it is known already.
    async fn resume(&self) -> Result<(Body, u64), FetchError> {
        let rest = self.received..self.blob.len;
        let (blob, priority) = (self.blob.id, self.priority);
        let request = BlobRequest { blob, range: Some(rest), priority, is_fresh: false };
        let answer = self.exchange.get_blob(&self.state, request).await?;
        if answer.status() == StatusCode::OK {
            return Ok((answer, self.received));
        }
        let text = answer.content_range_text();
        match ContentRange::parse(&text) {
            Some(range) if range.start == self.received => Ok((answer, 0)),
            _ => Err(FetchError::RangeMismatch {
                url: redacted(answer.url()),
                expected: self.received..self.blob.len,
                actual: text,
            }),
        }
    }

    async fn drain(&mut self, mut answer: Body, mut skip: u64) -> Result<(), FetchError> {
        let counters = Arc::clone(&self.exchange.counters);
        let count = &counters.of(self.priority).bytes_received;
        while self.received < self.blob.len {
            let Some(mut piece) = answer.next(count).await? else {
                return Err(FetchError::Truncated {
                    url: redacted(answer.url()),
                    received: self.received,
                    expected: self.blob.len,
                });
            };
            let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
            skip -= skipped as u64;
            let _ = piece.split_to(skipped);
            let missing = self.blob.len - self.received;
            piece.truncate(usize::try_from(missing).unwrap_or(usize::MAX));
            self.keep(&piece)?;
        }
        answer.finish().await;
        Ok(())
    }

    fn keep(&mut self, piece: &[u8]) -> Result<(), FetchError> {
        self.hasher.update(piece);
        let mut bytes = self.transfer.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes.capacity() == 0 {
            // The length of the answer was compared with the blob's, and that with the limit.
            let len = usize::try_from(self.blob.len).unwrap_or(usize::MAX);
            let reserved = bytes.try_reserve_exact(len);
            reserved.map_err(|_| FetchError::TooLarge {
                what: format!("blob {} in memory", self.blob.id),
                len: self.blob.len,
                len_max: 0,
            })?;
        }
        bytes.extend_from_slice(piece);
        drop(bytes);
        self.received += piece.len() as u64;
        // The last bytes are held back until the digest of the whole is known.
        if self.received < self.blob.len {
            self.transfer.progress.send_replace(Progress::Received(self.received));
        }
        Ok(())
    }
}
