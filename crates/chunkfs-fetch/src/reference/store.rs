//! Images in object stores and on web servers.

use std::fmt;
use std::str::FromStr;

use super::{invalid, is_host, is_loopback_host, is_tag, separator, split_layout, split_port};
use crate::error::FetchError;
use crate::source::ManifestSelector;

/// What kind of store holds a layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreScheme {
    /// Amazon S3 and what speaks its protocol: `s3://`.
    S3,
    /// Google Cloud Storage: `gs://`.
    Gcs,
    /// Azure Blob Storage: `az://`.
    Azure,
    /// A web server, without TLS: `http://`.
    Http,
    /// A web server: `https://`.
    Https,
}

/// The name of a manifest in a layout in an object store or on a web server.
///
/// Validated: neither the bucket nor the prefix can change the meaning of a URL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StoreReference {
    scheme: StoreScheme,
    bucket: String,
    prefix: String,
    selector: Option<ManifestSelector>,
}

/// The longest key of S3 is 1024 bytes, and names of blobs are added.
const PREFIX_LEN_MAX: usize = 900;

impl StoreScheme {
    const ALL: [Self; 5] = [Self::S3, Self::Gcs, Self::Azure, Self::Http, Self::Https];

    /// Returns the scheme as it is written before `://`.
    pub fn name(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gcs => "gs",
            Self::Azure => "az",
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// Returns whether this is a web server, which has a host instead of a bucket.
    pub fn is_web(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }

    /// Separates the scheme from what follows `://`.
    pub(super) fn split(text: &str) -> Option<(Self, &str)> {
        let (name, rest) = text.split_once("://")?;
        Some((Self::ALL.into_iter().find(|scheme| scheme.name() == name)?, rest))
    }
}

impl StoreReference {
    /// Creates a reference from its parts: the bucket, container or host, and the folder in it.
    ///
    /// # Errors
    /// [`FetchError::InvalidReference`] if a part has characters that are not safe in a URL.
    pub fn new(
        scheme: StoreScheme,
        bucket: &str,
        prefix: &str,
        selector: Option<ManifestSelector>,
    ) -> Result<Self, FetchError> {
        let (bucket, prefix) = (bucket.to_owned(), prefix.to_owned());
        let new = Self { scheme, bucket, prefix, selector };
        match new.check() {
            Ok(()) => Ok(new),
            Err(problem) => Err(invalid(&new.to_string(), problem)),
        }
    }

    /// Returns the kind of store.
    pub fn scheme(&self) -> StoreScheme {
        self.scheme
    }

    /// Returns the bucket or container, or the host with its port.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// Returns the folder of the layout, without slashes around it; empty for the top.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns which manifest is meant; `None` means the only one.
    pub fn selector(&self) -> Option<&ManifestSelector> {
        self.selector.as_ref()
    }

    /// Returns whether this is a web server on this machine.
    pub fn is_loopback(&self) -> bool {
        self.scheme.is_web() && is_loopback_host(split_port(&self.bucket).0)
    }

    /// Returns the reference without tag or digest.
    pub fn place(&self) -> String {
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        format!("{}://{}{slash}{}", self.scheme.name(), self.bucket, self.prefix)
    }

    fn check(&self) -> Result<(), &'static str> {
        let is_bucket = |text: &str| {
            (1..=255).contains(&text.len())
                && !text.starts_with(['.', '-'])
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-$".contains(&byte))
        };
        if self.scheme.is_web() && !is_host(&self.bucket) {
            return Err("the host is not a name or address with an optional port");
        }
        if !self.scheme.is_web() && !is_bucket(&self.bucket) {
            return Err("a bucket is letters, digits, dots, dashes and underscores");
        }
        let is_segment = |text: &str| {
            !matches!(text, "" | "." | "..")
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || SEGMENT.contains(&byte))
        };
        if self.prefix.len() > PREFIX_LEN_MAX {
            return Err("the path is too long");
        }
        if !self.prefix.is_empty() && !self.prefix.split('/').all(is_segment) {
            return Err("a path is folders of letters, digits and any of -._~!$&'()*+,;=@:");
        }
        match &self.selector {
            Some(ManifestSelector::Tag(tag)) if !is_tag(tag) => {
                Err("a tag is at most 128 letters, digits, dots, dashes and underscores")
            }
            _ => Ok(()),
        }
    }
}

/// What may stand in a path segment besides letters and digits (RFC 3986, 3.3).
const SEGMENT: &[u8] = b"-._~!$&'()*+,;=@:";

