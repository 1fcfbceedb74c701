//! The public type: every operation runs as a task on the runtime of the options.

use std::fmt;
use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chunkfs_format::BlobId;
use futures::stream::BoxStream;

use super::options::RegistryOptions;
use super::range::RangeRequest;
use super::sites::Sites;
use super::stream;
use crate::counters::FetchCounters;
use crate::error::FetchError;
use crate::reference::RegistryReference;
use crate::source::{
    BlobContent, BlobDescriptor, BlobSource, ImageSink, ImageSource, ManifestSelector, Priority,
    StoredManifest,
};
use crate::task;

/// One repository of an OCI registry.
///
/// Cloning is cheap; clones share connections, tokens and everything learned about the registry.
/// All requests run on the runtime given in [`RegistryOptions`], so the methods can be awaited on
/// any executor.
///
/// * *Ranges.* One request with a single range per read, checked and continued if it brings less.
///   The first read of a blob finds out how the server treats ranges; reads that come meanwhile
///   wait for its head, unless the host is known to honour them. A server that answers with the whole
///   blob is asked once: the blob is kept in a folder or in memory, up to a limit, and serves all its
///   readers.
/// * *Redirects.* Credentials never leave the registry's scheme, host and port. The signed URL of
///   a blob is reused until it expires or is refused, then renewed once. Once a blob of an image
///   was redirected, the locations of its other blobs are asked for ahead.
/// * *Tokens.* Renewed shortly before they expire, by one request however many readers wait.
/// * *Mirrors.* Those of the options are asked first, in order, while they work.
/// * *Failures.* Connection errors, cut bodies, stalls and the statuses 408, 429, 500, 502, 503,
///   504 and 520 to 530 are retried with growing pauses; `Retry-After` holds back all requests to that
///   host, for 30 s at most. Refusals such as 404 are asked again twice, or six times if the place
///   has served this repository before; credentials that worked until then until the deadline.
///
/// # Example
///
/// ```no_run
/// use chunkfs_fetch::{ImageSource, RegistryOptions, RegistryReference, RegistrySource};
///
/// # async fn example() -> Result<(), chunkfs_fetch::FetchError> {
/// let reference: RegistryReference = "docker://registry.example/team/model:v1".parse()?;
/// let options = RegistryOptions::new(tokio::runtime::Handle::current());
/// let source = RegistrySource::new(reference.clone(), options)?;
/// let manifest = source.fetch_manifest(reference.selector()).await?;
/// assert!(source.counters().demand.requests > 0);
/// # Ok(())
/// # }
/// ```
///
/// # Cancel safety
/// Dropping a future ends its transfer. Three things go on because others wait for them: the request
/// for a token, the transfer of a whole blob from a server that ignores ranges, and requests for
/// locations. The last two end with the last clone of the source.
#[derive(Clone)]
pub struct RegistrySource {
    sites: Arc<Sites>,
    reference: RegistryReference,
}

impl RegistrySource {
    /// Creates a source for the repository of `reference`. Sends nothing, but reads the system's
    /// root certificates.
    ///
    /// # Errors
    /// [`FetchError::Tls`] if TLS cannot be set up.
    pub fn new(reference: RegistryReference, options: RegistryOptions) -> Result<Self, FetchError> {
        let sites = Arc::new(Sites::new(&reference, options)?);
        Ok(Self { sites, reference })
    }

    /// Returns the reference that this source was made from.
    pub fn reference(&self) -> &RegistryReference {
        &self.reference
    }

    /// Returns what this source and its clones have done so far.
    pub fn counters(&self) -> FetchCounters {
        self.sites.counters.snapshot()
    }

    /// Runs one operation on the runtime of the options.
    async fn run<T: Send + 'static, F>(
        &self,
        work: impl FnOnce(Arc<Sites>) -> F + Send,
    ) -> Result<T, FetchError>
    where
        F: Future<Output = Result<T, FetchError>> + Send + 'static,
    {
        let work = work(Arc::clone(&self.sites));
        task::run(&self.sites.origin.exchange.options.runtime, work).await
    }
}

