//! Authorization: one token request for all who wait.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use reqwest::header::HeaderValue;
use reqwest::{Client, Url};
use tokio::time::Instant;

use super::challenge::{BearerChallenge, Challenge};
use super::counters::Counters;
use super::credentials::{Credential, CredentialsReason};
use super::options::RegistryOptions;
use super::origin::Origin;
use super::patience::Patience;
use super::slot::{Authorization, Flight, Slot};
use super::token::{TokenRequest, basic};
use crate::error::FetchError;

/// A token is renewed this long before it expires, or a tenth of its life if that is shorter.
const RENEW_EARLY_MAX: Duration = Duration::from_secs(30);
/// How often credentials are asked for because of a 403, which most often is about rights.
const REPLACE_PAUSE: Duration = Duration::from_secs(30);
/// How many repositories blobs can be mounted from before the tokens for that are forgotten.
const SLOTS_MAX: usize = 64;

/// What a request is going to do; each kind has its own token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Access {
    Pull,
    Push,
    /// Push here, and pull from this repository.
    Mount(String),
}

/// Obtains and keeps what one registry demands.
pub(super) struct Authorizer {
    client: Client,
    origin: Arc<Origin>,
    repository: String,
    options: RegistryOptions,
    counters: Arc<Counters>,
    slots: Mutex<HashMap<Access, Slot>>,
    /// The last answer of the credentials source, once it was asked.
    credential: Mutex<Option<Option<Credential>>>,
}

impl Authorizer {
    pub(super) fn new(
        client: Client,
        origin: Arc<Origin>,
        repository: &str,
        options: RegistryOptions,
        counters: Arc<Counters>,
    ) -> Self {
        let repository = repository.to_owned();
        let (slots, credential) = Default::default();
        Self { client, origin, repository, options, counters, slots, credential }
    }

    /// Returns the authorization to send, renewed if it is about to expire, or `None` if the
    /// registry has not demanded any so far.
    pub(super) async fn current(
        self: &Arc<Self>,
        access: &Access,
    ) -> Result<Option<Authorization>, FetchError> {
        let flight = {
            let mut slots = self.slots();
            let Some(slot) = slots.get_mut(access) else { return Ok(None) };
            if let Some(error) = slot.refused() {
                return Err(error);
            }
            match (&slot.current, slot.challenge.clone()) {
                (Some(current), _) if !current.is_due() => return Ok(Some(current.clone())),
                (Some(_), Some(challenge)) => {
                    self.join(slot, access, challenge, CredentialsReason::Initial, false)
                }
                _ => return Ok(slot.begin_trial()),
            }
        };
        flight.await.map(Some)
    }

    /// Returns a newer authorization than `refused`, which the registry answered with `challenge`.
    ///
    /// `reason` says whether the credential behind it is in doubt, too.
    pub(super) async fn renew(
        self: &Arc<Self>,
        access: &Access,
        challenge: Option<Challenge>,
        refused: Option<&Authorization>,
        reason: CredentialsReason,
    ) -> Result<Authorization, FetchError> {
        let flight = {
            let mut slots = self.slots();
            if slots.len() >= SLOTS_MAX {
                slots.retain(|access, _| !matches!(access, Access::Mount(_)));
            }
            let slot = slots.entry(access.clone()).or_default();
            let refused_generation = refused.map_or(0, |refused| refused.generation);
            if let Some(current) = &slot.current
                && current.generation > refused_generation
            {
                return Ok(current.clone());
            }
            let Some(challenge) = challenge.or_else(|| slot.challenge.clone()) else {
                let detail = "it does not say which authorization it wants".to_owned();
                return Err(FetchError::Unauthorized {
                    host: self.origin.host().to_owned(),
                    detail,
                });
            };
            let is_trial = refused.is_some_and(|refused| refused.is_trial);
            self.join(slot, access, challenge, reason, is_trial)
        };
        flight.await
    }

