//! Manifests: read and written whole.

use bytes::Bytes;
use chunkfs_format::BlobId;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, StatusCode};

use super::authorizer::Access;
use super::exchange::{Exchange, Outgoing};
use super::patience::Patience;
use super::push::MemoryBody;
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
        self.patiently(&what, || self.fetch_manifest_once(selector, &what)).await
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
    ) -> Result<StoredManifest, FetchError> {
        let url = self.origin.url(&format!("manifests/{selector}"));
        let mut request = Outgoing::get(url, Priority::Demand);
        request.headers.insert(ACCEPT, HeaderValue::from_static(ACCEPTED));
        let (answer, _) = self.follow(request).await?;
        if answer.status() != StatusCode::OK {
            return Err(answer.into_error(what).await);
        }
        answer.check_encoding()?;
        let media_type = answer.response().headers().get(CONTENT_TYPE);
        let media_type = media_type.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let received = &self.counters.of(Priority::Demand).bytes_received;
        let bytes = answer.read_limited(MANIFEST_LEN_MAX, received).await?;
        let id = BlobId::of(&bytes);
        match selector {
            ManifestSelector::Digest(expected) if *expected != id => {
                Err(FetchError::DigestMismatch { expected: *expected, actual: id })
            }
            _ => Ok(StoredManifest { id, media_type, bytes }),
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
            Err(_) => Err(FetchError::Timeout { what: what.to_owned(), after }),
        }
    }
}
