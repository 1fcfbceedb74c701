//! The one error type of this crate.

use std::error::Error;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chunkfs_format::BlobId;

/// The cause of a [`FetchError`], shared so that all who wait for one transfer can have it.
pub type ErrorSource = Arc<dyn Error + Send + Sync>;

/// Reading from or writing to a source failed.
///
/// URLs in it carry neither user names nor query strings, because signed URLs and tokens are
/// secrets. Cloning is cheap.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The source has no such blob, manifest or tag.
    #[error("{what} does not exist")]
    NotFound {
        /// What was asked for, and where.
        what: String,
    },

    /// The registry wants credentials that it was not given, or refuses those that it was.
    #[error(
        "{host} refuses the credentials it was given, or wants some ({detail}); log in to {host}"
    )]
    Unauthorized {
        /// The registry's host and port.
        host: String,
        /// What the registry says, without secrets.
        detail: String,
    },

    /// The registry knows who asks and does not allow it.
    #[error("{host} does not allow access to {what}; check the permissions of this account")]
    Forbidden {
        /// The registry's host and port.
        host: String,
        /// What was asked for.
        what: String,
    },

    /// Credentials for a registry could not be obtained.
    #[error("cannot get credentials for {host}")]
    Credentials {
        /// The registry's host and port.
        host: String,
        /// Why not.
        source: ErrorSource,
    },

    /// The range ends past the end of the blob.
    #[error("bytes {}..{} of {blob} are out of range: it has {len} bytes", .range.start, .range.end)]
    OutOfRange {
        /// The blob.
        blob: BlobId,
        /// The bytes asked for.
        range: Range<u64>,
        /// The blob's length as far as it is known.
        len: u64,
    },

    /// Something is larger than the limit for it.
    #[error("{what} has {len} bytes; at most {len_max} are allowed")]
    TooLarge {
        /// What is too large.
        what: String,
        /// Its length, or the number of bytes seen so far.
        len: u64,
        /// The limit.
        len_max: u64,
    },

    /// Other bytes than those that the digest names.
    #[error("the content of {expected} has the digest {actual}")]
    DigestMismatch {
        /// The digest asked for.
        expected: BlobId,
        /// The digest of what came.
        actual: BlobId,
    },

    /// The content given for a blob has another length than its descriptor says.
    #[error("the content of {blob} has {actual} bytes instead of {expected}")]
    LenMismatch {
        /// The blob.
        blob: BlobId,
        /// The length in its descriptor.
        expected: u64,
        /// The length of the content.
        actual: u64,
    },

    /// The server answered with another range than the one asked for.
    #[error(
        "{url} answered a request for bytes {}..{} with {actual:?}; a proxy may be broken",
        .expected.start, .expected.end
    )]
    RangeMismatch {
        /// Where.
        url: String,
        /// The bytes asked for.
        expected: Range<u64>,
        /// The answer's `Content-Range`, empty if it has none.
        actual: String,
    },

    /// The server compressed the answer although it was told not to.
    #[error("{url} answered with content encoding {encoding:?}; ranges need identity")]
    ContentEncoding {
        /// Where.
        url: String,
        /// The encoding named in the answer.
        encoding: String,
    },

    /// The server answered with a status that means failure.
    #[error("{url} answered with status {status}{}", Detail(.detail))]
    Status {
        /// Where.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The first error code and message in the answer, empty if there is none.
        detail: String,
    },

    /// The server asks for a pause that is longer than the caller's patience.
    #[error("{host} asks to wait {} s before the next request", .retry_after.as_secs())]
    Throttled {
        /// The server's host and port.
        host: String,
        /// How long.
        retry_after: Duration,
    },

    /// A connection could not be made, or broke.
    #[error("the connection to {url} failed")]
    Transport {
        /// Where.
        url: String,
        /// How.
        source: ErrorSource,
    },

    /// The server closed the connection in the middle of a body.
    #[error("{url} ended its answer after {received} of {expected} bytes")]
    Truncated {
        /// Where.
        url: String,
        /// Bytes received.
        received: u64,
        /// Bytes announced or needed.
        expected: u64,
    },

    /// No byte moved for a while.
    #[error("{url} sent nothing for {} s", .after.as_secs_f32())]
    Stalled {
        /// Where.
        url: String,
        /// How long this source waits for progress.
        after: Duration,
    },

    /// The operation was not done in time, retries included.
    #[error("reading {what} took longer than {} s", .after.as_secs_f32())]
    Timeout {
        /// What was being read.
        what: String,
        /// The deadline.
        after: Duration,
        /// What went wrong last, if anything did besides being slow.
        #[source]
        last: Option<ErrorSource>,
    },

    /// A redirect could not be followed.
    #[error("{url} redirects to where it may not: {problem}")]
    Redirect {
        /// Where the redirect came from.
        url: String,
        /// What is wrong with it.
        problem: &'static str,
    },

    /// An answer does not follow the protocol.
    #[error("{url} gave an answer that makes no sense: {problem}")]
    Protocol {
        /// Where.
        url: String,
        /// What is wrong.
        problem: String,
    },

    /// A local file could not be read or written.
    #[error("cannot access {}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: ErrorSource,
    },

    /// A folder is not an OCI image layout.
    #[error("{} is not an OCI image layout: {problem}", .path.display())]
    InvalidLayout {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },

    /// A `hosts.toml` makes no sense or wants what is not supported.
    #[error("cannot use {}: {problem}", .path.display())]
    InvalidHosts {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },

    /// A layout holds several manifests and none was chosen.
    #[error(
        "{} holds {count} manifests; choose one by `:TAG` or `@DIGEST` at its end (tags: {})",
        .path.display(), .tags.join(", ")
    )]
    Ambiguous {
        /// The folder.
        path: PathBuf,
        /// How many manifests its index lists.
        count: usize,
        /// Their tags.
        tags: Vec<String>,
    },

    /// The text does not name an image.
    #[error(
        "{text:?} does not name an image: {problem}; write `docker://HOST[:PORT]/REPOSITORY[:TAG]`, \
         `oci:DIR[:TAG]`, `s3://BUCKET/PREFIX[:TAG]`, `gs://...`, `az://...` or \
         `https://HOST/PATH[:TAG]`; `@sha256:DIGEST` may stand in place of `:TAG`"
    )]
    InvalidReference {
        /// The text, cut to 200 characters.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },

    /// A manifest is damaged.
    #[error("the manifest is invalid: {problem}")]
    InvalidManifest {
        /// What is wrong.
        problem: String,
    },

    /// The manifest belongs to something else than a converted image.
    #[error(
        "the manifest is not that of a converted image; convert it first with `chunkfs convert`"
    )]
    NotConverted,

    /// Plain HTTP would be needed where it is not allowed.
    #[error(
        "{host} would be spoken to without encryption, which is refused; allow it with \
         `--plain-http`, or by `http://` where a reference says `https://`"
    )]
    PlainHttp {
        /// The host and port.
        host: String,
    },

    /// An object store is not supported by this build, or its settings make no sense.
    #[error("cannot use {place}: {problem}")]
    Store {
        /// The store.
        place: String,
        /// Why not.
        problem: String,
    },

    /// Others change the tags of a layout all the time.
    #[error("the tags of {place} changed {tries} times while this was written; try again")]
    Contended {
        /// The layout.
        place: String,
        /// How often it was tried.
        tries: u32,
    },

    /// The TLS client cannot be set up.
    #[error("cannot set up TLS: {problem}")]
    Tls {
        /// What is wrong.
        problem: String,
    },

    /// The tokio runtime that was given to the source no longer runs.
    #[error("the runtime of this source has shut down")]
    Shutdown,
}

