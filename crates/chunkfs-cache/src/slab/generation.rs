//! The open files of one generation: a directory and the slabs that it points into.
//!
//! Within a generation an address is handed out once, so that slots never overlap. What could break
//! that starts another generation, with files of other names: a damaged header, or a slab that is
//! shorter than what was handed out. After a boot slabs may be shorter because power was lost: then
//! the directory is read once and they are made longer again.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use super::directory::{Directory, Words};
use super::record::{PAGE_LEN, State};
use crate::files::{CacheFile, Files, OpenMode};

/// The most bytes of addresses in one slab: 1 TiB, of which only what chunks take is on disk.
pub(crate) const SLAB_LEN: u64 = 1 << 40;
pub(crate) const SLAB_PAGES: u64 = SLAB_LEN / PAGE_LEN;
const SLABS_MAX: usize = 1024;
/// The bytes of a tree file for each page of the slab.
pub(crate) const TREE_LEN_PER_PAGE: u64 = 32;

/// The byte of the directory file that the writer locks. Far beyond its end.
const WRITER_LOCK: u64 = 1 << 60;
/// How long a process waits for the others' writing before it goes on without the disk.
const WRITER_WAIT_MAX: Duration = Duration::from_secs(2);

const PREFIX: &str = "v1-";

#[derive(Debug)]
pub(crate) struct Generation {
    files: Arc<dyn Files>,
    number: u64,
    mode: OpenMode,
    boot: u64,
    pub(crate) directory: Directory,
    slabs: Box<[OnceLock<Arc<dyn CacheFile>>]>,
    trees: Box<[OnceLock<Arc<dyn CacheFile>>]>,
    writer: Mutex<WriterState>,
}

/// What the writers of a process know; writers of other processes know the files alone.
#[derive(Debug, Default)]
pub(crate) struct WriterState {
    /// The first pages of slots that this process is filling.
    pub(crate) pending: HashSet<u64>,
}

/// The right to change the directory and to hand out addresses, among all threads and processes.
pub(crate) struct Writer<'a> {
    pub(crate) generation: &'a Generation,
    pub(crate) state: MutexGuard<'a, WriterState>,
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        // Closing the file unlocks it at the latest; until then other processes go on without.
        let _ = self.generation.directory.file().unlock(WRITER_LOCK);
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Directory,
    Slab(usize),
    Trees(usize),
}

fn name(generation: u64, kind: Kind) -> String {
    match kind {
        Kind::Directory => format!("{PREFIX}directory-{generation}"),
        Kind::Slab(slab) => format!("{PREFIX}slab-{generation}-{slab}"),
        Kind::Trees(slab) => format!("{PREFIX}trees-{generation}-{slab}"),
    }
}

/// Returns the generation that a file belongs to, and the slab if it is one.
fn parse_name(name: &str) -> Option<(u64, Option<usize>)> {
    let rest = name.strip_prefix(PREFIX)?;
    if let Some(number) = rest.strip_prefix("directory-") {
        return Some((number.parse().ok()?, None));
    }
    let rest = rest.strip_prefix("slab-").or_else(|| rest.strip_prefix("trees-"))?;
    let (generation, slab) = rest.split_once('-')?;
    Some((generation.parse().ok()?, Some(slab.parse().ok()?)))
}

impl Generation {
    /// Opens the newest generation of a folder, or starts one if there is none that is whole.
    ///
    /// A folder that cannot be written is opened for reading.
    pub(crate) fn open(files: &Arc<dyn Files>) -> io::Result<Self> {
        let lock = match files.open(&format!("{PREFIX}lock"), OpenMode::Create) {
            Ok(lock) => lock,
            Err(error) if is_read_only(&error) => return Self::open_read_only(files, error),
            Err(error) => return Err(error),
        };
        wait_for_lock(&*lock, 0)?;
        let opened = Self::open_locked(files);
        lock.unlock(0)?;
        opened
    }

    fn open_locked(files: &Arc<dyn Files>) -> io::Result<Self> {
        let names = files.list()?;
        let parsed: Vec<_> = names.iter().filter_map(|name| parse_name(name)).collect();
        let newest = parsed.iter().map(|(generation, _)| *generation).max();
        let opened = match newest {
            Some(number) => Self::open_number(files, number, OpenMode::Write)?,
            None => None,
        };
        let generation = match opened {
            Some(generation) if generation.lock()?.is_sound()? => generation,
            _ => Self::create(files, newest.map_or(1, |newest| newest.saturating_add(1)))?,
        };
        let is_old = |name: &&String| {
            parse_name(name).is_some_and(|(number, _)| number != generation.number)
        };
        for old in names.iter().filter(is_old) {
            // Whoever has them open goes on with them; what stays is tried again next time.
            let _ = files.remove(old);
        }
        Ok(generation)
    }

