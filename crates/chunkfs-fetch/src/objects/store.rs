//! The store that is used at present.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use object_store::ObjectStore;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::connect::Connect;
use crate::task;

/// How long a store that was set up anew is kept, even if it refuses everything.
const RENEW_PAUSE: Duration = Duration::from_secs(5);

/// A store that is set up anew when it refuses what it allowed before.
///
/// object_store keeps credentials until shortly before the end that was announced for them, by a
/// clock that stands still while a machine sleeps, and has no way to make it ask again. A mount
/// lives on when keys are revoked, rotated in their file, or outlived in a suspended machine.
#[derive(Debug)]
pub(super) struct Store {
    current: RwLock<Current>,
    connect: Option<Arc<Connect>>,
}

#[derive(Debug)]
struct Current {
    store: Arc<dyn ObjectStore>,
    renewed_at: Option<Instant>,
}

impl Store {
    /// Without `connect` the store is the only one there is.
    pub(super) fn new(store: Arc<dyn ObjectStore>, connect: Option<Connect>) -> Self {
        let current = RwLock::new(Current { store, renewed_at: None });
        Self { current, connect: connect.map(Arc::new) }
    }

    pub(super) fn current(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).store)
    }

    /// Sets up the store anew, unless that was done since `refused` was taken or a moment ago.
    pub(super) async fn renew(&self, refused: &Arc<dyn ObjectStore>, runtime: &Handle) {
        let Some(connect) = &self.connect else { return };
        {
            let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
            let is_young = current.renewed_at.is_some_and(|at| at.elapsed() < RENEW_PAUSE);
            if is_young || !Arc::ptr_eq(&current.store, refused) {
                return;
            }
            current.renewed_at = Some(Instant::now());
        }
        let connect = Arc::clone(connect);
        // Files with keys may be read. If they cannot be, the refusal is what the caller is told.
        if let Ok(store) = task::run_blocking(runtime, move || connect.connect()).await {
            self.current.write().unwrap_or_else(PoisonError::into_inner).store = store;
        }
    }
}
