//! An OCI image layout on a web server.

use std::fmt;
use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chunkfs_format::BlobId;
use futures::stream::BoxStream;
use reqwest::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderValue, IF_MATCH, IF_NONE_MATCH,
};
use reqwest::{Method, StatusCode};

use super::authorizer::Access;
use super::exchange::{Outgoing, OutgoingBody};
use super::options::RegistryOptions;
use super::origin::Origin;
use super::outgoing::{self, MemoryBody};
use super::patience::{Patience, REREADS_MAX};
use super::range::{RangeReader, RangeRequest};
use super::stream;
use crate::counters::FetchCounters;
use crate::error::FetchError;
use crate::layout::remote::{self, Expected, FileVersion, LayoutFiles, SmallFile, blob_path};
use crate::reference::{StoreReference, StoreScheme};
use crate::source::{
    BlobContent, BlobDescriptor, BlobSource, ImageSink, ImageSource, ManifestSelector, Priority,
    StoredManifest,
};
use crate::task;

/// An OCI image layout on a web server: `oci-layout`, `index.json` and `blobs/sha256/*` below one URL.
///
/// Reads follow the rules of [`RegistrySource`](crate::RegistrySource) and its options: ranges,
/// redirects, retries, credentials for servers that want them. Writes are plain `PUT` requests, as
/// WebDAV servers take them; `index.json` is written last and with `If-Match`, so that writers
/// exclude each other on servers that heed it.
#[derive(Clone)]
pub struct HttpLayout {
    reader: Arc<RangeReader>,
    place: String,
}

impl HttpLayout {
    /// Creates a source for the layout at `reference`. Sends nothing, but reads the system's root
    /// certificates.
    ///
    /// # Errors
    /// [`FetchError::Store`] if the reference names no web server; [`FetchError::Tls`] if TLS
    /// cannot be set up.
    pub fn new(reference: &StoreReference, options: RegistryOptions) -> Result<Self, FetchError> {
        let place = reference.place();
        if !matches!(reference.scheme(), StoreScheme::Http | StoreScheme::Https) {
            return Err(FetchError::Store { place, problem: "it is no web server".to_owned() });
        }
        let origin = Origin::of_layout(reference, &options)?;
        let reader = RangeReader::new(origin, "", options, Arc::default())?;
        Ok(Self { reader: Arc::new(reader), place })
    }

    /// Returns `selector` if there is one, else the digest of the only manifest of the layout.
    ///
    /// # Errors
    /// [`FetchError::NotFound`] if the layout is empty; [`FetchError::Ambiguous`] with the tags if
    /// it holds several manifests.
    pub async fn resolve(
        &self,
        selector: Option<&ManifestSelector>,
    ) -> Result<ManifestSelector, FetchError> {
        let selector = selector.cloned();
        self.run(|files| async move { remote::resolve(&files, selector.as_ref()).await }).await
    }

    /// Returns what this source and its clones have done so far.
    pub fn counters(&self) -> FetchCounters {
        self.reader.exchange.counters.snapshot()
    }

    async fn run<T: Send + 'static, F>(
        &self,
        work: impl FnOnce(Files) -> F + Send,
    ) -> Result<T, FetchError>
    where
        F: Future<Output = Result<T, FetchError>> + Send + 'static,
    {
        let files = Files { reader: Arc::clone(&self.reader), place: self.place.clone() };
        task::run(&self.reader.exchange.options.runtime, work(files)).await
    }
}

impl fmt::Debug for HttpLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpLayout")
            .field("place", &self.place)
            .field("options", &self.reader.exchange.options)
            .finish_non_exhaustive()
    }
}

/// The files below the URL.
struct Files {
    reader: Arc<RangeReader>,
    place: String,
}

impl Files {
    async fn get_once(&self, path: &str, len_max: u64) -> Result<Option<SmallFile>, FetchError> {
        let exchange = &self.reader.exchange;
        let mut request = Outgoing::get(exchange.origin.url(path), Priority::Demand);
        if !path.starts_with("blobs/") {
            // Tags move; caches on the way must ask whether they have.
            request.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        }
        let (answer, _) = exchange.follow(request).await?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::GONE => return Ok(None),
            _ => return Err(answer.into_error(&self.name(path)).await),
        }
        answer.check_encoding()?;
        let e_tag = answer.response().headers().get(ETAG).and_then(|value| value.to_str().ok());
        // Weak ones cannot be compared for writing.
        let e_tag = e_tag.filter(|e_tag| !e_tag.starts_with("W/")).map(str::to_owned);
        let version = e_tag.map(|e_tag| FileVersion { e_tag: Some(e_tag), version: None });
        let received = &exchange.counters.of(Priority::Demand).bytes_received;
        let bytes = answer.read_limited(len_max, received).await?;
        exchange.note_served();
        Ok(Some(SmallFile { bytes, version }))
    }

    /// Sends a file; returns false if its present version is another than the expected one.
    async fn put_once(
        &self,
        path: &str,
        body: &(dyn OutgoingBody + Sync),
        expected: &Expected,
    ) -> Result<bool, FetchError> {
        let exchange = &self.reader.exchange;
        let url = exchange.origin.url(path);
        let mut request = Outgoing::new(Method::PUT, url, &Access::Push, Priority::Demand);
        let content_type = HeaderValue::from_static("application/octet-stream");
        request.headers.insert(CONTENT_TYPE, content_type);
        match expected {
            Expected::Anything => {}
            Expected::Nothing => {
                request.headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
            }
            Expected::Version(version) => {
                let e_tag = version.e_tag.as_deref().unwrap_or("*");
                if let Ok(e_tag) = HeaderValue::from_str(e_tag) {
                    request.headers.insert(IF_MATCH, e_tag);
                }
            }
        }
        request.body = Some(body);
        let answer = exchange.send(&request).await?;
        match answer.status() {
            status if status.is_success() => Ok(true),
            StatusCode::PRECONDITION_FAILED => Ok(false),
            _ => Err(answer.into_error(&self.name(path)).await),
        }
    }

    async fn has_blob(&self, blob: &BlobDescriptor) -> Result<bool, FetchError> {
        let exchange = &self.reader.exchange;
        let what = self.name(&blob_path(blob.id));
        exchange
            .patiently(&what, || async {
                let url = exchange.origin.blob_url(blob.id);
                let request = Outgoing::new(Method::HEAD, url, &Access::Push, Priority::Demand);
                let answer = exchange.send(&request).await?;
                match answer.status() {
                    StatusCode::OK => {
                        let len = answer.response().headers().get(CONTENT_LENGTH);
                        let len = len.and_then(|len| len.to_str().ok()?.parse::<u64>().ok());
                        Ok(len == Some(blob.len))
                    }
                    StatusCode::NOT_FOUND => Ok(false),
                    _ => Err(answer.into_error(&what).await),
                }
            })
            .await
    }

    async fn put_blob(
        &self,
        blob: &BlobDescriptor,
        content: BlobContent,
    ) -> Result<(), FetchError> {
        let body = outgoing::open(blob, content)?;
        let mut patience = Patience::new(&self.reader.exchange.options);
        loop {
            match self.put_once(&blob_path(blob.id), &*body, &Expected::Anything).await {
                Ok(_) => return Ok(()),
                Err(error) => {
                    self.reader.exchange.wait_after(&mut patience, error, false).await?;
                }
            }
        }
    }

    fn name(&self, path: &str) -> String {
        format!("{path} in {}", self.place)
    }
}

