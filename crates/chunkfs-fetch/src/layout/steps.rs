//! Whole blobs out of range reads.

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};

use crate::error::FetchError;
use crate::source::{BlobDescriptor, BlobSource, Priority};

/// Streams a blob by demand reads of `step_len` bytes.
pub(crate) fn stream_in_steps<S: BlobSource + Clone + 'static>(
    source: &S,
    blob: &BlobDescriptor,
    step_len: u64,
) -> BoxStream<'static, Result<Bytes, FetchError>> {
    let (source, blob) = (source.clone(), *blob);
    stream::try_unfold(0, move |offset| {
        let source = source.clone();
        async move {
            let end = blob.len.min(offset + step_len);
            if offset == end {
                return Ok(None);
            }
            let bytes = source.read_range(&blob, offset..end, Priority::Demand).await?;
            Ok(Some((bytes, end)))
        }
    })
    .boxed()
}
