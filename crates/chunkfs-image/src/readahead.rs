//! Which chunks a sequential reader will want next.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use chunkfs_format::ChunkSize;
use chunkfs_index::{Inode, InodeIndex};

/// Files whose readers are remembered; the one that was read longest ago is forgotten first.
const FILES_MAX: usize = 64;
/// A reader is sequential once it has moved on this often without a gap. Programs that start read runs of
/// four to seven chunks of their libraries and stop: with four, a start of the large test image fetched
/// 0.1 % more of it in as many requests more as it saved.
const STREAK_MIN: u32 = 8;
/// The first window, in chunks.
const WINDOW_MIN: u64 = 8;
/// How many chunks a read may be early or late: kernels send the reads of one reader in parallel,
/// and they arrive in any order.
const REORDER_MAX: u64 = 4;

/// Notices sequential readers and says how far to read ahead of them.
///
/// Works on whole chunks: a reader that moves on to the next chunk for the eighth time in a row is
/// taken as sequential. The window doubles with each further move, from eight chunks to the limit,
/// and is filled up when half of it is used, so that a steady reader causes few and large requests.
/// A reader that jumps loses its window. A file has one reader: two that read different parts of
/// it at once look like one that jumps.
#[derive(Debug)]
pub(crate) struct Readahead {
    chunk_size: u64,
    window_max: u64,
    streak_min: u32,
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
    /// The first chunk of the file that is still missing from what was read without a gap.
    next: u64,
    /// The chunks from `next` on that were read early: bit 0 is `next`.
    early: u64,
    /// How often the reader moved on without a gap.
    streak: u32,
    /// The first chunk that was not yet asked for.
    ahead_end: u64,
}

impl Readahead {
    pub(crate) fn new(chunk_size: ChunkSize, len_max: u64) -> Self {
        let chunk_size = u64::from(chunk_size.bytes());
        let window_max = len_max / chunk_size;
        Self { chunk_size, window_max, streak_min: STREAK_MIN, readers: Mutex::default() }
    }

    /// Notes a read and returns the range of the file to load ahead, which may be empty.
    pub(crate) fn advance(&self, file: &Inode, range: Range<u64>) -> Range<u64> {
        if self.window_max == 0 || file.len <= self.chunk_size || range.is_empty() {
            return 0..0;
        }
        let (first, last) = (range.start / self.chunk_size, (range.end - 1) / self.chunk_size);
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let ahead = readers.reader(file.index, last);
        let ahead = ahead.advance(first, last, self.window_max, self.streak_min);
        let bytes = |chunk: u64| chunk.saturating_mul(self.chunk_size).min(file.len);
        bytes(ahead.start)..bytes(ahead.end)
    }
}

impl Readers {
    /// Returns the reader of a file, a new one behind the chunk `last` if there is none.
    fn reader(&mut self, file: InodeIndex, last: u64) -> &mut Reader {
        self.clock += 1;
        if self.by_file.len() >= FILES_MAX && !self.by_file.contains_key(&file) {
            let oldest = self.by_file.iter().min_by_key(|(_, reader)| reader.used_at);
            if let Some(oldest) = oldest.map(|(file, _)| *file) {
                self.by_file.remove(&oldest);
            }
        }
        let reader = self.by_file.entry(file).or_insert_with(|| Reader::after(last));
        reader.used_at = self.clock;
        reader
    }
}

impl Reader {
    /// Returns a reader of whom nothing is known but the last chunk that it read.
    fn after(last: u64) -> Self {
        Self { used_at: 0, next: last + 1, early: 0, streak: 0, ahead_end: last + 1 }
    }

    /// Notes that the chunks from `first` to `last` are read and returns those to load ahead.
    fn advance(&mut self, first: u64, last: u64, window_max: u64, streak_min: u32) -> Range<u64> {
        if first > self.next + REORDER_MAX || last + REORDER_MAX < self.next {
            *self = Self { used_at: self.used_at, ..Self::after(last) };
            return 0..0;
        }
        if last < self.next {
            // More of a chunk that was read before, or a late read of one that was passed over.
            return 0..0;
        }
        if first > self.next {
            let bits = (first - self.next..=last - self.next).take_while(|bit| *bit < 64);
            bits.for_each(|bit| self.early |= 1 << bit);
            return 0..0;
        }
        let read_count = last + 1 - self.next;
        self.early = u32::try_from(read_count)
            .ok()
            .map_or(0, |count| self.early.checked_shr(count).unwrap_or(0));
        let early_count = self.early.trailing_ones();
        self.early = self.early.checked_shr(early_count).unwrap_or(0);
        self.next = last + 1 + u64::from(early_count);
        self.streak = self.streak.saturating_add(1);
        if self.streak < streak_min {
            return 0..0;
        }
        let doublings = self.streak - streak_min;
        let window = WINDOW_MIN.checked_shl(doublings).filter(|_| doublings < 32);
        let window = window_max.min(window.unwrap_or(u64::MAX));
        let start = self.ahead_end.max(self.next);
        if start - self.next > window / 2 {
            return 0..0;
        }
        self.ahead_end = start.max(self.next.saturating_add(window));
        start..self.ahead_end
    }
}

#[cfg(test)]
mod tests;