impl FetchError {
    /// Returns whether the source works but has no such thing: trying again will not help.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Returns whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Status { status, .. } => is_retryable_status(*status),
            Self::Throttled { .. }
            | Self::Transport { .. }
            | Self::Truncated { .. }
            | Self::Stalled { .. }
            | Self::Contended { .. }
            | Self::Timeout { .. } => true,
            _ => false,
        }
    }

    /// Returns whether the source served bytes that cannot be the right ones.
    pub fn is_corrupt(&self) -> bool {
        matches!(
            self,
            Self::DigestMismatch { .. }
                | Self::LenMismatch { .. }
                | Self::RangeMismatch { .. }
                | Self::ContentEncoding { .. }
                | Self::InvalidManifest { .. }
        )
    }

    /// Returns whether a server may have said this by mistake: a refusal, or an answer that is not the
    /// one asked for.
    #[cfg(feature = "registry")]
    pub(crate) fn is_doubtful(&self) -> bool {
        matches!(
            self,
            Self::NotFound { .. }
                | Self::Forbidden { .. }
                | Self::OutOfRange { .. }
                | Self::Status { .. }
                | Self::Protocol { .. }
                | Self::LenMismatch { .. }
                | Self::RangeMismatch { .. }
                | Self::ContentEncoding { .. }
        ) && !self.is_retryable()
    }

    /// Returns whether credentials are missing or do not work.
    #[cfg(feature = "registry")]
    pub(crate) fn is_about_credentials(&self) -> bool {
        matches!(self, Self::Unauthorized { .. } | Self::Credentials { .. })
    }

    /// Wraps the failure of a `Credentials` implementation for `host`.
    ///
    /// The source's text is shown to users: it must not hold secrets.
    pub fn credentials(host: &str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Credentials { host: host.to_owned(), source: source.into().into() }
    }

    /// Wraps the failure of a file operation on `path`.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source: Arc::new(source) }
    }
}

/// Request timeout, too many requests, and failures of the server other than "not implemented"; those
/// from 520 on are what content delivery networks say of a server behind them.
pub(crate) fn is_retryable_status(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504 | 520..=530)
}

struct Detail<'a>(&'a str);

impl std::fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " ({})", self.0) }
    }
}

#[cfg(test)]
mod tests;
