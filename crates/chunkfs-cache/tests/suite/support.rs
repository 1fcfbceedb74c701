//! A source that logs its requests, and chunks to ask it for.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use chunkfs_cache::{CacheOptions, ChunkRequest};
use chunkfs_fetch::{BlobDescriptor, BlobSource, FetchError, Priority};
use chunkfs_format::{BlobId, ChunkEncoder, CompressionLevel, DigestAlgorithm};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// What the source does with a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    None,
    /// Flips a bit of the first byte.
    Flip,
    Fail,
    /// Returns one byte too few.
    Short,
}

/// A blob in memory that logs its requests, and holds each until a permit is there.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) blob: Bytes,
    pub(crate) gate: Semaphore,
    requests: Mutex<Vec<(Range<u64>, Priority)>>,
    faults: Mutex<VecDeque<Fault>>,
}

#[async_trait::async_trait]
impl BlobSource for Source {
    async fn read_range(
        &self,
        blob: &BlobDescriptor,
        range: Range<u64>,
        priority: Priority,
    ) -> Result<Bytes, FetchError> {
        self.requests.lock().unwrap().push((range.clone(), priority));
        self.gate.acquire().await.unwrap().forget();
        let bytes = self.blob.slice(range.start as usize..range.end as usize);
        let fault = self.faults.lock().unwrap().pop_front().unwrap_or(Fault::None);
        match fault {
            Fault::None => Ok(bytes),
            Fault::Fail => Err(FetchError::NotFound { what: blob.id.to_string() }),
            Fault::Short => Ok(bytes.slice(1..)),
            Fault::Flip => {
                let mut bytes = bytes.to_vec();
                bytes[0] ^= 1;
                Ok(bytes.into())
            }
        }
    }
}

/// Chunks with different content, next to each other in one blob.
pub(crate) struct Fixture {
    pub(crate) source: Arc<Source>,
    pub(crate) chunks: Vec<ChunkRequest>,
    pub(crate) contents: Vec<Vec<u8>>,
}

impl Fixture {
    pub(crate) fn new(count: usize, faults: &[Fault]) -> Self {
        let contents =
            (0..count).map(|n| format!("chunk {n} ").repeat(2_000).into_bytes()).collect();
        Self::of(contents, DigestAlgorithm::Blake3, faults)
    }

    /// Chunks with these contents.
    pub(crate) fn of(contents: Vec<Vec<u8>>, algorithm: DigestAlgorithm, faults: &[Fault]) -> Self {
        let mut encoder = ChunkEncoder::new(CompressionLevel::default()).unwrap();
        let mut blob = Vec::new();
        let mut places = Vec::new();
        for content in &contents {
            let (codec, stored) = encoder.encode(content).unwrap();
            places.push((blob.len() as u64, stored.len() as u32, codec));
            blob.extend_from_slice(stored);
        }
        let descriptor = BlobDescriptor { id: BlobId::of(&blob), len: blob.len() as u64 };
        let places = places.into_iter().zip(0..);
        let chunks = contents.iter().zip(places).map(|(content, (place, number))| {
            let (offset, stored_len, codec) = place;
            ChunkRequest {
                algorithm,
                id: algorithm.chunk_id(content),
                uncompressed_len: content.len() as u32,
                blob: descriptor,
                offset,
                stored_len,
                codec,
                number,
            }
        });
        let chunks = chunks.collect();
        let source = Source {
            blob: blob.into(),
            gate: Semaphore::new(1_000_000),
            requests: Mutex::default(),
            faults: Mutex::new(faults.iter().copied().collect()),
        };
        Self { source: Arc::new(source), chunks, contents }
    }

    pub(crate) fn close_gate(&self) {
        self.source.gate.forget_permits(usize::MAX >> 4);
    }

    pub(crate) fn requests(&self) -> Vec<Range<u64>> {
        self.source.requests.lock().unwrap().iter().map(|(range, _)| range.clone()).collect()
    }

    pub(crate) fn request_count(&self) -> usize {
        self.source.requests.lock().unwrap().len()
    }
}

pub(crate) fn options() -> CacheOptions {
    CacheOptions::new(Handle::current())
}

/// Lets other tasks run until a condition holds; there is no waiting for time to pass.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}
