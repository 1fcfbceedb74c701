//! Mirrors: which places are asked before a registry itself.

use std::fmt;
use std::path::PathBuf;

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::hosts_toml;
use super::origin::redacted;
use crate::error::FetchError;

/// A server that has, or fetches on demand, what a registry has: a pull-through cache, a cache of
/// a rack, a peer-to-peer agent.
///
/// It is asked with `?ns=REGISTRY`, so that one mirror can serve many registries.
#[derive(Clone)]
pub struct Mirror {
    pub(super) url: Url,
    pub(super) overrides_path: bool,
    pub(super) can_pull: bool,
    pub(super) can_resolve: bool,
    pub(super) headers: HeaderMap,
    pub(super) root_certificates_pem: Vec<Vec<u8>>,
}

impl Mirror {
    /// Creates a mirror from `http(s)://HOST[:PORT][/PATH]`, below which `/v2/` is.
    ///
    /// A mirror with `http` is spoken to without TLS, wherever it is: what it serves is verified.
    ///
    /// # Errors
    /// [`FetchError::Protocol`] if it is no such URL.
    pub fn new(url: &str) -> Result<Self, FetchError> {
        let parsed = Url::parse(url).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.host().is_some()
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
        });
        let Some(mut parsed) = parsed else {
            let url =
                Url::parse(url).map_or_else(|_| "the mirror".to_owned(), |url| redacted(&url));
            let problem = "a mirror is http(s)://HOST[:PORT][/PATH]".to_owned();
            return Err(FetchError::Protocol { url, problem });
        };
        parsed.set_fragment(None);
        Ok(Self {
            url: parsed,
            overrides_path: false,
            can_pull: true,
            can_resolve: true,
            headers: HeaderMap::new(),
            root_certificates_pem: Vec::new(),
        })
    }

    /// Sets whether the URL's path stands in place of `/v2`; the default is no.
    pub fn with_override_path(mut self, overrides_path: bool) -> Self {
        self.overrides_path = overrides_path;
        self
    }

    /// Sets whether the mirror may say what a tag names; the default is yes. Blobs and manifests by
    /// digest are asked for in any case.
    pub fn with_resolve(mut self, can_resolve: bool) -> Self {
        self.can_resolve = can_resolve;
        self
    }

    /// Adds a header to all requests to this mirror; it may be a secret. Invalid ones are ignored.
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        if let (Ok(name), Ok(mut value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value))
        {
            value.set_sensitive(true);
            self.headers.append(name, value);
        }
        self
    }

    /// Trusts the certificates in this PEM text for this mirror, besides those of the options.
    pub fn with_root_certificates_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.root_certificates_pem.push(pem.into());
        self
    }
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror")
            .field("url", &redacted(&self.url))
            .field("can_pull", &self.can_pull)
            .field("can_resolve", &self.can_resolve)
            .finish_non_exhaustive()
    }
}

/// The mirrors of all registries, as options hold them.
#[derive(Debug, Clone, Default)]
pub(super) struct Mirrors {
    pub(super) given: Vec<(String, Mirror)>,
    pub(super) hosts_folder: Option<PathBuf>,
}

/// Where one registry's blobs are, in the order in which the places are asked.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) mirrors: Vec<Mirror>,
    /// What stands in for the registry itself; `None` for its own host.
    pub(super) server: Option<Mirror>,
}

impl Mirrors {
    /// Returns the places of a registry. Reads its `hosts.toml`, if a folder with such is known.
    pub(super) fn of(&self, host: &str) -> Result<Places, FetchError> {
        let given = self.given.iter().filter(|(of, _)| of == host);
        let mut places =
            Places { mirrors: given.map(|(_, mirror)| mirror.clone()).collect(), server: None };
        if let Some(folder) = &self.hosts_folder {
            let read = hosts_toml::read(folder, namespace(host))?;
            places.mirrors.extend(read.mirrors);
            places.server = read.server;
        }
        Ok(places)
    }
}

/// Returns what images of a registry are called by: Docker Hub's differs from its host.
pub(super) fn namespace(host: &str) -> &str {
    if host == "registry-1.docker.io" { "docker.io" } else { host }
}
