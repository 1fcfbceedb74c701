//! The traits that every transport implements.

use std::fmt;
use std::num::NonZeroU32;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use chunkfs_format::BlobId;
use futures::stream::BoxStream;

use crate::counters::FetchCounters;
use crate::error::FetchError;

/// How urgent a read is. Demand reads are served before prefetch reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Priority {
    /// A reader waits for the bytes.
    Demand,
    /// The bytes are likely to be wanted later.
    Prefetch,
}

/// A stored blob: its id and its length in bytes, as a manifest lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlobDescriptor {
    /// The digest of the stored bytes.
    pub id: BlobId,
    /// The number of stored bytes.
    pub len: u64,
}

/// Reads ranges of stored blobs: the one trait that an embedder implements for a transport of its own.
///
/// Implementations do not verify: the bytes are hostile until the caller has checked a digest.
#[async_trait]
pub trait BlobSource: Send + Sync + fmt::Debug {
    /// Reads exactly the bytes `range` of `blob`.
    ///
    /// An empty range returns no bytes and sends no request. A range that ends past `blob.len` is
    /// [`FetchError::OutOfRange`].
    ///
    /// # Cancel safety
    /// Dropping the future ends the transfer; nothing is left half-done.
    async fn read_range(
        &self,
        blob: &BlobDescriptor,
        range: Range<u64>,
        priority: Priority,
    ) -> Result<Bytes, FetchError>;

    /// Reads bytes again that turned out to be damaged, from somewhere else if possible.
    ///
    /// `damaged_count` is how many times the caller has got damaged bytes for this range so far.
    /// Each call goes further: around caches on the way first, then to the next place that has the
    /// blob. `None` means that there is no place left, so that callers can loop until they have
    /// good bytes or this.
    ///
    /// The default reads once more and then has no place left.
    ///
    /// # Cancel safety
    /// As [`read_range`](Self::read_range).
    async fn reread_range(
        &self,
        blob: &BlobDescriptor,
        range: Range<u64>,
        priority: Priority,
        damaged_count: NonZeroU32,
    ) -> Result<Option<Bytes>, FetchError> {
        if damaged_count.get() > 1 {
            return Ok(None);
        }
        self.read_range(blob, range, priority).await.map(Some)
    }

    /// Returns whether all of `blob` is here or on its way although only a range was asked for, so that
    /// reading the rest costs nothing now and the transfer again later. The default is no.
    fn holds_whole(&self, blob: BlobId) -> bool {
        let _ = blob;
        false
    }

    /// Lets go of a blob of which all is here, because the caller has kept what it needs. The default
    /// does nothing.
    fn release_whole(&self, blob: BlobId) {
        let _ = blob;
    }

    /// Returns what this source has done so far. The default counts nothing.
    fn counters(&self) -> FetchCounters {
        FetchCounters::default()
    }

    /// Returns what people call this place in messages: a reference or a URL without secrets.
    fn place(&self) -> String {
        "its source".to_owned()
    }
}

/// A blob source that also knows images: manifests by tag or digest.
#[async_trait]
pub trait ImageSource: BlobSource {
    /// Fetches a manifest or an image index, verified if it is asked for by digest.
    async fn fetch_manifest(
        &self,
        manifest: &ManifestSelector,
    ) -> Result<StoredManifest, FetchError>;

    /// Fetches the OCI image index that lists what refers to a manifest.
    ///
    /// The default reads the tag that stands in where a store has no referrers API
    /// (OCI distribution specification, "Referrers Tag Schema").
    async fn fetch_referrers(&self, manifest: BlobId) -> Result<StoredManifest, FetchError> {
        self.fetch_manifest(&ManifestSelector::Tag(referrers_tag(manifest))).await
    }

    /// Streams a whole blob from its first byte to its last, for converters.
    ///
    /// Neither length nor digest is verified. The stream ends after its first error.
    fn stream_blob(&self, blob: &BlobDescriptor) -> BoxStream<'static, Result<Bytes, FetchError>>;
}

