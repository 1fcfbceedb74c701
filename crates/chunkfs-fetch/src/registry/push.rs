//! Storing blobs.

use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, StatusCode, Url};

use super::authorizer::Access;
use super::exchange::{Exchange, Outgoing, OutgoingBody, is_redirect};
use super::outgoing;
use super::patience::Patience;
use crate::error::FetchError;
use crate::reference::is_repository;
use crate::source::{BlobContent, BlobDescriptor, Priority};

impl Exchange {
    /// Asks whether the repository holds a blob. A redirect means yes and is not followed: storage
    /// often refuses HEAD on URLs that were signed for GET.
    pub(super) async fn has_blob(&self, blob: &BlobDescriptor) -> Result<bool, FetchError> {
        let what = format!("blob {} at {}", blob.id, self.origin.host());
        self.patiently(&what, || async {
            let url = self.origin.blob_url(blob.id);
            let request = Outgoing::new(Method::HEAD, url, &Access::Push, Priority::Demand);
            let answer = self.send(&request).await?;
            match answer.status() {
                StatusCode::OK => Ok(true),
                status if is_redirect(status) => Ok(true),
                StatusCode::NOT_FOUND => Ok(false),
                _ => Err(answer.into_error(&what).await),
            }
        })
        .await
    }

    /// Asks the registry to take a blob from another of its repositories.
    ///
    /// Refusals of any kind are not errors: the blob can be sent instead, and if the registry does
    /// not allow that, the error comes then.
    pub(super) async fn mount_blob(
        &self,
        blob: &BlobDescriptor,
        from_repository: &str,
    ) -> Result<bool, FetchError> {
        if !is_repository(from_repository) {
            return Ok(false);
        }
        let what = format!("blob {} at {}", blob.id, self.origin.host());
        let access = Access::Mount(from_repository.to_owned());
        self.patiently(&what, || async {
            let mut url = self.origin.url("blobs/uploads/");
            let digest = blob.id.to_string();
            url.query_pairs_mut()
                .append_pair("mount", &digest)
                .append_pair("from", from_repository);
            let mut request = Outgoing::new(Method::POST, url, &access, Priority::Demand);
            request.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
            let answer = match self.send(&request).await {
                Err(FetchError::Unauthorized { .. }) => return Ok(false),
                answer => answer?,
            };
            match answer.status() {
                StatusCode::CREATED => Ok(true),
                status if status.is_server_error() => Err(answer.into_error(&what).await),
                _ => Ok(false),
            }
        })
        .await
    }

    /// Sends a blob in one piece. A retry starts a new upload.
    pub(super) async fn put_blob(
        &self,
        blob: &BlobDescriptor,
        content: BlobContent,
    ) -> Result<(), FetchError> {
        let body = outgoing::open(blob, content)?;
        let mut patience = Patience::new(&self.options);
        loop {
            match self.upload(blob, &*body).await {
                Ok(()) => return Ok(()),
                Err(error) => self.wait_after(&mut patience, error, false).await?,
            }
        }
    }

    async fn upload(
        &self,
        blob: &BlobDescriptor,
        body: &(dyn OutgoingBody + Sync),
    ) -> Result<(), FetchError> {
        let url = self.origin.url("blobs/uploads/");
        let what = format!("the repository of {}", super::origin::redacted(&url));
        let mut request = Outgoing::new(Method::POST, url, &Access::Push, Priority::Demand);
        request.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        let answer = self.send(&request).await?;
        if answer.status() != StatusCode::ACCEPTED {
            return Err(answer.into_error(&what).await);
        }
        self.note_served();
        let mut url: Url = self.location(&answer)?;
        drop(answer);
        url.query_pairs_mut().append_pair("digest", &blob.id.to_string());
        let mut request = Outgoing::new(Method::PUT, url, &Access::Push, Priority::Demand);
        let content_type = HeaderValue::from_static("application/octet-stream");
        request.headers.insert(CONTENT_TYPE, content_type);
        request.body = Some(body);
        let answer = self.send(&request).await?;
        if !answer.status().is_success() {
            return Err(answer.into_error(&what).await);
        }
        Ok(())
    }
}
