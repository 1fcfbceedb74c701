//! How a read goes, and when a second one starts beside it.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use tokio::time::Instant;

use crate::error::{ErrorSource, FetchError};

/// The part of its deadline after which it is asked whether a read is going to meet it.
const TRIAL_PART: u32 = 6;

/// How a read goes, for those who watch it.
#[derive(Debug)]
pub(crate) struct Progress {
    len: u64,
    deadline: Duration,
    started: Instant,
    /// The bytes received so far, those of failed tries that are not used included.
    received: AtomicU64,
    /// When the present request was sent; `None` while one waits for its turn.
    sent_at: Mutex<Option<Instant>>,
    last_error: Mutex<Option<FetchError>>,
}

impl Progress {
    /// Watches a read of `len` bytes that begins now.
    pub(crate) fn new(len: u64, deadline: Duration) -> Self {
        let (received, sent_at, last_error) = Default::default();
        Self { len, deadline, started: Instant::now(), received, sent_at, last_error }
    }

    pub(crate) fn add(&self, len: usize) {
        self.received.fetch_add(len as u64, Ordering::Relaxed);
    }

    /// Notes that a request is about to be sent.
    pub(crate) fn begin_request(&self) {
        *self.sent_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Notes that a request has failed.
    pub(crate) fn end_request(&self, error: &FetchError) {
        *self.sent_at.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
    }

    /// Returns the error of a read that took too long.
    pub(crate) fn timeout(&self, what: String) -> FetchError {
        let last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let last = last.map(|error| Arc::new(error) as ErrorSource);
        FetchError::Timeout { what, after: self.deadline, last }
    }

    /// Waits until a request that was sent has brought nothing for `hedge_after`, or until the read is too slow to meet its
    /// deadline, and `may_hedge` agrees.
    pub(crate) async fn stuck(&self, hedge_after: Duration, may_hedge: impl Fn() -> bool) {
        let mut before = 0;
        loop {
            tokio::time::sleep(hedge_after).await;
            let now = self.received.load(Ordering::Relaxed);
            let sent_at = *self.sent_at.lock().unwrap_or_else(PoisonError::into_inner);
            let is_sent = sent_at.is_some_and(|at| at.elapsed() >= hedge_after);
            let is_slow = now == before || self.is_late(now, self.started.elapsed());
            if is_sent && is_slow && may_hedge() {
                return;
            }
            before = now;
        }
    }

    /// Returns whether the rest would not come in time at the rate so far.
    fn is_late(&self, received: u64, elapsed: Duration) -> bool {
        let left = self.deadline.saturating_sub(elapsed).as_millis();
        let missing = u128::from(self.len.saturating_sub(received));
        elapsed * TRIAL_PART >= self.deadline
            && u128::from(received) * left < missing * elapsed.as_millis()
    }
}

/// Runs `second` beside `first` once `stuck` is done; the first success counts.
pub(crate) async fn hedged<F: Future<Output = Result<Bytes, FetchError>>>(
    first: F,
    stuck: impl Future<Output = ()>,
    second: impl FnOnce() -> F,
) -> Result<Bytes, FetchError> {
    let mut first = pin!(first);
    if let Either::Left((result, _)) = select(&mut first, pin!(stuck)).await {
        return result;
    }
    match select(first, pin!(second())).await {
        Either::Left((Ok(bytes), _)) | Either::Right((Ok(bytes), _)) => Ok(bytes),
        Either::Left((Err(_), second)) => second.await,
        Either::Right((Err(_), first)) => first.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_late_if_the_rest_cannot_come_in_time() {
        let progress = Progress::new(6000, Duration::from_secs(60));
        for (received, seconds, expected) in [
            // Too early to tell.
            (0, 9, false),
            (0, 10, true),
            (999, 10, true),
            (1000, 10, false),
            (2999, 30, true),
            (3000, 30, false),
            (6000, 59, false),
            (5999, 61, true),
        ] {
            let elapsed = Duration::from_secs(seconds);
            assert_eq!(progress.is_late(received, elapsed), expected, "{received} {seconds}");
        }
    }
}