/// Which manifest of a repository or layout is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ManifestSelector {
    /// The manifest that a tag names at present.
    Tag(String),
    /// The manifest with this digest.
    Digest(BlobId),
}

/// A manifest as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredManifest {
    /// The SHA-256 of `bytes`, computed here.
    pub id: BlobId,
    /// The media type that the store states, if it states one.
    pub media_type: Option<String>,
    /// The JSON text.
    pub bytes: Bytes,
}

/// Where blobs and manifests are written to.
#[async_trait]
pub trait ImageSink: Send + Sync + fmt::Debug {
    /// Returns whether the store already holds `blob`.
    async fn has_blob(&self, blob: &BlobDescriptor) -> Result<bool, FetchError>;

    /// Makes `blob` of another repository of the same store available here without sending it.
    ///
    /// Returns false where that is not possible; the caller then copies.
    async fn mount_blob(
        &self,
        blob: &BlobDescriptor,
        from_repository: &str,
    ) -> Result<bool, FetchError>;

    /// Stores a blob. Its bytes must have the digest and length of `blob`; nothing becomes visible
    /// under `blob.id` before all of them are stored.
    async fn put_blob(&self, blob: &BlobDescriptor, content: BlobContent)
    -> Result<(), FetchError>;

    /// Stores a manifest and points the tag at it, if one is given. All blobs that it lists must be stored.
    async fn put_manifest(
        &self,
        manifest: &ManifestSelector,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<BlobId, FetchError>;

    /// Makes sure that a stored manifest with a `subject` is listed among the referrers of that.
    ///
    /// # Errors
    /// [`FetchError::Store`] by default: only registries list referrers.
    async fn list_referrer(
        &self,
        subject: BlobId,
        referrer: &BlobDescriptor,
    ) -> Result<(), FetchError> {
        let _ = referrer;
        let problem = "it does not list referrers; attach to an image index instead".to_owned();
        Err(FetchError::Store { place: subject.to_string(), problem })
    }
}

/// Returns the tag that lists what refers to a manifest, where there is no API for it.
pub(crate) fn referrers_tag(manifest: BlobId) -> String {
    format!("sha256-{}", manifest.to_hex())
}

/// The bytes of a blob to be stored.
#[derive(Debug)]
pub enum BlobContent {
    /// In memory.
    Bytes(Bytes),
    /// A file that holds exactly the blob, read from its start by `pread`.
    File(std::fs::File),
}

/// Fetches a small blob whole and verifies it: for manifests' blobs such as indexes and configs.
///
/// # Errors
/// [`FetchError::TooLarge`] if `blob.len` is above `len_max`, which is checked before anything is
/// asked for; [`FetchError::DigestMismatch`] if other bytes arrive from every place that the source
/// knows, caches left out.
pub async fn fetch_verified(
    source: &dyn BlobSource,
    blob: &BlobDescriptor,
    len_max: u64,
) -> Result<Bytes, FetchError> {
    if blob.len > len_max {
        return Err(FetchError::TooLarge { what: blob.id.to_string(), len: blob.len, len_max });
    }
    let mut bytes = source.read_range(blob, 0..blob.len, Priority::Demand).await?;
    let mut damaged_count = NonZeroU32::MIN;
    loop {
        let actual = BlobId::of(&bytes);
        if actual == blob.id {
            return Ok(bytes);
        }
        let again = source.reread_range(blob, 0..blob.len, Priority::Demand, damaged_count).await?;
        match again.filter(|_| damaged_count.get() < PLACES_MAX) {
            Some(again) => bytes = again,
            None => return Err(FetchError::DigestMismatch { expected: blob.id, actual }),
        }
        damaged_count = damaged_count.saturating_add(1);
    }
}

/// How often damaged bytes are read again, whatever the source says.
const PLACES_MAX: u32 = 32;
