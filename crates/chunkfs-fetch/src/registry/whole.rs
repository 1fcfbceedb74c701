//! Whole blobs, for servers that answer range requests with everything.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::{Bytes, BytesMut};
use chunkfs_format::{BlobHasher, BlobId};
use reqwest::StatusCode;
use tokio::sync::watch;

use super::blobs::{BlobRequest, BlobState};
use super::body::{Body, ContentRange};
use super::exchange::Exchange;
use super::limits::Permit;
use super::origin::redacted;
use super::patience::Patience;
use super::room::Room;
use crate::error::FetchError;
use crate::source::{BlobDescriptor, Priority};
use crate::task::AbortOnDrop;

/// How much is gathered before it is written to a file.
const STEP_LEN: usize = 1 << 20;

/// The whole blobs that are held or on their way, oldest first, with limits on their bytes.
#[derive(Debug)]
pub(super) struct Wholes {
    options: WholeOptions,
    /// Cleared when the folder fails, so that the next blobs are not lost to it, too.
    has_folder: Arc<AtomicBool>,
    entries: Mutex<VecDeque<Entry>>,
}

/// Where whole blobs may be kept.
#[derive(Debug, Clone)]
pub(super) struct WholeOptions {
    pub(super) memory_len_max: u64,
    /// A folder for blobs instead of memory, and how many bytes they may have together there.
    pub(super) folder: Option<(PathBuf, u64)>,
}

#[derive(Debug)]
struct Entry {
    blob: BlobDescriptor,
    is_in_memory: bool,
    transfer: Arc<Transfer>,
    /// Ends with the entry, and so with the source.
    _task: AbortOnDrop<()>,
}

/// A transfer of a whole blob, from which many readers are served, also while it runs.
///
/// It goes on when readers are dropped, because the next one will need it.
#[derive(Debug)]
pub(super) struct Transfer {
    /// Made before the first progress is told.
    room: OnceLock<Room>,
    progress: watch::Sender<Progress>,
}

#[derive(Debug, Clone)]
enum Progress {
    Received(u64),
    Done,
    Failed(FetchError),
}

impl Wholes {
    pub(super) fn new(options: WholeOptions) -> Self {
        let has_folder = Arc::new(AtomicBool::new(options.folder.is_some()));
        Self { options, has_folder, entries: Mutex::default() }
    }

    /// Returns whether a blob is held or on its way.
    pub(super) fn contains(&self, blob: BlobId) -> bool {
        let entries = self.entries();
        entries.iter().any(|entry| entry.blob.id == blob && !entry.transfer.has_failed())
    }

    /// Returns the transfer of a blob, running or done.
    pub(super) fn find(&self, blob: BlobId) -> Option<Arc<Transfer>> {
        let mut entries = self.entries();
        let index = entries.iter().position(|entry| entry.blob.id == blob)?;
        let entry = entries.remove(index)?;
        if entry.transfer.has_failed() {
            return None;
        }
        let transfer = Arc::clone(&entry.transfer);
        entries.push_back(entry);
        Some(transfer)
    }

    /// Starts to keep the blob whose whole content `answer` brings.
    ///
    /// # Errors
    /// Returns `answer` if there is no room for the blob.
    pub(super) fn start(
        &self,
        exchange: &Arc<Exchange>,
        state: &Arc<BlobState>,
        (blob, priority): (BlobDescriptor, Priority),
        answer: Body,
        permit: Permit,
    ) -> Result<Arc<Transfer>, Box<Body>> {
        let mut entries = self.entries();
        let folder = self.options.folder.as_ref().filter(|_| self.folder_works());
        let folder = if let Some((folder, len_max)) = folder
            && make_room(&mut entries, false, blob.len, *len_max)
        {
            Some(folder.clone())
        } else if make_room(&mut entries, true, blob.len, self.options.memory_len_max) {
            None
        } else {
            return Err(Box::new(answer));
        };
        let is_in_memory = folder.is_none();
        let (progress, _) = watch::channel(Progress::Received(0));
        let transfer = Arc::new(Transfer { room: OnceLock::new(), progress });
        let filling = Filling {
            exchange: Arc::clone(exchange),
            state: Arc::clone(state),
            transfer: Arc::clone(&transfer),
            blob,
            priority,
            folder,
            has_folder: Arc::clone(&self.has_folder),
            hasher: BlobHasher::new(),
            unwritten: BytesMut::new(),
            received: 0,
        };
        let task = AbortOnDrop::spawn(&exchange.options.runtime, filling.run(answer, permit));
        let entry = Entry { blob, is_in_memory, transfer: Arc::clone(&transfer), _task: task };
        entries.push_back(entry);
        Ok(transfer)
    }

