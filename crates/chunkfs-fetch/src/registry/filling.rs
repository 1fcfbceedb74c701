//! The task that fills the room of a whole blob.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::BytesMut;
use chunkfs_format::BlobHasher;
use reqwest::StatusCode;
use tokio::time::Instant;

use super::blobs::{BlobRequest, BlobState};
use super::body::{Body, ContentRange};
use super::exchange::Exchange;
use super::limits::Permit;
use super::origin::redacted;
use super::patience::Patience;
use super::room::Room;
use super::whole::{FolderState, Progress, Transfer};
use crate::error::FetchError;
use crate::source::{BlobDescriptor, Priority};

/// How much is gathered before it is written to a file.
const STEP_LEN: usize = 1 << 20;

/// The task that fills a transfer.
pub(super) struct Filling {
    pub(super) exchange: Arc<Exchange>,
    pub(super) state: Arc<BlobState>,
    pub(super) transfer: Arc<Transfer>,
    pub(super) blob: BlobDescriptor,
    pub(super) priority: Priority,
    pub(super) folder: Option<PathBuf>,
    pub(super) folder_state: Arc<FolderState>,
    /// Whether the room failed.
    pub(super) is_room_lost: bool,
    pub(super) hasher: BlobHasher,
    /// What has arrived and is not yet in the room.
    pub(super) unwritten: BytesMut,
    /// Bytes that are in the room or about to be.
    pub(super) received: u64,
}

impl Filling {
    pub(super) async fn run(mut self, answer: Body, _permit: Permit) {
        let outcome = match self.fill(answer).await {
            // The digest of a whole blob is known, so a damaged one need not be kept.
            Ok(()) => match std::mem::take(&mut self.hasher).finish() {
                actual if actual == self.blob.id => {
                    self.state.set_doubted(false);
                    Progress::Done
                }
                actual => {
                    self.state.set_doubted(true);
                    let expected = self.blob.id;
                    Progress::Failed(FetchError::DigestMismatch { expected, actual })
                }
            },
            Err(error) => Progress::Failed(error),
        };
        self.transfer.tell(outcome);
    }

    async fn fill(&mut self, first: Body) -> Result<(), FetchError> {
        let room = match &self.folder {
            None => Room::in_memory(self.blob.len),
            Some(folder) => Room::in_folder(folder).await,
        };
        match room {
            Ok(room) => _ = self.transfer.room.set(room),
            Err(error) => return Err(self.lost_room(error)),
        }
        let exchange = Arc::clone(&self.exchange);
        // As patient as its readers are: what has arrived is not thrown away.
        let mut patience = Patience::of_read(&exchange.options, Priority::Demand);
        let mut progressed_at = Instant::now();
        let mut next = Some((first, 0));
        loop {
            let before = self.received;
            let result = match next.take() {
                Some((answer, skip)) => self.drain(answer, skip).await,
                None => match self.resume().await {
                    Ok((answer, skip)) => self.drain(answer, skip).await,
                    Err(error) => Err(error),
                },
            };
            let Err(error) = result else { return Ok(()) };
            // Readers need not wait for the rest of a step until the rest of the blob comes.
            if !self.unwritten.is_empty() && !self.is_room_lost {
                self.keep().await?;
            }
            if self.received > before {
                progressed_at = Instant::now();
            }
            let is_over = progressed_at.elapsed() > exchange.options.deadline;
            if self.is_room_lost || is_over {
                return Err(error);
            }
            if error.is_doubtful() {
                self.state.forget_location();
            }
            exchange.wait_after(&mut patience, error, self.received > before).await?;
        }
    }

    /// Asks for the rest; returns the answer and how much of it is known already.
    async fn resume(&self) -> Result<(Body, u64), FetchError> {
        let rest = self.received..self.blob.len;
        let (blob, priority) = (self.blob.id, self.priority);
        let request = BlobRequest { blob, range: Some(rest), priority, is_fresh: false };
        let answer = self.exchange.get_blob(&self.state, request).await?;
        if answer.status() == StatusCode::OK {
            return Ok((answer, self.received));
        }
        let text = answer.content_range_text();
        match ContentRange::parse(&text) {
            Some(range) if range.start == self.received => Ok((answer, 0)),
            _ => Err(FetchError::RangeMismatch {
                url: redacted(answer.url()),
                expected: self.received..self.blob.len,
                actual: text,
            }),
        }
    }

    async fn drain(&mut self, mut answer: Body, mut skip: u64) -> Result<(), FetchError> {
        let counters = Arc::clone(&self.exchange.counters);
        let count = &counters.of(self.priority).bytes_received;
        while self.received < self.blob.len {
            let Some(mut piece) = answer.next(count).await? else {
                return Err(FetchError::Truncated {
                    url: redacted(answer.url()),
                    received: self.received,
                    expected: self.blob.len,
                });
            };
            let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
            skip -= skipped as u64;
            let _ = piece.split_to(skipped);
            let missing = self.blob.len - self.received;
            piece.truncate(usize::try_from(missing).unwrap_or(usize::MAX));
            self.hasher.update(&piece);
            self.received += piece.len() as u64;
            self.unwritten.extend_from_slice(&piece);
            let is_last = self.received == self.blob.len;
            if self.folder.is_none() || is_last || self.unwritten.len() >= STEP_LEN {
                self.keep().await?;
            }
        }
        answer.finish().await;
        Ok(())
    }

    /// Moves what has arrived into the room and tells the readers.
    async fn keep(&mut self) -> Result<(), FetchError> {
        let piece = self.unwritten.split().freeze();
        let offset = self.received - piece.len() as u64;
        let room = self.transfer.room.get().ok_or(FetchError::Shutdown)?;
        if let Err(error) = room.append(offset, piece).await {
            return Err(self.lost_room(error));
        }
        // The last bytes are held back until the digest of the whole is known.
        if self.received < self.blob.len {
            self.transfer.tell(Progress::Received(self.received));
        }
        Ok(())
    }

    /// Gives up keeping blobs in the folder. The failure passes: readers go on without it.
    fn lost_room(&mut self, error: io::Error) -> FetchError {
        if self.folder.is_some() {
            self.folder_state.note_failure();
        }
        self.is_room_lost = true;
        let path = self.folder.as_deref().unwrap_or(Path::new("(memory)"));
        let url = redacted(&self.exchange.origin.blob_url(self.blob.id));
        FetchError::Transport { url, source: Arc::new(FetchError::io(path, error)) }
    }
}