impl FromStr for StoreReference {
    type Err = FetchError;

    fn from_str(text: &str) -> Result<Self, FetchError> {
        let fail = |problem| invalid(text, problem);
        let Some((scheme, rest)) = StoreScheme::split(text) else {
            return Err(fail("an object store is needed here"));
        };
        // The host of a web server may have a port, so that its tag needs a `/` before it.
        let (host, rest) = match (scheme.is_web(), rest.find('/')) {
            (true, Some(slash)) => rest.split_at(slash),
            (true, None) => (rest, ""),
            (false, _) => ("", rest),
        };
        let (path, suffix) = split_layout(rest);
        let selector = match suffix.map(|suffix| (suffix.strip_prefix('@'), suffix)) {
            None => None,
            Some((Some(digest), _)) => Some(ManifestSelector::Digest(
                digest.parse().map_err(|_| fail("the digest is not a SHA-256"))?,
            )),
            Some((None, tag)) => Some(ManifestSelector::Tag(tag[1..].to_owned())),
        };
        let (bucket, prefix) = match scheme.is_web() {
            true => (host, path),
            false => path.split_once('/').unwrap_or((path, "")),
        };
        let prefix = prefix.strip_prefix('/').filter(|_| scheme.is_web()).unwrap_or(prefix);
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        Self::new(scheme, bucket, prefix, selector).map_err(|error| match error {
            FetchError::InvalidReference { problem, .. } => fail(problem),
            error => error,
        })
    }
}

impl fmt::Display for StoreReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.place();
        f.write_str(&place)?;
        match &self.selector {
            Some(selector) => {
                let slash = if self.scheme.is_web() && self.prefix.is_empty() { "/" } else { "" };
                write!(f, "{slash}{}{selector}", separator(selector))
            }
            // A last folder that looks like a tag must not become one.
            None if split_layout(&self.prefix).1.is_some() => f.write_str("/"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::ImageReference;

    const HEX: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn store_references_are_parsed_and_written() {
        let digest = format!("s3://b/p@sha256:{HEX}");
        let digest_parts = format!("sha256:{HEX}");
        for (text, expected) in [
            ("s3://bucket", ("bucket", "", "")),
            ("s3://bucket:v1", ("bucket", "", "v1")),
            ("s3://bucket/a/b:v1", ("bucket", "a/b", "v1")),
            ("gs://b/p", ("b", "p", "")),
            ("gs://b/a:b/c", ("b", "a:b/c", "")),
            ("az://$root/p:v1", ("$root", "p", "v1")),
            ("https://h.example/a/b:1.0", ("h.example", "a/b", "1.0")),
            ("http://127.0.0.1:8000/a:v1", ("127.0.0.1:8000", "a", "v1")),
            ("http://127.0.0.1:8000", ("127.0.0.1:8000", "", "")),
            ("http://127.0.0.1:8000/:v1", ("127.0.0.1:8000", "", "v1")),
            ("http://[::1]:80/a", ("[::1]:80", "a", "")),
            (&digest, ("b", "p", &digest_parts)),
        ] {
            let ImageReference::Store(reference) = text.parse().unwrap() else {
                panic!("{text}");
            };
            let selector = reference.selector().map_or(String::new(), ToString::to_string);
            let parts = (reference.bucket(), reference.prefix(), &*selector);
            assert_eq!(parts, expected, "{text}");
            assert_eq!(reference.to_string(), text);
            assert_eq!(reference.to_string().parse::<StoreReference>().unwrap(), reference);
        }
        let reference: StoreReference = "s3://b/a:b/".parse().unwrap();
        assert_eq!((reference.prefix(), reference.selector()), ("a:b", None));
        assert_eq!(reference.to_string(), "s3://b/a:b/");
    }

    #[test]
    fn everything_that_could_change_a_url_is_rejected() {
        for text in [
            "s3://",
            "s3:///a",
            "s3://b//a",
            "s3://b/a//b",
            "s3://b/../c",
            "s3://b/.",
            "s3://b/a?x",
            "s3://b/a#x",
            "s3://b/a%2fb",
            "s3://b/a b",
            "s3://b/a:",
            "s3://b@x/a",
            "s3://b/p@sha256:00",
            "https:///a",
            "https://user@h/a",
            "https://u:p@h/a",
            "https://h/a/:v1?",
            "https://h:99999/a",
            "ftp://h/a",
        ] {
            assert!(text.parse::<ImageReference>().is_err(), "{text}");
        }
    }
}
