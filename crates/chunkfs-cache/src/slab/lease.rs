//! Leases on fetches: one process fetches a chunk, the others wait for it.
//!
//! A lease is a lock on one byte of a file that holds nothing, so it ends with its process.

use std::io;
use std::sync::Arc;

use super::store::SlabStore;
use crate::files::{CacheFile, OpenMode};
use crate::key::StoreKey;

const LEASES: &str = "v1-leases";

/// The right to fetch a chunk, among processes.
///
/// Two loads of one process never want the same chunk, which its single flight sees to.
#[derive(Debug)]
pub(crate) struct Lease {
    file: Arc<dyn CacheFile>,
    offset: u64,
}

impl Drop for Lease {
    fn drop(&mut self) {
        // If this fails, the others fetch the chunk themselves when they have waited long enough.
        let _ = self.file.unlock(self.offset);
    }
}

impl SlabStore {
    /// Opens the file of leases.
    pub(crate) fn open_leases(&self) -> io::Result<Arc<dyn CacheFile>> {
        self.files.open(LEASES, OpenMode::Create)
    }
}

impl Lease {
    /// Takes the lease of a chunk, unless another process has it.
    pub(crate) fn take(file: &Arc<dyn CacheFile>, key: &StoreKey) -> io::Result<Option<Self>> {
        let offset = key.number();
        let is_taken = file.try_lock(offset)?;
        Ok(is_taken.then(|| Self { file: Arc::clone(file), offset }))
    }
}
