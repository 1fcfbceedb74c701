//! What to fetch along with a missing chunk.

use std::sync::{Mutex, PoisonError, Weak};

use chunkfs_cache::{ChunkFuture, ChunkRequest, Neighbours};
use chunkfs_index::{Chunk, ChunkIndex, Index};

use crate::image::{Background, chunk_request};

/// Packs that share an aligned window of this many stored bytes are fetched together.
const PACK_WINDOW_LEN: u64 = 256 << 10;
/// The most packs that are fetched along with one.
const PACK_COUNT_MAX: u32 = 64;
/// The most chunks of a large file that are fetched along with one.
const RUN_COUNT_MAX: u32 = 8;

/// Knows the chunks that were asked for so far, and guesses what comes next from them.
///
/// Every miss costs a round trip, every wrong guess its bytes. Two rules were chosen by replaying
/// a recorded start of a large image:
///
/// * Packs of one kind of small files lie next to each other in a blob. A missing pack brings those
///   in the same window of 256 KiB along: a quarter of the requests for the same bytes.
/// * Large files such as libraries are read in several runs at once, upwards and downwards. A
///   missing chunk that extends a run brings half as many along as the run is long, up to eight:
///   two thirds of the requests for 7 % more bytes.
///
/// Holds one bit for each chunk of the image.
#[derive(Debug)]
pub(crate) struct Neighbourhood {
    index: Index,
    requested: Mutex<Vec<u64>>,
    background: Weak<Background>,
}

impl Neighbourhood {
    pub(crate) fn new(index: Index, background: Weak<Background>) -> Self {
        let words = (index.chunk_count() as usize).div_ceil(64);
        Self { index, requested: Mutex::new(vec![0; words]), background }
    }

    /// The chunks of the window that a pack lies in, but for itself.
    fn pack_window(&self, number: u32, chunk: &Chunk) -> Vec<u32> {
        let window = |chunk: &Chunk| (chunk.location.blob, chunk.location.offset / PACK_WINDOW_LEN);
        let is_near = |number: &u32| {
            self.index
                .chunk(ChunkIndex::new(*number))
                .is_some_and(|other| window(&other) == window(chunk) && self.is_pack(&other))
        };
        let before = (number.saturating_sub(PACK_COUNT_MAX)..number).rev().take_while(is_near);
        let after = (number + 1..=number.saturating_add(PACK_COUNT_MAX)).take_while(is_near);
        before.chain(after).collect()
    }

    fn is_pack(&self, chunk: &Chunk) -> bool {
        chunk.uncompressed_len < self.index.chunk_size().bytes()
    }

    /// The chunks that follow a run of requested ones which this chunk extends.
    fn run(&self, requested: &[u64], number: u32, chunk: &Chunk) -> Vec<u32> {
        let is_same_blob = |number: &u32| {
            let other = self.index.chunk(ChunkIndex::new(*number));
            other.is_some_and(|other| other.location.blob == chunk.location.blob)
        };
        let is_run = |number: &u32| is_set(requested, *number) && is_same_blob(number);
        let reach = 2 * RUN_COUNT_MAX;
        let below = (number.saturating_sub(reach)..number).rev().take_while(is_run).count() as u32;
        let above = (number + 1..=number.saturating_add(reach)).take_while(is_run).count() as u32;
        let count = below.max(above) / 2;
        if below >= above {
            (number + 1..=number.saturating_add(count)).take_while(is_same_blob).collect()
        } else {
            (number.saturating_sub(count)..number).rev().take_while(is_same_blob).collect()
        }
    }
}

fn is_set(bits: &[u64], number: u32) -> bool {
    bits.get(number as usize / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
}

fn set(bits: &mut [u64], number: u32) {
    if let Some(word) = bits.get_mut(number as usize / 64) {
        *word |= 1 << (number % 64);
    }
}

impl Neighbours for Neighbourhood {
    fn of(&self, missed: &ChunkRequest) -> Vec<ChunkRequest> {
        let Some(chunk) = self.index.chunk(ChunkIndex::new(missed.number)) else {
            return Vec::new();
        };
        let mut requested = self.requested.lock().unwrap_or_else(PoisonError::into_inner);
        let mut numbers = if self.is_pack(&chunk) {
            self.pack_window(missed.number, &chunk)
        } else {
            self.run(&requested, missed.number, &chunk)
        };
        numbers.retain(|number| !is_set(&requested, *number));
        set(&mut requested, missed.number);
        numbers.iter().for_each(|number| set(&mut requested, *number));
        drop(requested);
        let request = |number| chunk_request(&self.index, ChunkIndex::new(number));
        numbers.into_iter().filter_map(request).collect()
    }

    fn hold(&self, loads: Vec<ChunkFuture>) {
        if let Some(background) = self.background.upgrade() {
            background.spawn(async move {
                for load in loads {
                    // Whether it succeeds is told to whoever reads it.
                    let _ = load.await;
                }
            });
        }
    }
}
