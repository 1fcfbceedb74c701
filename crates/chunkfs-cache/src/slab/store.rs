//! Keeping chunks in slabs and reading them again.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use super::generation::{Generation, Writer};
use super::record::{FREQUENCY_MAX, PAGE_LEN, Queue, Record, State, slot_len};
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
/// How long nothing is evicted after nothing could be.
const REFUSAL_PAUSE: Duration = Duration::from_secs(1);

/// The disk tier: what the processes that share a folder do through it.
#[derive(Debug)]
pub(crate) struct SlabStore {
    pub(crate) files: Arc<dyn Files>,
    pub(crate) settings: StoreSettings,
    current: ArcSwapOption<Generation>,
    /// Counts the generations of this process, so that places in an older one are told apart.
    epoch: AtomicU32,
    touches: Mutex<Vec<(StoreKey, u64)>>,
    refused_at: Mutex<Option<Instant>>,
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
    fn boot(&self) -> u32 {
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
    fn leave_if_gone(&self, generation: &Generation) -> io::Result<bool> {
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

    fn place(&self, record: &Record, evictions: u64, epoch: u32) -> Place {
        Place {
            page: record.page,
            len: record.len,
            evictions,
            epoch,
            is_verified: false,
            is_of_this_boot: self.boot() != 0 && record.boot == self.boot(),
        }
    }

    /// Notes that a chunk was used again.
    pub(crate) fn touch(&self, key: &StoreKey, place: &Place) {
        let mut touches = self.touches.lock().unwrap_or_else(PoisonError::into_inner);
        touches.push((*key, place.page));
        if touches.len() < TOUCHES_MAX {
            return;
        }
        drop(touches);
        if let Some((generation, _)) = self.generation()
            && let Ok(writer) = generation.lock()
        {
            // A use that cannot be noted is one that is not known.
            let _ = self.note_touches(&writer);
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
            slab.drop_pages(start + offset, len);
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

    /// Keeps a verified chunk. Returns its place, or `None` if there is no room for it.
    pub(crate) fn insert(&self, key: &StoreKey, bytes: &[u8]) -> io::Result<Option<Place>> {
        let len = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut generation = self.open()?;
        if self.leave_if_gone(&generation)? {
            generation = self.open()?;
        }
        let epoch = self.epoch.load(Ordering::Acquire);
        let Some((record, offset)) = self.begin(&generation, key, len)? else {
            return Ok(None);
        };
        if record.state == State::Ready {
            let evictions = generation.directory.evictions()?;
            return Ok(Some(self.place(&record, evictions, epoch)));
        }
        let (slab, start) = generation.slab(record.page)?;
        let written = slab.write_at(bytes, start);
        let mut writer = generation.lock()?;
        writer.state.pending.remove(&record.page);
        let mut words = generation.directory.words()?;
        match written {
            Ok(()) => {
                let ready = Record { state: State::Ready, ..record };
                generation.directory.put(offset, Some(&ready))?;
                slab.unlock(start)?;
                let place = self.place(&ready, words.evictions, epoch);
                Ok(Some(Place { is_verified: true, ..place }))
            }
            Err(error) => {
                words.used_len = words.used_len.saturating_sub(record.slot_len());
                generation.directory.put(offset, None)?;
                generation.directory.set_words(&words)?;
                writer.punch(record.page, record.slot_len())?;
                slab.unlock(start)?;
                Err(error)
            }
        }
    }

    /// Makes a pending record for a chunk, or returns the one that is ready.
    fn begin(
        &self,
        generation: &Generation,
        key: &StoreKey,
        len: u32,
    ) -> io::Result<Option<(Record, u64)>> {
        let directory = &generation.directory;
        let mut writer = generation.lock()?;
        let mut queue = Queue::Small;
        if let Some(found) = directory.find(key)? {
            match found.record.state {
                State::Ready if found.record.len == len => {
                    return Ok(Some((found.record, found.offset)));
                }
                State::Pending if !self.is_dead(&writer, found.record.page)? => return Ok(None),
                State::Ghost => {
                    queue = Queue::Main;
                    directory.put(found.offset, None)?;
                }
                State::Ready | State::Pending => {
                    self.forget(&writer, &[(found.offset, found.record.page, found.record.len)])?;
                }
            }
        }
        if !self.make_room(&mut writer, slot_len(len))? {
            return Ok(None);
        }
        let mut words = directory.words()?;
        let page = writer.allocate(slot_len(len), &mut words)?;
        let (slab, start) = generation.slab(page)?;
        // Addresses are new, so nobody else can have locked them.
        slab.try_lock(start)?;
        let record = Record {
            key: *key,
            page,
            len,
            state: State::Pending,
            queue,
            frequency: 0,
            sequence: words.sequence,
            boot: self.boot(),
        };
        words.sequence += 1;
        words.used_len = words.used_len.saturating_add(slot_len(len));
        directory.set_words(&words)?;
        let offset = directory.insert(&record)?;
        writer.state.pending.insert(page);
        Ok(Some((record, offset)))
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

    /// Evicts until a slot fits into the quota and beside the reserve; `false` if it cannot.
    fn make_room(&self, writer: &mut Writer<'_>, len: u64) -> io::Result<bool> {
        let excess = self.excess(writer, len)?;
        if excess == 0 {
            return Ok(true);
        }
        let mut refused_at = self.refused_at.lock().unwrap_or_else(PoisonError::into_inner);
        if refused_at.is_some_and(|at| at.elapsed() < REFUSAL_PAUSE) {
            return Ok(false);
        }
        // Some more, so that not every chunk has to make its own room.
        let margin = self.settings.quota_len.map_or(64 << 20, |quota| quota / 32);
        self.sweep(writer, excess.saturating_add(margin))?;
        let is_room = self.excess(writer, len)? == 0;
        *refused_at = (!is_room).then(Instant::now);
        Ok(is_room)
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
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::files::DiskFiles;

    fn store(folder: &std::path::Path) -> SlabStore {
        let settings = StoreSettings { quota_len: None, reserve_len: 0 };
        SlabStore::new(Arc::new(DiskFiles::new(folder)), settings)
    }

    fn key(number: u64) -> StoreKey {
        let bytes = *blake3::hash(&number.to_le_bytes()).as_bytes();
        StoreKey { bytes, algorithm: 1 }
    }

    /// Makes records without slots behind them, each of which is found again.
    fn fill(folder: &std::path::Path, count: u64) {
        let store = store(folder);
        let generation = store.open().unwrap();
        let _writer = generation.lock().unwrap();
        for number in 0..count {
            let record = Record {
                key: key(number),
                page: number,
                len: 4_096,
                state: State::Ready,
                queue: Queue::Small,
                frequency: 0,
                sequence: number,
                boot: store.boot(),
            };
            generation.directory.insert(&record).unwrap();
        }
    }

    #[test]
    fn a_directory_grows_by_levels_and_finds_everything() {
        let folder = tempfile::tempdir().unwrap();
        fill(folder.path(), 40_000);
        let store = store(folder.path());
        let generation = store.open().unwrap();
        for number in (0..40_000).step_by(97) {
            assert_eq!(store.find(&key(number), 4_096).unwrap().unwrap().page, number);
        }
        assert_eq!(store.find(&key(40_000), 4_096).unwrap(), None);
        let mut count = 0;
        generation.directory.scan(|_| count += 1).unwrap();
        assert_eq!(count, 40_000);
    }

    /// Prints figures: `cargo test --release -p chunkfs-cache a_million -- --ignored --nocapture`.
    #[test]
    #[ignore = "takes a minute; for figures"]
    fn a_million_chunks() {
        let folder = tempfile::tempdir().unwrap();
        fill(folder.path(), 1_000_000);
        let started = Instant::now();
        let store = store(folder.path());
        store.open().unwrap();
        println!("open: {:?}", started.elapsed());
        let started = Instant::now();
        for number in 0..10_000 {
            assert!(store.find(&key(number * 97), 4_096).unwrap().is_some());
        }
        println!("find: {:?} each", started.elapsed() / 10_000);
        let started = Instant::now();
        let usage = store.usage().unwrap();
        println!("usage: {:?}, {} bytes of directory", started.elapsed(), usage.allocated_len);
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find(|line| line.starts_with("VmHWM"));
        println!("{}", peak.unwrap_or_default());
    }
}
