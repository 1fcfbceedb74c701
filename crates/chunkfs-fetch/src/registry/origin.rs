//! Which URLs are talked to, and how they are shown.

use chunkfs_format::BlobId;
use reqwest::Url;
use reqwest::header::HeaderMap;

use super::mirrors::{Mirror, namespace};
use super::options::RegistryOptions;
use crate::error::FetchError;
use crate::layout::remote::blob_path;
use crate::reference::{RegistryReference, StoreReference, is_loopback_host};

/// The registry's scheme, host and port, and the rules for all other hosts.
#[derive(Debug)]
pub(super) struct Origin {
    base: Url,
    host: String,
    allows_plain_http: bool,
    is_layout: bool,
    /// What a mirror is asked for besides the path: which registry is meant.
    query: Option<String>,
    headers: HeaderMap,
}

impl Origin {
    pub(super) fn new(
        reference: &RegistryReference,
        options: &RegistryOptions,
    ) -> Result<Self, FetchError> {
        let is_plain = options.plain_http || (reference.is_loopback() && !options.loopback_https);
        let scheme = if is_plain { "http" } else { "https" };
        let host = reference.host().to_owned();
        let base = format!("{scheme}://{host}/v2/{}/", reference.repository());
        let base = Url::parse(&base).map_err(|error| FetchError::Protocol {
            url: base,
            problem: format!("not a URL: {error}"),
        })?;
        Ok(Self::at(base, host, options))
    }

    fn at(base: Url, host: String, options: &RegistryOptions) -> Self {
        let allows_plain_http = options.plain_http;
        let headers = HeaderMap::new();
        Self { base, host, allows_plain_http, is_layout: false, query: None, headers }
    }

    /// The place of a repository on a mirror of its registry.
    pub(super) fn of_mirror(
        reference: &RegistryReference,
        mirror: &Mirror,
        options: &RegistryOptions,
    ) -> Result<Self, FetchError> {
        let mut base = mirror.url.clone();
        let version = if mirror.overrides_path { "" } else { "/v2" };
        let path = base.path().trim_end_matches('/');
        let path = format!("{path}{version}/{}/", reference.repository());
        base.set_path(&path);
        let host = host_of(&base);
        let mut origin = Self::at(base, host, options);
        if origin.host != reference.host() {
            let pairs = [("ns", namespace(reference.host()))];
            let mut url = origin.base.clone();
            origin.query =
                url.query_pairs_mut().extend_pairs(pairs).finish().query().map(str::to_owned);
        }
        origin.headers = mirror.headers.clone();
        Ok(origin)
    }

    /// Returns the headers that requests to the registry itself carry.
    pub(super) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The origin of a layout on a web server. Plain HTTP is what its name asks for.
    pub(super) fn of_layout(
        reference: &StoreReference,
        options: &RegistryOptions,
    ) -> Result<Self, FetchError> {
        let base = format!("{}/", reference.place());
        let base = Url::parse(&base).map_err(|error| FetchError::Protocol {
            url: base,
            problem: format!("not a URL: {error}"),
        })?;
        let host = reference.bucket().to_owned();
        Ok(Self { is_layout: true, ..Self::at(base, host, options) })
    }

    /// Returns the URL of a blob.
    pub(super) fn blob_url(&self, blob: BlobId) -> Url {
        match self.is_layout {
            true => self.url(&blob_path(blob)),
            false => self.url(&format!("blobs/{blob}")),
        }
    }

