//! Reading one range, whatever the server makes of it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use chunkfs_format::BlobId;
use reqwest::StatusCode;

use super::ahead::Ahead;
use super::authorizer::Authorizer;
use super::blobs::{BlobRequest, BlobState, Blobs};
use super::body::{Body, ContentRange};
use super::counters::Counters;
use super::exchange::Exchange;
use super::limits::{Limits, Permit};
use super::options::RegistryOptions;
use super::origin::{Origin, redacted};
use super::patience::{Patience, REREADS_MAX};
use super::progress::{Progress, hedged};
use super::turnstile::Turn;
use super::whole::Wholes;
use crate::error::FetchError;
use crate::source::{BlobDescriptor, Priority};

/// Reads ranges of blobs.
#[derive(Debug)]
pub(super) struct RangeReader {
    pub(super) exchange: Arc<Exchange>,
    pub(super) limits: Limits,
    pub(super) blobs: Blobs,
    pub(super) wholes: Wholes,
    pub(super) ahead: Ahead,
}

/// What a caller wants.
#[derive(Debug, Clone)]
pub(super) struct RangeRequest {
    pub(super) blob: BlobDescriptor,
    /// Within the blob.
    pub(super) range: Range<u64>,
    pub(super) priority: Priority,
    /// Whether what came before was damaged, so that caches must be passed by.
    pub(super) is_fresh: bool,
    /// Whether what came before had another digest, so that only verified bytes will do.
    pub(super) was_damaged: bool,
}

/// A range that is being read, and what has arrived of it.
struct Wanted {
    request: RangeRequest,
    received: BytesMut,
    progress: Arc<Progress>,
}

impl RangeReader {
    /// Sets up everything that one host and repository needs; sends nothing.
    pub(super) fn new(
        origin: Origin,
        repository: &str,
        options: RegistryOptions,
        counters: Arc<Counters>,
    ) -> Result<Self, FetchError> {
        let client = options.client(origin.is_https()).build()?;
        let origin = Arc::new(origin);
        let authorizer = Arc::new(Authorizer::new(
            client.clone(),
            Arc::clone(&origin),
            repository,
            options.clone(),
            Arc::clone(&counters),
        ));
        let limits = Limits::new(options.connections_max, options.prefetch_connections_max);
        let wholes = Wholes::new(options.whole_blobs.clone());
        let exchange = Arc::new(Exchange::new(client, origin, authorizer, counters, options));
        let (blobs, ahead) = Default::default();
        Ok(Self { exchange, limits, blobs, wholes, ahead })
    }

    /// Returns what is known of a blob.
    pub(super) fn state(&self, blob: BlobId) -> Arc<BlobState> {
        let Exchange { options, origin, .. } = &*self.exchange;
        self.blobs.state(blob, || options.hosts.honours_ranges(origin.host()))
    }

    fn note_ranges(&self, state: &BlobState, honours_ranges: bool) {
        if state.set_honours_ranges(honours_ranges) {
            let Exchange { options, origin, .. } = &*self.exchange;
            options.hosts.note_ranges(origin.host(), honours_ranges);
        }
    }

    /// Reads exactly the range within the deadline.
    pub(super) async fn read(&self, request: RangeRequest) -> Result<Bytes, FetchError> {
        if request.range.is_empty() {
            return Ok(Bytes::new());
        }
        let options = &self.exchange.options;
        let progress = Arc::new(request.progress(options.deadline));
        let read = self.read_hedged(&request, &progress);
        match tokio::time::timeout(options.deadline, read).await {
            Ok(result) => result,
            Err(_) => Err(progress.timeout(format!("blob {}", request.blob.id))),
        }
    }

