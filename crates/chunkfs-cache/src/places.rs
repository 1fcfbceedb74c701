//! Where the chunks of one image lie on disk, as far as its loader knows.

use std::sync::{Mutex, PoisonError};

use crate::key::StoreKey;
use crate::slab::Place;

/// One entry for each chunk of an image, each with a lock of its own.
#[derive(Debug, Default)]
pub(crate) struct Places {
    entries: Box<[Mutex<Option<Entry>>]>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// The numbers are the embedder's; the key makes sure that a wrong one finds nothing.
    key: [u8; 16],
    place: Place,
}

impl Places {
    pub(crate) fn new(chunk_count: u32) -> Self {
        Self { entries: (0..chunk_count).map(|_| Mutex::new(None)).collect() }
    }

    pub(crate) fn get(&self, number: u32, key: &StoreKey) -> Option<Place> {
        let entry = self.entries.get(number as usize)?;
        let entry = (*entry.lock().unwrap_or_else(PoisonError::into_inner))?;
        key.bytes.starts_with(&entry.key).then_some(entry.place)
    }

    pub(crate) fn set(&self, number: u32, key: &StoreKey, place: Option<Place>) {
        if let Some(entry) = self.entries.get(number as usize) {
            let [key, _] = key.bytes.as_chunks::<16>().0 else { return };
            let new = place.map(|place| Entry { key: *key, place });
            *entry.lock().unwrap_or_else(PoisonError::into_inner) = new;
        }
    }

    /// Bytes of memory that the entries take.
    pub(crate) fn memory_len(&self) -> u64 {
        size_of_val(&*self.entries) as u64
    }
}
