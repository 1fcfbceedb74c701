//! Errors of object_store as ours.

use std::sync::Arc;
use std::{fmt, iter};

use object_store::Error;

use crate::error::FetchError;

const DETAIL_LEN_MAX: usize = 300;
/// Where instances of S3, GCS and Azure look for credentials if none are set.
const METADATA_PATHS: [&str; 4] =
    ["/latest/api/token", "/latest/meta-data/", "/computeMetadata/", "/metadata/identity/"];

/// What object_store says, without the query strings of URLs, which may be signatures.
#[derive(Debug)]
struct StoreFailure(String);

impl fmt::Display for StoreFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StoreFailure {}

/// Turns an error about `what` at `place` into ours.
///
/// What `answer` found is an error of ours already. Of the rest, everything that is neither "not
/// there" nor "not allowed" counts as a failure that may pass: object_store does not tell them apart.
pub(super) fn failure(place: &str, what: &str, error: Error) -> FetchError {
    let first: &(dyn std::error::Error + 'static) = &error;
    let mut chain = iter::successors(Some(first), |error| error.source());
    if let Some(error) = chain.find_map(|error| error.downcast_ref::<FetchError>()) {
        return error.clone();
    }
    match error {
        Error::NotFound { .. } => FetchError::NotFound { what: format!("{what} in {place}") },
        Error::PermissionDenied { source, .. } => {
            let code = code(&*source).map_or(String::new(), |code| format!(" ({code})"));
            FetchError::Forbidden { host: place.to_owned(), what: format!("{what}{code}") }
        }
        Error::Unauthenticated { source, .. } => {
            let detail = code(&*source).unwrap_or("the store does not know who asks".to_owned());
            FetchError::Unauthorized { host: place.to_owned(), detail }
        }
        Error::NotSupported { source } => {
            FetchError::Store { place: place.to_owned(), problem: clean(&source.to_string()) }
        }
        Error::NotImplemented { .. } => {
            FetchError::Store { place: place.to_owned(), problem: clean(&error.to_string()) }
        }
        error => {
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                let inner = error.to_string();
                if !text.contains(&inner) {
                    text = format!("{text}: {inner}");
                }
                cause = error.source();
            }
            if METADATA_PATHS.iter().any(|path| text.contains(path)) {
                text = format!("no keys are set, and this machine's metadata gave none: {text}");
            }
            let source = Arc::new(StoreFailure(clean(&text)));
            FetchError::Transport { url: place.to_owned(), source }
        }
    }
}

/// Returns the store's code for a refusal: `answer` made it the body, with which the text ends.
fn code(error: &dyn std::error::Error) -> Option<String> {
    let text = error.to_string();
    let (_, code) = text.rsplit_once(": ")?;
    let is_code = !code.is_empty() && code.chars().all(|c| c.is_ascii_alphanumeric());
    is_code.then(|| code.to_owned())
}

/// Leaves out query strings, user names and passwords of URLs, and control characters, and cuts long
/// texts.
pub(super) fn clean(text: &str) -> String {
    let text = without_logins(text);
    let mut clean = String::new();
    let mut is_query = false;
    for character in text.chars().take(4 * DETAIL_LEN_MAX) {
        is_query = match character {
            '?' => true,
            ' ' | '"' | '\'' | ')' | '>' | '\n' => false,
            _ => is_query,
        };
        if !is_query && clean.len() < DETAIL_LEN_MAX {
            clean.push(if character.is_control() { ' ' } else { character });
        }
    }
    clean
}

/// Leaves out what stands before the `@` in the authorities of URLs.
fn without_logins(text: &str) -> String {
    let mut parts = text.split("://");
    let mut clean = parts.next().unwrap_or("").to_owned();
    for part in parts {
        let end = part.find(|c: char| "/?#\"')>".contains(c) || c.is_whitespace());
        let (authority, rest) = part.split_at(end.unwrap_or(part.len()));
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        clean = clean + "://" + host + rest;
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::client::{HttpError, HttpErrorKind};

    #[test]
    fn query_strings_are_left_out() {
        let text =
            "Error performing GET http://h/p?sig=secret&x=secret in 2s\n(\"http://h?secret\")";
        assert_eq!(clean(text), "Error performing GET http://h/p in 2s (\"http://h\")");
        assert_eq!(clean(&"x".repeat(10_000)).len(), DETAIL_LEN_MAX);
        let text = "GET http://user:sec@ret@h:1/p failed (https://h/a@b) a@b";
        assert_eq!(clean(text), "GET http://h:1/p failed (https://h/a@b) a@b");
    }

    #[test]
    fn an_error_of_ours_is_found_among_the_causes() {
        let ours = FetchError::Status { url: "u".to_owned(), status: 416, detail: String::new() };
        let http = HttpError::new(HttpErrorKind::Unknown, ours);
        let error = failure("p", "w", Error::Generic { store: "S3", source: Box::new(http) });
        assert!(matches!(error, FetchError::Status { status: 416, .. }), "{error}");
    }

    #[test]
    fn causes_are_told_without_secrets() {
        let source = Box::new(StoreFailure("http://h/p?secret failed".to_owned()));
        let error = failure("s3://b", "blob x", Error::Generic { store: "S3", source });
        assert!(error.is_retryable());
        let text = format!("{error} {error:?} {}", std::error::Error::source(&error).unwrap());
        assert!(!text.contains("secret") && text.contains("http://h/p failed"), "{text}");
        for (text, expected) in [
            ("status code: 403 Forbidden: AccessDenied", "blob x (AccessDenied)"),
            ("status code: 403 Forbidden: ", "blob x"),
            ("status code: 403 Forbidden: <Error>secret", "blob x"),
        ] {
            let (path, source) = (String::new(), Box::new(StoreFailure(text.to_owned())));
            let error = failure("s3://b", "blob x", Error::PermissionDenied { path, source });
            let FetchError::Forbidden { what, .. } = error else { panic!("{error}") };
            assert_eq!(what, expected);
        }
        let text = "PUT http://169.254.169.254/latest/api/token failed".to_owned();
        let source = Box::new(StoreFailure(text));
        let error = failure("s3://b", "blob x", Error::Generic { store: "S3", source });
        let text = std::error::Error::source(&error).unwrap().to_string();
        assert!(text.starts_with("no keys are set"), "{text}");
        let source = Box::new(StoreFailure(String::new()));
        let error = failure("s3://b", "blob x", Error::NotFound { path: String::new(), source });
        assert_eq!(error.to_string(), "blob x in s3://b does not exist");
        assert!(error.is_not_found());
    }
}
