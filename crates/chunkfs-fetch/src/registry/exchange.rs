//! One request: with authorization and, for reads, redirects, but without retries.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::stream::BoxStream;
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue, LOCATION,
};
use reqwest::{Client, Method, Response, StatusCode, Url};

use super::authorizer::{Access, Authorizer};
use super::body::{Body, stalled};
use super::challenge::Challenge;
use super::client::{is_connect, transport_error};
use super::counters::Counters;
use super::credentials::CredentialsReason;
use super::options::RegistryOptions;
use super::origin::{Origin, host_of, redacted};
use super::patience::Patience;
use super::slot::Authorization;
use crate::error::FetchError;
use crate::source::Priority;

const REDIRECTS_MAX: usize = 5;
/// The first try without or with an old token, one with a fresh token, one with fresh credentials.
const AUTHORIZATION_TRIES_MAX: usize = 3;

/// What all operations on one registry share.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) client: Client,
    pub(super) origin: Arc<Origin>,
    pub(super) authorizer: Arc<Authorizer>,
    pub(super) counters: Arc<Counters>,
    pub(super) options: RegistryOptions,
    /// Whether this place worked for this repository before, so that a refusal comes as a surprise.
    has_served: AtomicBool,
}

/// A request to be sent.
pub(super) struct Outgoing<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) access: &'a Access,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<&'a (dyn OutgoingBody + Sync)>,
    pub(super) priority: Priority,
}

/// A body that can be sent more than once.
pub(super) trait OutgoingBody {
    fn len(&self) -> u64;

    /// Returns the body from its start.
    fn open(&self) -> BoxStream<'static, Result<Bytes, std::io::Error>>;

    /// Returns a number that changes whenever more of the body was taken for sending.
    fn progress(&self) -> u64;
}

impl<'a> Outgoing<'a> {
    pub(super) fn new(method: Method, url: Url, access: &'a Access, priority: Priority) -> Self {
        Self { method, url, access, headers: HeaderMap::new(), body: None, priority }
    }

    pub(super) fn get(url: Url, priority: Priority) -> Self {
        Self::new(Method::GET, url, &Access::Pull, priority)
    }
}

impl Exchange {
    pub(super) fn new(
        client: Client,
        origin: Arc<Origin>,
        authorizer: Arc<Authorizer>,
        counters: Arc<Counters>,
        options: RegistryOptions,
    ) -> Self {
        let has_served = AtomicBool::new(false);
        Self { client, origin, authorizer, counters, options, has_served }
    }

    /// Notes that a manifest or a part of a blob came, or that an upload began.
    pub(super) fn note_served(&self) {
        self.has_served.store(true, Ordering::Relaxed);
    }

    /// Waits before the next try of an operation that failed, or returns the error if there is to be
    /// none.
    ///
    /// What may pass is tried again. So are, a few times, refusals and answers to another question; and
    /// credentials that worked before, because they are being replaced. Credentials that never worked
    /// are not: too many tries lock accounts.
    pub(super) async fn wait_after(
        &self,
        patience: &mut Patience,
        error: FetchError,
        has_progressed: bool,
    ) -> Result<(), FetchError> {
        let has_worked = self.has_served.load(Ordering::Relaxed);
        if error.is_about_credentials() && has_worked {
            patience.again(error).await?;
        } else if error.is_doubtful() {
            if has_progressed {
                patience.step(error.clone())?;
            }
            patience.doubt(error, has_worked).await?;
        } else {
            patience.after(error, has_progressed).await?;
        }
        self.counters.retries.add(1);
        Ok(())
    }

    /// Waits until requests to the place itself may be sent.
    pub(super) async fn wait_for_host(&self) -> Result<(), FetchError> {
        self.options.hosts.wait(self.origin.host(), self.options.deadline).await
    }

    /// Sends a read and follows redirects. Returns the final answer and whether it was redirected.
    pub(super) async fn follow(
        &self,
        mut request: Outgoing<'_>,
    ) -> Result<(Body, bool), FetchError> {
        for redirect_count in 0..=REDIRECTS_MAX {
            let answer = self.send(&request).await?;
            if !is_redirect(answer.status()) {
                return Ok((answer, redirect_count > 0));
            }
            let url = self.location(&answer)?;
            self.counters.redirects.add(1);
            request.url = url;
        }
        let url = redacted(&request.url);
        Err(FetchError::Redirect { url, problem: "it is the sixth redirect in a row" })
    }

    /// Returns the checked `Location` of an answer.
    pub(super) fn location(&self, answer: &Body) -> Result<Url, FetchError> {
        let location = answer.response().headers().get(LOCATION);
        let location = location.and_then(|value| value.to_str().ok());
        match location {
            Some(location) => self.origin.resolve(answer.url(), location),
            None => Err(FetchError::Redirect {
                url: redacted(answer.url()),
                problem: "the location is missing",
            }),
        }
    }

