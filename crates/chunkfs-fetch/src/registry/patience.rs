//! Retries: how many, and how long to wait between them.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};
use tokio::time::Instant;

use super::date::parse_http_date;
use super::options::RegistryOptions;
use crate::error::FetchError;

const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How often one read may be continued after answers that brought some of the bytes.
const STEPS_MAX: u32 = 64;
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);
/// Hosts with a pause; there are few, and this bounds them if redirects name ever new ones.
const THROTTLED_HOSTS_MAX: usize = 64;

/// How much failure one operation still tolerates.
#[derive(Debug)]
pub(super) struct Patience {
    retries_left: u32,
    steps_left: u32,
    backoff: Duration,
}

impl Patience {
    pub(super) fn new(options: &RegistryOptions) -> Self {
        Self { retries_left: options.retries_max, steps_left: STEPS_MAX, backoff: options.backoff }
    }

    /// Waits before the next try, or returns the error if there is to be none.
    ///
    /// A failure after progress costs no retry and no wait, but a step.
    pub(super) async fn after(
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
        self.retries_left = self.retries_left.checked_sub(1).ok_or(error)?;
        let pause = jittered(self.backoff);
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// Counts a step that brought some of the bytes; `error` is returned if there were too many.
    pub(super) fn step(&mut self, error: FetchError) -> Result<(), FetchError> {
        self.steps_left = self.steps_left.checked_sub(1).ok_or(error)?;
        Ok(())
    }
}

/// Pauses that hosts asked for with `Retry-After`; they concern all requests to the host.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    until: Mutex<HashMap<String, Instant>>,
}

impl Throttle {
    /// Notes the `Retry-After` of an answer.
    pub(super) fn note(&self, host: &str, headers: &HeaderMap) {
        let Some(pause) = retry_after(headers) else { return };
        let Some(until) = Instant::now().checked_add(pause) else { return };
        let mut hosts = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.len() >= THROTTLED_HOSTS_MAX {
            let now = Instant::now();
            hosts.retain(|_, until| *until > now);
        }
        if hosts.len() < THROTTLED_HOSTS_MAX || hosts.contains_key(host) {
            let latest = hosts.entry(host.to_owned()).or_insert(until);
            *latest = until.max(*latest);
        }
    }

    /// Waits until `host` may be asked again.
    ///
    /// # Errors
    /// [`FetchError::Throttled`] at once if that is longer than `wait_max`.
    pub(super) async fn wait(&self, host: &str, wait_max: Duration) -> Result<(), FetchError> {
        loop {
            let now = Instant::now();
            let pause = {
                let mut hosts = self.until.lock().unwrap_or_else(PoisonError::into_inner);
                match hosts.get(host) {
                    None => return Ok(()),
                    Some(until) if *until <= now => {
                        hosts.remove(host);
                        return Ok(());
                    }
                    Some(until) => *until - now,
                }
            };
            if pause > wait_max {
                return Err(FetchError::Throttled { host: host.to_owned(), retry_after: pause });
            }
            tokio::time::sleep(pause).await;
        }
    }
}

/// Returns the pause that an answer asks for: seconds or a date (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => parse_http_date(text)?.duration_since(SystemTime::now()).ok()?,
    };
    Some(pause.min(RETRY_AFTER_MAX))
}

/// Returns a random duration between half of `pause` and `pause`.
fn jittered(pause: Duration) -> Duration {
    // The keys of the standard hasher are random, which is random enough to spread retries.
    let random = RandomState::new().hash_one(0_u8) % 1024;
    pause / 2 + pause.mul_f64(random as f64 / 2048.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let parse = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(parse("3"), Some(Duration::from_secs(3)));
        assert_eq!(parse("99999999999"), Some(RETRY_AFTER_MAX));
        assert_eq!(parse("Fri, 31 Dec 9999 23:59:59 GMT"), Some(RETRY_AFTER_MAX));
        assert_eq!(parse("Sun, 06 Nov 1994 08:49:37 GMT"), None);
        assert_eq!(parse("soon"), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn jitter_stays_between_half_and_whole() {
        let pause = Duration::from_millis(100);
        for _ in 0..100 {
            assert!((pause / 2..=pause).contains(&jittered(pause)));
        }
    }
}
