//! Single flight: one load per chunk, however many wait for it.

use std::collections::HashMap;
#[cfg(not(test))]
use std::sync::Mutex;
use std::sync::{Arc, OnceLock, PoisonError};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::channel::oneshot;
use futures::future::{BoxFuture, Shared, WeakShared};
// The tests of this module run threads in all orders.
#[cfg(test)]
use shuttle::sync::Mutex;
use tokio::task::AbortHandle;

use crate::error::LoadError;
use crate::key::StoreKey;
use chunkfs_format::ChunkId;

pub(crate) type LoadResult = Result<Bytes, LoadError>;
pub(crate) type SharedLoad = Shared<BoxFuture<'static, LoadResult>>;

/// The loads under way, by chunk.
///
/// An entry lives as long as its [`Landing`]. It holds the load weakly: when the last waiter is
/// dropped the load is too, and with it the [`TaskGuard`], which aborts the task that works on it.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    state: Mutex<FlightState>,
}

#[derive(Debug, Default)]
struct FlightState {
    next_number: u64,
    entries: HashMap<StoreKey, Entry>,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    load: WeakShared<BoxFuture<'static, LoadResult>>,
}

/// Aborts a task when the last load that the task works on has been dropped.
#[derive(Debug, Default)]
pub(crate) struct TaskGuard(OnceLock<AbortHandle>);

impl TaskGuard {
    pub(crate) fn set(&self, task: AbortHandle) {
        // A guard guards one task; it is set once, right after the task is spawned.
        let _ = self.0.set(task);
    }
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        if let Some(task) = self.0.get() {
            task.abort();
        }
    }
}

/// How a load began.
pub(crate) enum Joined {
    /// Somebody else works on it.
    Existing(SharedLoad),
    /// The caller must see to it that the landing gets a result.
    New(SharedLoad, Landing),
}

/// The obligation to end a load. Dropping it without a result ends the load as shut down.
#[derive(Debug)]
pub(crate) struct Landing {
    flights: Arc<Flights>,
    key: StoreKey,
    number: u64,
    sender: Option<oneshot::Sender<LoadResult>>,
}

impl Flights {
    /// Joins the load of a chunk, or begins one that keeps `guard` alive while anybody waits.
    pub(crate) fn join(
        self: &Arc<Self>,
        key: StoreKey,
        chunk: ChunkId,
        guard: &Arc<TaskGuard>,
    ) -> Joined {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(load) = state.entries.get(&key).and_then(|entry| entry.load.upgrade()) {
            return Joined::Existing(load);
        }
        let (sender, receiver) = oneshot::channel();
        let guard = Arc::clone(guard);
        let load = async move {
            let result = receiver.await.unwrap_or(Err(LoadError::Shutdown { chunk }));
            drop(guard);
            result
        };
        let load = load.boxed().shared();
        let number = state.next_number;
        state.next_number += 1;
        if let Some(weak) = load.downgrade() {
            state.entries.insert(key, Entry { number, load: weak });
        }
        let landing = Landing { flights: Arc::clone(self), key, number, sender: Some(sender) };
        Joined::New(load, landing)
    }

    fn remove(&self, key: &StoreKey, number: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.entries.get(key).is_some_and(|entry| entry.number == number) {
            state.entries.remove(key);
        }
    }
}

impl Landing {
    /// Hands the result to all waiters. From here on a new caller begins a new load.
    pub(crate) fn land(mut self, result: LoadResult) {
        self.flights.remove(&self.key, self.number);
        if let Some(sender) = self.sender.take() {
            // Nobody waits any more if this fails, which is fine.
            let _ = sender.send(result);
        }
    }

    /// Returns whether nobody waits any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.sender.as_ref().is_none_or(oneshot::Sender::is_canceled)
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.flights.remove(&self.key, self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use shuttle::{future::block_on, thread};

    use super::*;

    const KEY: StoreKey = StoreKey { bytes: [7; 32], algorithm: 1 };
    const CHUNK: ChunkId = ChunkId::from_bytes([7; 32]);
    const BYTES: Bytes = Bytes::from_static(b"chunk");

    /// Whatever the order: nobody works on a load that another works on, whoever waits is told, and
    /// nothing is left behind. `landed` of the threads that come first end their load with a result.
    fn readers(landed: usize) {
        let flights = Arc::new(Flights::default());
        let (working, begun) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let (flights, working, begun) = (flights.clone(), working.clone(), begun.clone());
                thread::spawn(move || {
                    let guard = Arc::new(TaskGuard::default());
                    match flights.join(KEY, CHUNK, &guard) {
                        Joined::Existing(load) => match block_on(load) {
                            Ok(bytes) => assert_eq!(bytes, BYTES),
                            Err(error) => assert!(matches!(error, LoadError::Shutdown { .. })),
                        },
                        Joined::New(load, landing) => {
                            assert_eq!(working.fetch_add(1, Ordering::SeqCst), 0, "one at a time");
                            let number = begun.fetch_add(1, Ordering::SeqCst);
                            thread::yield_now();
                            working.fetch_sub(1, Ordering::SeqCst);
                            if number < landed {
                                landing.land(Ok(BYTES));
                                assert_eq!(block_on(load).unwrap(), BYTES);
                            } else {
                                drop(landing);
                                assert!(block_on(load).is_err());
                            }
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(flights.state.lock().unwrap().entries.is_empty(), "nothing is left behind");
    }

    #[test]
    fn loads_are_shared_and_ended_in_every_order() {
        for landed in 0..=3 {
            shuttle::check_random(move || readers(landed), 2_000);
        }
    }

    #[test]
    fn a_load_that_nobody_waits_for_is_begun_anew() {
        let body = || {
            let flights = Arc::new(Flights::default());
            let other = flights.clone();
            let leaving = thread::spawn(move || {
                let guard = Arc::new(TaskGuard::default());
                match other.join(KEY, CHUNK, &guard) {
                    // Drops the load before its landing.
                    Joined::New(load, landing) => {
                        drop(load);
                        thread::yield_now();
                        assert!(landing.is_abandoned());
                        drop(landing);
                    }
                    Joined::Existing(load) => drop(load),
                }
            });
            let guard = Arc::new(TaskGuard::default());
            match flights.join(KEY, CHUNK, &guard) {
                Joined::New(load, landing) => {
                    landing.land(Ok(BYTES));
                    assert_eq!(block_on(load).unwrap(), BYTES);
                }
                Joined::Existing(load) => assert!(block_on(load).is_err()),
            }
            leaving.join().unwrap();
            assert!(flights.state.lock().unwrap().entries.is_empty());
        };
        shuttle::check_random(body, 5_000);
    }
}