    /// Sends a second request if the first does not get on. Only for blobs whose ranges can be read:
    /// until that is known, others wait for the same answer, and a second one could be the whole.
    async fn read_hedged(
        &self,
        request: &RangeRequest,
        progress: &Arc<Progress>,
    ) -> Result<Bytes, FetchError> {
        let first = self.read_patiently(Wanted::new(request.clone(), Arc::clone(progress)));
        let Exchange { options, counters, .. } = &*self.exchange;
        let hedge_after = options.hedge_after.filter(|_| request.priority == Priority::Demand);
        let Some(hedge_after) = hedge_after else { return first.await };
        let state = self.state(request.blob.id);
        let stuck = progress.stuck(hedge_after, || state.honours_ranges());
        hedged(first, stuck, || {
            counters.hedged_reads.add(1);
            let unwatched = Arc::new(request.progress(options.deadline));
            self.read_patiently(Wanted::new(request.clone(), unwatched))
        })
        .await
    }

    async fn read_patiently(&self, mut wanted: Wanted) -> Result<Bytes, FetchError> {
        let state = self.state(wanted.request.blob.id);
        let priority = wanted.request.priority;
        let mut patience = Patience::of_read(&self.exchange.options, priority);
        let mut damaged_count = 0;
        loop {
            let before = wanted.received.len();
            let error = match self.try_once(&state, &mut wanted).await {
                Ok(()) if wanted.remaining().is_empty() => return Ok(wanted.received.freeze()),
                Ok(()) => wanted.truncated(&self.exchange),
                Err(error) => error,
            };
            wanted.progress.end_request(&error);
            if matches!(error, FetchError::DigestMismatch { .. }) && damaged_count < REREADS_MAX {
                // A whole blob was damaged on its way: again, around caches.
                damaged_count += 1;
                wanted.received.clear();
                self.exchange.counters.retries.add(1);
                continue;
            }
            if error.is_doubtful() {
                // What caches keep, or where they are, may be what is wrong.
                wanted.request.is_fresh = true;
                state.forget_location();
            }
            let has_progressed = wanted.received.len() > before;
            self.exchange.wait_after(&mut patience, error, has_progressed).await?;
        }
    }

    /// Tries to get the remaining bytes; may get some of them, also if it fails.
    async fn try_once(
        &self,
        state: &Arc<BlobState>,
        wanted: &mut Wanted,
    ) -> Result<(), FetchError> {
        loop {
            if let Some(transfer) = self.wholes.find(wanted.request.blob.id) {
                if wanted.request.was_damaged {
                    transfer.verified().await?;
                }
                wanted.received.extend_from_slice(&transfer.read(wanted.remaining()).await?);
                return Ok(());
            }
            // Here, so that who waits for one host takes no place from who asks another.
            self.exchange.wait_for_host().await?;
            let permit = self.limits.acquire(wanted.request.priority).await?;
            let turn = if state.honours_ranges() {
                None
            } else if let Some(turn) = state.turnstile.try_take() {
                // Another reader may have started a whole transfer or learned the rest just now.
                if self.wholes.find(wanted.request.blob.id).is_some() {
                    continue;
                }
                Some(turn)
            } else {
                // Waiting must not take the place of a request to another blob.
                drop(permit);
                state.turnstile.freed().await;
                continue;
            };
            wanted.progress.begin_request();
            let answer = self.exchange.get_blob(state, wanted.next_request()).await?;
            if state.has_location() {
                self.ahead.start(&self.exchange, |blob| self.state(blob));
            }
            if answer.status() == StatusCode::PARTIAL_CONTENT {
                wanted.check_content_range(&answer)?;
                self.exchange.note_served();
                self.note_ranges(state, true);
                drop(turn);
                return wanted.take(answer, 0, &self.exchange).await;
            }
            self.note_ranges(state, false);
            let Some(turn) = turn else {
                // The server has changed its mind; only one reader may take whole blobs from it.
                continue;
            };
            return self.take_from_whole(state, wanted, answer, (permit, turn)).await;
        }
    }

