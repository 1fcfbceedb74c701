//! Calling asynchronous code from plain threads, so that a failure elsewhere ends the wait.

use std::future::Future;
use std::io::Read;
use std::pin::pin;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use chunkfs_fetch::{BlobDescriptor, FetchError, ImageSource};
use futures::StreamExt as _;
use futures::future::{Either, select};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use crate::error::{ConvertError, LayerError};

/// How many pieces of a blob are fetched ahead of its reader.
const PIECES_AHEAD: usize = 8;

/// Runs futures on the caller's runtime until it is cancelled.
#[derive(Debug)]
pub(crate) struct Network {
    runtime: Handle,
    cancelled: watch::Sender<bool>,
}

impl Network {
    pub(crate) fn new(runtime: Handle) -> Self {
        Self { runtime, cancelled: watch::Sender::new(false) }
    }

    /// Ends all waits, now and later.
    pub(crate) fn cancel(&self) {
        self.cancelled.send_replace(true);
    }

    /// Waits for a transfer; `what` names it in errors.
    pub(crate) fn run<T>(
        &self,
        what: impl ToString,
        transfer: impl Future<Output = Result<T, FetchError>>,
    ) -> Result<T, ConvertError> {
        let mut cancelled = self.cancelled.subscribe();
        self.runtime.block_on(async {
            let cancelled = pin!(cancelled.wait_for(|is_cancelled| *is_cancelled));
            match select(pin!(transfer), cancelled).await {
                Either::Left((result, _)) => result.map_err(ConvertError::transfer(what)),
                Either::Right(_) => Err(ConvertError::Stopped),
            }
        })
    }

    /// Streams a blob; nothing about it is verified.
    pub(crate) fn stream(&self, source: Arc<dyn ImageSource>, blob: BlobDescriptor) -> BlobStream {
        let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
        let mut cancelled = self.cancelled.subscribe();
        let was_cancelled = self.cancelled.subscribe();
        self.runtime.spawn(async move {
            let forward = async {
                let mut pieces = source.stream_blob(&blob);
                while let Some(piece) = pieces.next().await {
                    if sender.send(piece).await.is_err() {
                        break;
                    }
                }
            };
            let cancelled = pin!(cancelled.wait_for(|is_cancelled| *is_cancelled));
            select(pin!(forward), cancelled).await;
        });
        BlobStream { receiver, was_cancelled, piece: Bytes::new() }
    }
}

/// The bytes of a blob as they arrive.
#[derive(Debug)]
pub(crate) struct BlobStream {
    receiver: mpsc::Receiver<Result<Bytes, FetchError>>,
    was_cancelled: watch::Receiver<bool>,
    piece: Bytes,
}

impl Read for BlobStream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.piece.is_empty() && !buffer.is_empty() {
            self.piece = match self.receiver.blocking_recv() {
                Some(Ok(piece)) => piece,
                Some(Err(source)) => {
                    return Err(std::io::Error::other(LayerError::Fetch { source }));
                }
                None if *self.was_cancelled.borrow() => {
                    return Err(std::io::Error::other(LayerError::Stopped));
                }
                None => return Ok(0),
            };
        }
        let len = self.piece.len().min(buffer.len());
        if let Some(target) = buffer.get_mut(..len) {
            self.piece.copy_to_slice(target);
        }
        Ok(len)
    }
}
