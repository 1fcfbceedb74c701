//! Keeping chunks in slabs and reading them again.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwapOption;

use super::generation::{Generation, Writer};
use super::record::{FREQUENCY_MAX, PAGE_LEN, Record, State, slot_len};
use crate::files::{CacheFile, Files};
use crate::key::StoreKey;

/// How a store keeps within its bounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoreSettings {
    /// The most bytes of disk; without it only the reserve bounds the store.
    pub(crate) quota_len: Option<u64>,
    /// The bytes of disk that are left to others.
    pub(crate) reserve_len: u64,
}

/// Uses that are noted before they are written to the directory.
const TOUCHES_MAX: usize = 64;
/// A use so soon after a chunk came, counted in chunks that came since, belongs to the first one.
const CORRELATED_COUNT: u64 = 32;

/// The disk tier: what the processes that share a folder do through it.
#[derive(Debug)]
pub(crate) struct SlabStore {
    pub(crate) files: Arc<dyn Files>,
    pub(crate) settings: StoreSettings,
    current: ArcSwapOption<Generation>,
    /// Counts the generations of this process, so that places in an older one are told apart.
    pub(super) epoch: AtomicU32,
    touches: Mutex<Vec<(StoreKey, u64)>>,
    pub(super) refused_at: Mutex<Option<Instant>>,
}

/// Where a chunk lies; it stays right until chunks are evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) page: u64,
    pub(crate) len: u32,
    /// How often chunks had been evicted when the place was known to be right.
    pub(crate) evictions: u64,
    pub(crate) epoch: u32,
    /// Whether this process wrote it, or knows its digest to be right.
    pub(crate) is_verified: bool,
    /// Whether it was written since the system started: nothing written is lost until the next boot.
    pub(crate) is_of_this_boot: bool,
}

/// What became of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The buffer is filled from the place, which is still right.
    Done,
    /// The bytes are not in the page cache.
    WouldBlock,
    /// The chunk is not there any more, or is cut short.
    Gone,
}

impl SlabStore {
    pub(crate) fn new(files: Arc<dyn Files>, settings: StoreSettings) -> Self {
        Self {
            files,
            settings,
            current: ArcSwapOption::empty(),
            epoch: AtomicU32::new(0),
            touches: Mutex::default(),
            refused_at: Mutex::default(),
        }
    }

    /// The boot as records have it.
    pub(super) fn boot(&self) -> u32 {
        self.files.boot() as u32
    }

    /// Opens the folder unless it is open.
    pub(crate) fn open(&self) -> io::Result<Arc<Generation>> {
        if let Some(generation) = self.current.load_full() {
            return Ok(generation);
        }
        let generation = Arc::new(Generation::open(&self.files)?);
        self.epoch.fetch_add(1, Ordering::AcqRel);
        self.current.store(Some(Arc::clone(&generation)));
        Ok(generation)
    }

    /// The open generation and its number in this process, or none if the folder cannot be used.
    fn generation(&self) -> Option<(Arc<Generation>, u32)> {
        let epoch = self.epoch.load(Ordering::Acquire);
        self.current.load_full().map(|generation| (generation, epoch))
    }

    /// Leaves the generation if its files are gone from the folder, so that a new one is opened.
    pub(super) fn leave_if_gone(&self, generation: &Generation) -> io::Result<bool> {
        let is_gone = !generation.directory.file().is_linked()?;
        if is_gone {
            self.current.store(None);
        }
        Ok(is_gone)
    }

    /// Returns whether the open folder can be written.
    pub(crate) fn is_writable(&self) -> bool {
        self.generation().is_some_and(|(generation, _)| generation.is_writable())
    }

    /// Finds a chunk of a length. Reads the directory; takes no lock.
    pub(crate) fn find(&self, key: &StoreKey, len: u32) -> io::Result<Option<Place>> {
        let Some((generation, epoch)) = self.generation() else { return Ok(None) };
        // In this order: what is evicted after the first read is noticed by whoever compares.
        let evictions = generation.directory.evictions()?;
        let found = generation.directory.find(key)?;
        let ready =
            found.filter(|found| found.record.state == State::Ready && found.record.len == len);
        Ok(ready.map(|found| self.place(&found.record, evictions, epoch)))
    }

