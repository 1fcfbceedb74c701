//! Reading files: async, blocking, by callback.

use std::collections::VecDeque;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use chunkfs_cache::{ChunkFuture, LoadError};
use chunkfs_fetch::Priority;
use chunkfs_index::{FileKind, Inode, Piece, PieceSource};
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};

use crate::error::ReadError;
use crate::image::{Image, ImageInner};

/// The longest result of [`Image::read`] and [`Image::submit_read`]: 1 GiB.
pub const READ_LEN_MAX: u64 = 1 << 30;

/// How many uncompressed bytes of chunks are asked for in one step of a long read.
///
/// Two steps are under way at a time, so that a read holds no more than about twice as much
/// besides its result. Counted in whole chunks, however little of each is wanted.
const STEP_LEN: u64 = 16 << 20;

/// A piece with the chunk that it needs, unless it is a hole.
type Load = (Piece, Option<ChunkFuture>);

/// What a read comes to.
enum Read {
    /// All bytes were in memory or in the page cache.
    Done(Bytes),
    Planned(Plan),
}

/// A read in steps: while one step is waited for, the chunks of the next are being loaded.
struct Plan {
    image: Arc<ImageInner>,
    file: Inode,
    current: VecDeque<Load>,
    ahead: VecDeque<Load>,
    /// What neither step covers yet.
    rest: Range<u64>,
}

impl Image {
    /// Reads up to `len` bytes of a file from `offset` on: fewer only where the file ends.
    ///
    /// A range within one chunk is returned without copying it. The future needs no particular
    /// executor, owns all that it uses, and its work begins at once.
    ///
    /// Memory for the result is taken as its bytes arrive. A long read asks for its chunks in
    /// steps, so that it holds at most about 32 MiB of them, or four chunks, besides the result.
    ///
    /// # Cancel safety
    /// Dropping the future ends fetches that nobody else waits for.
    ///
    /// # Errors
    /// [`ReadError::NotAFile`]; [`ReadError::TooLong`] if the file has more than [`READ_LEN_MAX`]
    /// bytes in the range; [`ReadError::Chunk`] if a chunk cannot be had. The next read tries
    /// again.
    pub fn read(
        &self,
        file: &Inode,
        offset: u64,
        len: u64,
    ) -> impl Future<Output = Result<Bytes, ReadError>> + Send + use<> {
        let cached = self.inner.read_cached(file, offset, len);
        let read = match cached {
            Some(bytes) => Ok(Read::Done(bytes)),
            None => self.inner.plan(file, offset, len, READ_LEN_MAX).map(Read::Planned),
        };
        self.inner.read_ahead(file, offset, len);
        let inner = Arc::clone(&self.inner);
        async move {
            let result = match read {
                Ok(Read::Done(bytes)) => Ok(bytes),
                Ok(Read::Planned(plan)) => plan.finish().await,
                Err(error) => Err(error),
            };
            inner.count(&result);
            result
        }
    }

