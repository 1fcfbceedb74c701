//! The HTTP client: reqwest with everything implicit turned off.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Url};
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::origin::{host_of, redacted};
use super::proxy::proxies;
use crate::error::FetchError;

/// How long an unused connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const HEADERS_MAX: usize = 100;

/// What a client needs to know.
pub(crate) struct Settings<'a> {
    pub(crate) connect_timeout: Duration,
    /// How many unused connections to one host are kept.
    pub(crate) idle_max: usize,
    pub(crate) user_agent: &'a str,
    pub(crate) root_certificates_pem: &'a [Vec<u8>],
    /// Settings by the names of environment variables, proxies among them.
    pub(crate) proxies: &'a [(String, String)],
    /// Whether it is an error if there are no root certificates.
    pub(crate) needs_roots: bool,
}

impl Settings<'_> {
    /// Builds a client that follows no redirects, reads no environment and speaks HTTP/1.1 only.
    ///
    /// Redirects: the policy needs to know which host may see secrets. HTTP/1.1: ranges of one blob
    /// are read over several connections, which one HTTP/2 connection would put behind each other.
    pub(crate) fn build(&self) -> Result<Client, FetchError> {
        let client = Client::builder()
            .tls_backend_preconfigured(self.tls_config()?)
            .redirect(Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .http1_only()
            .http1_max_headers(HEADERS_MAX)
            .referer(false)
            .connect_timeout(self.connect_timeout)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(self.idle_max)
            .user_agent(self.user_agent);
        let client = proxies(self.proxies)?.into_iter().fold(client, ClientBuilder::proxy);
        client.build().map_err(|error| FetchError::Tls { problem: error.to_string() })
    }

    fn tls_config(&self) -> Result<ClientConfig, FetchError> {
        let tls = |problem: String| FetchError::Tls { problem };
        let mut roots = RootCertStore::empty();
        let native = rustls_native_certs::load_native_certs();
        // Some systems carry roots that webpki cannot parse; the others still work.
        roots.add_parsable_certificates(native.certs);
        for pem in self.root_certificates_pem {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|error| tls(error.to_string()))?;
                roots.add(certificate).map_err(|error| tls(error.to_string()))?;
            }
        }
        if roots.is_empty() && self.needs_roots {
            let why = native.errors.first().map_or(String::new(), |error| format!(" ({error})"));
            return Err(tls(format!(
                "no trusted root certificates found{why}; install ca-certificates or give some"
            )));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| tls(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// Turns an error of reqwest for `url` into ours, without its URL.
pub(super) fn transport_error(url: &Url, error: reqwest::Error) -> FetchError {
    let error = error.without_url();
    if speaks_plain_http(&error) {
        return FetchError::PlainHttp { host: host_of(url) };
    }
    FetchError::Transport { url: redacted(url), source: Arc::new(error) }
}

/// Returns whether an error of reqwest says that no connection could be made.
pub(super) fn is_connect(error: &(dyn Error + Send + Sync + 'static)) -> bool {
    error.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_connect)
}

/// Returns whether a TLS handshake failed because the server answered with something else.
fn speaks_plain_http(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) =
            error.downcast_ref()
        {
            return true;
        }
        // An I/O error that wraps another error has that one's source, not the error itself.
        next = match error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref()) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    false
}
