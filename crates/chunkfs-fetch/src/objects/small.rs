//! Reading small files whole, and what names and errors are made of.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::BytesMut;
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore};
use tokio::time::Instant;

use super::failure::failure;
use super::source::Objects;
use super::tries::Tries;
use crate::error::FetchError;
use crate::layout::remote::{FileVersion, SmallFile};
use crate::registry::progress::Progress;
use crate::source::Priority;

/// Which part of the deadline the tries may take while it is not known whether the store works.
const FIRST_CONTACT_SHARE: u32 = 6;

impl Objects {
    /// Reads a small file whole within the deadline; `None` if there is none.
    pub(super) async fn get_small(
        &self,
        path: &str,
        len_max: u64,
    ) -> Result<Option<SmallFile>, FetchError> {
        let deadline = self.options.deadline;
        let progress = Progress::new(len_max, deadline);
        let get = self.get_patiently(path, len_max, &progress);
        match tokio::time::timeout(deadline, get).await {
            Ok(result) => result,
            Err(_) => Err(progress.timeout(format!("{path} in {}", self.place))),
        }
    }

    async fn get_patiently(
        &self,
        path: &str,
        len_max: u64,
        progress: &Progress,
    ) -> Result<Option<SmallFile>, FetchError> {
        let path = self.path(path);
        // Nobody waits for a page of a file here: a few tries are enough.
        let mut tries = Tries::new(self, Priority::Prefetch);
        let started = Instant::now();
        loop {
            let permit = self.limits.acquire(Priority::Demand).await?;
            let store = self.store.current();
            let counters = self.counters.of(Priority::Demand);
            counters.requests.add(1);
            let result = self.get_once(&store, &path, len_max, progress).await;
            drop(permit);
            let error = match result {
                Ok(Some(file)) => {
                    counters.bytes_received.add(file.bytes.len() as u64);
                    tries.succeeded();
                    return Ok(Some(file));
                }
                Ok(None) => return Ok(None),
                Err(error) => error,
            };
            progress.end_request(&error);
            // Whoever has no keys, or the wrong endpoint, should not wait for long to learn it.
            let is_first_contact = !self.has_served.load(Ordering::Relaxed);
            if is_first_contact && started.elapsed() > self.options.deadline / FIRST_CONTACT_SHARE {
                return Err(error);
            }
            tries.after(error, &store, false).await?;
        }
    }

    async fn get_once(
        &self,
        store: &Arc<dyn ObjectStore>,
        path: &Path,
        len_max: u64,
        progress: &Progress,
    ) -> Result<Option<SmallFile>, FetchError> {
        let what = path.to_string();
        let result = match store.get_opts(path, GetOptions::new()).await {
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
        self.take(result, &what, &mut received, progress).await?;
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
