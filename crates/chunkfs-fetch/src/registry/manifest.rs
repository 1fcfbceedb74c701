//! Manifests: read and written whole.

use bytes::Bytes;
use chunkfs_format::BlobId;
use reqwest::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, StatusCode};

use super::authorizer::Access;
use super::exchange::{Exchange, Outgoing};
use super::outgoing::MemoryBody;
use super::patience::{Patience, REREADS_MAX};
use crate::error::FetchError;
use crate::image_index::ImageIndex;
use crate::manifest::{IMAGE_ARTIFACT_TYPE, IMAGE_INDEX_MEDIA_TYPE, MANIFEST_LEN_MAX};
use crate::source::{BlobDescriptor, ManifestSelector, Priority, StoredManifest, referrers_tag};

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
        let mut fetched = self.patiently(&what, || fetch(false)).await;
        for _ in 0..REREADS_MAX {
            if !matches!(fetched, Err(FetchError::DigestMismatch { .. })) {
                break;
            }
            // Damaged on its way: again, around caches.
            fetched = self.patiently(&what, || fetch(true)).await;
        }
        fetched
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
            if answer.status().is_success() {
                return Ok(Ok(id));
            }
            // A refusal is what a registry says to a form that it does not take: it is meant.
            let error = answer.into_error(&what).await;
            if error.is_retryable() { Err(error) } else { Ok(Err(error)) }
        })
        .await?
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
            None => {
                self.note_served();
                Ok(StoredManifest { id, media_type, bytes })
            }
        }
    }

    /// Asks the referrers API, or else reads the tag that stands in for it.
    ///
    /// Registries without the API answer 404, others a login page: what is no JSON index is none.
    pub(super) async fn fetch_referrers(&self, id: BlobId) -> Result<StoredManifest, FetchError> {
        let what = format!("referrers of {id} at {}", self.origin.host());
        let fetched = self.patiently(&what, || async {
            let mut url = self.origin.url(&format!("referrers/{id}"));
            url.query_pairs_mut().append_pair("artifactType", IMAGE_ARTIFACT_TYPE);
            let mut request = Outgoing::get(url, Priority::Demand);
            request.headers.insert(ACCEPT, HeaderValue::from_static(IMAGE_INDEX_MEDIA_TYPE));
            let answer = self.send(&request).await?;
            if answer.status() != StatusCode::OK {
                // A registry without this API may answer anything.
                let error = answer.into_error(&what).await;
                return if error.is_retryable() { Err(error) } else { Ok(Bytes::new()) };
            }
            let received = &self.counters.of(Priority::Demand).bytes_received;
            answer.read_limited(MANIFEST_LEN_MAX, received).await
        });
        match fetched.await {
            Ok(bytes) if ImageIndex::parse(&bytes).is_some() => {
                Ok(StoredManifest { id: BlobId::of(&bytes), media_type: None, bytes })
            }
            Err(error) if error.is_retryable() => Err(error),
            _ => {
                let tag = ManifestSelector::Tag(referrers_tag(id));
                let what = self.manifest_name(&tag);
                // Most manifests have no referrers: that there is none is meant.
                self.patiently(&what, || async {
                    match self.fetch_manifest_once(&tag, &what, false).await {
                        Err(error) if !error.is_retryable() => Ok(Err(error)),
                        result => result.map(Ok),
                    }
                })
                .await?
            }
        }
    }

    /// Adds a referrer to the tag that stands in for the API, unless it is listed already.
    ///
    /// Two writers at the same time may lose one entry: the specification has no remedy.
    pub(super) async fn list_referrer(
        &self,
        subject: BlobId,
        referrer: &BlobDescriptor,
    ) -> Result<(), FetchError> {
        let mut index = match self.fetch_referrers(subject).await {
            Ok(stored) => ImageIndex::parse(&stored.bytes).unwrap_or_default(),
            Err(error) if error.is_not_found() => ImageIndex::new(),
            Err(error) => return Err(error),
        };
        if index.add_referrer(referrer) {
            let tag = ManifestSelector::Tag(referrers_tag(subject));
            self.put_manifest(&tag, IMAGE_INDEX_MEDIA_TYPE, index.to_json().into()).await?;
        }
        Ok(())
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
                    Err(error) => self.wait_after(&mut patience, error, false).await?,
                }
            }
        };
        let after = self.options.deadline;
        match tokio::time::timeout(after, repeated).await {
            Ok(result) => result,
            Err(_) => Err(FetchError::Timeout { what: what.to_owned(), after, last: None }),
        }
    }
}