    /// Joins the renewal that is under way, or starts one.
    ///
    /// It runs as a task of its own: readers that are dropped do not take it with them.
    fn join(
        self: &Arc<Self>,
        slot: &mut Slot,
        access: &Access,
        challenge: Challenge,
        reason: CredentialsReason,
        is_trial: bool,
    ) -> Flight {
        // One that is over but still here ended in a panic of the credentials source.
        if let Some(flight) = slot.flight.as_ref().filter(|flight| flight.peek().is_none()) {
            return flight.clone();
        }
        if let Some(error) = slot.refused().filter(|_| !is_trial) {
            return futures::future::ready(Err(error)).boxed().shared();
        }
        let is_refused = slot.begin_trial().is_some();
        let reason = if is_refused { CredentialsReason::Rejected } else { reason };
        slot.generation += 1;
        slot.challenge = Some(challenge.clone());
        let (authorizer, access, generation) = (Arc::clone(self), access.clone(), slot.generation);
        let task = self.options.runtime.spawn(async move {
            let deadline = authorizer.options.deadline;
            let is_basic = challenge == Challenge::Basic;
            let obtained = authorizer.obtain(&access, &challenge, reason, is_refused);
            let result = match tokio::time::timeout(deadline, obtained).await {
                Ok(result) => result.map(|(value, life)| Authorization {
                    value: Some(value),
                    generation,
                    renew_at: life.map(|life| Instant::now() + life),
                    is_basic,
                    // An endpoint that gives a token has seen the credentials.
                    is_trial: is_basic && is_refused,
                }),
                Err(_) => {
                    let what = format!("a token for {}", authorizer.origin.host());
                    Err(FetchError::Timeout { what, after: deadline, last: None })
                }
            };
            if let Some(slot) = authorizer.slots().get_mut(&access) {
                slot.flight = None;
                slot.settle(&result, authorizer.options.backoff);
            }
            result
        });
        let flight = task.map(|joined| joined.unwrap_or(Err(FetchError::Shutdown)));
        let flight = flight.boxed().shared();
        slot.flight = Some(flight.clone());
        flight
    }

    /// Notes that the registry refused what was given to it on trial. Several readers may have shown it:
    /// that counts once.
    ///
    /// # Errors
    /// The error for readers, unless there is something newer to show.
    pub(super) fn refuse(
        &self,
        access: &Access,
        refused: &Authorization,
    ) -> Result<Authorization, FetchError> {
        let detail = "it goes on refusing them".to_owned();
        let error = FetchError::Unauthorized { host: self.origin.host().to_owned(), detail };
        if let Some(slot) = self.slots().get_mut(access)
            && let Some(current) = &slot.current
        {
            if current.generation > refused.generation {
                return Ok(current.clone());
            }
            slot.refuse(error.clone(), self.options.backoff);
        }
        Err(error)
    }

    /// Notes that the registry takes what was given to it on trial.
    pub(super) fn accept(&self, access: &Access, accepted: &Authorization) {
        if let Some(slot) = self.slots().get_mut(access) {
            slot.accept(accepted.generation);
        }
    }

    /// Asks for credentials in place of those that a registry answered with 403, as some do when a
    /// password has expired. Returns `None` if there are no others, or if that was asked lately.
    pub(super) async fn replace(
        &self,
        access: &Access,
        refused: &Authorization,
    ) -> Option<Authorization> {
        {
            let mut slots = self.slots();
            let slot = slots.get_mut(access)?;
            let current = slot.current.as_ref().filter(|now| now.generation > refused.generation);
            if let Some(current) = current {
                return Some(current.clone());
            }
            if slot.replaced_at.is_some_and(|at| at.elapsed() < REPLACE_PAUSE) {
                return None;
            }
            slot.replaced_at = Some(Instant::now());
        }
        let reason = CredentialsReason::Rejected;
        let given = self.credential(&Challenge::Basic, reason, false).await.ok()??;
        let Credential::Password { username, password } = given else { return None };
        let mut slots = self.slots();
        let slot = slots.get_mut(access)?;
        slot.generation += 1;
        let (value, generation) = (basic(&username, &password), slot.generation);
        let (is_basic, is_trial) = (true, false);
        let value = Some(value);
        let replaced = Authorization { value, generation, renew_at: None, is_basic, is_trial };
        slot.current = Some(replaced.clone());
        Some(replaced)
    }