    fn create(files: &Arc<dyn Files>, number: u64) -> io::Result<Self> {
        let file = files.open(&name(number, Kind::Directory), OpenMode::Create)?;
        let directory = Directory::create(file, number, files.boot())?;
        Ok(Self::new(files, number, OpenMode::Create, directory))
    }

    fn open_read_only(files: &Arc<dyn Files>, error: io::Error) -> io::Result<Self> {
        let names = files.list()?;
        let newest =
            names.iter().filter_map(|name| parse_name(name)).map(|(number, _)| number).max();
        let opened = newest.map(|number| Self::open_number(files, number, OpenMode::Read));
        opened.transpose()?.flatten().ok_or(error)
    }

    fn open_number(
        files: &Arc<dyn Files>,
        number: u64,
        mode: OpenMode,
    ) -> io::Result<Option<Self>> {
        let file = match files.open(&name(number, Kind::Directory), mode) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mode = if mode == OpenMode::Read { mode } else { OpenMode::Create };
        let directory = Directory::open(file, number)?;
        Ok(directory.map(|directory| Self::new(files, number, mode, directory)))
    }

    fn new(files: &Arc<dyn Files>, number: u64, mode: OpenMode, directory: Directory) -> Self {
        let empty = || (0..SLABS_MAX).map(|_| OnceLock::new()).collect();
        let files = Arc::clone(files);
        let (slabs, trees, boot) = (empty(), empty(), files.boot());
        Self { files, number, mode, boot, directory, slabs, trees, writer: Mutex::default() }
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.mode != OpenMode::Read
    }

    /// Waits until no other thread or process writes, for a bounded time.
    pub(crate) fn lock(&self) -> io::Result<Writer<'_>> {
        if !self.is_writable() {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let state = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        wait_for_lock(&**self.directory.file(), WRITER_LOCK)?;
        Ok(Writer { generation: self, state })
    }

    /// Becomes the writer if nobody is.
    pub(crate) fn try_lock(&self) -> io::Result<Option<Writer<'_>>> {
        let state = match self.writer.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(None),
        };
        let is_locked = self.is_writable() && self.directory.file().try_lock(WRITER_LOCK)?;
        Ok(is_locked.then(|| Writer { generation: self, state }))
    }

    /// Returns a slab and the offset of a page in it.
    pub(crate) fn slab(&self, page: u64) -> io::Result<(&Arc<dyn CacheFile>, u64)> {
        let (slab, page) = split(page)?;
        Ok((self.file(&self.slabs, slab, Kind::Slab(slab))?, page * PAGE_LEN))
    }

    /// Returns the file of trees that belongs to a slab and the offset of a page's trees in it.
    pub(crate) fn trees(&self, page: u64) -> io::Result<(&Arc<dyn CacheFile>, u64)> {
        let (slab, page) = split(page)?;
        Ok((self.file(&self.trees, slab, Kind::Trees(slab))?, page * TREE_LEN_PER_PAGE))
    }

    fn file<'a>(
        &self,
        files: &'a [OnceLock<Arc<dyn CacheFile>>],
        slab: usize,
        kind: Kind,
    ) -> io::Result<&'a Arc<dyn CacheFile>> {
        let place = files.get(slab).ok_or(io::ErrorKind::StorageFull)?;
        if let Some(file) = place.get() {
            return Ok(file);
        }
        let file = self.files.open(&name(self.number, kind), self.mode)?;
        Ok(place.get_or_init(|| file))
    }

    /// Returns the slabs that are on disk, by number.
    fn slab_numbers(&self) -> io::Result<Vec<usize>> {
        let names = self.files.list()?;
        let own = names.iter().filter_map(|name| parse_name(name));
        let mut numbers: Vec<_> =
            own.filter(|(number, _)| *number == self.number).filter_map(|(_, slab)| slab).collect();
        numbers.sort_unstable();
        numbers.dedup();
        Ok(numbers)
    }

    /// Returns how many bytes of disk the directory, the slabs and the trees take.
    pub(crate) fn allocated_len(&self) -> io::Result<u64> {
        Ok(self.slabs_allocated_len()? + self.beside_allocated_len()?)
    }

    /// Returns how many bytes of disk all but the slabs take.
    pub(crate) fn beside_allocated_len(&self) -> io::Result<u64> {
        Ok(self.directory.file().allocated_len()? + self.trees_allocated_len()?)
    }

    /// Returns how many bytes of disk the trees take.
    pub(crate) fn trees_allocated_len(&self) -> io::Result<u64> {
        let slabs = self.slab_numbers()?.into_iter();
        slabs.map(|slab| self.trees(slab as u64 * SLAB_PAGES)?.0.allocated_len()).sum()
    }

    /// Returns how many bytes of disk the slabs take.
    pub(crate) fn slabs_allocated_len(&self) -> io::Result<u64> {
        let slabs = self.slab_numbers()?.into_iter();
        slabs.map(|slab| self.slab(slab as u64 * SLAB_PAGES)?.0.allocated_len()).sum()
    }
}