    fn folder_works(&self) -> bool {
        self.has_folder.load(Ordering::Relaxed)
    }

    fn entries(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops the oldest complete blobs of one kind until `len` more bytes fit; returns whether they do.
fn make_room(entries: &mut VecDeque<Entry>, is_in_memory: bool, len: u64, len_max: u64) -> bool {
    entries.retain(|entry| !entry.transfer.has_failed());
    let Some(room) = len_max.checked_sub(len) else { return false };
    let is_of_kind = |entry: &&Entry| entry.is_in_memory == is_in_memory;
    let mut held: u64 = entries.iter().filter(is_of_kind).map(|entry| entry.blob.len).sum();
    while held > room {
        let may_go = |entry: &Entry| is_of_kind(&entry) && entry.transfer.is_done();
        let Some(oldest) = entries.iter().position(may_go) else {
            return false;
        };
        held -= entries.remove(oldest).map_or(0, |entry| entry.blob.len);
    }
    true
}

impl Transfer {
    /// Waits until `range` has arrived and copies it out, so that it does not keep the whole alive.
    pub(super) async fn read(&self, range: Range<u64>) -> Result<Bytes, FetchError> {
        let mut progress = self.progress.subscribe();
        let is_settled = |progress: &Progress| match progress {
            Progress::Received(count) => *count >= range.end,
            Progress::Done | Progress::Failed(_) => true,
        };
        match progress.wait_for(is_settled).await.as_deref() {
            Ok(Progress::Failed(error)) => return Err(error.clone()),
            Ok(_) => {}
            Err(_) => return Err(FetchError::Shutdown),
        }
        let room = self.room.get().ok_or(FetchError::Shutdown)?;
        room.read(range).await.map_err(|error| {
            let url = "the copy of a whole blob".to_owned();
            let error = FetchError::Transport { url, source: Arc::new(error) };
            // The next reader asks the server.
            self.progress.send_replace(Progress::Failed(error.clone()));
            error
        })
    }

    /// Waits until the digest of the whole blob is known to be right.
    pub(super) async fn verified(&self) -> Result<(), FetchError> {
        let mut progress = self.progress.subscribe();
        let is_settled = |progress: &Progress| !matches!(progress, Progress::Received(_));
        match progress.wait_for(is_settled).await.as_deref() {
            Ok(Progress::Failed(error)) => Err(error.clone()),
            Ok(_) => Ok(()),
            Err(_) => Err(FetchError::Shutdown),
        }
    }

    fn has_failed(&self) -> bool {
        matches!(*self.progress.borrow(), Progress::Failed(_))
    }

    fn is_done(&self) -> bool {
        matches!(*self.progress.borrow(), Progress::Done)
    }
}

/// The task that fills a transfer.
struct Filling {
    exchange: Arc<Exchange>,
    state: Arc<BlobState>,
    transfer: Arc<Transfer>,
    blob: BlobDescriptor,
    priority: Priority,
    folder: Option<PathBuf>,
    has_folder: Arc<AtomicBool>,
    hasher: BlobHasher,
    /// What has arrived and is not yet in the room.
    unwritten: BytesMut,
    /// Bytes that are in the room or about to be.
    received: u64,
}

impl Filling {
    async fn run(mut self, answer: Body, _permit: Permit) {
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
        self.transfer.progress.send_replace(outcome);
    }

    async fn fill(&mut self, first: Body) -> Result<(), FetchError> {
        let room = match &self.folder {
            None => Room::in_memory(self.blob.len),
            Some(folder) => Room::in_folder(folder).await,
        };
        let _ = self.transfer.room.set(room.map_err(|error| self.lost_room(error))?);
        let exchange = Arc::clone(&self.exchange);
        let mut patience = Patience::new(&exchange.options);
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
            if self.folder.is_some() && !self.has_folder.load(Ordering::Relaxed) {
                return Err(error);
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
        let added = room.append(offset, piece).await;
        added.map_err(|error| self.lost_room(error))?;
        // The last bytes are held back until the digest of the whole is known.
        if self.received < self.blob.len {
            self.transfer.progress.send_replace(Progress::Received(self.received));
        }
        Ok(())
    }

    /// Gives up keeping blobs in the folder. The failure passes: readers go on without it.
    fn lost_room(&self, error: io::Error) -> FetchError {
        self.has_folder.store(false, Ordering::Relaxed);
        let path = self.folder.as_deref().unwrap_or(Path::new("(memory)"));
        let url = redacted(&self.exchange.origin.blob_url(self.blob.id));
        FetchError::Transport { url, source: Arc::new(FetchError::io(path, error)) }
    }
}
