//! The disk tier as loaders see it: verified reads, writes that may fail, leases.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use quick_cache::Weighter;
use quick_cache::sync::Cache as TreeTier;

use crate::counters::AtomicCounters;
use crate::files::CacheFile;
use crate::health::Health;
use crate::key::StoreKey;
use crate::loader::{ChunkRequest, VerifyLevel};
use crate::places::Places;
use crate::slab::{GROUP_LEN, Inserted, Lease, Outcome, Place, SlabStore, Tree};
use chunkfs_format::DigestAlgorithm;

/// Bytes of trees that are kept in memory: those of 2 GiB of chunks.
const TREES_LEN_MAX: u64 = 4 << 20;
/// Bytes of slab that stay in the page cache behind writes, if others hold what was read.
const WRITTEN_LEN_MAX: u64 = 32 << 20;

#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) store: SlabStore,
    pub(crate) health: Health,
    leases: OnceLock<Arc<dyn CacheFile>>,
    trees: TreeTier<StoreKey, Tree, TreeWeighter>,
    written: Mutex<VecDeque<Place>>,
}

#[derive(Debug, Clone)]
struct TreeWeighter;

impl Weighter<StoreKey, Tree> for TreeWeighter {
    fn weight(&self, _: &StoreKey, tree: &Tree) -> u64 {
        tree.memory_len()
    }
}

/// A chunk as the disk tier knows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) key: StoreKey,
    pub(crate) chunk: &'a ChunkRequest,
    pub(crate) places: &'a Places,
    pub(crate) verify: VerifyLevel,
}

impl Wanted<'_> {
    fn place(&self) -> Option<Place> {
        self.places.get(self.chunk.number, &self.key)
    }

    fn set_place(&self, place: Option<Place>) {
        self.places.set(self.chunk.number, &self.key, place);
    }

    /// Whether what lies at a place may be read without looking at all of it.
    fn is_believed(&self, place: &Place) -> bool {
        match self.verify {
            // Within one boot nothing that was written is lost, whatever process dies.
            VerifyLevel::Fetch => place.is_verified || place.is_of_this_boot,
            VerifyLevel::Load | VerifyLevel::Always => place.is_verified,
        }
    }
}

impl Disk {
    pub(crate) fn new(store: SlabStore, health: Health) -> Self {
        let trees = TreeTier::with_weighter(1024, TREES_LEN_MAX, TreeWeighter);
        Self { store, health, leases: OnceLock::new(), trees, written: Mutex::default() }
    }

    /// Fills `buffer` from `offset` of a chunk if that takes neither waiting for the disk nor more
    /// verification than the level wants at this point. Errors count as not there.
    pub(crate) fn read_cached(
        &self,
        wanted: &Wanted<'_>,
        offset: u64,
        buffer: &mut [u8],
        drops_pages: bool,
    ) -> bool {
        let Some(mut place) = wanted.place() else { return false };
        let evictions = place.evictions;
        let done = if wanted.verify == VerifyLevel::Always {
            self.read_groups(wanted, &mut place, offset, buffer)
        } else if wanted.is_believed(&place) {
            let outcome = self.store.read(&wanted.key, &mut place, offset, buffer, true);
            outcome.map(|outcome| outcome == Outcome::Done)
        } else {
            return false;
        };
        let is_done = done.unwrap_or(false);
        if is_done && place.evictions != evictions {
            wanted.set_place(Some(place));
        }
        if is_done && drops_pages {
            self.store.drop_pages(&place, offset, buffer.len() as u64);
        }
        is_done
    }

