//! How people name an image.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use chunkfs_format::BlobId;

use crate::error::FetchError;
use crate::source::ManifestSelector;

/// The name of an image in a registry or in a layout.
///
/// The text forms, which [`FromStr`] reads and [`Display`](fmt::Display) writes:
///
/// * `docker://HOST[:PORT]/REPOSITORY[:TAG]`; the tag is `latest` if none is given.
/// * `docker://HOST[:PORT]/REPOSITORY@sha256:DIGEST`; a tag before the `@` is dropped.
/// * `docker://NAME`, where NAME has no host: the image of Docker Hub.
/// * `s3://BUCKET[/PREFIX]`, `gs://BUCKET[/PREFIX]`, `az://CONTAINER[/PREFIX]` and
///   `http(s)://HOST[:PORT]/PATH`, each with `[:TAG]` or `@sha256:DIGEST`: a layout in an object
///   store or on a web server.
/// * `oci:DIR[:TAG]` and `oci:DIR@sha256:DIGEST`. The tag is what follows the last `:`, unless that
///   holds a `/`: end a folder whose name has a `:` with a `/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ImageReference {
    /// In a registry.
    Registry(RegistryReference),
    /// In an OCI image layout.
    Layout(LayoutReference),
    /// In an OCI image layout in an object store or on a web server.
    Store(StoreReference),
}

/// The name of a manifest in a registry: validated, so that it is safe as part of a URL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RegistryReference {
    host: String,
    repository: String,
    selector: ManifestSelector,
}

/// The name of a manifest in an OCI image layout.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LayoutReference {
    path: PathBuf,
    selector: Option<ManifestSelector>,
}

const DOCKER_HUB: &str = "registry-1.docker.io";
const TAG_LEN_MAX: usize = 128;
/// The OCI distribution specification advises at most 255 characters for host and repository.
const NAME_LEN_MAX: usize = 255;

impl RegistryReference {
    /// Creates a reference from its parts.
    ///
    /// `host` may carry a port. Nothing is expanded: there is no Docker Hub shorthand here.
    ///
    /// # Errors
    /// [`FetchError::InvalidReference`] if a part does not follow the grammar of the OCI
    /// distribution specification.
    pub fn new(
        host: &str,
        repository: &str,
        selector: ManifestSelector,
    ) -> Result<Self, FetchError> {
        let fail = |problem| Err(invalid(&format!("docker://{host}/{repository}"), problem));
        if !is_host(host) {
            return fail("the host is not a name or address with an optional port");
        }
        if !is_repository(repository) {
            return fail("a repository is lower-case letters and digits, joined by . _ - and /");
        }
        if host.len() + repository.len() >= NAME_LEN_MAX {
            return fail("host and repository are longer than 255 characters");
        }
        if matches!(&selector, ManifestSelector::Tag(tag) if !is_tag(tag)) {
            return fail("a tag is at most 128 letters, digits, dots, dashes and underscores");
        }
        Ok(Self { host: host.to_owned(), repository: repository.to_owned(), selector })
    }

    /// Returns the host, with the port if one was given.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the name of the repository.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Returns which manifest of the repository is meant.
    pub fn selector(&self) -> &ManifestSelector {
        &self.selector
    }

    /// Returns the same repository with another manifest.
    ///
    /// # Errors
    /// [`FetchError::InvalidReference`] if the selector is a tag with forbidden characters.
    pub fn with_selector(&self, selector: ManifestSelector) -> Result<Self, FetchError> {
        Self::new(&self.host, &self.repository, selector)
    }

    /// Returns whether the host is this machine: `localhost` or a loopback address.
    pub fn is_loopback(&self) -> bool {
        is_loopback_host(split_port(&self.host).0)
    }
}

impl LayoutReference {
    /// Creates a reference from its parts.
    ///
    /// # Errors
    /// [`FetchError::InvalidReference`] if the path is empty or the tag has forbidden characters.
    pub fn new(
        path: impl Into<PathBuf>,
        selector: Option<ManifestSelector>,
    ) -> Result<Self, FetchError> {
        let path = path.into();
        let fail = |problem| Err(invalid(&format!("oci:{}", path.display()), problem));
        if path.as_os_str().is_empty() {
            return fail("the folder is missing");
        }
        if matches!(&selector, Some(ManifestSelector::Tag(tag)) if !is_tag(tag)) {
            return fail("a tag is at most 128 letters, digits, dots, dashes and underscores");
        }
        Ok(Self { path, selector })
    }

    /// Returns the folder of the layout.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns which manifest is meant; `None` means the only one.
    pub fn selector(&self) -> Option<&ManifestSelector> {
        self.selector.as_ref()
    }
}

impl ImageReference {
    /// Returns which manifest is meant; `None` means the only one of a layout.
    pub fn selector(&self) -> Option<&ManifestSelector> {
        match self {
            Self::Registry(reference) => Some(reference.selector()),
            Self::Layout(reference) => reference.selector(),
            Self::Store(reference) => reference.selector(),
        }
    }
}

impl FromStr for ImageReference {
    type Err = FetchError;

    fn from_str(text: &str) -> Result<Self, FetchError> {
        if let Some(rest) = text.strip_prefix("docker://") {
            parse_registry(rest).map(Self::Registry).map_err(|problem| invalid(text, problem))
        } else if let Some(rest) = text.strip_prefix("oci:") {
            parse_layout(rest).map(Self::Layout).map_err(|problem| invalid(text, problem))
        } else if StoreScheme::split(text).is_some() {
            text.parse().map(Self::Store)
        } else {
            Err(invalid(text, "it starts with none of these"))
        }
    }
}

