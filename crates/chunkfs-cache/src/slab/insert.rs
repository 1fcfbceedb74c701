//! Keeping chunks: a pending record, the bytes, a ready record.

use std::io;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::generation::{Generation, Writer};
use super::record::{Queue, Record, State, slot_len};
use super::store::{Place, SlabStore};
use crate::key::StoreKey;

/// How long nothing is evicted after nothing could be.
const REFUSAL_PAUSE: Duration = Duration::from_secs(1);

/// What became of a chunk that was to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inserted {
    /// It is there, by this call or before.
    At(Place),
    /// Somebody else is writing it just now.
    Busy,
    /// Nothing can be evicted for it.
    NoRoom,
}

/// A slot to be filled, or why there is none.
enum Begun {
    Pending(Record, u64),
    Ready(Record),
    Busy,
    NoRoom,
}

impl SlabStore {
    /// Keeps a verified chunk.
    pub(crate) fn insert(&self, key: &StoreKey, bytes: &[u8]) -> io::Result<Inserted> {
        let len = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut generation = self.open()?;
        if self.leave_if_gone(&generation)? {
            generation = self.open()?;
        }
        let epoch = self.epoch.load(Ordering::Acquire);
        let (record, offset) = match self.begin(&generation, key, len)? {
            Begun::Pending(record, offset) => (record, offset),
            Begun::Ready(record) => {
                let evictions = generation.directory.evictions()?;
                return Ok(Inserted::At(self.place(&record, evictions, epoch)));
            }
            Begun::Busy => return Ok(Inserted::Busy),
            Begun::NoRoom => return Ok(Inserted::NoRoom),
        };
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
                Ok(Inserted::At(Place { is_verified: true, ..place }))
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
    fn begin(&self, generation: &Generation, key: &StoreKey, len: u32) -> io::Result<Begun> {
        let directory = &generation.directory;
        let mut writer = generation.lock()?;
        let mut queue = Queue::Small;
        if let Some(found) = directory.find(key)? {
            match found.record.state {
                State::Ready if found.record.len == len => {
                    return Ok(Begun::Ready(found.record));
                }
                State::Pending if !self.is_dead(&writer, found.record.page)? => {
                    return Ok(Begun::Busy);
                }
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
            return Ok(Begun::NoRoom);
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
        Ok(Begun::Pending(record, offset))
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
}
