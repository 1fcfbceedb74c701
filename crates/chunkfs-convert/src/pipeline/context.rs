//! What all threads of a conversion share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use chunkfs_fetch::ImageSink;

use super::{Network, Pool, Uploader, lock};
use crate::error::{ConvertError, LayerError};
use crate::options::ConvertOptions;
use crate::progress::ConvertEvent;
use crate::reuse::ReuseImages;

/// The most memory that the entries of all layers may take.
const ENTRIES_COST_MAX: u64 = 4 << 30;

/// What all threads of a conversion share.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) options: &'a ConvertOptions,
    pub(crate) sink: Arc<dyn ImageSink>,
    pub(crate) reuse: &'a ReuseImages,
    pub(crate) network: &'a Network,
    pub(crate) pool: Pool,
    pub(crate) uploader: Uploader,
    error: Mutex<Option<ConvertError>>,
    entries_cost: AtomicU64,
}

impl<'a> Context<'a> {
    pub(crate) fn new(
        options: &'a ConvertOptions,
        sink: Arc<dyn ImageSink>,
        reuse: &'a ReuseImages,
        network: &'a Network,
    ) -> Self {
        // Enough that every worker has a chunk, one waits for each, and a few are being put in order.
        let chunk_count = 2 * options.jobs.get() as u64 + 4;
        let in_flight_max = chunk_count * u64::from(options.chunk_size.bytes()) + (4 << 20);
        Self {
            options,
            sink,
            reuse,
            network,
            pool: Pool::new(in_flight_max),
            uploader: Uploader::default(),
            error: Mutex::new(None),
            entries_cost: AtomicU64::new(0),
        }
    }

    /// Keeps the first error and ends all threads.
    pub(crate) fn fail(&self, error: ConvertError) {
        {
            let mut first = lock(&self.error);
            if matches!(*first, None | Some(ConvertError::Stopped)) {
                *first = Some(error);
            }
        }
        self.pool.stop();
        self.uploader.stop();
        self.network.cancel();
    }

    /// Takes the error that ended the conversion, if one did.
    pub(crate) fn take_error(&self) -> Option<ConvertError> {
        lock(&self.error).take()
    }

    /// Accounts for the memory of an entry.
    pub(crate) fn charge_entry(&self, cost: u64) -> Result<(), LayerError> {
        let before = self.entries_cost.fetch_add(cost, Ordering::Relaxed);
        if before > ENTRIES_COST_MAX { Err(LayerError::TooManyEntries) } else { Ok(()) }
    }

    pub(crate) fn observe(&self, event: &ConvertEvent) {
        if let Some(observer) = &self.options.observer {
            observer.observe(event);
        }
    }
}

/// Ends all threads if the one that holds it panics, so that the panic reaches the caller.
pub(crate) struct FailOnPanic<'a>(pub(crate) &'a Context<'a>);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(ConvertError::Stopped);
        }
    }
}
