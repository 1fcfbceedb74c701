//! What counts as progress of a body.

use std::time::Duration;

/// A body that brings less than this in a second, over the progress timeout, counts as stalled.
const RATE_MIN: u64 = 1 << 10;

/// Watches the pieces of a body, so that a trickle is told from a flow.
#[derive(Debug)]
pub(crate) struct Pace {
    progress_timeout: Duration,
    /// How long was waited for the last `window_len` bytes.
    waited: Duration,
    window_len: u64,
}

impl Pace {
    pub(crate) fn new(progress_timeout: Duration) -> Self {
        Self { progress_timeout, waited: Duration::ZERO, window_len: 0 }
    }

    /// Returns how long the next piece may take.
    pub(crate) fn patience(&self) -> Duration {
        self.progress_timeout.saturating_sub(self.waited)
    }

    /// Notes a piece. Only time spent waiting counts: the reader may be slow, too.
    pub(crate) fn note(&mut self, waited: Duration, len: u64) {
        self.waited += waited;
        self.window_len += len;
        let len_min = self.progress_timeout.as_secs_f64() * RATE_MIN as f64;
        if self.window_len as f64 >= len_min {
            (self.waited, self.window_len) = (Duration::ZERO, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trickle_uses_up_the_patience_and_a_flow_renews_it() {
        let mut pace = Pace::new(Duration::from_secs(10));
        pace.note(Duration::from_secs(6), 10_239);
        assert_eq!(pace.patience(), Duration::from_secs(4));
        pace.note(Duration::from_secs(1), 1);
        assert_eq!(pace.patience(), Duration::from_secs(10));
        pace.note(Duration::from_secs(11), 1);
        assert_eq!(pace.patience(), Duration::ZERO);
    }
}
