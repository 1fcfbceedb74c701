//! How many requests run at once.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::FetchError;
use crate::source::Priority;

/// Admits requests: so many in all, fewer of them for prefetch.
///
/// A prefetch read waits for a place among prefetch reads first, so at most that many of them are
/// ever ahead of a demand read in the common queue.
#[derive(Debug)]
pub(crate) struct Limits {
    all: Arc<Semaphore>,
    prefetch: Arc<Semaphore>,
}

/// The right to run one request; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    _all: OwnedSemaphorePermit,
    _prefetch: Option<OwnedSemaphorePermit>,
}

impl Limits {
    pub(crate) fn new(connections_max: usize, prefetch_connections_max: usize) -> Self {
        let all = connections_max.clamp(1, Semaphore::MAX_PERMITS);
        let prefetch = prefetch_connections_max.min(all.saturating_sub(1)).max(1);
        Self { all: Arc::new(Semaphore::new(all)), prefetch: Arc::new(Semaphore::new(prefetch)) }
    }

    pub(crate) async fn acquire(&self, priority: Priority) -> Result<Permit, FetchError> {
        let acquire = |semaphore: &Arc<Semaphore>| Arc::clone(semaphore).acquire_owned();
        let prefetch = match priority {
            Priority::Demand => None,
            Priority::Prefetch => {
                Some(acquire(&self.prefetch).await.map_err(|_| FetchError::Shutdown)?)
            }
        };
        let all = acquire(&self.all).await.map_err(|_| FetchError::Shutdown)?;
        Ok(Permit { _all: all, _prefetch: prefetch })
    }
}