    pub(super) fn place(&self, record: &Record, evictions: u64, epoch: u32) -> Place {
        Place {
            page: record.page,
            len: record.len,
            evictions,
            epoch,
            is_verified: false,
            is_of_this_boot: self.boot() != 0 && record.boot == self.boot(),
        }
    }

    /// Notes that a chunk was used again. Does not wait.
    pub(crate) fn touch(&self, key: &StoreKey, place: &Place) {
        let mut touches = self.touches.lock().unwrap_or_else(PoisonError::into_inner);
        touches.push((*key, place.page));
        if !touches.len().is_multiple_of(TOUCHES_MAX) {
            return;
        }
        let is_full = touches.len() >= 16 * TOUCHES_MAX;
        drop(touches);
        // A use that cannot be noted is one that is not known.
        let noted = self.generation().map(|(generation, _)| {
            let writer = generation.try_lock()?;
            writer.map(|writer| self.note_touches(&writer)).transpose()
        });
        if is_full && !matches!(noted, Some(Ok(Some(())))) {
            self.touches.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    /// Writes the noted uses to the directory.
    pub(super) fn note_touches(&self, writer: &Writer<'_>) -> io::Result<()> {
        let mut touches = self.touches.lock().unwrap_or_else(PoisonError::into_inner);
        let touches = std::mem::take(&mut *touches);
        let directory = &writer.generation.directory;
        let sequence = directory.words()?.sequence;
        for (key, page) in touches {
            if let Some(found) = directory.find(&key)?
                && found.record.is_ready_at(page)
                && found.record.frequency < FREQUENCY_MAX
                && found.record.sequence.saturating_add(CORRELATED_COUNT) < sequence
            {
                let frequency = found.record.frequency + 1;
                directory.put(found.offset, Some(&Record { frequency, ..found.record }))?;
            }
        }
        Ok(())
    }

    /// Reads bytes of a chunk, of those in the page cache only or of all, and makes sure that the
    /// place was still right after they were read. Updates the place's count of evictions.
    pub(crate) fn read(
        &self,
        key: &StoreKey,
        place: &mut Place,
        offset: u64,
        buffer: &mut [u8],
        is_cached_only: bool,
    ) -> io::Result<Outcome> {
        let Some((generation, epoch)) = self.generation() else { return Ok(Outcome::Gone) };
        let end = offset.checked_add(buffer.len() as u64);
        if epoch != place.epoch || end.is_none_or(|end| end > place.len.into()) {
            return Ok(Outcome::Gone);
        }
        let (slab, start) = generation.slab(place.page)?;
        let len = if is_cached_only {
            slab.read_cached_at(buffer, start + offset)?
        } else {
            slab.read_at(buffer, start + offset)?
        };
        if len < buffer.len() {
            return Ok(if is_cached_only { Outcome::WouldBlock } else { Outcome::Gone });
        }
        let evictions = generation.directory.evictions()?;
        if evictions != place.evictions {
            let found = generation.directory.find(key)?;
            if !found.is_some_and(|found| found.record.is_ready_at(place.page)) {
                return Ok(Outcome::Gone);
            }
            place.evictions = evictions;
            self.touch(key, place);
        }
        Ok(Outcome::Done)
    }

    /// Lets go of the slab's pages of a range, which another page cache now holds.
    pub(crate) fn drop_pages(&self, place: &Place, offset: u64, len: u64) {
        if let Some((generation, epoch)) = self.generation()
            && epoch == place.epoch
            && let Ok((slab, start)) = generation.slab(place.page)
        {
            // The kernel keeps pages that are in the range in part, with all that lie in one folio
            // with them: the padding after the chunk goes too.
            let end = offset + len;
            let end = if end == u64::from(place.len) { slot_len(place.len) } else { end };
            slab.drop_pages(start + offset, end - offset);
        }
    }

    /// Returns the slab that holds a chunk, and the chunk's offset in it.
    pub(crate) fn resolve(&self, place: &Place) -> io::Result<Option<(OwnedFd, u64)>> {
        let Some((generation, epoch)) = self.generation() else { return Ok(None) };
        if epoch != place.epoch {
            return Ok(None);
        }
        let (slab, offset) = generation.slab(place.page)?;
        let fd = slab.as_fd().map(|fd| fd.try_clone_to_owned()).transpose()?;
        Ok(fd.map(|fd| (fd, offset)))
    }

    /// The file that holds a chunk's tree, and the tree's offset in it.
    pub(crate) fn trees(&self, place: &Place) -> io::Result<Option<(Arc<dyn CacheFile>, u64)>> {
        let Some((generation, epoch)) = self.generation() else { return Ok(None) };
        if epoch != place.epoch {
            return Ok(None);
        }
        let (trees, offset) = generation.trees(place.page)?;
        Ok(Some((Arc::clone(trees), offset)))
    }

    /// Returns whether the writer of a pending slot is gone.
    pub(super) fn is_dead(&self, writer: &Writer<'_>, page: u64) -> io::Result<bool> {
        if writer.state.pending.contains(&page) {
            return Ok(false);
        }
        let (slab, start) = writer.generation.slab(page)?;
        let is_dead = slab.try_lock(start)?;
        if is_dead {
            slab.unlock(start)?;
        }
        Ok(is_dead)
    }

    /// Frees records and gives the space of their slots back, in an order that readers notice.
    pub(super) fn forget(&self, writer: &Writer<'_>, slots: &[(u64, u64, u32)]) -> io::Result<()> {
        let directory = &writer.generation.directory;
        for (offset, _, _) in slots {
            directory.put(*offset, None)?;
        }
        let mut words = directory.words()?;
        words.evictions += 1;
        let len: u64 = slots.iter().map(|(_, _, len)| slot_len(*len)).sum();
        words.used_len = words.used_len.saturating_sub(len);
        directory.set_words(&words)?;
        for (_, page, len) in slots {
            writer.punch(*page, slot_len(*len))?;
        }
        Ok(())
    }

    /// Forgets a chunk if it is still at this place, and returns whether it was.
    pub(crate) fn remove(&self, key: &StoreKey, place: &Place) -> io::Result<bool> {
        let Some((generation, epoch)) = self.generation() else { return Ok(false) };
        if epoch != place.epoch {
            return Ok(false);
        }
        let found = generation.directory.find(key)?;
        if !found.is_some_and(|found| found.record.is_ready_at(place.page)) {
            return Ok(false);
        }
        let writer = generation.lock()?;
        match generation.directory.find(key)? {
            Some(found) if found.record.is_ready_at(place.page) => {
                self.forget(&writer, &[(found.offset, found.record.page, found.record.len)])?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// How many bytes are too many, with a further slot.
    pub(super) fn excess(&self, writer: &Writer<'_>, len: u64) -> io::Result<u64> {
        let free_len = self.files.free_len()?;
        let wanted_len = self.settings.reserve_len.saturating_add(len);
        let over_reserve = wanted_len.saturating_sub(free_len);
        let Some(quota) = self.settings.quota_len else { return Ok(over_reserve) };
        let generation = writer.generation;
        // Slots that are still being filled are used, but not all allocated yet.
        let slots_len =
            generation.directory.words()?.used_len.max(generation.slabs_allocated_len()?);
        // A record may need a page, and a tree part of one.
        let used_len = slots_len + generation.beside_allocated_len()? + PAGE_LEN;
        Ok(over_reserve.max(used_len.saturating_add(len).saturating_sub(quota)))
    }
}

const _: () = assert!(PAGE_LEN == 4096, "docs/format.md, section 12");

#[cfg(test)]
mod tests;