    /// Reads into a buffer and returns how many bytes were read: fewer only where the file ends.
    ///
    /// The buffer may have any length; chunks are asked for in steps as in [`read`](Self::read).
    ///
    /// # Cancel safety
    /// As [`read`](Self::read); the buffer's content is then unspecified.
    ///
    /// # Errors
    /// As [`read`](Self::read), but for [`ReadError::TooLong`].
    pub async fn read_at(
        &self,
        file: &Inode,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize, ReadError> {
        let filled = self.inner.fill_cached(file, offset, buffer);
        let len = buffer.len() as u64;
        let rest = buffer.get_mut(filled..).unwrap_or_default();
        let rest_offset = offset.saturating_add(filled as u64);
        let plan = self.inner.plan(file, rest_offset, rest.len() as u64, u64::MAX);
        self.inner.read_ahead(file, offset, len);
        let result = match plan {
            Ok(plan) => plan.finish_into(rest).await.map(|len| filled + len),
            Err(error) => Err(error),
        };
        self.inner.count_len(result.as_ref().map(|len| *len as u64).ok());
        result
    }

    /// Reads into a buffer, blocking the calling thread; otherwise as [`read_at`](Self::read_at).
    ///
    /// Needs no runtime on this thread. Must not be called from an async task: it would block a
    /// worker that the fetch may need.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    ///
    /// # Panics
    /// If this thread is inside `futures::executor::block_on`.
    pub fn read_at_blocking(
        &self,
        file: &Inode,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize, ReadError> {
        futures::executor::block_on(self.read_at(file, offset, buffer))
    }

    /// Reads a range and hands the result to a callback.
    ///
    /// If all chunks are in memory the callback runs on this thread before the call returns, else
    /// on a worker of the runtime; it should not block. It is called exactly once, whatever
    /// happens: with [`ReadError::Shutdown`] if the runtime shuts down first. Thousands of reads can
    /// be under way.
    pub fn submit_read(
        &self,
        file: &Inode,
        offset: u64,
        len: u64,
        callback: impl FnOnce(Result<Bytes, ReadError>) + Send + 'static,
    ) {
        let callback = Callback(Some(callback));
        let mut read = Box::pin(self.read(file, offset, len));
        match (&mut read).now_or_never() {
            Some(result) => callback.call(result),
            None => {
                self.inner.runtime.spawn(async move { callback.call(read.await) });
            }
        }
    }
}

/// A callback that is called when it is dropped, unless it was called before.
struct Callback<F: FnOnce(Result<Bytes, ReadError>)>(Option<F>);

impl<F: FnOnce(Result<Bytes, ReadError>)> Callback<F> {
    fn call(mut self, result: Result<Bytes, ReadError>) {
        if let Some(callback) = self.0.take() {
            callback(result);
        }
    }
}

impl<F: FnOnce(Result<Bytes, ReadError>)> Drop for Callback<F> {
    fn drop(&mut self) {
        if let Some(callback) = self.0.take() {
            callback(Err(ReadError::Shutdown));
        }
    }
}

impl ImageInner {
    /// Begins to load the first chunks of a range.
    fn plan(
        self: &Arc<Self>,
        file: &Inode,
        offset: u64,
        len: u64,
        len_max: u64,
    ) -> Result<Plan, ReadError> {
        let ino = file.index.ino();
        if file.kind != FileKind::Regular {
            return Err(ReadError::NotAFile { ino });
        }
        let range = offset.min(file.len)..offset.saturating_add(len).min(file.len);
        let len = range.end - range.start;
        if len > len_max {
            return Err(ReadError::TooLong { ino, len, len_max });
        }
        let (image, file) = (Arc::clone(self), *file);
        let mut plan = Plan {
            image,
            file,
            current: VecDeque::new(),
            ahead: VecDeque::new(),
            rest: range.clone(),
        };
        plan.current = plan.begin_step();
        Ok(plan)
    }

    /// Begins to load the chunks of a range up to a length of whole chunks, and returns where the
    /// rest of the range begins.
    fn begin_loads(&self, file: &Inode, range: Range<u64>, len_max: u64) -> (VecDeque<Load>, u64) {
        let (mut pieces, mut requests) = (Vec::new(), Vec::new());
        let (mut end, mut chunks_len) = (range.start, 0);
        for piece in self.index.pieces(file, range.start, range.end - range.start) {
            if chunks_len >= len_max {
                break;
            }
            if let PieceSource::Chunk { index, .. } = piece.source {
                let request = self.request(index);
                let request = request.expect("opening the index checked that its chunks exist");
                chunks_len += u64::from(request.uncompressed_len);
                requests.push(request);
            }
            end = piece.file_offset + piece.len;
            pieces.push(piece);
        }
        let mut chunks = self.loader.load_many(&requests, Priority::Demand).into_iter();
        let load = |piece: Piece| match piece.source {
            PieceSource::Hole => (piece, None),
            PieceSource::Chunk { .. } => (piece, chunks.next()),
        };
        (pieces.into_iter().map(load).collect(), end)
    }

    /// Notes a read, and begins to load what a sequential reader will want next.
    fn read_ahead(&self, file: &Inode, offset: u64, len: u64) {
        if file.kind != FileKind::Regular {
            return;
        }
        let range = offset.min(file.len)..offset.saturating_add(len).min(file.len);
        let ahead = self.readahead.advance(file, range);
        if ahead.is_empty() {
            return;
        }
        let len = ahead.end - ahead.start;
        let mut requests = Vec::new();
        for piece in self.index.pieces(file, ahead.start, len) {
            if let PieceSource::Chunk { index, .. } = piece.source {
                // What is near is read as fast when its time comes.
                requests.extend(self.request(index).filter(|chunk| !self.loader.is_near(chunk)));
            }
        }
        if requests.is_empty() {
            return;
        }
        // Asked for as demand: the reader is about to wait for it, and what is prefetched does not
        // enter the memory tier.
        let chunks = self.loader.load_many(&requests, Priority::Demand);
        let mut chunks: FuturesUnordered<_> = chunks.into_iter().collect();
        // Holds no image, which would keep it from ending this work when it is dropped.
        self.background.spawn(async move {
            // Whether these succeed is told to whoever reads them.
            while chunks.next().await.is_some() {}
        });
    }

    fn count(&self, result: &Result<Bytes, ReadError>) {
        self.count_len(result.as_ref().map(|bytes| bytes.len() as u64).ok());
    }

    fn count_len(&self, len: Option<u64>) {
        self.read_count.fetch_add(1, Ordering::Relaxed);
        match len {
            Some(len) => self.read_len.fetch_add(len, Ordering::Relaxed),
            None => self.read_error_count.fetch_add(1, Ordering::Relaxed),
        };
    }
}

impl Plan {
    fn begin_step(&mut self) -> VecDeque<Load> {
        if self.rest.is_empty() {
            return VecDeque::new();
        }
        let (loads, end) = self.image.begin_loads(&self.file, self.rest.clone(), STEP_LEN);
        // The pieces cover the file, so that only an end of the file could leave nothing to do.
        self.rest.start = if loads.is_empty() { self.rest.end } else { end };
        loads
    }

    /// Waits for the next piece and returns it with its bytes, or without if it is a hole.
    async fn next(&mut self) -> Result<Option<(Piece, Option<Bytes>)>, ReadError> {
        if self.current.is_empty() {
            self.current = std::mem::take(&mut self.ahead);
        }
        if self.ahead.is_empty() {
            self.ahead = self.begin_step();
        }
        let Some((piece, chunk)) = self.current.pop_front() else {
            return Ok(None);
        };
        let Some(chunk) = chunk else {
            return Ok(Some((piece, None)));
        };
        match load(piece, chunk).await {
            Ok(bytes) => Ok(Some((piece, Some(bytes)))),
            Err(source) => {
                let (ino, file_offset) = (self.file.index.ino(), piece.file_offset);
                Err(ReadError::Chunk { ino, file_offset, source })
            }
        }
    }

    async fn finish(mut self) -> Result<Bytes, ReadError> {
        let mut bytes: Vec<u8> = Vec::new();
        while let Some((piece, chunk)) = self.next().await? {
            let is_last = self.current.is_empty() && self.ahead.is_empty();
            if let Some(chunk) = chunk {
                if bytes.is_empty() && is_last {
                    // One piece of one chunk: a slice of it.
                    return Ok(chunk);
                }
                if bytes.is_empty() {
                    let step_len: u64 = self.current.iter().map(|(piece, _)| piece.len).sum();
                    bytes.reserve_exact(index(piece.len + step_len.min(STEP_LEN)));
                }
                bytes.extend_from_slice(&chunk);
            } else {
                bytes.resize(bytes.len() + index(piece.len), 0);
            }
        }
        Ok(bytes.into())
    }

    async fn finish_into(mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let mut filled = 0;
        while let Some((piece, chunk)) = self.next().await? {
            let end = filled + index(piece.len);
            let target = buffer.get_mut(filled..end);
            let target = target.expect("the range that was planned is as long as the buffer");
            match chunk {
                None => target.fill(0),
                Some(chunk) => target.copy_from_slice(&chunk),
            }
            filled = end;
        }
        Ok(filled)
    }
}

/// Waits for the chunk of a piece and cuts the piece out of it.
async fn load(piece: Piece, chunk: ChunkFuture) -> Result<Bytes, LoadError> {
    let bytes = chunk.await?;
    let start = match piece.source {
        PieceSource::Chunk { offset, .. } => offset as usize,
        PieceSource::Hole => 0,
    };
    // Opening the index checked that the piece lies inside the chunk, loading checked its length.
    Ok(bytes.slice(start..start + index(piece.len)))
}

/// Converts a length that was checked against that of a buffer, a chunk or a result.
pub(crate) fn index(len: u64) -> usize {
    usize::try_from(len).expect("the length is that of something in memory")
}