impl FromStr for RegistryReference {
    type Err = FetchError;

    /// Parses the `docker://` forms.
    fn from_str(text: &str) -> Result<Self, FetchError> {
        match text.parse()? {
            ImageReference::Registry(reference) => Ok(reference),
            _ => Err(invalid(text, "a registry is needed here")),
        }
    }
}

impl FromStr for LayoutReference {
    type Err = FetchError;

    /// Parses the `oci:` forms.
    fn from_str(text: &str) -> Result<Self, FetchError> {
        match text.parse()? {
            ImageReference::Layout(reference) => Ok(reference),
            _ => Err(invalid(text, "a layout is needed here")),
        }
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(reference) => reference.fmt(f),
            Self::Layout(reference) => reference.fmt(f),
            Self::Store(reference) => reference.fmt(f),
        }
    }
}

impl fmt::Display for RegistryReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "docker://{}/{}{}", self.host, self.repository, separator(&self.selector))?;
        self.selector.fmt(f)
    }
}

impl fmt::Display for LayoutReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.to_string_lossy();
        write!(f, "oci:{path}")?;
        match &self.selector {
            Some(selector) => write!(f, "{}{selector}", separator(selector)),
            None if split_layout(&path).1.is_some() => f.write_str("/"),
            None => Ok(()),
        }
    }
}

fn separator(selector: &ManifestSelector) -> char {
    if matches!(selector, ManifestSelector::Tag(_)) { ':' } else { '@' }
}

fn invalid(text: &str, problem: &'static str) -> FetchError {
    FetchError::InvalidReference { text: text.chars().take(200).collect(), problem }
}

fn parse_registry(text: &str) -> Result<RegistryReference, &'static str> {
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => {
            let id: BlobId = digest.parse().map_err(|_| "the digest is not a SHA-256")?;
            (name, Some(id))
        }
        None => (text, None),
    };
    let (name, tag) = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (name, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err("a tag is at most 128 letters, digits, dots, dashes and underscores");
    }
    let selector = match (digest, tag) {
        (Some(id), _) => ManifestSelector::Digest(id),
        (None, tag) => ManifestSelector::Tag(tag.unwrap_or("latest").to_owned()),
    };
    let (host, repository) = split_host(name);
    RegistryReference::new(&host, &repository, selector).map_err(|error| match error {
        FetchError::InvalidReference { problem, .. } => problem,
        _ => "it is not valid",
    })
}

/// Separates the host, as docker does: the first part is a host if it looks like one.
fn split_host(name: &str) -> (String, String) {
    if let Some((first, rest)) = name.split_once('/') {
        if matches!(first, "docker.io" | "index.docker.io" | DOCKER_HUB) {
            return (DOCKER_HUB.to_owned(), docker_hub_repository(rest));
        }
        if first.contains(['.', ':', '[']) || first == "localhost" || first.is_empty() {
            return (first.to_owned(), rest.to_owned());
        }
    }
    (DOCKER_HUB.to_owned(), docker_hub_repository(name))
}

fn docker_hub_repository(name: &str) -> String {
    if name.contains('/') { name.to_owned() } else { format!("library/{name}") }
}

fn parse_layout(text: &str) -> Result<LayoutReference, &'static str> {
    if text.contains('\0') {
        return Err("the folder holds a NUL character");
    }
    let (path, suffix) = split_layout(text);
    let selector = match suffix {
        None => None,
        Some(suffix) => Some(match suffix.strip_prefix('@') {
            Some(digest) => {
                ManifestSelector::Digest(digest.parse().map_err(|_| "the digest is not a SHA-256")?)
            }
            None => ManifestSelector::Tag(suffix[1..].to_owned()),
        }),
    };
    LayoutReference::new(path, selector).map_err(|error| match error {
        FetchError::InvalidReference { problem, .. } => problem,
        _ => "it is not valid",
    })
}

/// Separates the folder from `:TAG` or `@sha256:DIGEST`.
fn split_layout(text: &str) -> (&str, Option<&str>) {
    if let Some(at) = text.rfind("@sha256:")
        && !text[at..].contains('/')
    {
        return (&text[..at], Some(&text[at..]));
    }
    match text.rfind(':') {
        Some(colon) if !text[colon..].contains('/') => (&text[..colon], Some(&text[colon..])),
        _ => (text, None),
    }
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`, from the OCI distribution specification.
pub(crate) fn is_tag(text: &str) -> bool {
    (1..=TAG_LEN_MAX).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// `/`-joined components of `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, from the same specification.
pub(crate) fn is_repository(text: &str) -> bool {
    text.split('/').all(is_component)
}

fn is_component(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends_are_words =
        bytes.first().is_some_and(|&b| is_word(b)) && bytes.last().is_some_and(|&b| is_word(b));
    ends_are_words
        && bytes.split(|&byte| is_word(byte)).all(|joint| {
            matches!(joint, b"" | b"." | b"_" | b"__") || joint.iter().all(|&byte| byte == b'-')
        })
}

fn is_host(text: &str) -> bool {
    let (name, port) = split_port(text);
    if port.is_some_and(|port| port.starts_with('+') || port.parse::<u16>().is_err()) {
        return false;
    }
    if let Some(address) = name.strip_prefix('[') {
        let address = address.strip_suffix(']').unwrap_or("");
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    name.split('.').all(|label| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    })
}

fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    }
}

/// Returns whether a host without port is `localhost` or a loopback address.
pub(crate) fn is_loopback_host(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

mod store;
#[cfg(test)]
mod tests;

pub use store::{StoreReference, StoreScheme};