    /// Uses an answer that begins at the start of the blob.
    ///
    /// If the blob can be kept, the next readers are let in at once and share the transfer; if
    /// not, they wait, so that there is one such transfer at a time.
    async fn take_from_whole(
        &self,
        state: &Arc<BlobState>,
        wanted: &mut Wanted,
        answer: Body,
        (permit, turn): (Permit, Turn<'_>),
    ) -> Result<(), FetchError> {
        self.exchange.counters.whole_blob_transfers.add(1);
        if let Some(actual) =
            answer.response().content_length().filter(|&len| len != wanted.request.blob.len)
        {
            let (blob, expected) = (wanted.request.blob.id, wanted.request.blob.len);
            return Err(FetchError::LenMismatch { blob, expected, actual });
        }
        let exchange = &self.exchange;
        exchange.note_served();
        let RangeRequest { blob, priority, .. } = wanted.request;
        match self.wholes.start(exchange, state, (blob, priority), answer, permit) {
            Ok(transfer) => {
                drop(turn);
                let bytes = transfer.read(wanted.remaining()).await?;
                wanted.received.extend_from_slice(&bytes);
                Ok(())
            }
            Err(answer) => {
                let skip = wanted.remaining().start;
                wanted.take(*answer, skip, exchange).await
            }
        }
    }
}

impl RangeRequest {
    pub(super) fn new(
        blob: &BlobDescriptor,
        range: Range<u64>,
        priority: Priority,
        was_damaged: bool,
    ) -> Self {
        Self { blob: *blob, range, priority, is_fresh: was_damaged, was_damaged }
    }

    fn progress(&self, deadline: Duration) -> Progress {
        Progress::new(self.range.end - self.range.start, deadline)
    }
}

impl Wanted {
    fn new(request: RangeRequest, progress: Arc<Progress>) -> Self {
        Self { request, received: BytesMut::new(), progress }
    }

    fn remaining(&self) -> Range<u64> {
        self.request.range.start + self.received.len() as u64..self.request.range.end
    }

    fn next_request(&self) -> BlobRequest {
        let RangeRequest { blob, priority, is_fresh, .. } = self.request;
        BlobRequest { blob: blob.id, range: Some(self.remaining()), priority, is_fresh }
    }

    /// Checks that the answer starts where it should and belongs to a blob of the right length.
    ///
    /// A shorter range is fine: the rest is asked for next. So is a longer one: it is cut.
    fn check_content_range(&self, answer: &Body) -> Result<(), FetchError> {
        let expected = self.remaining();
        let text = answer.content_range_text();
        let is_right = ContentRange::parse(&text).is_some_and(|actual| {
            let is_len_right = actual.whole_len.is_none_or(|len| len == self.request.blob.len);
            actual.start == expected.start && is_len_right
        });
        if is_right {
            return Ok(());
        }
        Err(FetchError::RangeMismatch { url: redacted(answer.url()), expected, actual: text })
    }

    /// Takes what is wanted from a body after skipping `skip` bytes of it.
    async fn take(
        &mut self,
        mut answer: Body,
        mut skip: u64,
        exchange: &Exchange,
    ) -> Result<(), FetchError> {
        let received = &exchange.counters.of(self.request.priority).bytes_received;
        let end = self.remaining().end;
        while self.remaining().start < end {
            let Some(mut piece) = answer.next(received).await? else { break };
            let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
            skip -= skipped as u64;
            let _ = piece.split_to(skipped);
            let missing = end - self.remaining().start;
            piece.truncate(usize::try_from(missing).unwrap_or(usize::MAX));
            self.received.extend_from_slice(&piece);
            self.progress.add(piece.len());
        }
        if !self.remaining().is_empty() {
            return Ok(());
        }
        answer.finish().await;
        Ok(())
    }

    fn truncated(&self, exchange: &Exchange) -> FetchError {
        FetchError::Truncated {
            url: redacted(&exchange.origin.blob_url(self.request.blob.id)),
            received: self.received.len() as u64,
            expected: self.request.range.end - self.request.range.start,
        }
    }
}
