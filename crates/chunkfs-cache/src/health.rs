//! Living with a disk that does not work.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The disk tier stopped or started working. Readers are served from memory and the source meanwhile.
#[derive(Debug)]
#[non_exhaustive]
pub enum DiskEvent<'a> {
    /// An operation failed, and none had failed since the disk last worked.
    Failed {
        /// What was being done.
        operation: &'static str,
        /// What the system said.
        error: &'a io::Error,
    },
    /// Chunks are kept again.
    Recovered,
}

/// Is told once when the disk tier stops working, and once when it works again.
pub type DiskObserver = Arc<dyn Fn(&DiskEvent<'_>) + Send + Sync>;

/// The longest time for which a disk that failed is left alone.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Whether the disk works, and when it is tried again if not.
pub(crate) struct Health {
    is_failing: AtomicBool,
    failing: Mutex<Option<Failing>>,
    pause_min: Duration,
    observer: Option<DiskObserver>,
}

#[derive(Debug, Clone, Copy)]
struct Failing {
    since: Instant,
    pause: Duration,
}

impl Health {
    pub(crate) fn new(pause_min: Duration, observer: Option<DiskObserver>) -> Self {
        let (is_failing, failing) = (AtomicBool::new(false), Mutex::new(None));
        Self { is_failing, failing, pause_min, observer }
    }

    /// Returns whether writing is worth a try.
    pub(crate) fn may_write(&self) -> bool {
        if !self.is_failing.load(Ordering::Relaxed) {
            return true;
        }
        let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        failing.is_none_or(|failing| failing.since.elapsed() >= failing.pause)
    }

    /// Notes that an operation failed, and tells the observer if it is the first one.
    pub(crate) fn failed(&self, operation: &'static str, error: &io::Error) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = failing.is_none();
        let pause = failing.map_or(self.pause_min, |failing| (failing.pause * 2).min(PAUSE_MAX));
        *failing = Some(Failing { since: Instant::now(), pause });
        self.is_failing.store(true, Ordering::Relaxed);
        drop(failing);
        if is_first {
            self.tell(&DiskEvent::Failed { operation, error });
        }
    }

    /// Notes that a chunk was written.
    pub(crate) fn wrote(&self) {
        if !self.is_failing.load(Ordering::Relaxed) {
            return;
        }
        let was_failing =
            self.failing.lock().unwrap_or_else(PoisonError::into_inner).take().is_some();
        self.is_failing.store(false, Ordering::Relaxed);
        if was_failing {
            self.tell(&DiskEvent::Recovered);
        }
    }

    fn tell(&self, event: &DiskEvent<'_>) {
        if let Some(observer) = &self.observer {
            observer(event);
        }
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").field("failing", &self.failing).finish_non_exhaustive()
    }
}
