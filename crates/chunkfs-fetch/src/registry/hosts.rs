//! What is known of hosts: when they may be asked again, and what they make of ranges.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use tokio::time::Instant;

use super::date::parse_http_date;
use super::patience::{BACKOFF_MAX, jittered};
use crate::error::FetchError;

/// A longer pause is not believed: a mistaken server must not stop a mount for a day, and one request in
/// half a minute burdens nobody.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);
/// There are few hosts; this bounds them if redirects name ever new ones.
const HOSTS_MAX: usize = 64;
/// How long a mirror that failed is passed over; doubled with each further failure.
const AVOID_MIN: Duration = Duration::from_secs(1);
const AVOID_MAX: Duration = Duration::from_secs(60);

/// The state of hosts, shared by all sources that are made from clones of the same options.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    hosts: Mutex<HashMap<String, Host>>,
}

#[derive(Debug, Default)]
struct Host {
    /// Until when nothing is sent, because the host said so or is overloaded.
    resume_at: Option<Instant>,
    /// How many answers in a row were overload without a pause of their own, or no answers at all.
    overload_count: u32,
    /// Until when other places are preferred, because this one failed.
    avoid_until: Option<Instant>,
    failure_count: u32,
    /// Whether a request for a range was answered with that range the last time.
    honours_ranges: bool,
}

