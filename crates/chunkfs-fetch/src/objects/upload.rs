//! Writing: small files at once, blobs in parts.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chunkfs_format::{BlobHasher, BlobId};
use object_store::{
    Error, MultipartUpload as _, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload,
    UpdateVersion,
};

use super::source::Objects;
use super::tries::Tries;
use crate::error::FetchError;
use crate::layout::remote::{Expected, blob_path};
use crate::source::{BlobContent, BlobDescriptor, Priority};

/// The length of parts; stores want at least 5 MiB, and all but the last equal.
const PART_LEN: u64 = 8 << 20;
/// How long a store may take to put parts together.
const COMPLETE_TIMEOUT: Duration = Duration::from_secs(300);

impl Objects {
    /// Returns whether the store holds a blob of the right length.
    pub(super) async fn has_blob(&self, blob: &BlobDescriptor) -> Result<bool, FetchError> {
        let path = &self.path(&blob_path(blob.id));
        self.patiently(|store| async move {
            match self.in_time(store.head(path)).await? {
                Ok(meta) => Ok(meta.size == blob.len),
                Err(Error::NotFound { .. }) => Ok(false),
                Err(error) => Err(self.failure(&format!("blob {}", blob.id), error)),
            }
        })
        .await
    }

    /// Writes a small file, if its version is the expected one.
    ///
    /// What was written but not confirmed makes a second try find another version: this returns
    /// false then, and the caller sees that there is nothing left to do.
    pub(super) async fn put_small(
        &self,
        path: &str,
        bytes: Bytes,
        expected: Expected,
    ) -> Result<bool, FetchError> {
        let mode = match expected {
            Expected::Anything => PutMode::Overwrite,
            Expected::Nothing => PutMode::Create,
            Expected::Version(version) => {
                PutMode::Update(UpdateVersion { e_tag: version.e_tag, version: version.version })
            }
        };
        match self.put_patiently(path, &bytes, &mode).await {
            // This store cannot compare: the last writer wins.
            Err(FetchError::Status { status: 501, .. } | FetchError::Store { .. })
                if mode != PutMode::Overwrite =>
            {
                self.put_patiently(path, &bytes, &PutMode::Overwrite).await
            }
            result => result,
        }
    }

    /// Returns false if another version is there than the expected one.
    async fn put_patiently(
        &self,
        path: &str,
        bytes: &Bytes,
        mode: &PutMode,
    ) -> Result<bool, FetchError> {
        self.patiently(|store| async move {
            let options = PutOptions { mode: mode.clone(), ..PutOptions::default() };
            let (name, payload) = (self.path(path), PutPayload::from_bytes(bytes.clone()));
            match self.in_time(store.put_opts(&name, payload, options)).await? {
                Ok(_) => Ok(true),
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
                Err(error) => Err(self.failure(path, error)),
            }
        })
        .await
    }

    /// Stores a blob. It appears under its name whole, because it is put at once or completed last.
    pub(super) async fn put_blob(
        &self,
        blob: &BlobDescriptor,
        content: BlobContent,
    ) -> Result<(), FetchError> {
        let content = &Content::new(content)?;
        let actual = content.len;
        if actual != blob.len {
            return Err(FetchError::LenMismatch { blob: blob.id, expected: blob.len, actual });
        }
        if blob.len <= PART_LEN {
            let bytes = content.read(0, blob.len).await?;
            check(blob, BlobId::of(&bytes))?;
            self.put_patiently(&blob_path(blob.id), &bytes, &PutMode::Overwrite).await?;
            return Ok(());
        }
        let path = &self.path(&blob_path(blob.id));
        self.patiently(|store| async move {
            let started = self.in_time(store.put_multipart(path)).await?;
            let mut upload = started.map_err(|error| self.failure(path.as_ref(), error))?;
            let result = self.put_parts(blob, content, &mut *upload).await;
            if result.is_err() {
                // What is left in the store if this fails, too, is invisible and costs space only.
                let _ = self.in_time(upload.abort()).await;
            }
            result
        })
        .await
    }

