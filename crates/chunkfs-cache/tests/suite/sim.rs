//! A folder in memory that fails when told to and forgets what a power loss forgets.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use chunkfs_cache::files::{CacheFile, Durability, Files, OpenMode};

const PAGE_LEN: usize = 4096;

/// A generator of numbers from a seed: SplitMix64.
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// A disk that processes share.
#[derive(Debug, Default)]
pub(crate) struct World {
    state: Mutex<WorldState>,
    handles: AtomicU64,
}

#[derive(Debug, Default)]
struct WorldState {
    names: BTreeMap<String, Arc<Inode>>,
    /// The names that a power loss leaves.
    durable_names: BTreeMap<String, Arc<Inode>>,
    operations: u64,
    power_losses: u64,
    fault: Option<Fault>,
    capacity: Option<u64>,
}

/// Which operations fail, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) first: u64,
    pub(crate) count: u64,
    pub(crate) errno: i32,
}

#[derive(Debug, Default)]
struct Inode(Mutex<InodeState>);

#[derive(Debug, Default, Clone)]
struct InodeState {
    data: Vec<u8>,
    allocated: BTreeSet<usize>,
    durable: Vec<u8>,
    /// What was done since `durable`.
    log: Vec<Change>,
    is_linked: bool,
    locks: HashMap<u64, u64>,
}

#[derive(Debug, Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Len(usize),
    Punch(usize, usize),
}

impl World {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The folder as one process sees it.
    pub(crate) fn files(self: &Arc<Self>) -> Arc<dyn Files> {
        Arc::new(SimFiles(Arc::clone(self)))
    }

    pub(crate) fn operation_count(&self) -> u64 {
        self.state.lock().unwrap().operations
    }

    /// Lets operations fail, counted from now on.
    pub(crate) fn fail(&self, fault: Option<Fault>) {
        let mut state = self.state.lock().unwrap();
        state.operations = 0;
        state.fault = fault;
    }

    pub(crate) fn set_capacity(&self, capacity: Option<u64>) {
        self.state.lock().unwrap().capacity = capacity;
    }

    pub(crate) fn allocated_len(&self) -> u64 {
        let state = self.state.lock().unwrap();
        let pages = |inode: &Arc<Inode>| inode.0.lock().unwrap().allocated.len();
        (state.names.values().map(pages).sum::<usize>() * PAGE_LEN) as u64
    }

    fn step(&self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        state.operations += 1;
        match state.fault {
            Some(fault) if (fault.first..fault.first + fault.count).contains(&state.operations) => {
                Err(io::Error::from_raw_os_error(fault.errno))
            }
            _ => Ok(()),
        }
    }

    /// Loses power: of what was not synced any part may be there, and it was done in any order.
    pub(crate) fn lose_power(&self, random: &mut Random) {
        let mut state = self.state.lock().unwrap();
        let mut names = BTreeMap::new();
        let all: BTreeSet<_> =
            state.names.keys().chain(state.durable_names.keys()).cloned().collect();
        for name in all {
            let new = state.names.get(&name);
            let old = state.durable_names.get(&name);
            if let Some(inode) = if random.below(2) == 0 { new.or(old) } else { old.or(new) } {
                names.insert(name, Arc::clone(inode));
            }
        }
        for inode in names.values() {
            inode.0.lock().unwrap().lose_power(random);
        }
        state.power_losses += 1;
        state.durable_names = names.clone();
        state.names = names;
    }

    /// Flips one bit somewhere in a file whose name contains `part`; `false` if there is none.
    pub(crate) fn flip_bit(&self, part: &str, random: &mut Random) -> bool {
        let state = self.state.lock().unwrap();
        let files: Vec<_> = state.names.iter().filter(|(name, _)| name.contains(part)).collect();
        if files.is_empty() {
            return false;
        }
        let mut inode = files[random.below(files.len())].1.0.lock().unwrap();
        if inode.data.is_empty() {
            return false;
        }
        let at = random.below(inode.data.len());
        inode.data[at] ^= 1 << random.below(8);
        true
    }

    /// Does anything to the bytes of the files whose names contain `part`.
    pub(crate) fn damage(&self, part: &str, damage: impl Fn(&mut Vec<u8>)) {
        let state = self.state.lock().unwrap();
        for (_, inode) in state.names.iter().filter(|(name, _)| name.contains(part)) {
            damage(&mut inode.0.lock().unwrap().data);
        }
    }

    pub(crate) fn remove_all(&self) {
        let mut state = self.state.lock().unwrap();
        for (_, inode) in std::mem::take(&mut state.names) {
            inode.0.lock().unwrap().is_linked = false;
        }
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.state.lock().unwrap().names.keys().cloned().collect()
    }
}

