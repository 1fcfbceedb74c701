//! Chunks on their way to the disk, for those who ask for them meanwhile.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::key::StoreKey;

/// The chunks that were handed out and are not on disk yet.
///
/// Their loads are over, and they may have left memory, or never been there: without this they would be
/// fetched a second time.
#[derive(Debug, Default)]
pub(crate) struct Writing {
    chunks: Mutex<HashMap<StoreKey, Bytes>>,
}

/// A chunk that is being written, until this is dropped.
#[derive(Debug)]
pub(crate) struct Write<'a> {
    writing: &'a Writing,
    key: StoreKey,
}

impl Writing {
    /// To be called before the load of the chunk ends.
    pub(crate) fn begin(&self, key: StoreKey, bytes: Bytes) -> Write<'_> {
        self.chunks().insert(key, bytes);
        Write { writing: self, key }
    }

    /// To be asked after a new load of the chunk has begun: then it finds what an earlier one brought,
    /// unless that is on disk.
    pub(crate) fn get(&self, key: &StoreKey) -> Option<Bytes> {
        self.chunks().get(key).cloned()
    }

    fn chunks(&self) -> MutexGuard<'_, HashMap<StoreKey, Bytes>> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Write<'_> {
    fn drop(&mut self) {
        self.writing.chunks().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use chunkfs_format::DigestAlgorithm;

    use super::*;
    use crate::key::ChunkKey;

    #[test]
    fn a_chunk_is_found_while_it_is_written_and_not_afterwards() {
        let writing = Writing::default();
        let key = |content: &[u8]| {
            let algorithm = DigestAlgorithm::Blake3;
            let id = algorithm.chunk_id(content);
            StoreKey::new(None, &ChunkKey { algorithm, id })
        };
        let (first, second) = (key(b"first"), key(b"second"));
        let write = writing.begin(first, Bytes::from_static(b"first"));
        let _other = writing.begin(second, Bytes::from_static(b"second"));
        assert_eq!(writing.get(&first).unwrap(), "first");
        drop(write);
        assert_eq!(writing.get(&first), None);
        assert_eq!(writing.get(&second).unwrap(), "second");
    }
}