impl Hosts {
    /// Notes what an answer says about its host: 429 and 503 hold back all requests, for as long
    /// as `Retry-After` says, or else for a pause that grows from `backoff`.
    pub(crate) fn note_answer(
        &self,
        host: &str,
        status: StatusCode,
        headers: &HeaderMap,
        backoff: Duration,
    ) {
        if !matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            if !status.is_server_error()
                && let Some(host) = self.hosts().get_mut(host)
            {
                host.overload_count = 0;
            }
            return;
        }
        self.change(host, |host| {
            let asked = retry_after(headers);
            // Requests that were sent before the pause began say nothing new.
            let grown = if host.is_paused() { None } else { Some(host.next_pause(backoff)) };
            if let Some(pause) = asked.or(grown) {
                host.pause(pause);
            }
        });
    }

    /// Notes that no connection to a host could be made. The second time in a row this holds back all
    /// requests to it for a pause that grows, so that many readers do not all keep knocking.
    pub(super) fn note_unreachable(&self, host: &str, backoff: Duration) {
        self.change(host, |host| {
            if host.is_paused() {
                return;
            }
            let is_first = host.overload_count == 0;
            let pause = host.next_pause(backoff);
            if !is_first {
                host.pause(pause);
            }
        });
    }

    /// Waits until `host` may be asked again.
    ///
    /// # Errors
    /// [`FetchError::Throttled`] at once if that is longer than `wait_max`.
    pub(crate) async fn wait(&self, host: &str, wait_max: Duration) -> Result<(), FetchError> {
        loop {
            let pause = {
                let now = Instant::now();
                let mut hosts = self.hosts();
                let Some(state) = hosts.get_mut(host) else { return Ok(()) };
                match state.resume_at {
                    Some(resume_at) if resume_at > now => resume_at - now,
                    _ => {
                        state.resume_at = None;
                        return Ok(());
                    }
                }
            };
            if pause > wait_max {
                return Err(FetchError::Throttled { host: host.to_owned(), retry_after: pause });
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Notes that a read from a mirror failed, so that it is passed over for a while.
    pub(super) fn note_failure(&self, host: &str) {
        self.change(host, |host| {
            let pause = AVOID_MIN.saturating_mul(1 << host.failure_count.min(16)).min(AVOID_MAX);
            host.failure_count = host.failure_count.saturating_add(1);
            host.avoid_until = Instant::now().checked_add(pause);
        });
    }

    /// Notes that a mirror works.
    pub(super) fn note_success(&self, host: &str) {
        if let Some(host) = self.hosts().get_mut(host) {
            (host.failure_count, host.avoid_until) = (0, None);
        }
    }

    /// Returns whether a mirror is to be asked, as far as is known.
    pub(super) fn is_preferred(&self, host: &str) -> bool {
        let hosts = self.hosts();
        let avoid_until = hosts.get(host).and_then(|host| host.avoid_until);
        avoid_until.is_none_or(|avoid_until| avoid_until <= Instant::now())
    }

    /// Notes what a host made of a request for a range.
    pub(super) fn note_ranges(&self, host: &str, honours_ranges: bool) {
        self.change(host, |host| host.honours_ranges = honours_ranges);
    }

    /// Returns whether ranges of a blob that was not read yet can be expected to be readable.
    pub(super) fn honours_ranges(&self, host: &str) -> bool {
        self.hosts().get(host).is_some_and(|host| host.honours_ranges)
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Host)) {
        let mut hosts = self.hosts();
        if hosts.len() >= HOSTS_MAX && !hosts.contains_key(name) {
            let now = Instant::now();
            hosts.retain(|_, host| host.resume_at.max(host.avoid_until) > Some(now));
        }
        if hosts.len() < HOSTS_MAX || hosts.contains_key(name) {
            change(hosts.entry(name.to_owned()).or_default());
        }
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<String, Host>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host {
    /// Counts a failure and returns the pause that is due after so many.
    fn next_pause(&mut self, backoff: Duration) -> Duration {
        let doubled = backoff.saturating_mul(1 << self.overload_count.min(16));
        self.overload_count = self.overload_count.saturating_add(1);
        jittered(doubled.min(BACKOFF_MAX))
    }

    fn is_paused(&self) -> bool {
        self.resume_at.is_some_and(|resume_at| resume_at > Instant::now())
    }

    fn pause(&mut self, pause: Duration) {
        self.resume_at = self.resume_at.max(Instant::now().checked_add(pause));
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
    fn a_failing_mirror_is_avoided_until_it_works() {
        let hosts = Hosts::default();
        assert!(hosts.is_preferred("m"));
        hosts.note_failure("m");
        assert!(!hosts.is_preferred("m") && hosts.is_preferred("n"));
        hosts.note_success("m");
        assert!(hosts.is_preferred("m"));
    }

    #[test]
    fn the_number_of_hosts_is_bounded() {
        let hosts = Hosts::default();
        for number in 0..2 * HOSTS_MAX {
            hosts.note_failure(&number.to_string());
        }
        assert_eq!(hosts.hosts().len(), HOSTS_MAX);
    }

    #[test]
    fn a_host_that_cannot_be_reached_holds_back_from_the_second_time_on() {
        let hosts = Hosts::default();
        let backoff = Duration::from_secs(1);
        hosts.note_unreachable("h", backoff);
        assert_eq!(hosts.hosts()["h"].resume_at, None);
        hosts.note_unreachable("h", backoff);
        let pause = hosts.hosts()["h"].resume_at.unwrap() - Instant::now();
        assert!(pause > backoff / 2 && pause <= backoff * 2, "{pause:?}");
        hosts.note_answer("h", StatusCode::NOT_FOUND, &HeaderMap::new(), backoff);
        assert_eq!(hosts.hosts()["h"].overload_count, 0);
    }

    #[test]
    fn overload_without_retry_after_holds_back_longer_each_time() {
        let hosts = Hosts::default();
        let (headers, backoff) = (HeaderMap::new(), Duration::from_secs(1));
        let overloaded = || {
            hosts.note_answer("h", StatusCode::SERVICE_UNAVAILABLE, &headers, backoff);
        };
        for (count, longest) in [(1, 1), (2, 2), (3, 4), (4, 5)] {
            // A burst of answers to requests that were under way counts once.
            (0..16).for_each(|_| overloaded());
            let mut hosts = hosts.hosts();
            let host = hosts.get_mut("h").unwrap();
            let pause = host.resume_at.unwrap() - Instant::now();
            let longest = Duration::from_secs(longest);
            assert!(pause > longest / 2 - Duration::from_millis(100) && pause <= longest);
            assert_eq!(host.overload_count, count);
            host.resume_at = None;
        }
        hosts.note_answer("h", StatusCode::OK, &HeaderMap::new(), Duration::ZERO);
        assert_eq!(hosts.hosts()["h"].overload_count, 0);
    }
}
