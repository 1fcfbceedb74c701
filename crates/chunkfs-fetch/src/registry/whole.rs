//! Whole blobs, for servers that answer range requests with everything.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use chunkfs_format::{BlobHasher, BlobId};
use tokio::sync::watch;
use tokio::time::Instant;

use super::blobs::BlobState;
use super::body::Body;
use super::exchange::Exchange;
use super::filling::Filling;
use super::limits::Permit;
use super::room::Room;
use crate::error::FetchError;
use crate::source::{BlobDescriptor, Priority};
use crate::task::AbortOnDrop;

/// How many blobs are held of each kind, because each in the folder is an open file.
const BLOBS_MAX: usize = 64;
/// How long a folder that failed is left alone.
const FOLDER_PAUSE: Duration = Duration::from_secs(60);

/// The whole blobs that are held or on their way, oldest first, with limits on their bytes.
#[derive(Debug)]
pub(super) struct Wholes {
    options: WholeOptions,
    folder_state: Arc<FolderState>,
    entries: Mutex<VecDeque<Entry>>,
}

/// When the folder failed last, so that the next blobs are not lost to it, too.
#[derive(Debug, Default)]
pub(super) struct FolderState {
    failed_at: Mutex<Option<Instant>>,
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
    pub(super) room: OnceLock<Room>,
    progress: watch::Sender<Progress>,
}

#[derive(Debug, Clone)]
pub(super) enum Progress {
    Received(u64),
    Done,
    Failed(FetchError),
}

impl Wholes {
    pub(super) fn new(options: WholeOptions) -> Self {
        let (folder_state, entries) = Default::default();
        Self { options, folder_state, entries }
    }

    /// Returns whether a blob is held or on its way.
    pub(super) fn contains(&self, blob: BlobId) -> bool {
        let entries = self.entries();
        entries.iter().any(|entry| entry.blob.id == blob && !entry.transfer.has_failed())
    }

    /// Lets go of a blob that is complete, because nobody needs it here any more.
    pub(super) fn release(&self, blob: BlobId) {
        self.entries().retain(|entry| entry.blob.id != blob || !entry.transfer.is_done());
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
        let folder = self.options.folder.as_ref().filter(|_| self.folder_state.works());
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
            folder_state: Arc::clone(&self.folder_state),
            is_room_lost: false,
            hasher: BlobHasher::new(),
            unwritten: BytesMut::new(),
            received: 0,
        };
        let task = AbortOnDrop::spawn(&exchange.options.runtime, filling.run(answer, permit));
        let entry = Entry { blob, is_in_memory, transfer: Arc::clone(&transfer), _task: task };
        entries.push_back(entry);
        Ok(transfer)
    }

    fn entries(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FolderState {
    fn works(&self) -> bool {
        let failed_at = *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner);
        failed_at.is_none_or(|at| at.elapsed() > FOLDER_PAUSE)
    }

    pub(super) fn note_failure(&self) {
        let mut failed_at = self.failed_at.lock().unwrap_or_else(PoisonError::into_inner);
        *failed_at = Some(Instant::now());
    }
}

/// Drops the oldest complete blobs of one kind until `len` more bytes fit; returns whether they do.
fn make_room(entries: &mut VecDeque<Entry>, is_in_memory: bool, len: u64, len_max: u64) -> bool {
    entries.retain(|entry| !entry.transfer.has_failed());
    let Some(room) = len_max.checked_sub(len) else { return false };
    let is_of_kind = |entry: &&Entry| entry.is_in_memory == is_in_memory;
    let mut held: u64 = entries.iter().filter(is_of_kind).map(|entry| entry.blob.len).sum();
    let mut count = entries.iter().filter(is_of_kind).count();
    while held > room || count >= BLOBS_MAX {
        let may_go = |entry: &Entry| is_of_kind(&entry) && entry.transfer.is_done();
        let Some(oldest) = entries.iter().position(may_go) else {
            return false;
        };
        held -= entries.remove(oldest).map_or(0, |entry| entry.blob.len);
        count -= 1;
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
            self.tell(Progress::Failed(error.clone()));
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

    /// Tells the readers how far the transfer is; what has failed stays failed.
    pub(super) fn tell(&self, progress: Progress) {
        self.progress.send_if_modified(|before| {
            let is_news = !matches!(before, Progress::Failed(_));
            if is_news {
                *before = progress;
            }
            is_news
        });
    }

    fn has_failed(&self) -> bool {
        matches!(*self.progress.borrow(), Progress::Failed(_))
    }

    fn is_done(&self) -> bool {
        matches!(*self.progress.borrow(), Progress::Done)
    }
}
