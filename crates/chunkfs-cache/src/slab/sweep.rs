//! Evicting by S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023).
//!
//! New chunks enter a small queue, a tenth of the cache. What was not used again when its turn comes
//! is evicted and remembered as a ghost; what was used moves to the main queue, where each use buys
//! another round. What comes back while it is a ghost enters the main queue at once. One scan over a
//! large image thus flushes the small queue and leaves the main one alone.

use std::collections::{HashSet, VecDeque};
use std::io;

use super::generation::{SLAB_PAGES, Writer};
use super::record::{PAGE_LEN, Queue, Record, State, slot_len};
use super::store::{Outcome, SlabStore};
use crate::key::StoreKey;

/// The small queue's share of all bytes: one part in this many.
const SMALL_SHARE: u64 = 10;
/// Fewer ghosts than this are always kept.
const GHOSTS_MIN: usize = 64;
/// Space that no record accounts for is looked for when it is more than one part in this many of what
/// records account for. File systems themselves take less for a file's map.
const LOST_SHARE: u64 = 16;
/// Trees share pages, which are given back only when a longer run of slots is gone: that is looked for
/// when trees take more than one part in this many. All trees there can be take one in 128.
const TREES_SHARE: u64 = 48;

/// A chunk in the cache, as small as a sweep over a million of them wants it.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    offset: u64,
    page: u64,
    sequence: u64,
    len: u32,
    frequency: u8,
    is_pinned: bool,
}

/// No chunk is longer.
const CHUNK_LEN_MAX: u32 = 16 << 20;

/// What a sweep found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Swept {
    /// Chunks that were evicted.
    pub(crate) evicted_count: u64,
    /// Bytes given back of them and of what nobody accounted for.
    pub(crate) freed_len: u64,
}

impl SlabStore {
    /// Evicts chunks until `wanted_len` bytes are free that were not, or nothing more may go.
    ///
    /// Cleans up after dead writers besides. Reads all records: some 100 ms for a million.
    pub(super) fn sweep(&self, writer: &mut Writer<'_>, wanted_len: u64) -> io::Result<Swept> {
        self.note_touches(writer)?;
        let pinned = self.pinned_keys()?;
        let directory = &writer.generation.directory;
        let (mut small, mut main) = (Vec::new(), Vec::new());
        let (mut ghosts, mut pending) = (Vec::new(), Vec::new());
        directory.scan(|found| {
            let Record { page, len, sequence, frequency, .. } = found.record;
            let is_main = found.record.queue == Queue::Main;
            let is_pinned = pinned.contains(&found.record.key);
            let offset = found.offset;
            let candidate = Candidate { offset, page, sequence, len, frequency, is_pinned };
            match found.record.state {
                State::Ready if is_main => main.push(candidate),
                State::Ready => small.push(candidate),
                State::Ghost => ghosts.push(candidate),
                State::Pending => pending.push(candidate),
            }
        })?;
        let mut gone = Vec::new();
        for slot in pending {
            match self.is_dead(writer, slot.page)? {
                true => gone.push(slot),
                // Its writer counts on it.
                false => small.push(Candidate { is_pinned: true, ..slot }),
            }
        }
        let mut swept = Swept::default();
        swept.freed_len += gone.iter().map(|candidate| slot_len(candidate.len)).sum::<u64>();
        small.sort_unstable_by_key(|candidate| candidate.sequence);
        main.sort_unstable_by_key(|candidate| candidate.sequence);
        let mut queues = Queues::new(small, main, directory.words()?.sequence);
        let victims = queues.evict(wanted_len.saturating_sub(swept.freed_len));
        swept.evicted_count = victims.len() as u64;
        swept.freed_len += victims.iter().map(|victim| slot_len(victim.len)).sum::<u64>();
        self.apply(writer, queues, &victims, &gone, ghosts, &mut swept)?;
        Ok(swept)
    }