impl Writer<'_> {
    /// Hands out addresses for a slot and returns its first page.
    pub(crate) fn allocate(&mut self, len: u64, words: &mut Words) -> io::Result<u64> {
        let pages = len / PAGE_LEN;
        let mut page = words.end_page;
        if page % SLAB_PAGES + pages > SLAB_PAGES {
            page = page.next_multiple_of(SLAB_PAGES);
        }
        let (slab, offset) = self.generation.slab(page)?;
        slab.set_len(offset + len)?;
        words.end_page = page + pages;
        Ok(page)
    }

    /// Returns whether slots cannot overlap: no slab is shorter than what was handed out of it.
    fn is_sound(&self) -> io::Result<bool> {
        let generation = self.generation;
        let mut words = match generation.directory.words() {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(false),
            words => words?,
        };
        if words.end_page / SLAB_PAGES >= SLABS_MAX as u64 {
            return Ok(false);
        }
        if words.boot == generation.boot && generation.boot != 0 {
            let Some(last) = words.end_page.checked_sub(1) else { return Ok(true) };
            let (slab, offset) = generation.slab(last)?;
            return Ok(slab.len()? >= offset + PAGE_LEN);
        }
        let mut ends: BTreeMap<u64, u64> = BTreeMap::new();
        let mut is_sound = true;
        words.used_len = 0;
        generation.directory.scan(|found| {
            words.sequence = words.sequence.max(found.record.sequence.saturating_add(1));
            if found.record.state != State::Ghost {
                let end = found.record.page.checked_add(found.record.slot_len() / PAGE_LEN);
                is_sound &= end.is_some_and(|end| end / SLAB_PAGES < SLABS_MAX as u64);
                let end = end.unwrap_or_default();
                let slab = ends.entry(found.record.page / SLAB_PAGES).or_default();
                *slab = end.max(*slab);
                words.used_len = words.used_len.saturating_add(found.record.slot_len());
            }
        })?;
        if !is_sound {
            return Ok(false);
        }
        for end in ends.values() {
            words.end_page = words.end_page.max(*end);
        }
        for end in ends.into_values().chain([words.end_page]) {
            let Some(last) = end.checked_sub(1) else { continue };
            let (slab, offset) = generation.slab(last)?;
            if slab.len()? < offset + PAGE_LEN {
                slab.set_len(offset + PAGE_LEN)?;
            }
        }
        words.evictions += 1;
        words.boot = generation.boot;
        generation.directory.set_words(&words)?;
        Ok(true)
    }

    /// Gives the space of pages back.
    pub(crate) fn punch(&self, page: u64, len: u64) -> io::Result<()> {
        let (slab, offset) = self.generation.slab(page)?;
        slab.punch(offset, len)?;
        let (trees, offset) = self.generation.trees(page)?;
        trees.punch(offset, len / PAGE_LEN * TREE_LEN_PER_PAGE)
    }

    /// Returns the pages that were handed out, slab by slab.
    pub(crate) fn address_ranges(&self) -> io::Result<Vec<(u64, u64)>> {
        let slabs = self.generation.slab_numbers()?.into_iter().map(|slab| {
            let start = slab as u64 * SLAB_PAGES;
            let len = self.generation.slab(start)?.0.len()?;
            Ok((start, start + len.div_ceil(PAGE_LEN)))
        });
        slabs.collect()
    }

    /// Removes the slabs that no address is handed out of any more and that hold no chunk.
    pub(crate) fn remove_slabs(
        &self,
        end_page: u64,
        is_used: impl Fn(usize) -> bool,
    ) -> io::Result<()> {
        let generation = self.generation;
        for slab in generation.slab_numbers()? {
            if (slab as u64) < end_page / SLAB_PAGES && !is_used(slab) {
                generation.files.remove(&name(generation.number, Kind::Slab(slab)))?;
                generation.files.remove(&name(generation.number, Kind::Trees(slab)))?;
            }
        }
        Ok(())
    }
}

fn split(page: u64) -> io::Result<(usize, u64)> {
    let slab = usize::try_from(page / SLAB_PAGES).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok((slab, page % SLAB_PAGES))
}

/// Returns whether an error says that a folder may be read but not written.
pub(crate) fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

fn wait_for_lock(file: &dyn CacheFile, offset: u64) -> io::Result<()> {
    let deadline = Instant::now() + WRITER_WAIT_MAX;
    let mut pause = Duration::from_micros(20);
    while !file.try_lock(offset)? {
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    }
    Ok(())
}
