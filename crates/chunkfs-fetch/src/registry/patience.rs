//! Retries: how many, and how long to wait between them.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use super::options::RegistryOptions;
use crate::error::FetchError;
use crate::source::Priority;

pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(5);
const RETRIES_MAX: u32 = 4;
/// How often damaged bytes are read again from the last place that has them.
pub(crate) const REREADS_MAX: u32 = 3;
/// How often a place is asked again after it refused or answered something else: one that has worked
/// before, and any other.
const DOUBTS_MAX: u32 = 6;
const FIRST_DOUBTS_MAX: u32 = 2;
/// How often one read may be continued after answers that brought some of the bytes.
const STEPS_MAX: u32 = 64;

/// How much failure one operation still tolerates.
#[derive(Debug)]
pub(crate) struct Patience {
    retries_left: u32,
    doubt_count: u32,
    doubts_max: u32,
    steps_left: u32,
    backoff: Duration,
}

impl Patience {
    pub(super) fn new(options: &RegistryOptions) -> Self {
        let mut patience = Self::with_retries(options.retries_max, RETRIES_MAX, options.backoff);
        if options.is_of_mirror {
            // The next place is better than patience.
            patience.doubts_max = 0;
        }
        patience
    }

    fn with_retries(retries_max: Option<u32>, default: u32, backoff: Duration) -> Self {
        let retries_left = retries_max.unwrap_or(default);
        let doubts_max = retries_max.unwrap_or(DOUBTS_MAX).min(DOUBTS_MAX);
        Self { retries_left, doubt_count: 0, doubts_max, steps_left: STEPS_MAX, backoff }
    }

    /// Returns the patience of a range read, which has a deadline around it.
    pub(super) fn of_read(options: &RegistryOptions, priority: Priority) -> Self {
        let mut patience = Self::new(options);
        if options.retries_max.is_none() && priority == Priority::Demand {
            patience.retries_left = u32::MAX;
        }
        patience
    }

    /// Returns the patience of a range read from an object store, which has a deadline around it.
    #[cfg(feature = "object-store")]
    pub(crate) fn of_object(
        retries_max: Option<u32>,
        backoff: Duration,
        priority: Priority,
    ) -> Self {
        let default = if priority == Priority::Demand { u32::MAX } else { RETRIES_MAX };
        Self::with_retries(retries_max, default, backoff)
    }

    /// Waits before the next try, or returns the error if there is to be none.
    ///
    /// A failure after progress costs no retry and no wait, but a step.
    pub(crate) async fn after(
        &mut self,
        error: FetchError,
        has_progressed: bool,
    ) -> Result<(), FetchError> {
        let is_final = matches!(error, FetchError::Throttled { .. }) || !error.is_retryable();
        if is_final {
            return Err(error);
        }
        if has_progressed {
            return self.step(error);
        }
        self.again(error).await
    }

    /// Waits before the next try after a failure that may pass, or returns the error if there is to be
    /// none.
    pub(crate) async fn again(&mut self, error: FetchError) -> Result<(), FetchError> {
        self.retries_left = self.retries_left.checked_sub(1).ok_or(error)?;
        self.pause().await;
        Ok(())
    }

    /// Waits before a place is asked again although it refused, or answered something else than what
    /// was asked; returns the error if it did so too often.
    pub(crate) async fn doubt(
        &mut self,
        error: FetchError,
        has_worked: bool,
    ) -> Result<(), FetchError> {
        let doubts_max = if has_worked { DOUBTS_MAX } else { FIRST_DOUBTS_MAX };
        if self.doubt_count >= doubts_max.min(self.doubts_max) {
            return Err(error);
        }
        self.doubt_count += 1;
        self.pause().await;
        Ok(())
    }

    async fn pause(&mut self) {
        let pause = jittered(self.backoff);
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        tokio::time::sleep(pause).await;
    }

    /// Counts a step that brought some of the bytes; `error` is returned if there were too many.
    pub(super) fn step(&mut self, error: FetchError) -> Result<(), FetchError> {
        self.steps_left = self.steps_left.checked_sub(1).ok_or(error)?;
        self.doubt_count = 0;
        Ok(())
    }
}

/// Returns a random duration between half of `pause` and `pause`.
pub(super) fn jittered(pause: Duration) -> Duration {
    // The keys of the standard hasher are random, which is random enough to spread retries.
    let random = RandomState::new().hash_one(0_u8) % 1024;
    pause / 2 + pause.mul_f64(random as f64 / 2048.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_between_half_and_whole() {
        let pause = Duration::from_millis(100);
        for _ in 0..100 {
            assert!((pause / 2..=pause).contains(&jittered(pause)));
        }
    }
}