    /// Brings the folder within its bounds and cleans up; returns how many registrations went, too.
    pub(crate) fn gc(&self) -> io::Result<(Swept, u64)> {
        let generation = self.open()?;
        let mut writer = generation.lock()?;
        let excess = self.excess(&writer, 0)?;
        let swept = self.sweep(&mut writer, excess)?;
        drop(writer);
        Ok((swept, self.forget_empty_images()?))
    }

    /// Reads every chunk; those that are cut short are `None`. What `visit` says `false` of is removed.
    pub(crate) fn visit(
        &self,
        mut visit: impl FnMut(&StoreKey, Option<&[u8]>) -> bool,
    ) -> io::Result<()> {
        let generation = self.open()?;
        let mut records = Vec::new();
        generation.directory.scan(|found| {
            if found.record.state == State::Ready {
                records.push(found.record);
            }
        })?;
        records.sort_unstable_by_key(|record| record.page);
        let mut bytes = Vec::new();
        for record in records {
            let Some(mut place) = self.find(&record.key, record.len)? else { continue };
            if place.len > CHUNK_LEN_MAX {
                self.remove(&record.key, &place)?;
                continue;
            }
            bytes.resize(place.len as usize, 0);
            let is_whole = match self.read(&record.key, &mut place, 0, &mut bytes, false)? {
                Outcome::Done => true,
                // Evicted meanwhile, or cut short.
                _ => match self.find(&record.key, record.len)? {
                    Some(now) if now.page == place.page => false,
                    _ => continue,
                },
            };
            if !visit(&record.key, is_whole.then_some(&bytes)) {
                self.remove(&record.key, &place)?;
            }
        }
        Ok(())
    }

    /// Writes what was decided: records first, then the count of evictions, then the space.
    fn apply(
        &self,
        writer: &mut Writer<'_>,
        queues: Queues,
        victims: &[Candidate],
        gone: &[Candidate],
        mut ghosts: Vec<Candidate>,
        swept: &mut Swept,
    ) -> io::Result<()> {
        let directory = &writer.generation.directory;
        let kept: Vec<_> = queues.small.iter().chain(&queues.main).copied().collect();
        for moved in &queues.moved {
            if let Some(record) = directory.read(moved.offset)? {
                let Candidate { sequence, frequency, .. } = *moved;
                let record = Record { queue: Queue::Main, sequence, frequency, ..record };
                directory.put(moved.offset, Some(&record))?;
            }
        }
        let mut words = directory.words()?;
        words.sequence = queues.sequence;
        for victim in victims {
            let Some(record) = directory.read(victim.offset)? else { continue };
            let ghost = Record { state: State::Ghost, sequence: words.sequence, ..record };
            words.sequence += 1;
            directory.put(victim.offset, Some(&ghost))?;
            ghosts.push(Candidate { sequence: ghost.sequence, ..*victim });
        }
        for gone in gone {
            directory.put(gone.offset, None)?;
        }
        ghosts.sort_unstable_by_key(|ghost| ghost.sequence);
        let forgotten_count = ghosts.len().saturating_sub(kept.len().max(GHOSTS_MIN));
        for ghost in ghosts.iter().take(forgotten_count) {
            directory.put(ghost.offset, None)?;
        }
        words.used_len = kept.iter().map(|candidate| slot_len(candidate.len)).sum();
        words.evictions += 1;
        directory.set_words(&words)?;
        let mut free: Vec<_> =
            victims.iter().chain(gone).map(|slot| (slot.page, slot_len(slot.len))).collect();
        free.sort_unstable();
        for (page, len) in merged(&free) {
            writer.punch(page, len)?;
        }
        swept.freed_len += self.punch_lost(writer, &kept, words.used_len)?;
        let used: HashSet<_> = kept.iter().map(|kept| (kept.page / SLAB_PAGES) as usize).collect();
        writer.remove_slabs(words.end_page, |slab| used.contains(&slab))
    }

