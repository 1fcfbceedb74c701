//! What is known of the authorization for one kind of access, and what becomes of refusals.

use std::time::Duration;

use futures::future::{BoxFuture, Shared};
use reqwest::header::HeaderValue;
use tokio::time::Instant;

use super::challenge::Challenge;
use super::patience::jittered;
use crate::error::FetchError;

/// The longest pause between tries of credentials that do not work.
const REFUSAL_PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long the others wait for a trial that nobody finishes.
const TRIAL_TIME: Duration = Duration::from_secs(5);

/// What goes into the `Authorization` header.
#[derive(Clone)]
pub(super) struct Authorization {
    /// `None` for a request that shows whether the registry wants any by now.
    pub(super) value: Option<HeaderValue>,
    /// Grows with every renewal, so that a reader can tell whether another has renewed already.
    pub(super) generation: u64,
    pub(super) renew_at: Option<Instant>,
    pub(super) is_basic: bool,
    /// Whether the registry refused what it was given last, and this is to show whether it still does.
    pub(super) is_trial: bool,
}

pub(super) type Flight = Shared<BoxFuture<'static, Result<Authorization, FetchError>>>;

#[derive(Default)]
pub(super) struct Slot {
    pub(super) challenge: Option<Challenge>,
    pub(super) current: Option<Authorization>,
    pub(super) flight: Option<Flight>,
    pub(super) generation: u64,
    refusal: Option<Refusal>,
    /// When credentials were asked for because of a 403.
    pub(super) replaced_at: Option<Instant>,
}

/// Credentials that did not work. They are tried again after pauses that grow, by one reader, because
/// accounts are locked after too many tries; the others get the same error.
struct Refusal {
    error: FetchError,
    until: Instant,
    count: u32,
}

impl Authorization {
    pub(super) fn is_due(&self) -> bool {
        self.renew_at.is_some_and(|renew_at| renew_at <= Instant::now())
    }
}

impl Slot {
    /// Returns the error of a refusal whose pause is not over.
    pub(super) fn refused(&self) -> Option<FetchError> {
        let refusal = self.refusal.as_ref().filter(|refusal| refusal.until > Instant::now())?;
        Some(refusal.error.clone())
    }

    /// Notes that a registry refused credentials, or that there are none, and begins a pause.
    pub(super) fn refuse(&mut self, error: FetchError, backoff: Duration) {
        // It is not sent again either.
        self.current = None;
        let count = self.refusal.as_ref().map_or(0, |refusal| refusal.count);
        let pause = backoff.saturating_mul(1 << count.min(16)).min(REFUSAL_PAUSE_MAX);
        let until = Instant::now() + jittered(pause);
        self.refusal = Some(Refusal { error, until, count: count.saturating_add(1) });
    }

    /// Lets one reader find out whether the registry still refuses, and holds back all others meanwhile.
    pub(super) fn begin_trial(&mut self) -> Option<Authorization> {
        let refusal = self.refusal.as_mut()?;
        refusal.until = Instant::now() + TRIAL_TIME;
        let (value, renew_at, is_basic) = (None, None, false);
        Some(Authorization {
            value,
            generation: self.generation,
            renew_at,
            is_basic,
            is_trial: true,
        })
    }

    /// Notes that the registry takes what it was given on trial.
    pub(super) fn accept(&mut self, generation: u64) {
        self.refusal = None;
        if let Some(current) = self.current.as_mut().filter(|now| now.generation == generation) {
            current.is_trial = false;
        }
    }

    /// Keeps what a renewal brought.
    pub(super) fn settle(&mut self, result: &Result<Authorization, FetchError>, backoff: Duration) {
        match result {
            Ok(authorization) => {
                self.current = Some(authorization.clone());
                if !authorization.is_trial {
                    self.refusal = None;
                }
            }
            Err(error) if error.is_about_credentials() => self.refuse(error.clone(), backoff),
            Err(_) => {
                // The trial did not take place.
                if let Some(refusal) = &mut self.refusal {
                    refusal.until = Instant::now() + jittered(backoff);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> FetchError {
        FetchError::Unauthorized { host: "h".to_owned(), detail: String::new() }
    }

    #[test]
    fn pauses_grow_until_what_is_tried_is_accepted() {
        let mut slot = Slot::default();
        let backoff = Duration::from_secs(1);
        let mut least = Duration::ZERO;
        for _ in 0..4 {
            slot.refuse(error(), backoff);
            let pause = slot.refusal.as_ref().unwrap().until - Instant::now();
            assert!(pause > least && pause <= REFUSAL_PAUSE_MAX, "{pause:?}");
            least = pause / 2;
        }
        assert_eq!(slot.refusal.as_ref().unwrap().count, 4);
        let trial = Authorization {
            value: Some(HeaderValue::from_static("Basic x")),
            generation: 7,
            renew_at: None,
            is_basic: true,
            is_trial: true,
        };
        slot.settle(&Ok(trial), backoff);
        assert!(slot.refused().is_some());
        slot.accept(7);
        assert!(slot.refusal.is_none() && !slot.current.as_ref().unwrap().is_trial);
    }
}
