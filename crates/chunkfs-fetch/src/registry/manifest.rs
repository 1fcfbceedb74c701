//! Manifests: read and written whole.

use bytes::Bytes;
use chunkfs_format::BlobId;
use reqwest::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, StatusCode};

use super::authorizer::Access;
use super::exchange::{Exchange, Outgoing};
use super::outgoing::MemoryBody;
use super::patience::Patience;

use crate::error::FetchError;
use crate::manifest::MANIFEST_LEN_MAX;
use crate::source::{ManifestSelector, Priority, StoredManifest};

const ACCEPTED: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";

impl Exchange {
    pub(super) async fn fetch_manifest(
        &self,
        selector: &ManifestSelector,
    ) -> Result<StoredManifest, FetchError> {
        let what = self.manifest_name(selector);
        let fetch = |is_fresh| {
            let what = what.clone();
            async move { self.fetch_manifest_once(selector, &what, is_fresh).await }
        };
        match self.patiently(&what, || fetch(false)).await {
            // Damaged on its way: once more, around caches.
            Err(FetchError::DigestMismatch { .. }) => self.patiently(&what, || fetch(true)).await,
            result => result,
        }
    }

    pub(super) async fn put_manifest(
        &self,
        selector: &ManifestSelector,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<BlobId, FetchError> {
        let id = selector.check_content(&bytes)?;
        let what = self.manifest_name(selector);
        let content_type = HeaderValue::from_str(media_type).map_err(|_| {
            let problem = format!("{media_type:?} is not a media type");
            FetchError::InvalidManifest { problem }
        })?;
        self.patiently(&what, || async {
            let url = self.origin.url(&format!("manifests/{selector}"));
            let body = MemoryBody::new(bytes.clone());
            let mut request = Outgoing::new(Method::PUT, url, &Access::Push, Priority::Demand);
            request.headers.insert(CONTENT_TYPE, content_type.clone());
            request.body = Some(&body);
            let answer = self.send(&request).await?;
            if !answer.status().is_success() {
                return Err(answer.into_error(&what).await);
            }
            Ok(id)
        })
        .await
    }

    async fn fetch_manifest_once(
        &self,
        selector: &ManifestSelector,
        what: &str,
        is_fresh: bool,
    ) -> Result<StoredManifest, FetchError> {
        let url = self.origin.url(&format!("manifests/{selector}"));
        let mut request = Outgoing::get(url, Priority::Demand);
        request.headers.insert(ACCEPT, HeaderValue::from_static(ACCEPTED));
        if is_fresh {
            self.counters.rereads.add(1);
            request.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        }
        let (answer, _) = self.follow(request).await?;
        if answer.status() != StatusCode::OK {
            return Err(answer.into_error(what).await);
        }
        answer.check_encoding()?;
        let media_type = answer.response().headers().get(CONTENT_TYPE);
        let media_type = media_type.and_then(|value| value.to_str().ok()).map(str::to_owned);
        // Trusted as far as the registry is: it shows damage, not malice.
        let stated = answer.response().headers().get("docker-content-digest");
        let stated: Option<BlobId> = stated.and_then(|value| value.to_str().ok()?.parse().ok());
        let received = &self.counters.of(Priority::Demand).bytes_received;
        let bytes = answer.read_limited(MANIFEST_LEN_MAX, received).await?;
        let id = BlobId::of(&bytes);
        let expected = match selector {
            ManifestSelector::Digest(expected) => Some(*expected),
            ManifestSelector::Tag(_) => stated,
        };
        match expected.filter(|expected| *expected != id) {
            Some(expected) => Err(FetchError::DigestMismatch { expected, actual: id }),
            None => Ok(StoredManifest { id, media_type, bytes }),
        }
    }

    fn manifest_name(&self, selector: &ManifestSelector) -> String {
        format!("manifest {selector} at {}", self.origin.host())
    }

    /// Repeats `work` while it fails in a way that may pass, within the deadline.
    pub(super) async fn patiently<T, F: Future<Output = Result<T, FetchError>>>(
        &self,
        what: &str,
        work: impl Fn() -> F,
    ) -> Result<T, FetchError> {
        let repeated = async {
            let mut patience = Patience::new(&self.options);
            loop {
                match work().await {
                    Ok(value) => return Ok(value),
                    Err(error) => patience.after(error, false).await?,
                }
                self.counters.retries.add(1);
            }
        };
        let after = self.options.deadline;
        match tokio::time::timeout(after, repeated).await {
            Ok(result) => result,
            Err(_) => Err(FetchError::Timeout { what: what.to_owned(), after, last: None }),
        }
    }
}
