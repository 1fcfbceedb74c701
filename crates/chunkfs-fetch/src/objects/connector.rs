//! Our HTTP client under object_store: one TLS setup, no redirects, no proxies from the environment.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use http_body_util::BodyExt as _;
use object_store::client::{
    ClientConfigKey, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest,
    HttpResponse, HttpService,
};
use reqwest::{Client, Url};

use super::answer::{Asked, ours};
use super::options::StoreOptions;
use crate::reference::is_loopback_host;
use crate::registry::origin::host_of;

/// How slow an upload may be.
const UPLOAD_RATE_MIN: u64 = 32 << 10;

/// Gives object_store our client.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    pub(super) client: Client,
    pub(super) options: StoreOptions,
}

struct Service {
    connector: Connector,
    allows_plain_http: bool,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &object_store::ClientOptions) -> object_store::Result<HttpClient> {
        // Clients for instance metadata, which is plain HTTP on a link-local address, allow it, too.
        let allows_plain_http = options.get_config_value(&ClientConfigKey::AllowHttp);
        let allows_plain_http = allows_plain_http.is_some_and(|value| value == "true");
        Ok(HttpClient::new(Service { connector: self.clone(), allows_plain_http }))
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Service")
    }
}

#[async_trait]
impl HttpService for Service {
    /// Sends one request and returns once the head of the answer is there.
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let Connector { client, options } = &self.connector;
        let (parts, body) = request.into_parts();
        let url: Url = parts.uri.to_string().parse().map_err(|_| unusable("it is not a URL"))?;
        let is_loopback = is_loopback_host(url.host_str().unwrap_or(""));
        if url.scheme() != "https" && !is_loopback && !self.allows_plain_http {
            return Err(unusable("plain HTTP is refused; allow it with AWS_ALLOW_HTTP=true or so"));
        }
        let host = host_of(&url);
        options.hosts.wait(&host, options.deadline).await.map_err(ours)?;
        let asked = Asked::new(&parts, url.clone());
        let len = body.content_length();
        let mut outgoing = reqwest::Request::new(parts.method, url);
        *outgoing.headers_mut() = parts.headers;
        *outgoing.body_mut() = match body.as_bytes() {
            Some(bytes) => Some(bytes.clone().into()),
            None => {
                let collected = body.collect().await?.to_bytes();
                Some(collected.into())
            }
        };
        let for_body = Duration::from_secs(len as u64 / UPLOAD_RATE_MIN);
        let timeout = options.progress_timeout;
        let sent = tokio::time::timeout(timeout + for_body, client.execute(outgoing));
        let response = match sent.await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(transport(error)),
            Err(elapsed) => return Err(HttpError::new(HttpErrorKind::Timeout, elapsed)),
        };
        let (status, headers) = (response.status(), response.headers());
        options.hosts.note_answer(&host, status, headers, options.backoff);
        asked.check(response.into(), timeout).await
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unusable(&'static str);

fn unusable(problem: &'static str) -> HttpError {
    HttpError::new(HttpErrorKind::Unknown, Unusable(problem))
}

pub(super) fn transport(error: reqwest::Error) -> HttpError {
    let kind = match &error {
        error if error.is_connect() => HttpErrorKind::Connect,
        error if error.is_timeout() => HttpErrorKind::Timeout,
        error if error.is_request() => HttpErrorKind::Request,
        _ => HttpErrorKind::Interrupted,
    };
    HttpError::new(kind, error.without_url())
}
