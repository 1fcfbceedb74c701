//! Reading one range, whatever the server makes of it.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use reqwest::StatusCode;

use super::blobs::{BlobState, Blobs};
use super::body::{Body, ContentRange};
use super::exchange::Exchange;
use super::limits::{Limits, Permit};
use super::origin::redacted;
use super::patience::Patience;
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
}

/// A range that is being read, and what has arrived of it.
struct Wanted {
    blob: BlobDescriptor,
    range: Range<u64>,
    priority: Priority,
    received: BytesMut,
}

impl RangeReader {
    /// Reads exactly `range`, which is not empty and lies within the blob, within the deadline.
    pub(super) async fn read(
        &self,
        blob: BlobDescriptor,
        range: Range<u64>,
        priority: Priority,
    ) -> Result<Bytes, FetchError> {
        let wanted = Wanted { blob, range, priority, received: BytesMut::new() };
        let after = self.exchange.options.deadline;
        match tokio::time::timeout(after, self.read_patiently(wanted)).await {
            Ok(result) => result,
            Err(_) => Err(FetchError::Timeout { what: format!("blob {}", blob.id), after }),
        }
    }

    async fn read_patiently(&self, mut wanted: Wanted) -> Result<Bytes, FetchError> {
        let state = self.blobs.state(wanted.blob.id);
        let mut patience = Patience::new(&self.exchange.options);
        loop {
            let before = wanted.received.len();
            let error = match self.try_once(&state, &mut wanted).await {
                Ok(()) if wanted.remaining().is_empty() => return Ok(wanted.received.freeze()),
                Ok(()) => wanted.truncated(&self.exchange),
                Err(error) => error,
            };
            self.exchange.counters.retries.add(1);
            patience.after(error, wanted.received.len() > before).await?;
        }
    }

    /// Tries to get the remaining bytes; may get some of them, also if it fails.
    async fn try_once(
        &self,
        state: &Arc<BlobState>,
        wanted: &mut Wanted,
    ) -> Result<(), FetchError> {
        loop {
            if let Some(transfer) = self.wholes.find(wanted.blob.id) {
                wanted.received.extend_from_slice(&transfer.read(wanted.remaining()).await?);
                return Ok(());
            }
            let permit = self.limits.acquire(wanted.priority).await?;
            let turn = if state.honours_ranges() {
                None
            } else if let Some(turn) = state.turnstile.try_take() {
                // Another reader may have started a whole transfer or learned the rest just now.
                if self.wholes.find(wanted.blob.id).is_some() {
                    continue;
                }
                Some(turn)
            } else {
                // Waiting must not take the place of a request to another blob.
                drop(permit);
                state.turnstile.freed().await;
                continue;
            };
            let range = Some(wanted.remaining());
            let answer =
                self.exchange.get_blob(wanted.blob.id, state, range, wanted.priority).await?;
            if answer.status() == StatusCode::PARTIAL_CONTENT {
                wanted.check_content_range(&answer)?;
                state.set_honours_ranges(true);
                drop(turn);
                return wanted.take(answer, 0, &self.exchange).await;
            }
            state.set_honours_ranges(false);
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
            answer.response().content_length().filter(|&len| len != wanted.blob.len)
        {
            let (blob, expected) = (wanted.blob.id, wanted.blob.len);
            return Err(FetchError::LenMismatch { blob, expected, actual });
        }
        let exchange = &self.exchange;
        let started =
            self.wholes.start(exchange, state, (wanted.blob, wanted.priority), answer, permit);
        match started {
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

impl Wanted {
    fn remaining(&self) -> Range<u64> {
        self.range.start + self.received.len() as u64..self.range.end
    }

    /// Checks that the answer starts where it should and belongs to a blob of the right length.
    ///
    /// A shorter range is fine: the rest is asked for next. So is a longer one: it is cut.
    fn check_content_range(&self, answer: &Body) -> Result<(), FetchError> {
        let expected = self.remaining();
        let text = answer.content_range_text();
        let is_right = ContentRange::parse(&text).is_some_and(|actual| {
            let is_len_right = actual.whole_len.is_none_or(|len| len == self.blob.len);
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
        let received = &exchange.counters.of(self.priority).bytes_received;
        let end = self.remaining().end;
        while self.remaining().start < end {
            let Some(mut piece) = answer.next(received).await? else { break };
            let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
            skip -= skipped as u64;
            let _ = piece.split_to(skipped);
            let missing = end - self.remaining().start;
            piece.truncate(usize::try_from(missing).unwrap_or(usize::MAX));
            self.received.extend_from_slice(&piece);
        }
        if !self.remaining().is_empty() {
            return Ok(());
        }
        answer.finish().await;
        Ok(())
    }

    fn truncated(&self, exchange: &Exchange) -> FetchError {
        FetchError::Truncated {
            url: redacted(&exchange.origin.url(&format!("blobs/{}", self.blob.id))),
            received: self.received.len() as u64,
            expected: self.range.end - self.range.start,
        }
    }
}