#[async_trait]
impl LayoutFiles for Files {
    fn place(&self) -> String {
        self.place.clone()
    }

    async fn get(&self, path: &str, len_max: u64) -> Result<Option<SmallFile>, FetchError> {
        let _permit = self.reader.limits.acquire(Priority::Demand).await?;
        let get = || self.get_once(path, len_max);
        self.reader.exchange.patiently(&self.name(path), get).await
    }

    async fn put(&self, path: &str, bytes: Bytes, expected: Expected) -> Result<bool, FetchError> {
        let _permit = self.reader.limits.acquire(Priority::Demand).await?;
        let body = MemoryBody::new(bytes);
        let put = || self.put_once(path, &body, &expected);
        self.reader.exchange.patiently(&self.name(path), put).await
    }
}

#[async_trait]
impl BlobSource for HttpLayout {
    async fn read_range(
        &self,
        blob: &BlobDescriptor,
        range: Range<u64>,
        priority: Priority,
    ) -> Result<Bytes, FetchError> {
        blob.check_range(&range)?;
        let request = RangeRequest::new(blob, range, priority, false);
        self.run(|files| async move { files.reader.read(request).await }).await
    }

    /// Reads again, up to three times, with requests that caches on the way must pass on.
    async fn reread_range(
        &self,
        blob: &BlobDescriptor,
        range: Range<u64>,
        priority: Priority,
        damaged_count: NonZeroU32,
    ) -> Result<Option<Bytes>, FetchError> {
        blob.check_range(&range)?;
        if damaged_count.get() > REREADS_MAX {
            return Ok(None);
        }
        self.reader.exchange.counters.rereads.add(1);
        let request = RangeRequest::new(blob, range, priority, true);
        self.run(|files| async move { files.reader.read(request).await }).await.map(Some)
    }

    fn holds_whole(&self, blob: BlobId) -> bool {
        self.reader.wholes.contains(blob)
    }

    fn release_whole(&self, blob: BlobId) {
        self.reader.wholes.release(blob);
    }

    fn counters(&self) -> FetchCounters {
        Self::counters(self)
    }

    fn place(&self) -> String {
        self.place.clone()
    }
}

#[async_trait]
impl ImageSource for HttpLayout {
    async fn fetch_manifest(
        &self,
        manifest: &ManifestSelector,
    ) -> Result<StoredManifest, FetchError> {
        let manifest = manifest.clone();
        self.run(|files| async move { remote::fetch_manifest(&files, &manifest).await }).await
    }

    fn stream_blob(&self, blob: &BlobDescriptor) -> BoxStream<'static, Result<Bytes, FetchError>> {
        stream::stream_blob(Arc::clone(&self.reader), *blob)
    }
}

#[async_trait]
impl ImageSink for HttpLayout {
    async fn has_blob(&self, blob: &BlobDescriptor) -> Result<bool, FetchError> {
        let blob = *blob;
        self.run(|files| async move { files.has_blob(&blob).await }).await
    }

    /// Returns whether the layout holds the blob: a layout is one repository.
    async fn mount_blob(
        &self,
        blob: &BlobDescriptor,
        _from_repository: &str,
    ) -> Result<bool, FetchError> {
        self.has_blob(blob).await
    }

    /// Sends a blob. The server must make it visible whole, as nginx does; what it gets is not
    /// verified here, but by every reader.
    async fn put_blob(
        &self,
        blob: &BlobDescriptor,
        content: BlobContent,
    ) -> Result<(), FetchError> {
        let blob = *blob;
        self.run(|files| async move {
            let _permit = files.reader.limits.acquire(Priority::Demand).await?;
            files.put_blob(&blob, content).await
        })
        .await
    }

    async fn put_manifest(
        &self,
        manifest: &ManifestSelector,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<BlobId, FetchError> {
        let (manifest, media_type) = (manifest.clone(), media_type.to_owned());
        self.run(|files| async move {
            remote::put_manifest(&files, &manifest, &media_type, bytes).await
        })
        .await
    }
}