    /// Reads the groups around a range and verifies each.
    fn read_groups(
        &self,
        wanted: &Wanted<'_>,
        place: &mut Place,
        offset: u64,
        buffer: &mut [u8],
    ) -> io::Result<bool> {
        let Some(tree) = self.tree(wanted, place)? else { return Ok(false) };
        let end = offset + buffer.len() as u64;
        let first = offset / GROUP_LEN;
        let start = first * GROUP_LEN;
        let len = end.next_multiple_of(GROUP_LEN).min(place.len.into()).saturating_sub(start);
        let mut groups = vec![0; usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?];
        match self.store.read(&wanted.key, place, start, &mut groups, true)? {
            Outcome::Done => {}
            Outcome::WouldBlock | Outcome::Gone => return Ok(false),
        }
        let are_good = (first as usize..)
            .zip(groups.chunks(GROUP_LEN as usize))
            .all(|(number, group)| tree.verify(number, group));
        let from = (offset - start) as usize;
        match groups.get(from..from + buffer.len()) {
            Some(bytes) if are_good => buffer.copy_from_slice(bytes),
            // The slow path finds out what is damaged.
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The tree of a chunk: from memory, or the one kept beside the chunk if it is right.
    fn tree(&self, wanted: &Wanted<'_>, place: &Place) -> io::Result<Option<Tree>> {
        if wanted.chunk.algorithm != DigestAlgorithm::Blake3 {
            return Ok(None);
        }
        if let Some(tree) = self.trees.get(&wanted.key) {
            return Ok(Some(tree));
        }
        let Some((file, offset)) = self.store.trees(place)? else { return Ok(None) };
        let count = u64::from(place.len).div_ceil(GROUP_LEN) as usize;
        let mut values = vec![[0; 32]; count];
        file.read_cached_at(values.as_flattened_mut(), offset)?;
        let tree = Tree::checked(&values, place.len.into(), wanted.chunk.id);
        if let Some(tree) = &tree {
            self.trees.insert(wanted.key, tree.clone());
        }
        Ok(tree)
    }

    /// Reads and verifies a whole chunk, blocking. Forgets it if it is damaged.
    ///
    /// # Errors
    /// Whatever the system says; the caller fetches the chunk.
    pub(crate) fn load(
        &self,
        wanted: &Wanted<'_>,
        counters: &AtomicCounters,
    ) -> io::Result<Option<Vec<u8>>> {
        let known = wanted.place();
        let found = match known {
            Some(place) => Some(place),
            None => self.store.find(&wanted.key, wanted.chunk.uncompressed_len)?,
        };
        let Some(mut place) = found else { return Ok(None) };
        let mut bytes = vec![0; place.len as usize];
        let outcome = self.store.read(&wanted.key, &mut place, 0, &mut bytes, false)?;
        if outcome != Outcome::Done {
            wanted.set_place(None);
            if known.is_some() {
                // It may have come back to another place.
                return self.load(wanted, counters);
            }
            self.forget(wanted, &place, counters)?;
            return Ok(None);
        }
        let is_good = match wanted.verify {
            VerifyLevel::Always => self.verify_whole(wanted, &place, &bytes)?,
            _ if wanted.is_believed(&place) => true,
            _ => wanted.chunk.algorithm.chunk_id(&bytes) == wanted.chunk.id,
        };
        if !is_good {
            wanted.set_place(None);
            self.forget(wanted, &place, counters)?;
            return Ok(None);
        }
        if known.is_none() {
            self.store.touch(&wanted.key, &place);
        }
        wanted.set_place(Some(Place { is_verified: true, ..place }));
        Ok(Some(bytes))
    }

    fn forget(
        &self,
        wanted: &Wanted<'_>,
        place: &Place,
        counters: &AtomicCounters,
    ) -> io::Result<()> {
        self.trees.remove(&wanted.key);
        // If it is gone already it was evicted meanwhile, not damaged.
        if self.store.remove(&wanted.key, place)? {
            AtomicCounters::add(&counters.disk_verify_failures, 1);
        }
        Ok(())
    }

    /// Verifies a whole chunk, and keeps its tree for reads of parts.
    fn verify_whole(&self, wanted: &Wanted<'_>, place: &Place, bytes: &[u8]) -> io::Result<bool> {
        if wanted.chunk.algorithm != DigestAlgorithm::Blake3 {
            return Ok(wanted.chunk.algorithm.chunk_id(bytes) == wanted.chunk.id);
        }
        let Some(tree) = Tree::of(bytes, wanted.chunk.id) else { return Ok(false) };
        self.trees.insert(wanted.key, tree.clone());
        if tree.values().len() > 1
            && self.store.is_writable()
            && let Some((file, offset)) = self.store.trees(place)?
        {
            file.write_at(tree.values().as_flattened(), offset)?;
        }
        Ok(true)
    }

    /// Keeps a verified chunk, blocking. Failures are counted and reported, not returned.
    pub(crate) fn keep(
        &self,
        wanted: &Wanted<'_>,
        bytes: &[u8],
        drops_pages: bool,
        counters: &AtomicCounters,
    ) {
        if !self.health.may_write() {
            return;
        }
        match self.store.insert(&wanted.key, bytes) {
            Ok(Inserted::At(place)) => {
                self.health.wrote();
                if place.is_verified {
                    wanted.set_place(Some(place));
                }
                if drops_pages {
                    self.drop_behind(place);
                }
            }
            Ok(Inserted::Busy) => {}
            Ok(Inserted::NoRoom) => AtomicCounters::add(&counters.disk_refusals, 1),
            Err(error) => self.count_failure("a chunk cannot be written", &error, counters),
        }
    }

    pub(crate) fn count_failure(
        &self,
        operation: &'static str,
        error: &io::Error,
        counters: &AtomicCounters,
    ) {
        AtomicCounters::add(&counters.disk_errors, 1);
        self.health.failed(operation, error);
    }

    /// Lets go of the pages of what was written some time ago, and is on disk by now.
    fn drop_behind(&self, place: Place) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.push_back(place);
        let mut len: u64 = written.iter().map(|place| u64::from(place.len)).sum();
        while len > WRITTEN_LEN_MAX
            && let Some(oldest) = written.pop_front()
        {
            len -= u64::from(oldest.len);
            self.store.drop_pages(&oldest, 0, oldest.len.into());
        }
    }

    /// Takes the lease on fetching a chunk. Without a working disk everybody fetches.
    pub(crate) fn lease(&self, key: &StoreKey) -> io::Result<LeaseState> {
        let file = match self.leases.get() {
            Some(file) => file,
            None => {
                let file = self.store.open_leases()?;
                self.leases.get_or_init(|| file)
            }
        };
        Ok(Lease::take(file, key)?.map_or(LeaseState::Foreign, LeaseState::Own))
    }
}

/// Who fetches a chunk.
#[derive(Debug)]
pub(crate) enum LeaseState {
    /// This process.
    Own(Lease),
    /// Another one.
    Foreign,
}
