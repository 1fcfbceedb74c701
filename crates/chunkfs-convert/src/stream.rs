//! From the stored bytes of a layer to the bytes of its archive, verified on both sides.

use std::io::{self, BufRead as _, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::Scope;

use chunkfs_format::{BlobHasher, BlobId};

use crate::error::LayerError;

const BUFFER_LEN: usize = 256 << 10;
/// How many buffers one thread may be ahead of the next.
const BUFFERS_AHEAD: usize = 4;

/// What the bytes of a stream must turn out to be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Expectation {
    /// A layer as stored.
    Blob { id: BlobId, len: u64 },
    /// An uncompressed layer.
    Archive { diff_id: BlobId, len_max: u64 },
    /// Anything up to a length.
    Unnamed { len_max: u64 },
}

/// Passes bytes on and checks them against their digest when they end.
pub(crate) struct VerifyingReader<R> {
    inner: R,
    expectation: Expectation,
    hasher: BlobHasher,
    len: u64,
    is_verified: Arc<AtomicBool>,
    /// Is told of every piece that was read.
    progress: Option<Box<dyn Fn(u64) + Send>>,
}

impl<R: Read> VerifyingReader<R> {
    pub(crate) fn new(inner: R, expectation: Expectation) -> Self {
        let is_verified = Arc::default();
        let hasher = BlobHasher::new();
        Self { inner, expectation, hasher, len: 0, is_verified, progress: None }
    }
}

impl<R> VerifyingReader<R> {
    pub(crate) fn with_progress(mut self, progress: impl Fn(u64) + Send + 'static) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    /// Returns a flag that becomes true when the stream ended and was what it had to be.
    pub(crate) fn verified_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_verified)
    }

    fn check_len(&self) -> Result<(), LayerError> {
        match self.expectation {
            Expectation::Blob { len, .. } if self.len > len => {
                Err(LayerError::LengthMismatch { expected: len, actual: self.len })
            }
            Expectation::Archive { len_max, .. } | Expectation::Unnamed { len_max }
                if self.len > len_max =>
            {
                Err(LayerError::TooLong { len_max })
            }
            _ => Ok(()),
        }
    }

    fn check_end(&mut self) -> Result<(), LayerError> {
        let actual = std::mem::take(&mut self.hasher).finish();
        match self.expectation {
            Expectation::Blob { len, .. } if self.len != len => {
                return Err(LayerError::LengthMismatch { expected: len, actual: self.len });
            }
            Expectation::Blob { id, .. } if actual != id => {
                return Err(LayerError::DigestMismatch { expected: id, actual });
            }
            Expectation::Archive { diff_id, .. } if actual != diff_id => {
                return Err(LayerError::DiffIdMismatch { expected: diff_id, actual });
            }
            _ => {}
        }
        self.is_verified.store(true, Ordering::Release);
        Ok(())
    }
}

impl<R: Read> Read for VerifyingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.is_verified.load(Ordering::Acquire) {
            return Ok(0);
        }
        let read = self.inner.read(buffer)?;
        self.len += read as u64;
        let result = if read == 0 { self.check_end() } else { self.check_len() };
        result.map_err(io::Error::other)?;
        if !matches!(self.expectation, Expectation::Unnamed { .. }) {
            self.hasher.update(buffer.get(..read).unwrap_or(&[]));
        }
        if let Some(progress) = &self.progress {
            progress(read as u64);
        }
        Ok(read)
    }
}

/// Decompresses what starts with the magic of gzip or zstd, and passes on anything else.
///
/// The media type is not asked: what decides is the digest of the result.
pub(crate) fn decompress<'a>(
    compressed: impl Read + Send + 'a,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut compressed = BufReader::with_capacity(BUFFER_LEN, compressed);
    let start = loop {
        match compressed.fill_buf() {
            Ok(start) => break start,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    };
    Ok(match start {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(compressed)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            Box::new(zstd::stream::read::Decoder::with_buffer(compressed)?)
        }
        _ => Box::new(compressed),
    })
}

/// Reads ahead in a thread of its own.
///
/// The thread ends when its reader ends or fails, or when the result of this function is dropped.
pub(crate) fn read_ahead<'scope>(
    scope: &'scope Scope<'scope, '_>,
    reader: impl Read + Send + 'scope,
) -> ReadAhead {
    let (sender, receiver) = sync_channel(BUFFERS_AHEAD);
    let (recycler, recycled) = channel();
    scope.spawn(move || run_ahead(reader, &sender, &recycled));
    ReadAhead { receiver, recycler, buffer: Vec::new(), at: 0, has_ended: false }
}

fn run_ahead(
    mut reader: impl Read,
    sender: &SyncSender<io::Result<Vec<u8>>>,
    recycled: &Receiver<Vec<u8>>,
) {
    loop {
        let mut buffer = recycled.try_recv().unwrap_or_default();
        buffer.resize(BUFFER_LEN, 0);
        let filled = fill(&mut reader, &mut buffer);
        let message = filled.map(|filled| {
            buffer.truncate(filled);
            buffer
        });
        let is_last = message.as_ref().map_or(true, Vec::is_empty);
        if sender.send(message).is_err() || is_last {
            return;
        }
    }
}

/// Reads until the buffer is full or the input ends.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The reading side of [`read_ahead`].
pub(crate) struct ReadAhead {
    receiver: Receiver<io::Result<Vec<u8>>>,
    recycler: Sender<Vec<u8>>,
    buffer: Vec<u8>,
    at: usize,
    has_ended: bool,
}

impl Read for ReadAhead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.buffer.len() && !self.has_ended && !buffer.is_empty() {
            // The other side may have ended; then the buffer is simply freed.
            let _ = self.recycler.send(std::mem::take(&mut self.buffer));
            self.at = 0;
            self.buffer = match self.receiver.recv() {
                Ok(Ok(next)) => next,
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(io::Error::other(LayerError::Stopped)),
            };
            self.has_ended = self.buffer.is_empty();
        }
        let read = (&self.buffer[self.at..]).read(buffer)?;
        self.at += read;
        Ok(read)
    }
}