    /// Returns the host as it was written in the reference.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn is_https(&self) -> bool {
        self.base.scheme() == "https"
    }

    /// Returns the URL of something in the repository; `path` must be safe as part of one.
    pub(super) fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path()));
        url.set_query(self.query.as_deref());
        url
    }

    /// Returns whether `url` is on the registry itself, which alone may see its secrets.
    pub(super) fn is_same(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }

    /// Resolves a URL that the server at `from` names in an answer, and checks that it may be used.
    pub(super) fn resolve(&self, from: &Url, location: &str) -> Result<Url, FetchError> {
        let problem = |problem| FetchError::Redirect { url: redacted(from), problem };
        let mut url =
            from.join(location).map_err(|_| problem("the location is not a valid URL"))?;
        url.set_fragment(None);
        self.check(&url).map_err(|refusal| match refusal {
            Refusal::Scheme => problem("the location is neither http nor https"),
            Refusal::UserName => problem("the location holds a user name"),
            Refusal::PlainHttp(host) => FetchError::PlainHttp { host },
        })?;
        Ok(url)
    }

    /// Plain HTTP goes to this machine only, and only if the registry is on it, too: else a remote
    /// registry could have requests sent to services behind the firewall of this machine.
    fn check(&self, url: &Url) -> Result<(), Refusal> {
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refusal::UserName);
        }
        let is_loopback = |url: &Url| is_loopback_host(url.host_str().unwrap_or(""));
        match url.scheme() {
            "https" => Ok(()),
            "http" if self.allows_plain_http => Ok(()),
            "http" if is_loopback(url) && is_loopback(&self.base) => Ok(()),
            "http" if self.is_same(url) => Ok(()),
            "http" => Err(Refusal::PlainHttp(host_of(url))),
            _ => Err(Refusal::Scheme),
        }
    }
}

enum Refusal {
    Scheme,
    UserName,
    PlainHttp(String),
}

/// Returns a URL without user name, query and fragment, which may be secrets.
pub(crate) fn redacted(url: &Url) -> String {
    format!("{}://{}{}", url.scheme(), host_of(url), url.path())
}

/// Returns the host and, unless it is the scheme's own, the port.
pub(crate) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or("");
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::ManifestSelector;

    fn origin(host: &str, allows_plain_http: bool) -> Origin {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let options = RegistryOptions::new(runtime.handle().clone());
        let options = options.with_plain_http(allows_plain_http);
        let tag = ManifestSelector::Tag("t".to_owned());
        Origin::new(&RegistryReference::new(host, "a/b", tag).unwrap(), &options).unwrap()
    }

    #[test]
    fn https_is_used_unless_the_registry_is_here_or_plain_http_is_allowed() {
        for (host, allows_plain_http, expected) in [
            ("r.io", false, "https://r.io/v2/a/b/x"),
            ("r.io:5000", true, "http://r.io:5000/v2/a/b/x"),
            ("127.0.0.1:5000", false, "http://127.0.0.1:5000/v2/a/b/x"),
            ("[::1]:5000", false, "http://[::1]:5000/v2/a/b/x"),
        ] {
            assert_eq!(origin(host, allows_plain_http).url("x").as_str(), expected);
        }
    }

    #[test]
    fn locations_are_checked() {
        let remote = origin("r.io", false);
        let local = origin("localhost:5000", false);
        let from = |origin: &Origin| origin.url("blobs/x");
        let resolve = |origin: &Origin, to: &str| origin.resolve(&from(origin), to);
        assert_eq!(resolve(&remote, "/y?z=1").unwrap().as_str(), "https://r.io/y?z=1");
        assert!(resolve(&remote, "https://s3.example/y#z").is_ok());
        assert!(resolve(&local, "http://127.0.0.1:9000/y").is_ok());
        for (origin, to) in [
            (&remote, "http://s3.example/y"),
            (&remote, "http://127.0.0.1/y"),
            (&local, "http://s3.example/y"),
        ] {
            let error = resolve(origin, to).unwrap_err();
            assert!(matches!(error, FetchError::PlainHttp { .. }), "{to}: {error}");
        }
        for to in ["file:///etc/passwd", "https://user@s3.example/", "https://u:p@h/", "http://"] {
            let error = resolve(&remote, to).unwrap_err();
            assert!(matches!(error, FetchError::Redirect { .. }), "{to}: {error}");
        }
    }

    #[test]
    fn only_scheme_host_and_port_together_are_the_registry() {
        let registry = origin("r.io", false);
        for (url, expected) in [
            ("https://r.io/x", true),
            ("https://r.io:443/x", true),
            ("https://r.io:444/x", false),
            ("http://r.io/x", false),
            ("https://s.r.io/x", false),
        ] {
            assert_eq!(registry.is_same(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }

    #[test]
    fn shown_urls_have_no_secrets() {
        let url = Url::parse("https://user:secret@r.io:5000/a?sig=secret#secret").unwrap();
        assert_eq!(redacted(&url), "https://r.io:5000/a");
    }
}
