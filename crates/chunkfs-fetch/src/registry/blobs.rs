//! What is known of each blob: where it really is, and whether ranges of it can be read.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use chunkfs_format::BlobId;
use reqwest::header::{CACHE_CONTROL, HeaderValue, RANGE};
use reqwest::{StatusCode, Url};
use tokio::time::Instant;

use super::body::Body;
use super::date::parse_basic_date;
use super::exchange::{Exchange, Outgoing, is_redirect};
use super::turnstile::Turnstile;
use crate::error::FetchError;
use crate::source::Priority;

/// Of how many blobs the state is kept.
const BLOBS_MAX: usize = 4096;
/// A signed URL is given up this long before it expires, or a tenth of its life if that is shorter.
const RENEW_EARLY_MAX: Duration = Duration::from_secs(10);

/// The states of the blobs that were read lately.
#[derive(Debug, Default)]
pub(super) struct Blobs {
    states: Mutex<HashMap<BlobId, Arc<BlobState>>>,
}

/// What is known of one blob.
#[derive(Debug, Default)]
pub(super) struct BlobState {
    /// Taken by the one reader who finds out whether the blob's ranges can be read; it is kept until
    /// the head of the answer is there, or through a whole transfer that cannot be kept.
    pub(super) turnstile: Turnstile,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    location: Option<Location>,
    honours_ranges: bool,
    /// Whether damaged bytes came, so that caches on the way are not to be trusted.
    is_doubted: bool,
}

/// Where redirects ended.
#[derive(Debug, Clone)]
struct Location {
    url: Url,
    renew_at: Option<Instant>,
    /// Whether the end was seen: what was only named may redirect further.
    is_end: bool,
}

/// A read of a blob or of a range of it.
#[derive(Debug, Clone)]
pub(super) struct BlobRequest {
    pub(super) blob: BlobId,
    pub(super) range: Option<Range<u64>>,
    pub(super) priority: Priority,
    /// Whether caches on the way must ask the origin.
    pub(super) is_fresh: bool,
}

impl Blobs {
    /// Returns the state of a blob; a new one expects of ranges what its host is known for.
    pub(super) fn state(
        &self,
        blob: BlobId,
        host_honours_ranges: impl FnOnce() -> bool,
    ) -> Arc<BlobState> {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        if states.len() >= BLOBS_MAX && !states.contains_key(&blob) {
            // Only states that nobody uses; what is forgotten is learned again by one request.
            states.retain(|_, state| Arc::strong_count(state) > 1);
        }
        let new = || Arc::new(BlobState::new(host_honours_ranges()));
        Arc::clone(states.entry(blob).or_insert_with(new))
    }
}

impl BlobState {
    fn new(honours_ranges: bool) -> Self {
        let known = Mutex::new(Known { honours_ranges, ..Known::default() });
        Self { turnstile: Turnstile::default(), known }
    }

    pub(super) fn honours_ranges(&self) -> bool {
        self.known().honours_ranges
    }

    /// Returns whether this was not known before.
    pub(super) fn set_honours_ranges(&self, honours_ranges: bool) -> bool {
        std::mem::replace(&mut self.known().honours_ranges, honours_ranges) != honours_ranges
    }

    pub(super) fn is_doubted(&self) -> bool {
        self.known().is_doubted
    }

    pub(super) fn set_doubted(&self, is_doubted: bool) {
        self.known().is_doubted = is_doubted;
    }

    pub(super) fn has_location(&self) -> bool {
        self.location().is_some()
    }

    fn location(&self) -> Option<Location> {
        let mut known = self.known();
        let is_due = |location: &Location| location.renew_at.is_some_and(|at| at <= Instant::now());
        if known.location.as_ref().is_some_and(is_due) {
            known.location = None;
        }
        known.location.clone()
    }

    pub(super) fn remember(&self, url: &Url, is_end: bool) {
        let renew_at = expiry(url)
            .and_then(|at| at.duration_since(SystemTime::now()).ok())
            .and_then(|life| Instant::now().checked_add(life - RENEW_EARLY_MAX.min(life / 10)));
        self.known().location = Some(Location { url: url.clone(), renew_at, is_end });
    }

    /// Forgets where a blob was found, because it is no good.
    pub(super) fn forget_location(&self) {
        self.known().location = None;
    }

