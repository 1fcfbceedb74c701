//! What the tests share.

use std::time::{Duration, Instant};

use bytes::Bytes;
use chunkfs_fetch::{
    BlobDescriptor, BlobSource, FetchError, ManifestSelector, Priority, RegistryOptions,
    RegistryReference, RegistrySource,
};
use chunkfs_format::BlobId;
use chunkfs_testkit::{Fault, RangeServer};
use tokio::runtime::Handle;

pub(crate) const REPOSITORY: &str = "library/test";

/// Returns bytes that differ from place to place.
pub(crate) fn content(len: usize) -> Bytes {
    (0..len).map(|index| (index % 251) as u8 ^ (index / 251 % 256) as u8).collect()
}

pub(crate) fn descriptor(content: &Bytes) -> BlobDescriptor {
    BlobDescriptor { id: BlobId::of(content), len: content.len() as u64 }
}

/// Adds `len` bytes to a server.
pub(crate) fn add(server: &RangeServer, len: usize) -> (BlobDescriptor, Bytes) {
    let content = content(len);
    server.add_blob(REPOSITORY, content.clone());
    (descriptor(&content), content)
}

/// Options with short pauses, and timeouts that even a busy machine does not reach by accident.
pub(crate) fn options() -> RegistryOptions {
    RegistryOptions::new(Handle::current())
        .with_backoff(Duration::from_millis(2))
        .with_hedge_after(None)
        .with_progress_timeout(Duration::from_secs(5))
        .with_deadline(Duration::from_secs(30))
}

pub(crate) fn reference(server: &RangeServer) -> RegistryReference {
    let tag = ManifestSelector::Tag("latest".to_owned());
    RegistryReference::new(&server.address().to_string(), REPOSITORY, tag).unwrap()
}

pub(crate) fn source_with(server: &RangeServer, options: RegistryOptions) -> RegistrySource {
    RegistrySource::new(reference(server), options).unwrap()
}

pub(crate) fn source(server: &RangeServer) -> RegistrySource {
    source_with(server, options())
}

pub(crate) async fn read(
    source: &dyn BlobSource,
    blob: &BlobDescriptor,
    range: std::ops::Range<u64>,
) -> Result<Bytes, FetchError> {
    source.read_range(blob, range, Priority::Demand).await
}

/// The ranges that a server was asked for, one per blob read.
pub(crate) fn ranges(server: &RangeServer) -> Vec<String> {
    let requests = server.requests();
    let reads = requests.iter().filter(|request| request.is_blob_read());
    reads.map(|request| request.range.clone().unwrap_or_default()).collect()
}

/// Checks that a trickle of a blob of 2000 bytes is given up after some 300 ms and resumed.
pub(crate) async fn check_drip(
    server: &RangeServer,
    source: &dyn BlobSource,
    (blob, content): (BlobDescriptor, Bytes),
) {
    // 10 bytes in 50 ms are less than 1 KiB/s.
    server.push_fault(Fault::Drip { piece_len: 10, pause: Duration::from_millis(50) });
    assert_eq!(read(source, &blob, 0..2000).await.unwrap(), content);
    let ranges = ranges(server);
    assert_eq!(ranges.len(), 2, "{ranges:?}");
    let resumed: u64 = ranges[1]["bytes=".len()..ranges[1].len() - "-1999".len()].parse().unwrap();
    assert!((1..200).contains(&resumed), "{resumed}");
}

/// Checks that a pause that a server asks `first` for holds for `second`, too.
pub(crate) async fn check_shared_pause(
    server: &RangeServer,
    blob: &BlobDescriptor,
    (first, second): (&dyn BlobSource, &dyn BlobSource),
) {
    server.push_fault(Fault::retry_after(429, "1"));
    let started = Instant::now();
    let mut first_read = Box::pin(read(first, blob, 0..100));
    // Until the pause is known.
    while server.requests().iter().all(|request| request.status != 429) {
        let _ = tokio::time::timeout(Duration::from_millis(1), &mut first_read).await;
    }
    let _ = tokio::time::timeout(Duration::from_millis(50), &mut first_read).await;
    read(second, blob, 0..100).await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(950), "{:?}", started.elapsed());
    first_read.await.unwrap();
    assert_eq!(server.requests().len(), 3);
}

/// The text of an error with all its causes, in both forms.
pub(crate) fn whole_text(error: &FetchError) -> String {
    let mut text = format!("{error}\n{error:?}");
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(error) = cause {
        text += &format!("\n{error}");
        cause = error.source();
    }
    text
}
