//! Bodies of requests.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};

use super::exchange::OutgoingBody;
use crate::error::FetchError;
use crate::source::{BlobContent, BlobDescriptor};

/// How much is read and handed to the socket at a time.
const STEP: u64 = 256 << 10;

/// Makes a body of what is to be a blob, whose length is checked.
pub(super) fn open(
    blob: &BlobDescriptor,
    content: BlobContent,
) -> Result<Box<dyn OutgoingBody + Send + Sync>, FetchError> {
    let body: Box<dyn OutgoingBody + Send + Sync> = match content {
        BlobContent::Bytes(bytes) => Box::new(MemoryBody::new(bytes)),
        BlobContent::File(file) => {
            let metadata = file.metadata();
            let metadata = metadata.map_err(|error| FetchError::io("(blob content)", error))?;
            Box::new(FileBody::new(file, metadata.len()))
        }
    };
    if body.len() != blob.len {
        let (blob, expected, actual) = (blob.id, blob.len, body.len());
        return Err(FetchError::LenMismatch { blob, expected, actual });
    }
    Ok(body)
}

/// A body in memory.
#[derive(Debug)]
pub(super) struct MemoryBody {
    bytes: Bytes,
    taken: Arc<AtomicU64>,
}

impl MemoryBody {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self { bytes, taken: Arc::default() }
    }
}

impl OutgoingBody for MemoryBody {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn open(&self) -> BoxStream<'static, io::Result<Bytes>> {
        let taken = Arc::clone(&self.taken);
        stream::unfold(self.bytes.clone(), move |mut rest| {
            let step = rest.len().min(usize::try_from(STEP).unwrap_or(usize::MAX));
            let piece = rest.split_to(step);
            taken.fetch_add(step as u64, Ordering::Relaxed);
            async move { (step > 0).then_some((Ok(piece), rest)) }
        })
        .boxed()
    }

    fn progress(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

/// A body in a file, read on the blocking pool.
#[derive(Debug)]
struct FileBody {
    file: Arc<File>,
    len: u64,
    taken: Arc<AtomicU64>,
}

impl FileBody {
    fn new(file: File, len: u64) -> Self {
        Self { file: Arc::new(file), len, taken: Arc::default() }
    }
}

impl OutgoingBody for FileBody {
    fn len(&self) -> u64 {
        self.len
    }

    fn open(&self) -> BoxStream<'static, io::Result<Bytes>> {
        let (file, len, taken) = (Arc::clone(&self.file), self.len, Arc::clone(&self.taken));
        stream::try_unfold(0, move |offset| {
            let (file, taken) = (Arc::clone(&file), Arc::clone(&taken));
            async move {
                let step = STEP.min(len - offset);
                if step == 0 {
                    return Ok(None);
                }
                let read = tokio::task::spawn_blocking(move || {
                    let mut bytes = vec![0; usize::try_from(step).unwrap_or(0)];
                    file.read_exact_at(&mut bytes, offset)?;
                    io::Result::Ok(Bytes::from(bytes))
                });
                let bytes = read.await.map_err(io::Error::other)??;
                taken.fetch_add(step, Ordering::Relaxed);
                Ok(Some((bytes, offset + step)))
            }
        })
        .boxed()
    }

    fn progress(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}