impl fmt::Debug for RegistrySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistrySource")
            .field("reference", &self.reference.to_string())
            .field("options", &self.sites.origin.exchange.options)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl BlobSource for RegistrySource {
    async fn read_range(
        &self,
        blob: &BlobDescriptor,
        range: Range<u64>,
        priority: Priority,
    ) -> Result<Bytes, FetchError> {
        blob.check_range(&range)?;
        let request = RangeRequest::new(blob, range, priority, false);
        self.run(move |sites| async move { sites.read(request).await }).await
    }

    /// Reads once more from each place, with requests that caches on the way must pass on.
    async fn reread_range(
        &self,
        blob: &BlobDescriptor,
        range: Range<u64>,
        priority: Priority,
        damaged_count: NonZeroU32,
    ) -> Result<Option<Bytes>, FetchError> {
        blob.check_range(&range)?;
        let request = RangeRequest::new(blob, range, priority, true);
        self.run(move |sites| async move { sites.reread(request, damaged_count).await }).await
    }

    fn holds_whole(&self, blob: BlobId) -> bool {
        self.sites.hold_whole(blob)
    }

    fn release_whole(&self, blob: BlobId) {
        self.sites.release_whole(blob);
    }

    fn counters(&self) -> FetchCounters {
        Self::counters(self)
    }

    fn place(&self) -> String {
        self.reference.to_string()
    }
}

#[async_trait]
impl ImageSource for RegistrySource {
    async fn fetch_manifest(
        &self,
        manifest: &ManifestSelector,
    ) -> Result<StoredManifest, FetchError> {
        let manifest = self.checked(manifest)?;
        self.run(move |sites| async move { sites.fetch_manifest(&manifest).await }).await
    }

    /// Asks the registry itself, never a mirror.
    async fn fetch_referrers(&self, manifest: BlobId) -> Result<StoredManifest, FetchError> {
        self.run(move |sites| async move {
            let _permit = sites.origin.limits.acquire(Priority::Demand).await?;
            sites.origin.exchange.fetch_referrers(manifest).await
        })
        .await
    }

    fn stream_blob(&self, blob: &BlobDescriptor) -> BoxStream<'static, Result<Bytes, FetchError>> {
        stream::stream_blob(Arc::clone(&self.sites.origin), *blob)
    }
}

#[async_trait]
impl ImageSink for RegistrySource {
    async fn has_blob(&self, blob: &BlobDescriptor) -> Result<bool, FetchError> {
        let blob = *blob;
        self.run(move |sites| async move {
            let reader = &sites.origin;
            let _permit = reader.limits.acquire(Priority::Demand).await?;
            reader.exchange.has_blob(&blob).await
        })
        .await
    }

    async fn mount_blob(
        &self,
        blob: &BlobDescriptor,
        from_repository: &str,
    ) -> Result<bool, FetchError> {
        let (blob, from) = (*blob, from_repository.to_owned());
        self.run(move |sites| async move {
            let reader = &sites.origin;
            let _permit = reader.limits.acquire(Priority::Demand).await?;
            reader.exchange.mount_blob(&blob, &from).await
        })
        .await
    }

    async fn put_blob(
        &self,
        blob: &BlobDescriptor,
        content: BlobContent,
    ) -> Result<(), FetchError> {
        let blob = *blob;
        self.run(move |sites| async move {
            let reader = &sites.origin;
            let _permit = reader.limits.acquire(Priority::Demand).await?;
            reader.exchange.put_blob(&blob, content).await
        })
        .await
    }

    async fn put_manifest(
        &self,
        manifest: &ManifestSelector,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<BlobId, FetchError> {
        let (manifest, media_type) = (self.checked(manifest)?, media_type.to_owned());
        self.run(move |sites| async move {
            let reader = &sites.origin;
            let _permit = reader.limits.acquire(Priority::Demand).await?;
            reader.exchange.put_manifest(&manifest, &media_type, bytes).await
        })
        .await
    }

    async fn list_referrer(
        &self,
        subject: BlobId,
        referrer: &BlobDescriptor,
    ) -> Result<(), FetchError> {
        let referrer = *referrer;
        self.run(move |sites| async move {
            let _permit = sites.origin.limits.acquire(Priority::Demand).await?;
            sites.origin.exchange.list_referrer(subject, &referrer).await
        })
        .await
    }
}

impl RegistrySource {
    /// Returns the selector if it can be part of a URL: tags are text from callers.
    fn checked(&self, selector: &ManifestSelector) -> Result<ManifestSelector, FetchError> {
        self.reference.with_selector(selector.clone()).map(|reference| reference.selector().clone())
    }
}
