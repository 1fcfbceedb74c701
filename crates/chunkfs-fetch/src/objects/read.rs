//! Reading: ranges that are resumed, and small files.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResult};

use super::failure::failure;
use super::source::Objects;
use crate::error::FetchError;
use crate::layout::remote::{FileVersion, SmallFile, blob_path};
use crate::registry::patience::Patience;
use crate::source::{BlobDescriptor, Priority};

impl Objects {
    /// Reads a range that lies within the blob, in as many requests as failures make of it.
    pub(super) async fn read_range(
        &self,
        blob: &BlobDescriptor,
        range: Range<u64>,
        priority: Priority,
    ) -> Result<Bytes, FetchError> {
        let after = self.options.deadline;
        let read = self.read_patiently(blob, range, priority);
        match tokio::time::timeout(after, read).await {
            Ok(result) => result,
            Err(_) => {
                Err(FetchError::Timeout { what: format!("blob {}", blob.id), after, last: None })
            }
        }
    }

    async fn read_patiently(
        &self,
        blob: &BlobDescriptor,
        range: Range<u64>,
        priority: Priority,
    ) -> Result<Bytes, FetchError> {
        let mut patience =
            Patience::of_object(self.options.retries_max, self.options.backoff, priority);
        let mut received = BytesMut::new();
        loop {
            let before = received.len();
            let start = range.start + before as u64;
            let permit = self.limits.acquire(priority).await?;
            let result = self.read_once(blob, start..range.end, &mut received).await;
            drop(permit);
            match result {
                Ok(()) => return Ok(received.freeze()),
                Err(error) => patience.after(error, received.len() > before).await?,
            }
        }
    }

    async fn read_once(
        &self,
        blob: &BlobDescriptor,
        range: Range<u64>,
        received: &mut BytesMut,
    ) -> Result<(), FetchError> {
        let what = format!("blob {}", blob.id);
        let options = GetOptions::new().with_range(Some(GetRange::Bounded(range.clone())));
        let path = self.path(&blob_path(blob.id));
        let result = self.store.get_opts(&path, options).await;
        let result = result.map_err(|error| self.failure(&what, error))?;
        if result.meta.size != blob.len {
            let (blob, expected, actual) = (blob.id, blob.len, result.meta.size);
            return Err(FetchError::LenMismatch { blob, expected, actual });
        }
        if result.range != range {
            let actual = format!("bytes {}-{}", result.range.start, result.range.end);
            let url = self.place.clone();
            return Err(FetchError::RangeMismatch { url, expected: range, actual });
        }
        self.take(result, &what, received).await
    }

    async fn take(
        &self,
        result: GetResult,
        what: &str,
        received: &mut BytesMut,
    ) -> Result<(), FetchError> {
        let expected = result.range.end - result.range.start;
        let mut missing = usize::try_from(expected).unwrap_or(usize::MAX);
        let after = self.options.progress_timeout;
        let mut pieces = result.into_stream();
        while missing > 0 {
            match tokio::time::timeout(after, pieces.next()).await {
                Err(_) => {
                    return Err(FetchError::Stalled { url: self.place.clone(), after });
                }
                Ok(Some(Err(error))) => return Err(self.failure(what, error)),
                Ok(Some(Ok(mut piece))) => {
                    piece.truncate(missing);
                    missing -= piece.len();
                    received.extend_from_slice(&piece);
                }
                Ok(None) => {
                    let received = expected - missing as u64;
                    return Err(FetchError::Truncated {
                        url: self.place.clone(),
                        received,
                        expected,
                    });
                }
            }
        }
        Ok(())
    }

    /// Reads a small file whole; `None` if there is none.
    pub(super) async fn get_small(
        &self,
        path: &str,
        len_max: u64,
    ) -> Result<Option<SmallFile>, FetchError> {
        let path = self.path(path);
        let what = path.to_string();
        let result = match self.store.get_opts(&path, GetOptions::new()).await {
            Ok(result) => result,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(self.failure(&what, error)),
        };
        let len = result.meta.size;
        if len > len_max {
            return Err(FetchError::TooLarge { what, len, len_max });
        }
        let version =
            FileVersion { e_tag: result.meta.e_tag.clone(), version: result.meta.version.clone() };
        let version = (version.e_tag.is_some() || version.version.is_some()).then_some(version);
        let mut received = BytesMut::new();
        self.take(result, &what, &mut received).await?;
        Ok(Some(SmallFile { bytes: received.freeze(), version }))
    }

    pub(super) fn path(&self, path: &str) -> Path {
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        Path::from(format!("{}{slash}{path}", self.prefix))
    }

    pub(super) fn failure(&self, what: &str, error: object_store::Error) -> FetchError {
        failure(&self.place, what, error)
    }
}