    /// Does something again after failures that may pass, but not after one that took too long.
    async fn patiently<T, F: Future<Output = Result<T, FetchError>>>(
        &self,
        once: impl Fn(Arc<dyn ObjectStore>) -> F,
    ) -> Result<T, FetchError> {
        let mut tries = Tries::new(self, Priority::Prefetch);
        loop {
            let store = self.store.current();
            match once(Arc::clone(&store)).await {
                Ok(value) => {
                    tries.succeeded();
                    return Ok(value);
                }
                Err(error @ FetchError::Timeout { .. }) => return Err(error),
                Err(error) => tries.after(error, &store, false).await?,
            }
        }
    }

    async fn put_parts(
        &self,
        blob: &BlobDescriptor,
        content: &Content,
        upload: &mut dyn object_store::MultipartUpload,
    ) -> Result<(), FetchError> {
        let what = format!("blob {}", blob.id);
        let mut hasher = BlobHasher::new();
        let mut offset = 0;
        let mut before = None;
        while offset < blob.len {
            let end = blob.len.min(offset + PART_LEN);
            let bytes = content.read(offset, end).await?;
            hasher.update(&bytes);
            let part = upload.put_part(PutPayload::from_bytes(bytes));
            // Two parts at a time: the next is read and hashed while one is sent.
            if let Some(before) = before.replace(tokio::spawn(part)) {
                self.joined(&what, before).await?;
            }
            offset = end;
        }
        if let Some(last) = before {
            self.joined(&what, last).await?;
        }
        check(blob, hasher.finish())?;
        match tokio::time::timeout(COMPLETE_TIMEOUT, upload.complete()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(self.failure(&what, error)),
            Err(_) => Err(FetchError::Timeout { what, after: COMPLETE_TIMEOUT, last: None }),
        }
    }

    async fn joined(
        &self,
        what: &str,
        part: tokio::task::JoinHandle<object_store::Result<()>>,
    ) -> Result<(), FetchError> {
        match part.await {
            Ok(result) => result.map_err(|error| self.failure(what, error)),
            Err(_) => Err(FetchError::Shutdown),
        }
    }

    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, FetchError> {
        let after = self.options.deadline;
        let what = self.place.clone();
        tokio::time::timeout(after, work).await.map_err(|_| FetchError::Timeout {
            what,
            after,
            last: None,
        })
    }
}

fn check(blob: &BlobDescriptor, actual: BlobId) -> Result<(), FetchError> {
    if actual == blob.id {
        return Ok(());
    }
    Err(FetchError::DigestMismatch { expected: blob.id, actual })
}

/// The bytes of a blob to be stored.
struct Content {
    len: u64,
    place: Place,
}

enum Place {
    Memory(Bytes),
    Disk(Arc<File>),
}

impl Content {
    fn new(content: BlobContent) -> Result<Self, FetchError> {
        match content {
            BlobContent::Bytes(bytes) => {
                Ok(Self { len: bytes.len() as u64, place: Place::Memory(bytes) })
            }
            BlobContent::File(file) => {
                let len = file.metadata().map_err(failed)?.len();
                Ok(Self { len, place: Place::Disk(Arc::new(file)) })
            }
        }
    }

    /// Reads a part, on the blocking pool if it is on disk.
    async fn read(&self, start: u64, end: u64) -> Result<Bytes, FetchError> {
        let index = |offset| usize::try_from(offset).unwrap_or(usize::MAX);
        match &self.place {
            Place::Memory(bytes) => Ok(bytes.slice(index(start)..index(end))),
            Place::Disk(file) => {
                let file = Arc::clone(file);
                let read = tokio::task::spawn_blocking(move || {
                    let mut bytes = vec![0; index(end - start)];
                    file.read_exact_at(&mut bytes, start)?;
                    std::io::Result::Ok(Bytes::from(bytes))
                });
                read.await.map_err(|_| FetchError::Shutdown)?.map_err(failed)
            }
        }
    }
}

fn failed(error: std::io::Error) -> FetchError {
    FetchError::io("(blob content)", error)
}
