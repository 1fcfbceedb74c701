//! From file content to stored blobs, on several threads.
//!
//! One reader per layer cuts content into chunks ([`LayerWriter`]). A pool of workers, shared by
//! all layers, hashes and compresses them ([`Pool`]). Results are put back into the reader's order
//! and appended to the layer's blobs (`LayerOutput`), which are sent while the rest is still
//! being read ([`Uploader`]). What is in flight is bounded in bytes. The order alone decides the
//! result, so it does not depend on the number of threads.
//!
//! The first failure stops everything: it closes every queue that a thread may wait on.

mod blobs;
mod context;
mod network;
mod output;
mod pool;
mod upload;
mod writer;

pub(crate) use context::{Context, FailOnPanic};
pub(crate) use network::Network;
pub(crate) use pool::{Pool, run_worker};
pub(crate) use upload::{Upload, Uploader, put_bytes, run_uploader};
pub(crate) use writer::{LayerContent, LayerCounters, LayerWriter, StoredLayer};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex. A panicking thread leaves its data whole: each critical section is one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