    /// Sends a request and returns the answer, whatever its status. Redirects are not followed.
    ///
    /// Requests to the registry carry its authorization, which is renewed if need be. Requests to
    /// any other host, scheme or port never do.
    pub(super) async fn send(&self, request: &Outgoing<'_>) -> Result<Body, FetchError> {
        if !self.origin.is_same(&request.url) {
            return self.send_once(request, None).await;
        }
        let mut authorization = self.authorizer.current(request.access).await?;
        let mut is_fresh = false;
        for tries in 1..=AUTHORIZATION_TRIES_MAX {
            let answer = self.send_once(request, authorization.as_ref()).await?;
            let is_forbidden = answer.status() == StatusCode::FORBIDDEN;
            let is_unauthorized = answer.status() == StatusCode::UNAUTHORIZED;
            let given = authorization.as_ref();
            let shown = given.filter(|given| given.value.is_some());
            if let Some(given) = given.filter(|given| given.is_trial) {
                if !is_unauthorized && !is_forbidden {
                    self.authorizer.accept(request.access, given);
                } else if is_unauthorized && shown.is_some() && tries < AUTHORIZATION_TRIES_MAX {
                    authorization = Some(self.authorizer.refuse(request.access, given)?);
                    continue;
                }
            }
            if let Some(given) = shown.filter(|shown| shown.is_basic)
                && is_forbidden
                && tries < AUTHORIZATION_TRIES_MAX
            {
                // Some registries answer an expired password with 403.
                match self.authorizer.replace(request.access, given).await {
                    Some(replaced) => authorization = Some(replaced),
                    None => return Ok(answer),
                }
                continue;
            }
            // And an expired token.
            let may_be_expired = is_forbidden && shown.is_some() && !is_fresh;
            let is_refused = is_unauthorized || may_be_expired;
            if !is_refused || tries == AUTHORIZATION_TRIES_MAX {
                return Ok(answer);
            }
            let challenge = Challenge::from_headers(answer.response().headers());
            let is_basic = challenge == Some(Challenge::Basic) && shown.is_some();
            let reason = if is_fresh || is_basic {
                CredentialsReason::Rejected
            } else {
                CredentialsReason::Initial
            };
            drop(answer);
            let refused = authorization.as_ref();
            let renewed = self.authorizer.renew(request.access, challenge, refused, reason).await?;
            (authorization, is_fresh) = (Some(renewed), true);
        }
        unreachable!("the last try returns")
    }

    async fn send_once(
        &self,
        request: &Outgoing<'_>,
        authorization: Option<&Authorization>,
    ) -> Result<Body, FetchError> {
        let host = host_of(&request.url);
        self.options.hosts.wait(&host, self.options.deadline).await?;
        self.counters.of(request.priority).requests.add(1);
        let mut builder = self
            .client
            .request(request.method.clone(), request.url.clone())
            .headers(request.headers.clone())
            .header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if self.origin.is_same(&request.url) {
            builder = builder.headers(self.origin.headers().clone());
        }
        if let Some(value) = authorization.and_then(|authorization| authorization.value.as_ref()) {
            builder = builder.header(AUTHORIZATION, value.clone());
        }
        if let Some(body) = request.body {
            builder = builder
                .header(CONTENT_LENGTH, body.len())
                .body(reqwest::Body::wrap_stream(body.open()));
        }
        let (hosts, backoff) = (&self.options.hosts, self.options.backoff);
        let response = self.with_progress(request, builder.send()).await.inspect_err(|error| {
            if matches!(error, FetchError::Transport { source, .. } if is_connect(&**source)) {
                hosts.note_unreachable(&host, backoff);
            }
        })?;
        hosts.note_answer(&host, response.status(), response.headers(), backoff);
        Ok(Body::new(response, request.url.clone(), self.options.progress_timeout))
    }

    /// Waits for an answer for as long as the request makes progress.
    async fn with_progress(
        &self,
        request: &Outgoing<'_>,
        sent: impl Future<Output = Result<Response, reqwest::Error>>,
    ) -> Result<Response, FetchError> {
        let timeout = self.options.progress_timeout;
        let progress = || request.body.map_or(0, OutgoingBody::progress);
        let mut sent = std::pin::pin!(sent);
        let mut before = progress();
        loop {
            match tokio::time::timeout(timeout, &mut sent).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) => return Err(transport_error(&request.url, error)),
                Err(_) if progress() != before => before = progress(),
                Err(_) => return Err(stalled(&request.url, timeout)),
            }
        }
    }
}

pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}