    /// Forgets a location, unless another reader has replaced it already.
    fn forget(&self, url: &Url) {
        let mut known = self.known();
        if known.location.as_ref().is_some_and(|location| location.url == *url) {
            known.location = None;
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Exchange {
    /// Asks for a blob or a range of it, where it was found last, else at the registry.
    ///
    /// Returns answers with status 200 and 206, whose encoding is checked; all others are errors.
    pub(super) async fn get_blob(
        &self,
        state: &BlobState,
        request: BlobRequest,
    ) -> Result<Body, FetchError> {
        let BlobRequest { blob, range, priority, is_fresh } = request;
        let is_fresh = is_fresh || state.is_doubted();
        let request = |url| {
            let mut request = Outgoing::get(url, priority);
            if let Some(range) = &range {
                let value = format!("bytes={}-{}", range.start, range.end - 1);
                let value = HeaderValue::from_str(&value).expect("digits and dashes");
                request.headers.insert(RANGE, value);
            }
            if is_fresh {
                request.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            }
            request
        };
        if let Some(Location { url, is_end, .. }) = state.location() {
            let answer = match is_end {
                true => self.send(&request(url.clone())).await?,
                false => self.follow(request(url.clone())).await?.0,
            };
            let status = answer.status();
            let may_be_expired = matches!(status.as_u16(), 400 | 401 | 403) || is_redirect(status);
            if !may_be_expired {
                if !is_end && status.is_success() {
                    state.remember(answer.url(), true);
                }
                return self.check_blob(blob, range, answer).await;
            }
            state.forget(&url);
        }
        let url = self.origin.blob_url(blob);
        let (answer, is_redirected) = self.follow(request(url)).await?;
        if is_redirected && answer.status().is_success() {
            state.remember(answer.url(), true);
        }
        self.check_blob(blob, range, answer).await
    }

    async fn check_blob(
        &self,
        blob: BlobId,
        range: Option<Range<u64>>,
        answer: Body,
    ) -> Result<Body, FetchError> {
        match (answer.status(), range) {
            (StatusCode::OK, _) | (StatusCode::PARTIAL_CONTENT, Some(_)) => {
                answer.check_encoding()?;
                Ok(answer)
            }
            (StatusCode::RANGE_NOT_SATISFIABLE, Some(range)) => {
                let text = answer.content_range_text();
                let len = text.strip_prefix("bytes */").and_then(|len| len.parse().ok());
                Err(FetchError::OutOfRange { len: len.unwrap_or(range.start), blob, range })
            }
            _ => Err(answer.into_error(&format!("blob {blob} at {}", self.origin.host())).await),
        }
    }
}

/// Returns when a signed URL expires, if its query says so in one of the common ways:
/// S3 and GCS version 4, S3 version 2 and CloudFront, Azure.
fn expiry(url: &Url) -> Option<SystemTime> {
    let parameter = |name: &str| {
        url.query_pairs().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    };
    let seconds = |text: &str| text.parse().ok().map(Duration::from_secs);
    for provider in ["Amz", "Goog"] {
        let date = parameter(&format!("X-{provider}-Date"));
        let life = parameter(&format!("X-{provider}-Expires"));
        if let Some((date, life)) = date.zip(life) {
            return parse_basic_date(&date)?.checked_add(seconds(&life)?);
        }
    }
    if let Some(expires) = parameter("Expires") {
        return SystemTime::UNIX_EPOCH.checked_add(seconds(&expires)?);
    }
    parse_basic_date(&parameter("se")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_of_signed_urls_is_found() {
        let at = |query: &str| {
            let expiry = expiry(&Url::parse(&format!("https://s/x?{query}")).unwrap())?;
            Some(expiry.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
        };
        let date = 1_369_353_600;
        assert_eq!(at("X-Amz-Date=20130524T000000Z&X-Amz-Expires=1200"), Some(date + 1200));
        assert_eq!(at("X-Goog-Date=20130524T000000Z&X-Goog-Expires=60"), Some(date + 60));
        assert_eq!(at("Expires=1369353600&Signature=x"), Some(date));
        assert_eq!(at("sig=x&se=2013-05-24T00%3A00%3A00Z"), Some(date));
        for query in
            ["", "X-Amz-Expires=1200", "Expires=soon", "se=x", "Expires=18446744073709551615"]
        {
            assert_eq!(at(query), None, "{query}");
        }
    }

    #[test]
    fn expired_locations_are_forgotten() {
        let state = BlobState::default();
        let url = |query: &str| Url::parse(&format!("https://s/x?{query}")).unwrap();
        state.remember(&url("Expires=99999999999"), true);
        assert_eq!(state.location().unwrap().url, url("Expires=99999999999"));
        state.forget(&url("other"));
        assert!(state.location().is_some());
        state.forget(&url("Expires=99999999999"));
        assert!(!state.has_location());
    }

    #[test]
    fn the_number_of_states_is_bounded() {
        let blobs = Blobs::default();
        let id = |number: usize| BlobId::of(&number.to_le_bytes());
        let state = |id| blobs.state(id, || true);
        let kept = state(id(0));
        for number in 1..BLOBS_MAX + 10 {
            assert!(state(id(number)).honours_ranges());
        }
        assert!(blobs.states.lock().unwrap().len() <= BLOBS_MAX);
        assert!(Arc::ptr_eq(&kept, &state(id(0))));
    }
}
