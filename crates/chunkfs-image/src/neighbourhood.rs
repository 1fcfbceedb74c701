//! What to fetch along with a missing chunk.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use chunkfs_cache::{ChunkFuture, ChunkRequest, Loader, Neighbours};
use chunkfs_format::BlobId;
use chunkfs_index::{ChunkIndex, Index};

use crate::image::{Background, chunk_request};
use crate::order::ChunkOrder;
use crate::prefetch::fill;

/// How many chunks away earlier misses count, and guesses reach.
const REACH: u32 = 8;
/// The stored bytes that are worth a request, after one miss next to them.
const GUESS_LEN: u64 = 400_000;
/// The most stored bytes that are guessed from misses near by.
const GUESS_LEN_MAX: u64 = 2 << 20;
/// The most stored bytes of a run, and so of what it brings along.
const RUN_LEN_MAX: u64 = 8 << 20;
/// The weight of a missed chunk. One that was only fetched along has half of it.
const MISS_WEIGHT: u64 = 1 << 16;

/// Knows the chunks that were asked for so far, and guesses what comes next from them.
///
/// Every miss costs a round trip, every wrong guess its bytes. What is near in the chunk table is
/// near in a file, or of one kind in neighbouring packs, and is often wanted as well. From a
/// missing chunk, guesses go up and down the table, chunk by chunk, until one was asked for already,
/// belongs to another file, or costs too much:
///
/// * **Misses near by.** Up to [`GUESS_LEN`] times the cube root of the sum of `1 / d^2` over all
///   misses at most [`REACH`] chunks from the guessed one, `d` being their distance; chunks that were
///   only fetched along count half. What compresses well, such as relocations and symbols, comes
///   in large pieces, code in small ones, and nothing where nothing else was wanted.
/// * **Runs.** A chunk next to a run of chunks that were asked for brings three quarters of the
///   run's stored bytes along, so that what is read from one end to the other takes few requests.
///
/// The rules and their constants were chosen by replaying recorded starts over real images; see
/// `docs/benchmarks.md`. Holds two bits for each chunk, and two numbers from the first miss on.
#[derive(Debug)]
pub(crate) struct Neighbourhood {
    index: Index,
    order: OnceLock<ChunkOrder>,
    asked: Mutex<Asked>,
    /// Whether anything is guessed.
    guesses: bool,
    /// The blobs of which everything is going to be kept.
    wholes: Arc<Mutex<WholeQueue>>,
    background: Weak<Background>,
}

/// What was asked for so far.
#[derive(Debug)]
struct Asked {
    /// The chunks that a reader missed.
    missed: Bits,
    /// These, and those that were fetched along.
    requested: Bits,
}

#[derive(Debug)]
struct Bits(Vec<u64>);

/// Blobs that came whole.
#[derive(Debug, Default)]
struct WholeQueue {
    blobs: VecDeque<BlobId>,
    /// The one that is being kept; `None` while nobody works.
    current: Option<BlobId>,
}

impl WholeQueue {
    /// Adds a blob unless it is there. Returns whether somebody has to begin to work.
    fn push(&mut self, blob: BlobId) -> bool {
        if self.current == Some(blob) || self.blobs.contains(&blob) {
            return false;
        }
        self.blobs.push_back(blob);
        if self.current.is_some() {
            return false;
        }
        self.current = Some(blob);
        true
    }

    /// Takes the next blob; with the last one the work ends.
    fn next(queue: &Mutex<Self>) -> Option<BlobId> {
        let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.current = queue.blobs.pop_front();
        queue.current
    }
}

/// A direction in the chunk table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

impl Neighbourhood {
    pub(crate) fn new(index: Index, guesses: bool, background: Weak<Background>) -> Self {
        let count = index.chunk_count();
        let asked = Asked { missed: Bits::new(count), requested: Bits::new(count) };
        let (asked, wholes) = (Mutex::new(asked), Arc::default());
        Self { index, order: OnceLock::new(), asked, guesses, wholes, background }
    }
}

/// The chunk table and what was asked of it, while it is locked.
struct Guess<'a> {
    order: &'a ChunkOrder,
    asked: &'a Asked,
    missed: u32,
}

