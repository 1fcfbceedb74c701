//! Reading files: async, blocking, by callback.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use chunkfs_cache::{ChunkFuture, LoadError};
use chunkfs_fetch::Priority;
use chunkfs_index::{FileKind, Inode, Piece, PieceSource};
use futures::FutureExt as _;

use crate::error::ReadError;
use crate::image::{Image, ImageInner};

/// The pieces of a range with the chunks that they need, which are being loaded.
struct Plan {
    ino: u64,
    pieces: Vec<(Piece, Option<ChunkFuture>)>,
}

impl Image {
    /// Reads up to `len` bytes of a file from `offset` on: fewer only where the file ends.
    ///
    /// A range within one chunk is returned without copying it. The future needs no particular
    /// executor, owns all that it uses, and its work begins at once.
    ///
    /// # Cancel safety
    /// Dropping the future ends fetches that nobody else waits for.
    ///
    /// # Errors
    /// [`ReadError::NotAFile`], or [`ReadError::Chunk`] if a chunk cannot be had. The next read
    /// tries again.
    pub fn read(
        &self,
        file: &Inode,
        offset: u64,
        len: u64,
    ) -> impl Future<Output = Result<Bytes, ReadError>> + Send + 'static {
        let plan = self.inner.plan(file, offset, len);
        let inner = Arc::clone(&self.inner);
        async move {
            let result = match plan {
                Ok(plan) => plan.finish().await,
                Err(error) => Err(error),
            };
            inner.count(&result);
            result
        }
    }

    /// Reads into a buffer and returns how many bytes were read: fewer only where the file ends.
    ///
    /// # Cancel safety
    /// As [`read`](Self::read); the buffer's content is then unspecified.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn read_at(
        &self,
        file: &Inode,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize, ReadError> {
        let result = match self.inner.plan(file, offset, buffer.len() as u64) {
            Ok(plan) => plan.finish_into(buffer).await,
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
    /// As [`read`](Self::read).
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
    /// on a worker of the runtime; it should not block. Thousands of reads can be under way.
    pub fn submit_read(
        &self,
        file: &Inode,
        offset: u64,
        len: u64,
        callback: impl FnOnce(Result<Bytes, ReadError>) + Send + 'static,
    ) {
        let mut read = Box::pin(self.read(file, offset, len));
        match (&mut read).now_or_never() {
            Some(result) => callback(result),
            None => {
                self.inner.runtime.spawn(async move { callback(read.await) });
            }
        }
    }
}

impl ImageInner {
    /// Finds the pieces of a range and begins to load their chunks, and those ahead of them.
    fn plan(&self, file: &Inode, offset: u64, len: u64) -> Result<Plan, ReadError> {
        let ino = file.index.ino();
        if file.kind != FileKind::Regular {
            return Err(ReadError::NotAFile { ino });
        }
        let pieces: Vec<Piece> = self.index.pieces(file, offset, len).collect();
        let mut futures = self.load_pieces(&pieces).into_iter();
        let needs_chunk = |piece: &Piece| matches!(piece.source, PieceSource::Chunk { .. });
        let pieces = pieces
            .into_iter()
            .map(|piece| (piece, if needs_chunk(&piece) { futures.next() } else { None }));
        let plan = Plan { ino, pieces: pieces.collect() };
        self.read_ahead(file, offset..offset.saturating_add(len).min(file.len));
        Ok(plan)
    }

    fn load_pieces(&self, pieces: &[Piece]) -> Vec<ChunkFuture> {
        let requests: Vec<_> = pieces
            .iter()
            .filter_map(|piece| match piece.source {
                PieceSource::Hole => None,
                // Opening the index checked that its chunks exist.
                PieceSource::Chunk { index, .. } => self.request(index),
            })
            .collect();
        self.loader.load_many(&requests, Priority::Demand)
    }

    fn read_ahead(&self, file: &Inode, range: std::ops::Range<u64>) {
        let ahead = self.readahead.advance(file, range);
        if ahead.is_empty() {
            return;
        }
        let pieces: Vec<_> =
            self.index.pieces(file, ahead.start, ahead.end - ahead.start).collect();
        let futures = self.load_pieces(&pieces);
        self.spawn_background(async move {
            // Whether these succeed is told to whoever reads them.
            futures::future::join_all(futures).await;
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
    async fn finish(mut self) -> Result<Bytes, ReadError> {
        if matches!(self.pieces[..], [(_, Some(_))])
            && let Some((piece, chunk)) = self.pieces.pop()
        {
            // One piece of one chunk: a slice of it.
            return self.ino_error(piece, load(piece, chunk).await);
        }
        let len: u64 = self.pieces.iter().map(|(piece, _)| piece.len).sum();
        let mut bytes = BytesMut::with_capacity(usize::try_from(len).unwrap_or(0));
        for (piece, chunk) in std::mem::take(&mut self.pieces) {
            match chunk {
                None => bytes.resize(bytes.len() + piece.len as usize, 0),
                chunk => bytes.extend_from_slice(&self.ino_error(piece, load(piece, chunk).await)?),
            }
        }
        Ok(bytes.freeze())
    }

    async fn finish_into(mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let mut filled = 0;
        for (piece, chunk) in std::mem::take(&mut self.pieces) {
            let end = filled + piece.len as usize;
            let Some(target) = buffer.get_mut(filled..end) else {
                break;
            };
            match chunk {
                None => target.fill(0),
                chunk => target.copy_from_slice(&self.ino_error(piece, load(piece, chunk).await)?),
            }
            filled = end;
        }
        Ok(filled)
    }

    fn ino_error(
        &self,
        piece: Piece,
        result: Result<Bytes, LoadError>,
    ) -> Result<Bytes, ReadError> {
        let (ino, file_offset) = (self.ino, piece.file_offset);
        result.map_err(|source| ReadError::Chunk { ino, file_offset, source })
    }
}

/// Waits for the chunk of a piece and cuts the piece out of it.
async fn load(piece: Piece, chunk: Option<ChunkFuture>) -> Result<Bytes, LoadError> {
    let (PieceSource::Chunk { offset, .. }, Some(chunk)) = (piece.source, chunk) else {
        return Ok(Bytes::new());
    };
    let bytes = chunk.await?;
    let start = offset as usize;
    // Opening the index checked that the piece lies inside the chunk, loading checked its length.
    Ok(bytes.slice(start..start + piece.len as usize))
}