impl InodeState {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write(offset, bytes) => {
                let end = offset + bytes.len();
                if self.data.len() < end {
                    self.data.resize(end, 0);
                }
                self.data[*offset..end].copy_from_slice(bytes);
                self.allocated.extend(offset / PAGE_LEN..end.div_ceil(PAGE_LEN));
            }
            Change::Len(len) => {
                self.data.resize(*len, 0);
                self.allocated.retain(|page| page * PAGE_LEN < *len);
            }
            Change::Punch(offset, len) => {
                let end = (offset + len).min(self.data.len());
                let start = (*offset).min(end);
                self.data[start..end].fill(0);
                let whole = offset.div_ceil(PAGE_LEN)..(offset + len) / PAGE_LEN;
                self.allocated.retain(|page| !whole.contains(page));
            }
        }
    }

    fn lose_power(&mut self, random: &mut Random) {
        let log = std::mem::take(&mut self.log);
        self.data = std::mem::take(&mut self.durable);
        self.allocated.clear();
        for (number, page) in self.data.chunks(PAGE_LEN).enumerate() {
            if page.iter().any(|byte| *byte != 0) {
                self.allocated.insert(number);
            }
        }
        // All of it, none of it, or any part of it.
        let share = [0, 50, 90, 100][random.below(4)];
        for change in log {
            match change {
                Change::Write(offset, bytes) => {
                    let mut start = offset;
                    for piece in bytes.chunks(PAGE_LEN) {
                        if random.below(100) < share {
                            let is_torn = share < 100 && random.below(10) == 0;
                            let len = if is_torn { piece.len() / 2 } else { piece.len() };
                            self.apply(&Change::Write(start, piece[..len].to_vec()));
                        }
                        start += piece.len();
                    }
                }
                change if random.below(100) < share => self.apply(&change),
                _ => {}
            }
        }
        self.durable = self.data.clone();
        self.locks.clear();
    }
}

#[derive(Debug)]
struct SimFiles(Arc<World>);

impl Files for SimFiles {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn CacheFile>> {
        self.0.step()?;
        let mut state = self.0.state.lock().unwrap();
        let inode = match state.names.get(name) {
            Some(inode) => Arc::clone(inode),
            None if mode == OpenMode::Create => {
                let inode: Arc<Inode> = Arc::default();
                inode.0.lock().unwrap().is_linked = true;
                state.names.insert(name.to_owned(), Arc::clone(&inode));
                inode
            }
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        let handle = self.0.handles.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(SimFile { world: Arc::clone(&self.0), inode, handle }))
    }

    fn replace(&self, name: &str, bytes: &[u8], durability: Durability) -> io::Result<()> {
        self.0.step()?;
        let mut new = InodeState { is_linked: true, ..InodeState::default() };
        new.apply(&Change::Write(0, bytes.to_vec()));
        match durability {
            Durability::Synced => new.durable = bytes.to_vec(),
            _ => new.log.push(Change::Write(0, bytes.to_vec())),
        }
        let inode = Arc::new(Inode(Mutex::new(new)));
        let mut state = self.0.state.lock().unwrap();
        if durability == Durability::Synced {
            state.durable_names.insert(name.to_owned(), Arc::clone(&inode));
        }
        state.names.insert(name.to_owned(), inode);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.step()?;
        let removed = self.0.state.lock().unwrap().names.remove(name);
        removed.ok_or(io::ErrorKind::NotFound)?.0.lock().unwrap().is_linked = false;
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.0.step()?;
        Ok(self.0.names())
    }

    fn boot(&self) -> u64 {
        self.0.state.lock().unwrap().power_losses + 1
    }

    fn free_len(&self) -> io::Result<u64> {
        self.0.step()?;
        let capacity = self.0.state.lock().unwrap().capacity;
        Ok(capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.0.allocated_len())))
    }
}

#[derive(Debug)]
struct SimFile {
    world: Arc<World>,
    inode: Arc<Inode>,
    handle: u64,
}

impl SimFile {
    fn change(&self, change: Change) -> io::Result<()> {
        self.world.step()?;
        let mut inode = self.inode.0.lock().unwrap();
        inode.apply(&change);
        inode.log.push(change);
        Ok(())
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.inode.0.lock().unwrap().locks.retain(|_, holder| *holder != self.handle);
    }
}

impl CacheFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.world.step()?;
        let inode = self.inode.0.lock().unwrap();
        let start = (offset as usize).min(inode.data.len());
        let len = buffer.len().min(inode.data.len() - start);
        buffer[..len].copy_from_slice(&inode.data[start..start + len]);
        Ok(len)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(Change::Write(offset as usize, bytes.to_vec()))
    }

    fn len(&self) -> io::Result<u64> {
        self.world.step()?;
        Ok(self.inode.0.lock().unwrap().data.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Len(len as usize))
    }

    fn allocated_len(&self) -> io::Result<u64> {
        self.world.step()?;
        Ok((self.inode.0.lock().unwrap().allocated.len() * PAGE_LEN) as u64)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.change(Change::Punch(offset as usize, len as usize))
    }

    fn drop_pages(&self, _: u64, _: u64) {}

    fn is_linked(&self) -> io::Result<bool> {
        self.world.step()?;
        Ok(self.inode.0.lock().unwrap().is_linked)
    }

    fn try_lock(&self, offset: u64) -> io::Result<bool> {
        self.world.step()?;
        let mut inode = self.inode.0.lock().unwrap();
        let holder = *inode.locks.entry(offset).or_insert(self.handle);
        Ok(holder == self.handle)
    }

    // Never fails: the kernel needs nothing for it.
    fn unlock(&self, offset: u64) -> io::Result<()> {
        let mut inode = self.inode.0.lock().unwrap();
        if inode.locks.get(&offset) == Some(&self.handle) {
            inode.locks.remove(&offset);
        }
        Ok(())
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
