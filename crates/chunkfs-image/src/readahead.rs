//! Which chunks a sequential reader will want next.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use chunkfs_format::ChunkSize;
use chunkfs_index::{Inode, InodeIndex};

/// Files whose readers are remembered; the one that was read longest ago is forgotten first.
const FILES_MAX: usize = 64;
/// A reader is sequential from this many neighbouring chunks on.
const STREAK_MIN: u32 = 2;

/// Notices sequential readers and says how far to read ahead of them.
///
/// Works on whole chunks: a reader that moves on to the next chunk for the second time in a row is
/// taken as sequential. The window doubles with each further chunk, from two chunks to the limit.
/// A reader that jumps loses its window.
#[derive(Debug)]
pub(crate) struct Readahead {
    chunk_size: u64,
    window_max: u64,
    readers: Mutex<Readers>,
}

#[derive(Debug, Default)]
struct Readers {
    clock: u64,
    by_file: HashMap<InodeIndex, Reader>,
}

#[derive(Debug, Clone, Copy)]
struct Reader {
    used_at: u64,
    /// The chunk of the file that was read last.
    last: u64,
    /// How many neighbouring chunks were read in a row.
    streak: u32,
    /// The first chunk that was not yet asked for.
    ahead_end: u64,
}

impl Readahead {
    pub(crate) fn new(chunk_size: ChunkSize, len_max: u64) -> Self {
        let chunk_size = u64::from(chunk_size.bytes());
        Self { chunk_size, window_max: len_max / chunk_size, readers: Mutex::default() }
    }

    /// Notes a read and returns the range of the file to load ahead, which may be empty.
    pub(crate) fn advance(&self, file: &Inode, range: Range<u64>) -> Range<u64> {
        if self.window_max == 0 || file.len <= self.chunk_size || range.is_empty() {
            return 0..0;
        }
        let (first, last) = (range.start / self.chunk_size, (range.end - 1) / self.chunk_size);
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers.clock += 1;
        let now = readers.clock;
        let Some(reader) = readers.by_file.get_mut(&file.index) else {
            readers
                .insert(file.index, Reader { used_at: now, last, streak: 0, ahead_end: last + 1 });
            return 0..0;
        };
        reader.used_at = now;
        // The kernel sends the reads of one reader in parallel: a step back of one is no jump.
        if first > reader.last + 1 || last + 1 < reader.last {
            *reader = Reader { used_at: now, last, streak: 0, ahead_end: last + 1 };
            return 0..0;
        }
        if last <= reader.last {
            return 0..0;
        }
        reader.streak = reader.streak.saturating_add(1);
        reader.last = last;
        if reader.streak < STREAK_MIN {
            return 0..0;
        }
        let window = self.window_max.min(1u64.checked_shl(reader.streak - 1).unwrap_or(u64::MAX));
        let start = reader.ahead_end.max(last + 1);
        let end = (last + 1).saturating_add(window).max(start);
        reader.ahead_end = end;
        let bytes = |chunk: u64| chunk.saturating_mul(self.chunk_size).min(file.len);
        bytes(start)..bytes(end)
    }
}

impl Readers {
    fn insert(&mut self, file: InodeIndex, reader: Reader) {
        if self.by_file.len() >= FILES_MAX {
            let oldest = self.by_file.iter().min_by_key(|(_, reader)| reader.used_at);
            if let Some(oldest) = oldest.map(|(file, _)| *file) {
                self.by_file.remove(&oldest);
            }
        }
        self.by_file.insert(file, reader);
    }
}