    /// Gives back the space that no record accounts for, if there is much: a writer died between two
    /// steps, records were damaged, or trees shared their pages with others. The count of evictions has been raised before.
    fn punch_lost(
        &self,
        writer: &Writer<'_>,
        kept: &[Candidate],
        used_len: u64,
    ) -> io::Result<u64> {
        let allocated_len = writer.generation.slabs_allocated_len()?;
        let lost_len = allocated_len.saturating_sub(used_len);
        let trees_len = writer.generation.trees_allocated_len()?;
        if lost_len <= used_len / LOST_SHARE && trees_len <= used_len / TREES_SHARE {
            return Ok(0);
        }
        let mut slots: Vec<_> = kept.iter().map(|kept| (kept.page, slot_len(kept.len))).collect();
        slots.sort_unstable();
        for (start, end) in writer.address_ranges()? {
            let mut page = start;
            let inside = slots.iter().filter(|(slot, _)| (start..end).contains(slot));
            for (slot, len) in inside.copied().chain([(end, 0)]) {
                if slot > page {
                    writer.punch(page, (slot - page) * PAGE_LEN)?;
                }
                page = page.max(slot + len / PAGE_LEN);
            }
        }
        Ok(allocated_len.saturating_sub(writer.generation.slabs_allocated_len()?))
    }
}

/// The two queues while chunks are chosen, oldest first.
#[derive(Debug)]
struct Queues {
    small: VecDeque<Candidate>,
    main: VecDeque<Candidate>,
    small_len: u64,
    main_len: u64,
    /// The place of what goes to the end of the main queue.
    sequence: u64,
    /// What moved there.
    moved: Vec<Candidate>,
}

impl Queues {
    fn new(small: Vec<Candidate>, main: Vec<Candidate>, sequence: u64) -> Self {
        let len = |queue: &[Candidate]| queue.iter().map(|item| slot_len(item.len)).sum();
        let (small_len, main_len) = (len(&small), len(&main));
        let (small, main) = (small.into(), main.into());
        Self { small, main, small_len, main_len, sequence, moved: Vec::new() }
    }

    /// Takes chunks out of the queues until they have `wanted_len` bytes, pinned ones never.
    fn evict(&mut self, wanted_len: u64) -> Vec<Candidate> {
        let mut victims = Vec::new();
        let mut victims_len = 0;
        let first_moved = self.sequence;
        // Each turn evicts, lowers a frequency, moves to the main queue for good, or passes over a
        // pinned chunk for good.
        let mut pinned = (VecDeque::new(), VecDeque::new());
        while victims_len < wanted_len {
            let is_small_large = self.small_len * SMALL_SHARE > self.small_len + self.main_len;
            let is_small = !self.small.is_empty() && (is_small_large || self.main.is_empty());
            let (queue, queue_len, pinned) = match is_small {
                true => (&mut self.small, &mut self.small_len, &mut pinned.0),
                false => (&mut self.main, &mut self.main_len, &mut pinned.1),
            };
            let Some(mut candidate) = queue.pop_front() else { break };
            let len = slot_len(candidate.len);
            *queue_len -= len;
            if candidate.is_pinned {
                pinned.push_back(candidate);
            } else if candidate.frequency == 0 {
                victims_len += len;
                victims.push(candidate);
            } else {
                // A chunk comes to the main queue with nothing, and loses one use with each round.
                candidate.frequency = if is_small { 0 } else { candidate.frequency - 1 };
                candidate.sequence = self.sequence;
                self.sequence += 1;
                self.main_len += len;
                self.main.push_back(candidate);
            }
        }
        let moved = self.main.iter().filter(|candidate| candidate.sequence >= first_moved);
        self.moved = moved.copied().collect();
        self.small.extend(pinned.0);
        self.main.extend(pinned.1);
        victims
    }
}

fn merged(slots: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for (page, len) in slots {
        match ranges.last_mut() {
            Some((start, range_len))
                if *start + *range_len / PAGE_LEN == *page
                    && *start / SLAB_PAGES == *page / SLAB_PAGES =>
            {
                *range_len += len;
            }
            _ => ranges.push((*page, *len)),
        }
    }
    ranges
}
