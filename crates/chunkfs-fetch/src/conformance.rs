//! The suite that every [`BlobSource`] should pass.
//!
//! It runs on any executor and needs nothing but the source and the blobs that it holds.

use std::num::NonZeroU32;
use std::ops::Range;

use bytes::Bytes;
use chunkfs_format::BlobId;
use futures::FutureExt as _;
use futures::future::join_all;

use crate::error::FetchError;
use crate::source::{BlobDescriptor, BlobSource, Priority, fetch_verified};

/// How many reads run at once in [`run`].
pub const CONCURRENT_READ_COUNT: usize = 50;

/// After how many rereads of damaged bytes a source must have no place left.
pub const REREADS_MAX: u32 = 32;

/// Checks that `source` keeps the contract of [`BlobSource`] for `blobs`, which it must hold.
///
/// Give it blobs of several lengths, among them 0 and 1, and one of at least 64 KiB.
///
/// # Panics
/// Panics with a description at the first violation.
pub async fn run(source: &dyn BlobSource, blobs: &[(BlobDescriptor, Bytes)]) {
    assert!(!blobs.is_empty(), "the suite needs blobs");
    for (blob, content) in blobs {
        assert_eq!(blob.len, content.len() as u64, "the descriptor of {}", blob.id);
        assert_eq!(blob.id, BlobId::of(content), "the descriptor of a blob");
        boundary_ranges_return_exact_bytes(source, blob, content).await;
        ranges_past_the_end_are_out_of_range(source, blob).await;
        whole_blobs_verify(source, blob, content).await;
        rereads_return_exact_bytes_and_end(source, blob, content).await;
    }
    an_unknown_blob_is_not_found(source).await;
    concurrent_reads_return_exact_bytes(source, blobs).await;
    dropped_reads_leave_the_source_usable(source, blobs).await;
}

async fn boundary_ranges_return_exact_bytes(
    source: &dyn BlobSource,
    blob: &BlobDescriptor,
    content: &Bytes,
) {
    let len = blob.len;
    let middle = len / 2;
    for range in [
        0..0,
        0..len.min(1),
        0..len.saturating_sub(1),
        0..len,
        len.saturating_sub(1)..len,
        len..len,
        middle..middle,
        middle..len,
        len.min(1)..len,
    ] {
        for priority in [Priority::Demand, Priority::Prefetch] {
            let bytes = source.read_range(blob, range.clone(), priority).await;
            let bytes = bytes.unwrap_or_else(|error| panic!("{range:?} of {blob:?}: {error}"));
            assert!(bytes == slice(content, &range), "{range:?} of {blob:?} has other bytes");
        }
    }
}

async fn ranges_past_the_end_are_out_of_range(source: &dyn BlobSource, blob: &BlobDescriptor) {
    let len = blob.len;
    for range in [0..len + 1, len..len + 1, len + 1..len + 2, len + 1..len + 1, 0..u64::MAX] {
        let result = source.read_range(blob, range.clone(), Priority::Demand).await;
        let is_out_of_range = matches!(result, Err(FetchError::OutOfRange { .. }));
        assert!(is_out_of_range, "{range:?} of {blob:?}: {result:?}");
    }
}

async fn whole_blobs_verify(source: &dyn BlobSource, blob: &BlobDescriptor, content: &Bytes) {
    let bytes = fetch_verified(source, blob, blob.len).await;
    let bytes = bytes.unwrap_or_else(|error| panic!("all of {blob:?}: {error}"));
    assert!(bytes == *content, "{blob:?} has other bytes");
    if let Some(len_max) = blob.len.checked_sub(1) {
        let error = fetch_verified(source, blob, len_max).await.expect_err("it is too large");
        assert!(matches!(error, FetchError::TooLarge { .. }), "{error}");
    }
}

async fn rereads_return_exact_bytes_and_end(
    source: &dyn BlobSource,
    blob: &BlobDescriptor,
    content: &Bytes,
) {
    for damaged_count in 1..=REREADS_MAX {
        let count = NonZeroU32::new(damaged_count).expect("it is not zero");
        let range = 0..blob.len;
        match source.reread_range(blob, range, Priority::Demand, count).await {
            Ok(Some(bytes)) => assert!(bytes == *content, "{blob:?} read again has other bytes"),
            Ok(None) if damaged_count > 1 => return,
            again => panic!("{blob:?} read again after {damaged_count}: {again:?}"),
        }
    }
    panic!("{blob:?} is read again for ever");
}

async fn an_unknown_blob_is_not_found(source: &dyn BlobSource) {
    let blob = BlobDescriptor { id: BlobId::of(b"no source holds this blob"), len: 10 };
    let result = source.read_range(&blob, 0..10, Priority::Demand).await;
    let error = result.expect_err("the blob does not exist");
    assert!(error.is_not_found(), "{error}");
    assert!(!error.is_retryable(), "{error}");
}

async fn concurrent_reads_return_exact_bytes(
    source: &dyn BlobSource,
    blobs: &[(BlobDescriptor, Bytes)],
) {
    let reads = (0..CONCURRENT_READ_COUNT).map(|number| {
        let (blob, content) = &blobs[number % blobs.len()];
        let range = spread(number as u64, blob.len);
        let priority = if number % 3 == 0 { Priority::Prefetch } else { Priority::Demand };
        async move {
            let bytes = source.read_range(blob, range.clone(), priority).await;
            let bytes = bytes.unwrap_or_else(|error| panic!("{range:?} of {blob:?}: {error}"));
            assert!(bytes == slice(content, &range), "{range:?} of {blob:?} has other bytes");
        }
    });
    join_all(reads).await;
}

async fn dropped_reads_leave_the_source_usable(
    source: &dyn BlobSource,
    blobs: &[(BlobDescriptor, Bytes)],
) {
    for (blob, content) in blobs {
        for _ in 0..CONCURRENT_READ_COUNT {
            // Polled once, so that it has begun, then dropped.
            let _ = source.read_range(blob, 0..blob.len, Priority::Demand).now_or_never();
        }
        let bytes = source.read_range(blob, 0..blob.len, Priority::Demand).await;
        let bytes = bytes.unwrap_or_else(|error| panic!("{blob:?} after dropped reads: {error}"));
        assert!(bytes == *content, "{blob:?} has other bytes after dropped reads");
    }
}

/// Returns the `number`th of many different ranges of a blob.
fn spread(number: u64, len: u64) -> Range<u64> {
    let start = (number * 7919).checked_rem(len).unwrap_or(0);
    let count = (number * 104_729 + 1).checked_rem(len - start + 1).unwrap_or(0);
    start..start + count
}

fn slice(content: &Bytes, range: &Range<u64>) -> Bytes {
    let index = |offset| usize::try_from(offset).expect("the blob is in memory");
    content.slice(index(range.start)..index(range.end))
}