impl Guess<'_> {
    /// The chunks to fetch, the missing one among them.
    fn chunks(&self) -> RangeInclusive<u32> {
        let up = self.near(Direction::Up);
        let down = self.near(Direction::Down);
        let (run_up, run_down) = (self.run_len(Direction::Up), self.run_len(Direction::Down));
        // The run goes on on its other side.
        if run_down >= run_up {
            down..=self.extend(up, Direction::Up, run_down / 4 * 3)
        } else {
            self.extend(down, Direction::Down, run_up / 4 * 3)..=up
        }
    }

    /// The last chunk in a direction that misses near by make worth guessing.
    fn near(&self, direction: Direction) -> u32 {
        let mut last = self.missed;
        let mut len = 0;
        for _ in 0..REACH {
            let Some(next) = self.next(last, direction) else { break };
            len += self.order.stored_len(next);
            // The cube of `len <= GUESS_LEN * cbrt(score / MISS_WEIGHT)`.
            let bound = u128::from(GUESS_LEN).pow(3) * u128::from(self.score(next));
            if len > GUESS_LEN_MAX || u128::from(len).pow(3) * u128::from(MISS_WEIGHT) > bound {
                break;
            }
            last = next;
        }
        last
    }

    /// The sum of `weight / d^2` over the requested chunks near a chunk, in its file.
    fn score(&self, chunk: u32) -> u64 {
        let score = |other: u32| {
            let weight = if other == self.missed || self.asked.missed.get(other) {
                MISS_WEIGHT
            } else if self.asked.requested.get(other) {
                MISS_WEIGHT / 2
            } else {
                return 0;
            };
            let distance = u64::from(other.abs_diff(chunk));
            let is_near = self.order.are_together(other, chunk);
            if is_near { weight / (distance * distance).max(1) } else { 0 }
        };
        (chunk.saturating_sub(REACH)..=chunk.saturating_add(REACH)).map(score).sum()
    }

    /// The stored length of the run of requested chunks next to the missing one, up to a bound.
    fn run_len(&self, direction: Direction) -> u64 {
        let (mut chunk, mut len) = (self.missed, 0);
        while len < RUN_LEN_MAX {
            match self.step(chunk, direction).filter(|next| self.asked.requested.get(*next)) {
                Some(next) => (chunk, len) = (next, len + self.order.stored_len(next)),
                None => break,
            }
        }
        len.min(RUN_LEN_MAX)
    }

    /// Goes on from `last` until the chunks behind the missing one have `len_max` stored bytes.
    fn extend(&self, mut last: u32, direction: Direction, len_max: u64) -> u32 {
        let guessed = match direction {
            Direction::Up => self.missed + 1..last + 1,
            Direction::Down => last..self.missed,
        };
        let mut len: u64 = guessed.map(|chunk| self.order.stored_len(chunk)).sum();
        while let Some(next) = self.next(last, direction) {
            len += self.order.stored_len(next);
            if len > len_max {
                break;
            }
            last = next;
        }
        last
    }

    /// The next chunk of the same file, unless it was requested before.
    fn next(&self, chunk: u32, direction: Direction) -> Option<u32> {
        self.step(chunk, direction).filter(|next| !self.asked.requested.get(*next))
    }

    fn step(&self, chunk: u32, direction: Direction) -> Option<u32> {
        let next = match direction {
            Direction::Up => chunk.checked_add(1)?,
            Direction::Down => chunk.checked_sub(1)?,
        };
        self.order.are_together(chunk, next).then_some(next)
    }
}

impl Bits {
    fn new(count: u32) -> Self {
        Self(vec![0; (count as usize).div_ceil(64)])
    }

    fn get(&self, number: u32) -> bool {
        self.0.get(number as usize / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    fn set(&mut self, number: u32) {
        if let Some(word) = self.0.get_mut(number as usize / 64) {
            *word |= 1 << (number % 64);
        }
    }
}

impl Neighbours for Neighbourhood {
    fn of(&self, missed: &ChunkRequest) -> Vec<ChunkRequest> {
        if !self.guesses {
            return Vec::new();
        }
        let order = self.order.get_or_init(|| ChunkOrder::new(&self.index));
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let chunks = Guess { order, asked: &asked, missed: missed.number }.chunks();
        asked.missed.set(missed.number);
        chunks.clone().for_each(|number| asked.requested.set(number));
        drop(asked);
        let request = |number| chunk_request(&self.index, ChunkIndex::new(number));
        chunks.filter(|number| *number != missed.number).filter_map(request).collect()
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

    /// Keeps every chunk of the blob, so that the transfer is not needed a second time: one blob after
    /// the other, because readers go first.
    fn whole_arrives(&self, blob: BlobId, loader: Loader) {
        let is_first = self.wholes.lock().unwrap_or_else(PoisonError::into_inner).push(blob);
        let Some(background) = self.background.upgrade().filter(|_| is_first) else { return };
        let (index, wholes) = (self.index.clone(), Arc::clone(&self.wholes));
        background.spawn(async move {
            while let Some(blob) = WholeQueue::next(&wholes) {
                let numbers = (0..index.chunk_count()).map(ChunkIndex::new);
                let requests = numbers.filter_map(|number| chunk_request(&index, number));
                let chunks = requests.filter(|chunk| chunk.blob.id == blob).collect();
                fill(&loader, blob, chunks).await;
            }
        });
    }
}
