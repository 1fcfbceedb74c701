//! What the tests share.

use std::time::Duration;

use bytes::Bytes;
use chunkfs_fetch::{
    BlobDescriptor, BlobSource as _, FetchError, ManifestSelector, Priority, RegistryOptions,
    RegistryReference, RegistrySource,
};
use chunkfs_format::BlobId;
use chunkfs_testkit::RangeServer;
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
    source: &RegistrySource,
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