    /// Returns a header value and for how long to use it.
    async fn obtain(
        &self,
        access: &Access,
        challenge: &Challenge,
        reason: CredentialsReason,
        is_refused: bool,
    ) -> Result<(HeaderValue, Option<Duration>), FetchError> {
        let host = self.origin.host();
        // A token that is refused at once may have been damaged on its way; another one tells.
        let may_repeat = is_refused || matches!(challenge, Challenge::Bearer(_));
        let mut credential = self.credential(challenge, reason, may_repeat).await?;
        match challenge {
            Challenge::Basic => match credential {
                Some(Credential::Password { username, password }) => {
                    Ok((basic(&username, &password), None))
                }
                _ => {
                    let detail = "a user name and a password are needed".to_owned();
                    Err(FetchError::Unauthorized { host: host.to_owned(), detail })
                }
            },
            Challenge::Bearer(bearer) => {
                let is_initial = reason == CredentialsReason::Initial;
                let mut result = self.token(access, bearer, credential.as_ref()).await;
                if is_initial && matches!(result, Err(FetchError::Unauthorized { .. })) {
                    let reason = CredentialsReason::Rejected;
                    credential = self.credential(challenge, reason, false).await?;
                    result = self.token(access, bearer, credential.as_ref()).await;
                }
                result
            }
        }
    }

    /// Asks a token endpoint, with retries.
    async fn token(
        &self,
        access: &Access,
        bearer: &BearerChallenge,
        credential: Option<&Credential>,
    ) -> Result<(HeaderValue, Option<Duration>), FetchError> {
        let realm: Url = self.origin.resolve(&self.origin.url(""), &bearer.realm)?;
        let scope = self.scope(access, bearer.scope.as_deref());
        let service = bearer.service.as_deref();
        let request = TokenRequest { realm, service, scope: &scope, credential };
        let mut patience = Patience::new(&self.options);
        let mut was_garbled = false;
        loop {
            let timeout = self.options.progress_timeout;
            match request.send(&self.client, timeout, &self.counters).await {
                Err(FetchError::Protocol { .. }) if !was_garbled => was_garbled = true,
                Ok(token) => {
                    let early = RENEW_EARLY_MAX.min(token.life / 10);
                    return Ok((token.value, Some(token.life - early)));
                }
                Err(error) => patience.after(error, false).await?,
            }
        }
    }

    /// Returns the scope to ask for: that of the challenge, with what it may lack for a mount.
    fn scope(&self, access: &Access, challenged: Option<&str>) -> String {
        let actions = if *access == Access::Pull { "pull" } else { "pull,push" };
        let own = || format!("repository:{}:{actions}", self.repository);
        let mut scope = challenged.map_or_else(own, str::to_owned);
        if *access != Access::Pull && scope == format!("repository:{}:pull", self.repository) {
            // A challenge to a HEAD names only what that needs; what follows needs more.
            scope = own();
        }
        if let Access::Mount(from) = access
            && !scope.contains(&format!("repository:{from}:"))
        {
            scope += &format!(" repository:{from}:pull");
        }
        scope
    }

    async fn credential(
        &self,
        challenge: &Challenge,
        reason: CredentialsReason,
        may_repeat: bool,
    ) -> Result<Option<Credential>, FetchError> {
        let known = self.known_credential().clone();
        // Anonymous access works with tokens only.
        let is_enough = |known: &Option<Credential>| {
            known.is_some() || matches!(challenge, Challenge::Bearer(_))
        };
        if let (Some(known), CredentialsReason::Initial) = (&known, reason)
            && is_enough(known)
        {
            return Ok(known.clone());
        }
        // Whatever is refused the first time was not given by anybody: there is nothing to reject.
        let reason = if known.is_none() { CredentialsReason::Initial } else { reason };
        let host = self.origin.host();
        let given = self.options.credentials.credentials(host, reason).await?;
        if known.as_ref() == Some(&given) && !may_repeat {
            let detail = challenge.error().map_or("the same ones were given again", |error| error);
            let detail = super::body::printable(detail);
            return Err(FetchError::Unauthorized { host: host.to_owned(), detail });
        }
        *self.known_credential() = Some(given.clone());
        Ok(given)
    }

    fn known_credential(&self) -> MutexGuard<'_, Option<Option<Credential>>> {
        self.credential.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<Access, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorizer").field("host", &self.origin.host()).finish_non_exhaustive()
    }
}
