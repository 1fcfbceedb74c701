//! Lets one reader through at a time; the others wait or do something else.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// A lock that is never handed over: whoever waits competes anew once it is free.
///
/// A fair mutex would give the lock to waiters that only want to know that it was released.
#[derive(Debug, Default)]
pub(super) struct Turnstile {
    is_taken: AtomicBool,
    freed: Notify,
}

/// The right to be the only one; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a>(&'a Turnstile);

impl Turnstile {
    /// Takes the turn if nobody has it.
    pub(super) fn try_take(&self) -> Option<Turn<'_>> {
        let was_taken = self.is_taken.swap(true, Ordering::AcqRel);
        (!was_taken).then(|| Turn(self))
    }

    /// Waits until nobody has the turn, for a moment at least.
    pub(super) async fn freed(&self) {
        let mut freed = std::pin::pin!(self.freed.notified());
        // Registered before looking, so that a release in between is not missed.
        freed.as_mut().enable();
        if self.is_taken.load(Ordering::Acquire) {
            freed.await;
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.is_taken.store(false, Ordering::Release);
        self.0.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[test]
    fn only_one_passes_and_the_others_learn_when_to_try_again() {
        let turnstile = Turnstile::default();
        assert!(turnstile.freed().now_or_never().is_some());
        let turn = turnstile.try_take().unwrap();
        assert!(turnstile.try_take().is_none());
        let mut waiters = [Box::pin(turnstile.freed()), Box::pin(turnstile.freed())];
        assert!(waiters.iter_mut().all(|waiter| waiter.now_or_never().is_none()));
        drop(turn);
        let turn = turnstile.try_take();
        assert!(turn.is_some());
        assert!(waiters.iter_mut().all(|waiter| waiter.now_or_never().is_some()));
    }
}
