//! Bringing blobs to the destination while the conversion goes on.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use chunkfs_fetch::{BlobContent, BlobDescriptor};
use chunkfs_format::{BlobHasher, BlobId};

use super::blobs::{spool_error, spool_file};
use super::context::Context;
use super::lock;
use crate::error::{ConvertError, LayerError};
use crate::progress::{BlobTransfer, ConvertEvent};
use crate::statistics::Statistics;

/// How many blobs wait to be sent, besides those being sent.
const WAITING_MAX: usize = 2;

/// A blob that the destination must have.
#[derive(Debug)]
pub(crate) enum Upload {
    /// It lies in a temporary file.
    Put {
        /// The blob.
        blob: BlobDescriptor,
        /// Its bytes.
        file: File,
    },
    /// A reused image has it.
    Reuse {
        /// The blob.
        blob: BlobDescriptor,
        /// The position of the image among the reused ones.
        image: usize,
    },
}

/// A short queue of blobs; each blob is sent once, however often it is pushed.
#[derive(Debug, Default)]
pub(crate) struct Uploader {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Upload>,
    seen: HashSet<BlobId>,
    statistics: Statistics,
    is_closed: bool,
    is_stopped: bool,
}

impl Uploader {
    /// Queues a blob once there is room.
    pub(crate) fn push(&self, upload: Upload) -> Result<(), ConvertError> {
        let (Upload::Put { blob, .. } | Upload::Reuse { blob, .. }) = &upload;
        let mut state = lock(&self.state);
        if !state.seen.insert(blob.id) {
            return Ok(());
        }
        while state.waiting.len() >= WAITING_MAX && !state.is_stopped {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.is_stopped {
            return Err(ConvertError::Stopped);
        }
        state.waiting.push_back(upload);
        self.changed.notify_all();
        Ok(())
    }

    fn take(&self) -> Option<Upload> {
        let mut state = lock(&self.state);
        loop {
            if state.is_stopped {
                return None;
            }
            if let Some(upload) = state.waiting.pop_front() {
                self.changed.notify_all();
                return Some(upload);
            }
            if state.is_closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets the threads end once the queue is empty.
    pub(crate) fn close(&self) {
        lock(&self.state).is_closed = true;
        self.changed.notify_all();
    }

    /// Lets everyone end now.
    pub(crate) fn stop(&self) {
        lock(&self.state).is_stopped = true;
        self.changed.notify_all();
    }

    /// Returns what was transferred so far.
    pub(crate) fn statistics(&self) -> Statistics {
        lock(&self.state).statistics
    }

    fn count(&self, blob: &BlobDescriptor, how: BlobTransfer, context: &Context<'_>) {
        lock(&self.state).statistics.count_transfer(how, blob.len);
        context.observe(&ConvertEvent::BlobStored { id: blob.id, len: blob.len, how });
    }
}

/// Sends blobs until there are no more.
pub(crate) fn run_uploader(context: &Context<'_>) -> Result<(), ConvertError> {
    while let Some(upload) = context.uploader.take() {
        let (blob, how) = match upload {
            Upload::Put { blob, file } => {
                (blob, put_blob(context, &blob, BlobContent::File(file), BlobTransfer::Pushed)?)
            }
            Upload::Reuse { blob, image } => (blob, reuse_blob(context, &blob, image)?),
        };
        context.uploader.count(&blob, how, context);
    }
    Ok(())
}

/// Sends a small blob now.
pub(crate) fn put_bytes(
    context: &Context<'_>,
    bytes: Vec<u8>,
) -> Result<BlobDescriptor, ConvertError> {
    let blob = BlobDescriptor { id: BlobId::of(&bytes), len: bytes.len() as u64 };
    let content = BlobContent::Bytes(bytes.into());
    let how = put_blob(context, &blob, content, BlobTransfer::Pushed)?;
    context.uploader.count(&blob, how, context);
    Ok(blob)
}

fn put_blob(
    context: &Context<'_>,
    blob: &BlobDescriptor,
    content: BlobContent,
    how: BlobTransfer,
) -> Result<BlobTransfer, ConvertError> {
    if context.network.run(blob.id, context.sink.has_blob(blob))? {
        return Ok(BlobTransfer::Present);
    }
    context.network.run(blob.id, context.sink.put_blob(blob, content))?;
    Ok(how)
}

/// Mounts a blob of a reused image, or copies it where that is not possible.
fn reuse_blob(
    context: &Context<'_>,
    blob: &BlobDescriptor,
    image: usize,
) -> Result<BlobTransfer, ConvertError> {
    if context.network.run(blob.id, context.sink.has_blob(blob))? {
        return Ok(BlobTransfer::Present);
    }
    let image = context.reuse.image(image);
    if let Some(repository) = &image.repository {
        let mount = context.sink.mount_blob(blob, repository);
        if context.network.run(blob.id, mount)? {
            return Ok(BlobTransfer::Mounted);
        }
    }
    let mut stream = context.network.stream(Arc::clone(&image.source), *blob);
    let mut file = spool_file(context)?;
    let (mut hasher, mut len) = (BlobHasher::new(), 0u64);
    let mut buffer = vec![0; 256 << 10];
    loop {
        let read = stream.read(&mut buffer).map_err(|error| copy_error(blob, error))?;
        let piece = buffer.get(..read).unwrap_or(&[]);
        len += piece.len() as u64;
        // A blob that is too long is not read to its end, which may be far away.
        if piece.is_empty() || len > blob.len {
            break;
        }
        hasher.update(piece);
        file.write_all(piece).map_err(spool_error(context))?;
    }
    let actual = hasher.finish();
    if actual != blob.id || len != blob.len {
        let source = LayerError::DigestMismatch { expected: blob.id, actual };
        return Err(ConvertError::Layer { layer: blob.id.to_string(), source });
    }
    put_blob(context, blob, BlobContent::File(file), BlobTransfer::Copied)
}

fn copy_error(blob: &BlobDescriptor, error: std::io::Error) -> ConvertError {
    match LayerError::from_io(error) {
        LayerError::Fetch { source } => {
            ConvertError::Transfer { what: blob.id.to_string(), source }
        }
        LayerError::Stopped => ConvertError::Stopped,
        source => ConvertError::Layer { layer: blob.id.to_string(), source },
    }
}
