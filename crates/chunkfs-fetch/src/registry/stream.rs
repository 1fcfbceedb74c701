//! Whole blobs, streamed.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use reqwest::StatusCode;
use tokio::sync::mpsc;

use super::blobs::BlobRequest;
use super::body::ContentRange;
use super::origin::redacted;
use super::patience::Patience;
use super::range::RangeReader;
use crate::error::FetchError;
use crate::source::{BlobDescriptor, Priority};
use crate::task::AbortOnDrop;

/// Pieces that wait for a slow consumer.
const QUEUE_LEN: usize = 4;

type Piece = Result<Bytes, FetchError>;

/// Streams a blob; the transfer begins at once and ends when the stream is dropped.
pub(super) fn stream_blob(
    reader: Arc<RangeReader>,
    blob: BlobDescriptor,
) -> BoxStream<'static, Piece> {
    let (sender, receiver) = mpsc::channel(QUEUE_LEN);
    let runtime = reader.exchange.options.runtime.clone();
    let task = AbortOnDrop::spawn(&runtime, async move {
        if let Err(error) = send_all(&reader, &blob, &sender).await {
            let _ = sender.send(Err(error)).await;
        }
    });
    stream::unfold((receiver, task, false), |(mut receiver, task, has_failed)| async move {
        if has_failed {
            return None;
        }
        let piece = receiver.recv().await?;
        let has_failed = piece.is_err();
        Some((piece, (receiver, task, has_failed)))
    })
    .boxed()
}

async fn send_all(
    reader: &RangeReader,
    blob: &BlobDescriptor,
    sender: &mpsc::Sender<Piece>,
) -> Result<(), FetchError> {
    let exchange = &reader.exchange;
    let mut patience = Patience::new(&exchange.options);
    let mut offset = 0;
    while offset < blob.len {
        let before = offset;
        let error = match send_some(reader, blob, &mut offset, sender).await {
            Ok(()) if offset == blob.len => return Ok(()),
            Ok(()) => FetchError::Truncated {
                url: redacted(&exchange.origin.blob_url(blob.id)),
                received: offset,
                expected: blob.len,
            },
            Err(error) => error,
        };
        exchange.wait_after(&mut patience, error, offset > before).await?;
    }
    Ok(())
}

/// Sends one request for the blob from `offset` on, and what it brings to the consumer.
async fn send_some(
    reader: &RangeReader,
    blob: &BlobDescriptor,
    offset: &mut u64,
    sender: &mpsc::Sender<Piece>,
) -> Result<(), FetchError> {
    let exchange = &reader.exchange;
    let state = reader.state(blob.id);
    let _permit = reader.limits.acquire(Priority::Demand).await?;
    let range = (*offset > 0).then_some(*offset..blob.len);
    let request = BlobRequest { blob: blob.id, range, priority: Priority::Demand, is_fresh: false };
    let mut answer = exchange.get_blob(&state, request).await?;
    let mut skip = *offset;
    if answer.status() == StatusCode::PARTIAL_CONTENT {
        let actual = answer.content_range_text();
        if ContentRange::parse(&actual).is_none_or(|range| range.start != *offset) {
            let (url, expected) = (redacted(answer.url()), *offset..blob.len);
            return Err(FetchError::RangeMismatch { url, expected, actual });
        }
        skip = 0;
    }
    exchange.note_served();
    let received = &exchange.counters.of(Priority::Demand).bytes_received;
    while *offset < blob.len {
        let Some(mut piece) = answer.next(received).await? else { break };
        let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
        skip -= skipped as u64;
        let _ = piece.split_to(skipped);
        piece.truncate(usize::try_from(blob.len - *offset).unwrap_or(usize::MAX));
        if piece.is_empty() {
            continue;
        }
        *offset += piece.len() as u64;
        if sender.send(Ok(piece)).await.is_err() {
            // The consumer is gone, and this task is about to be aborted.
            return Ok(());
        }
    }
    Ok(())
}
